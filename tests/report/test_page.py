"""The report as a reader meets it: one file, drawn in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from score_jax.errors import UserError
from score_jax.report import page, table
from score_jax.trajectory import Status, Trajectory, trajectory_to_json
from tests.report.conftest import Dom

Browse = Callable[[Path], Any]  # opens a page, gives its document: conftest.Dom


@pytest.fixture(scope="module")
def report(workdir: Path) -> Path:
  return Path(page.write_report(epath.Path(workdir)))


@pytest.fixture(scope="module")
def dom(report: Path, browse: Browse) -> Any:
  return browse(report)


def driven(report: Path, to: Path, browse: Browse, script: str) -> Any:
  """The page after a reader's actions: its policy would refuse the script that acts, so the copy has none."""
  source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text())
  to.write_text(source.replace("</body>", f"<script>{script}</script></body>"))
  return browse(to)


def test_shows_the_table_and_every_chart(dom: Any):
  for model in table.MODEL_LABELS:
    assert table.format_model_label(model) in dom.seen
  assert "longer_chains" in dom.seen
  assert "38.0 to 43.5" in dom.seen  # of the warm start
  assert dom.count("svg", role="img") == 6 + 2 + 3
  assert dom.count("p", **{"class": "missing"}) == 0


def test_a_try_that_a_host_failed_is_in_no_accuracy(tmp_path: Path):
  """Of the question of two steps one of two tries is judged, and right; of that of three steps none is."""
  tries: list[tuple[int, Status, float | None]] = [
    (2, "answered", 1.0),
    (2, "tool_failure", None),
    (3, "answered", None),
    (4, "answered", 0.0),
  ]
  lines = []
  for number, (steps, status, grade) in enumerate(tries):
    tried = Trajectory(f"q{steps}", "?", (), status=status, grade=grade, name=f"eval/{number}")
    lines.append(
      json.dumps({"question_steps": steps, "reference": "", "trajectory": json.loads(trajectory_to_json(tried))})
    )
  (tmp_path / "eval/rl").mkdir(parents=True)
  (tmp_path / "eval/rl/chains-00000.jsonl").write_text("\n".join(lines) + "\n")
  assert page._tries(epath.Path(tmp_path)) == {"chains": {"rl": {2: [[1.0]], 4: [[0.0]]}}}


def test_shows_the_alarms_by_stage(report: Path):
  """First at step 56, as the mean of 0.2005 + 0.3 step / 80 over steps 52 to 56: 0.403, no rounding tie."""
  section = re.search(r'<section id="alarms">.*?</section>', report.read_text(), re.DOTALL)
  assert section
  shown = Dom(section[0]).seen  # as it is written: no script draws it
  begin = ["SCoRe RL", "no_signal", "56", "0.403", "over 0.4", "no_signal_groups"]
  assert all(text in shown for text in begin)
  assert shown.index("SCoRe RL") < shown.index("0.403") < shown.index("Remedy")
  assert "length_bias" not in shown


def test_a_stage_without_alarms_says_so(workdir: Path, tmp_path: Path):
  (tmp_path / "metrics").mkdir()
  shutil.copy(workdir / "config.json", tmp_path)
  shutil.copy(workdir / "metrics/rl_from_question.jsonl", tmp_path / "metrics")
  assert "None has gone off." in page.render_page(epath.Path(tmp_path))


def test_shows_the_first_trajectory(dom: Any):
  assert dom.count("article", id="shown") == 1
  shown = dom.seen[dom.seen.index("Step 0: the plan") :]
  for text in ("Correction 1, of step 1", "diagnosis", "before student", "after teacher", "observation (ok)"):
    assert text in shown
  assert dom.count("button", **{"aria-current": "true"}) == 1


def test_planted_markup_is_text_and_nothing_of_it_runs(dom: Any, report: Path, hostile_texts: tuple[str, ...]):
  assert report.read_text().count("</script>") == 2  # the data's and the viewer's own
  for text in hostile_texts:
    assert dom.seen.count(text) >= 8  # question, answer, thought, code, observation, …
  assert dom.count("img") == dom.count("thought") == 0
  assert dom.count("script") == 2
  root = next(attributes for tag, attributes in dom.elements if tag == "html")
  assert "data-planted" not in root


def test_asks_the_network_for_nothing(report: Path):
  source = report.read_text()
  addresses = set(re.findall(r"https?://[^\"'\s<>)]+", source))
  assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
  assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", re.sub(r'<script type="application/json".*', "", source))
  assert "default-src 'none'" in source


def test_ids_are_unique(dom: Any):
  ids = [attributes["id"] for _, attributes in dom.elements if "id" in attributes]
  assert len(ids) == len(set(ids))


def test_same_workdir_gives_the_same_bytes(report: Path):
  first = report.read_bytes()
  command = [sys.executable, "-m", "score_jax.report", f"--workdir={report.parent}"]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == str(report)
  assert report.read_bytes() == first


def test_another_stage_is_shown_with_its_prefix_free_of_loss(report: Path, browse: Browse):
  script = """
    const group = document.getElementById("group");
    group.value = [...group.options].map((o) => o.label).find((label) => label.startsWith("SCoRe RL"));
    group.dispatchEvent(new Event("change"));
  """
  dom = driven(report, report.with_name("other_stage.html"), browse, script)
  assert "given prefix" in dom.seen
  assert "9 of 43 tokens carry loss" in dom.seen  # the last act alone: 7 + 9 are of the prefix
  assert dom.count("span", **{"class": "loss"}) == 2 + 1  # its thought and code, and the legend's
  assert dom.count("li") == 60


def test_filters_and_marking(report: Path, browse: Browse):
  script = """
    document.querySelector("input[value=wrong]").click();
    document.getElementById("marking").click();
  """
  dom = driven(report, report.with_name("filtered.html"), browse, script)
  assert "wrong (0)" in dom.seen and "None." in dom.seen  # the cap keeps the corrected and the first others
  assert dom.count("section", **{"class": "unmarked"}) == 1


def test_mentored_trajectories_with_corrections_come_first(report: Path):
  found = re.search(r'id="data">(.*?)</script>', report.read_text())
  assert found
  groups = {group["label"]: group["trajectories"] for group in json.loads(found[1])}
  assert [len(t["corrections"]) for t in groups["mentored problem solving"]] == [1] * 21 + [0] * 39
  assert [len(t) for t in groups.values()] == [4, 60, 60, *[60] * len(table.MODEL_LABELS)]


def test_every_part_says_what_is_missing(tmp_path: Path):
  (tmp_path / "metrics").mkdir()
  (tmp_path / "results.json").write_text('{"schema": 1, "rows": [')
  (tmp_path / "trajectories/mps").mkdir(parents=True)
  (tmp_path / "trajectories/mps/summary.json").write_text('{"questions": 3}')
  source = Path(page.write_report(epath.Path(tmp_path))).read_text()
  lines = re.findall(r'<p class="missing">(.*?)</p>', source)
  assert lines == [
    "results.json cannot be read: it holds no JSON object.",
    "There are no metrics of policy-gradient training yet.",
    "There are no metrics of a training stage yet.",
    "No evaluated benchmark tells how many steps its questions take.",
    *(f"There is no &#39;{key}&#39; in the summary yet." for key in ("solved", "first_error_step")),
    "There is no &#39;teacher_success_by_depth&#39; in the summary yet.",
    "There are no trajectories yet.",
    "There is no config.json yet.",
  ]


def test_a_run_in_its_first_stage(workdir: Path, tmp_path: Path):
  (tmp_path / "metrics").mkdir()
  shutil.copy(workdir / "metrics/warm_start.jsonl", tmp_path / "metrics")
  source = page.render_page(epath.Path(tmp_path))
  assert source.count("<svg role") == 2  # loss and validation accuracy
  assert f"No &#39;accuracy&#39; in the metrics of {', '.join(page.RL_STAGES)} yet." in source


@pytest.mark.parametrize("made", [False, True])
def test_refuses_a_folder_without_a_run(tmp_path: Path, made: bool):
  root = tmp_path / "run"
  if made:
    root.mkdir()
  with pytest.raises(UserError, match="holds none of" if made else "there is no folder"):
    page.write_report(epath.Path(root))


@pytest.mark.parametrize(("arguments", "status", "says"), [(["--workdir=/nowhere"], 1, "/nowhere"), ([], 2, "usage")])
def test_command_refuses_in_one_line(arguments: list[str], status: int, says: str):
  command = [sys.executable, "-m", "score_jax.report", *arguments]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == status
  assert says in done.stderr and "Traceback" not in done.stderr
  assert status == 2 or done.stderr.count("\n") == 1
