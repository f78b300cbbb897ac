"""What the charts compute, and that texts from outside stay texts in them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from score_jax.report import charts
from score_jax.report.reader import MissingData

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
  return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_running_mean():
  assert charts.running_mean([1.0, 5.0, 3.0]) == [1.0, 5.0, 3.0]
  ramp = [float(i) for i in range(80)]
  assert charts.running_mean(ramp)[2:-2] == ramp[2:-2]
  assert charts.running_mean(ramp)[0] == 1.0  # of 0, 1, 2


def test_bars_say_counts_and_shares_and_fill_gaps():
  unsolved = {"hard": 1, "undecided": 2, "unlocated": 3, "not_kept": 4}
  svg = charts.draw_corrections_needed(
    {"solved_unaided": 60, "solved": {"3": 10, "1": 20}, **unsolved, "quarantined": 9}
  )
  assert [text for text in texts(svg) if "%" in text] == ["60 %", "20 %", "0 %", "10 %", "10 %"]
  assert {"none", "1", "2", "3", "not solved"} <= set(texts(svg))


def test_names_from_outside_are_escaped():
  name = '"><script>x</script>$a_b$'
  svg = charts.draw_accuracy_by_steps({name: {1: [[1.0], [0.0]], 2: [[1.0]]}}, benchmark=name)
  assert "<script" not in svg
  assert name in texts(svg)


def test_one_step_alone_has_an_area():
  line = {"step": 3, "tier_final": 0.5, "tier_key": 0.25, "tier_avoid": 0.25, "tier_none": 0.0}
  root = ElementTree.fromstring(charts.draw_reward_tiers([line]))
  groups = [group for group in root.iter(f"{SVG}g") if "PolyCollection" in group.get("id", "")]
  areas = [path.get("d", "") for group in groups for path in group.iter(f"{SVG}path")]
  assert len(areas) == 4
  for area in areas:
    xs = [float(x) for x in re.findall(r"[ML] ([\d.]+)", area)]
    assert max(xs) - min(xs) > 100


def test_missing_says_which():
  with pytest.raises(MissingData, match="'loss' in the metrics of sft, bc"):
    charts.draw_curves({"sft": [], "bc": [{"step": 1, "loss": float("nan")}]}, "loss", title="loss")
  with pytest.raises(MissingData, match="success by depth"):
    charts.draw_teacher_success({"teacher_success_by_depth": {"0": {"successes": 0, "tries": 0}}})
