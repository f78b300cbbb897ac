"""benchmarks/seeds.py on three made-up runs: the seed is the unit, and what was not graded is no zero."""

from __future__ import annotations

import importlib.util
import json
import pathlib
from types import ModuleType

import pytest

from tests.documents import ROOT


@pytest.fixture(scope="module")
def seeds() -> ModuleType:
  spec = importlib.util.spec_from_file_location("seeds", ROOT / "benchmarks" / "seeds.py")
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def write_run(folder: pathlib.Path, right: dict[str, list[bool | None]]) -> pathlib.Path:
  """A finished run whose models answered the questions q0, q1, …; None: the grader failed."""
  for model, outcomes in right.items():
    part = folder / "eval" / model / "word_problems-00000.jsonl"
    part.parent.mkdir(parents=True)
    grades = [None if outcome is None else float(outcome) for outcome in outcomes]
    lines = [{"question_id": f"q{i}", "status": "answered", "grade": grade} for i, grade in enumerate(grades)]
    part.write_text("".join(json.dumps({"trajectory": line}) + "\n" for line in lines), encoding="utf-8")
  rows = [{"model": model} for model in right]
  (folder / "results.json").write_text(json.dumps({"schema": 1, "rows": rows}), encoding="utf-8")
  return folder


def questions(right: int) -> list[bool | None]:
  return [i < right for i in range(1000)]


def test_the_interval_is_over_seeds(seeds: ModuleType, tmp_path: pathlib.Path) -> None:
  """The README's former table: BC 89.2, 87.4, 91.0 and RL 82.2, 81.6, 88.4 differ by 7.0, 5.8, 2.6 points."""
  counts = {"rl": (822, 816, 884), "bc": (892, 874, 910)}
  runs = [write_run(tmp_path / str(i), {m: questions(n[i]) for m, n in counts.items()}) for i in range(3)]
  told = seeds.table(runs)
  [line] = [line for line in told.splitlines() if "bc - rl" in line]
  assert line.endswith("+5.1 (-0.5 to +10.8)")
  assert [float(x.split()[0]) for x in line.split("bc - rl")[1].split(")")[:3]] == [7.0, 5.8, 2.6]
  # mean 84.07, deviation 3.764, error 2.173, t(2) = 4.30265: -+ 9.35
  [line] = [line for line in told.splitlines() if line.strip().startswith("rl ")]
  assert line.endswith("84.1 (74.7 to 93.4)")


def test_ungraded_tries_and_unpaired_questions_are_left_out(seeds: ModuleType, tmp_path: pathlib.Path) -> None:
  """rl is right on q0 and q3 of the three that were graded; of those bc was graded on q0 and q2: 0 and +1."""
  run = write_run(tmp_path, {"rl": [True, None, False, True], "bc": [True, True, True, None]})
  assert seeds.read_scores(run, "rl") == {"q0": [1.0], "q2": [0.0], "q3": [1.0]}
  gap = seeds.difference(seeds.read_scores(run, "rl"), seeds.read_scores(run, "bc"))
  assert (gap.mean, gap.n) == (0.5, 2)
