from __future__ import annotations

import pytest

from score_jax.grading.short_answers import grade_gaia
from score_jax.trajectory import Question


@pytest.mark.parametrize(
  ("gold", "answer", "right"),
  [
    ("17", "17", True),
    ("17", "$17.00", True),
    ("1000", "1,000", True),
    ("17", "17 thousand", False),
    ("0.5", "50%", False),  # the sign is only taken out
    ("50", "50%", True),
    ("a, b, c", "A,b ,C", True),
    ("a; b", "a, b", True),
    ("a, b, c", "a, c, b", False),
    ("a, b", "a, b, c", False),
    ("3, four", "3.0, Four", True),
    ("a-b, c", "ab, c", False),  # punctuation counts within a list
    ("Mc Donald's", "mcdonalds", True),
    ("right", "left", False),
    ("nan", "NaN", True),
    ("nan", "5", False),
    ("1_0", "10", True),  # a string, compared without its punctuation
    ("!", "?", False),
  ],
)
def test_numbers_lists_and_strings_by_hand(gold: str, answer: str, right: bool) -> None:
  grade, reason = grade_gaia(Question("q", "?", gold), answer)
  assert grade == float(right)
  assert reason


def test_an_empty_gold_is_the_graders_failure() -> None:
  assert grade_gaia(Question("q", "?", " "), "x")[0] is None
