from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score_jax.grading.numbers import grade_number
from score_jax.trajectory import Question


def graded(gold: str, answer: str) -> float | None:
  grade, reason = grade_number(Question("q", "How many?", gold), answer)
  assert reason
  assert "\n" not in reason
  return grade


@pytest.mark.parametrize(
  ("gold", "answer"),
  [
    ("42", "42"),
    ("42", " 42\n"),
    ("42", "42.0"),
    ("42", "42."),
    ("42", "042"),
    ("42", "+42"),
    ("42", "$42"),
    ("42", "4.2e1"),
    ("42.50", "42.5"),
    ("-3", "-3.0"),
    ("0", "-0"),
    ("1042", "1,042"),
    ("1,042", "1042"),
    ("1042", "$1,042.00"),
    ("1234567", "1,234,567"),
    ("0.1", ".1"),
    ("123456789012345678901234567890", "123456789012345678901234567890"),
  ],
)
def test_equal_numbers_are_right(gold: str, answer: str) -> None:
  assert graded(gold, answer) == 1.0


@pytest.mark.parametrize(
  ("gold", "answer"),
  [
    ("42", "43"),
    ("42", "-42"),
    ("42", "42.0000001"),
    ("42", ""),
    ("42", " "),
    ("42", "None"),
    ("42", "True"),
    ("42", "42 apples"),
    ("42", "= 42"),
    ("42", "42 or 43"),
    ("42", "x = 42"),
    ("42", "[42]"),
    ("42", "42/1"),
    ("42", "40 + 2"),
    ("42", "4 2"),
    ("42", "4,2"),
    ("42", "42,"),
    ("42", ",42"),
    ("1042", "10,42"),
    ("1042", "1,0,4,2"),
    ("1042000", "1,042,00"),
    ("42", "0x2a"),
    ("42", "forty-two"),
    ("123456789012345678901234567890", "123456789012345678901234567891"),
    ("0.3", "0.30000000000000004"),
    ("42", "inf"),
    ("42", "nan"),
    ("42", "sNaN42"),
    ("42", "1e999999999"),
    ("42", "1e99999999999999999999"),
    ("0", "1e-999999999"),
    ("42", "42" + "\x00"),
    ("42", "<script>42</script>"),
    ("42", "\ud800"),
    ("42", "0" * 65 + "42"),
  ],
)
def test_anything_else_is_wrong(gold: str, answer: str) -> None:
  assert graded(gold, answer) == 0.0


@pytest.mark.parametrize("piece", ["9", "1,", "9e", " ", "-"])
def test_a_long_answer_is_wrong_at_once(piece: str) -> None:
  start = time.process_time()
  assert graded("42", piece * 1_000_000) == 0.0
  assert time.process_time() - start < 0.2


@pytest.mark.parametrize("gold", ["", "many", "nan", "-inf", "42 apples", "1e999999999999999999999"])
def test_a_reference_that_is_no_number_is_the_graders_failure(gold: str) -> None:
  assert graded(gold, "42") is None
  assert graded(gold, gold) is None


@settings(deadline=None)
@given(answer=st.text())
def test_no_text_makes_it_raise(answer: str) -> None:
  assert graded("42", answer) in (0.0, 1.0)


@settings(deadline=None)
@given(number=st.integers(-(10**12), 10**12))
def test_a_number_is_itself_in_every_spelling_and_no_other(number: int) -> None:
  assert graded(str(number), str(number)) == 1.0
  assert graded(str(number), f"{number:,}") == 1.0
  assert graded(str(number), f"{number}.00") == 1.0
  assert graded(str(number), str(number + 1)) == 0.0
