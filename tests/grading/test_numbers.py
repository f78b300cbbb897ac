from __future__ import annotations

import json
import os
import pathlib
from fractions import Fraction

import pytest

from score_jax.grading.graders import make_grader
from score_jax.grading.numbers import parse_number
from score_jax.tasks import gsm8k
from score_jax.trajectory import Question


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("42", 42),
    (" $1,042.50 ", Fraction(2085, 2)),
    ("-3 km", -3),
    ("7/2", Fraction(7, 2)),
    (r"\boxed{\frac{7}{2}}", Fraction(7, 2)),
    ("5%", 5),
    ("1e3", 1000),
    ("x = 4", 4),
    ("4 2", None),
    ("4,2", None),
    ("1/0", None),
    ("3 + 4", None),
    ("1e999999999", None),
    ("4_2", None),
    ("forty", None),
    ("", None),
  ],
)
def test_number_by_hand(text: str, expected: Fraction | None) -> None:
  assert parse_number(text) == expected


@pytest.mark.parametrize(
  ("gold", "answer", "right"),
  [
    ("1000.5", "1000.5009", True),  # 0.0009 off: below 1e-3 and below 1000.5 * 1e-4
    ("1000.5", "1000.502", False),  # 0.002 off
    ("0.5", "0.50004", True),  # relative 0.8e-4
    ("0.5", "0.5001", False),  # relative 2e-4
    ("1000", "1000.0009", False),  # a whole gold
    ("1000", "1000.0000000000001", True),
  ],
)
def test_floats_of_gsm_hard_have_a_tolerance_and_whole_numbers_none(gold: str, answer: str, right: bool) -> None:
  assert make_grader("gsm_hard")(Question("q", "?", gold), answer)[0] == float(right)


@pytest.mark.parametrize("benchmark", ["gsm8k", "gsm_hard", "word_problems"])
def test_a_gold_that_is_no_number_is_the_graders_failure(benchmark: str) -> None:
  assert make_grader(benchmark)(Question("q", "?", "many"), "many")[0] is None


def test_underscores_make_no_number() -> None:
  assert make_grader("word_problems")(Question("q", "?", "42"), "4_2")[0] == 0.0


@pytest.mark.parametrize(("split", "count"), [("train", 7473), ("test", 1319)])
def test_every_gold_of_gsm8k_is_right_and_no_other_questions_gold_is(split: gsm8k.Split, count: int) -> None:
  if "SCORE_JAX_DATA" not in os.environ:
    pytest.skip(f"SCORE_JAX_DATA names no folder with gsm8k/{split}.jsonl")
  lines = (pathlib.Path(os.environ["SCORE_JAX_DATA"]) / "gsm8k" / f"{split}.jsonl").read_text().splitlines()
  golds = [json.loads(line)["answer"].rpartition("#### ")[2] for line in lines]
  grade = make_grader("gsm8k")
  assert len(golds) == count
  for gold, other in zip(golds, golds[1:] + golds[:1], strict=True):
    assert grade(Question("q", "?", gold), gold)[0] == 1.0
    same = float(gold.replace(",", "")) == float(other.replace(",", ""))
    assert grade(Question("q", "?", gold), other)[0] == float(same)
