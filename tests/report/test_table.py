"""The final table as text."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from score_jax.arms import STAGES
from score_jax.report import table
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
  assert table.render(rows) == GOLDEN


def test_every_arm_fits_a_terminal(rows: list[dict[str, Any]]):
  rows += [{**rows[0], "model": name, "from": stage.begin} for name, stage in STAGES.items()]
  assert max(map(len, table.render(rows).splitlines())) <= 120


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
  assert table.count(number) == text
