"""Graders: is an answer right? Each says why, and one that fails says so instead of "wrong"."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from score_jax.errors import UserError
from score_jax.trajectory import Question

#: (question, submitted answer) -> (grade in [0, 1], or None when the grader failed; reason)
Grader = Callable[[Question, str], tuple[float | None, str]]


THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")


def _number(text: str) -> Decimal | None:
  digits = text.strip().removeprefix("$")
  try:
    value = Decimal(digits.replace(",", "") if THOUSANDS.fullmatch(digits) else digits)
  except InvalidOperation:
    return None
  return value if value.is_finite() else None


def numeric(question: Question, answer: str) -> tuple[float | None, str]:
  """Right when both are the same decimal number: "42", "42.0", "1,042" are numbers, "42 apples" and "4,2" are not."""
  if len(answer) > 64:
    return 0.0, "the answer is too long for a number"
  gold, given = _number(question.answer), _number(answer)
  if gold is None:
    return None, f"the reference answer {question.answer!r} is not a number"
  if given is None:
    return 0.0, f"{answer[:40]!r} is not a number"
  return (1.0, "equal") if given == gold else (0.0, f"{given} is not {gold}")


#: benchmarks whose answers are numbers
NUMERIC = ("word_problems", "gsm8k", "gsm_hard", "aime24", "aime25")


def grader(benchmark: str) -> Grader:
  """The grader of a benchmark.

  Raises:
    UserError: there is none yet.
  """
  if benchmark not in NUMERIC:
    raise UserError(f"answers of {benchmark} cannot be graded yet; choose from {', '.join(NUMERIC)}")
  return numeric
