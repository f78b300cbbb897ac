"""The final table as text."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from score_jax.experiment.stages import STAGES
from score_jax.report import table
from score_jax.report import table as published
from score_jax.trajectory import Ledger, Usage

GOLDEN = """\
                                               accuracy           95 %         student  teacher   tool  grader
model               from        benchmark             %       interval      n   tokens   tokens  calls   calls  PFLOP
------------------  ----------  -------------  --------  -------------  -----  -------  -------  -----  ------  -----
teacher                         chains            100.0  99.7 to 100.0  1,200        0        5      0       0      0
SFT on corrections  warm_start  chains             68.0   65.0 to 71.0  1,200    1.23M    50.0k  10.0k   9,999   4.75
SCoRe RL            sft         chains             90.0   87.1 to 92.0  1,200    1.23M    50.0k  10.0k   9,999   4.75
other                           chains             50.0   40.0 to 60.0  1,200        0        0      0       0      0
SCoRe RL            sft         a_longer_name      70.0   65.0 to 75.0  1,200    1.23M    50.0k  10.0k   9,999   4.75

From: whose weights it starts from. Costs are of making the model, all that it is made from included;
student tokens: generated; teacher tokens: generated, scored and read."""


def row(model: str, benchmark: str, accuracy: float, low: float, high: float, ledger: Ledger) -> dict[str, Any]:
  found = {"model": model, "benchmark": benchmark, "accuracy": accuracy, "low": low, "high": high, "n": 1200}
  return found | {"ledger": dataclasses.asdict(ledger), "weights_sha256": "0" * 64}


@pytest.fixture
def rows() -> list[dict[str, Any]]:
  usage = {"student": Usage(1_234_567, 8, 9, 3.5e15), "teacher": Usage(40_000, 100, 9_900, 1.25e15)}
  trained = Ledger(usage, grader_calls=9_999, tool_calls=10_000)
  return [
    row("rl", "chains", 0.9, 0.8712, 0.92, trained) | {"from": "sft"},
    row("other", "chains", 0.5, 0.4, 0.6, Ledger()),
    row("rl", "a_longer_name", 0.7, 0.65, 0.7501, trained) | {"from": "sft"},
    row("teacher", "chains", 1.0, 0.997, 1.0, Ledger({"teacher": Usage(5)})),
    row("sft", "chains", 0.68, 0.65, 0.71, trained) | {"from": "warm_start"},
  ]


def test_render_golden(rows: list[dict[str, Any]]):
  assert table.format_table(rows) == GOLDEN


def test_what_was_spent_to_measure_stands_below_and_in_no_cost(rows: list[dict[str, Any]]):
  probe, evaluating = Ledger({"student": Usage(300), "teacher": Usage(22_600)}), Ledger({"student": Usage(4_000)})
  costs = {"measured": dataclasses.asdict(probe), "evaluated": dataclasses.asdict(evaluating)}
  found = table.format_table([row | costs for row in rows])
  assert found.startswith(GOLDEN)
  assert "lift and probes drew 22.9k tokens" in found and "evaluating all rows drew 20.0k." in found
  assert max(map(len, found.splitlines())) <= 120


def test_every_arm_fits_a_terminal(rows: list[dict[str, Any]]):
  rows += [{**rows[0], "model": name, "from": stage.init_from} for name, stage in STAGES.items()]
  assert max(map(len, table.format_table(rows).splitlines())) <= 120


def test_columns_that_say_nothing_are_left_out():
  nothing = {
    "ledger": dataclasses.asdict(Ledger()),
    "model": "score-rl",
    "base": "Qwen/Qwen2.5-7B-Instruct",
    "stage": "rl",
  }
  aime = {"benchmark": "aime24", "accuracy": 0.2, "low": 0.1, "high": 0.35, "n": 30}
  several = {
    "metric": "accuracy",
    "exact": 0.2,
    "tries": 32,
    "pass_at": {"1": 0.2, "32": 0.4333, "4": 0.3},
    "ungraded": 0,
  }
  qa = {"benchmark": "hotpotqa", "accuracy": 0.551, "low": 0.49, "high": 0.61, "n": 200}
  f1 = {"metric": "f1", "exact": 0.415, "tries": 4, "pass_at": {"1": 0.415, "4": 0.6}, "ungraded": 3}
  hle = {"benchmark": "hle", "accuracy": None, "low": 0.0, "high": 1.0, "n": 1}
  lost = {"metric": "accuracy", "exact": None, "tries": 4, "pass_at": {"1": None, "4": None}, "ungraded": 4}
  mean = {"benchmark": "math_qa_average", "accuracy": 0.5, "low": 0.48, "high": 0.52, "n": 230}
  found = [nothing | row for row in (aime | several, qa | f1, hle | lost, mean)]
  lines = table.format_table(found).splitlines()
  assert [line.split() for line in lines[:2]] == [
    ["accuracy", "95", "%", "exact", "pass@k", "paper"],
    ["model", "benchmark", "%", "interval", "n", "tries", "%", "%", "ungraded", "%"],
  ]
  assert [" ".join(line.split()) for line in lines[3:7]] == [
    "score-rl aime24 20.0 10.0 to 35.0 30 32 43.3 (k=32)",
    "score-rl hotpotqa (F1) 55.1 49.0 to 61.0 200 4 41.5 60.0 (k=4) 3",
    "score-rl hle – 0.0 to 100.0 1 4 – (k=4) 4",
    "score-rl math_qa_average 50.0 48.0 to 52.0 230 50.8 (v2), 52.3 (v3)",
  ]
  assert [line.partition(":")[0] for line in lines[8:]] == [
    "pass@k",
    "Ungraded tries (their grading or tool failed) are left out of the score; its interval allows for either outcome.",
    "paper",
  ]
  assert max(map(len, lines[:7])) <= 120


@pytest.mark.parametrize(
  ("base", "stage", "benchmark", "said"),
  [
    ("Qwen/Qwen2.5-7B-Instruct", "bc", "math_qa_average", "42.5 (v2), 43.0 (v3)"),
    ("/models/Qwen2.5-3B-Instruct/", "rl", "math_qa_average", "46.7 (v2)"),
    ("Qwen/Qwen3-8B", "rl", "deep_search_average", "30.5"),
    ("Qwen/Qwen3-8B", "rl", "math_qa_average", ""),
    ("Qwen/Qwen2.5-7B-Instruct", "rl", "math500", ""),
    ("shipped:student", "rl", "math_qa_average", ""),
  ],
)
def test_the_papers_figures_stand_where_it_gives_them_and_nowhere_else(
  base: str, stage: str, benchmark: str, said: str
):
  assert published.find_paper_figure(base, stage, benchmark) == said


def test_fits_a_terminal(rows: list[dict[str, Any]]):
  assert max(map(len, table.format_table(rows).splitlines())) <= 120


@pytest.mark.parametrize(
  ("number", "text"),
  [
    (0, "0"),
    (9_999, "9,999"),
    (10_000, "10.0k"),
    (999_499, "999k"),
    (999_500, "1.00M"),
    (12_345_678, "12.3M"),
    (999_600_000, "1.00G"),
    (2_500_000_000_000, "2.5T"),
  ],
)
def test_count(number: int, text: str):
  assert table.format_count(number) == text
