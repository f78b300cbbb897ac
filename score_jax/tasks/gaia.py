"""GAIA's own scoring: the gold decides whether a number, a list or a string is compared.

A gold that is a number is compared as one, with $ % and commas taken out of the answer; one with a comma or semicolon
is a list, equal in length and item by item, each a number or a string with its punctuation; any other is compared
without spaces, capitals and punctuation. Two departures: "nan" and "inf" are strings, and signs that show nothing
(zero-width spaces) are left out.
"""

from __future__ import annotations

import math
import re
import string

from score_jax.tasks.math_dress import visible
from score_jax.trajectory import Question

LONGEST = 2000  # characters of an answer
SEPARATORS = re.compile("[,;]")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def gaia(question: Question, answer: str) -> tuple[float | None, str]:
  """Right or wrong, by the rules above."""
  gold, answer = question.answer, visible(answer)
  if not gold.strip():
    return None, "the reference answer is empty"
  if len(answer) > LONGEST:
    return 0.0, f"{len(answer)} characters are too long for an answer"
  if answer.strip() == gold.strip():
    return 1.0, "the same text"
  if _float(gold) is not None:
    kind, right = "number", _same_number(gold, answer)
  elif SEPARATORS.search(gold):
    kind, right = "list", _same_list(SEPARATORS.split(gold), SEPARATORS.split(answer))
  else:
    kind, right = "string", _bare(gold).translate(PUNCTUATION) == _bare(answer).translate(PUNCTUATION) != ""
  return float(right), f"{'equal' if right else 'not equal'} as a {kind}"


def _same_list(gold: list[str], answer: list[str]) -> bool:
  return len(gold) == len(answer) and all(map(_same_item, gold, answer))


def _same_item(gold: str, answer: str) -> bool:
  return _same_number(gold, answer) if _float(gold) is not None else _bare(gold) == _bare(answer)


def _same_number(gold: str, answer: str) -> bool:
  given = _float(re.sub("[$%,]", "", answer))
  return given is not None and given == _float(gold)


def _float(text: str) -> float | None:
  try:
    value = float(text)
  except ValueError:
    return None
  return value if math.isfinite(value) and "_" not in text else None


def _bare(text: str) -> str:
  return re.sub(r"\s", "", text).lower()
