"""Questions whose answers a model judges in the papers: a letter to choose, or short free text.

What can be told without a model is: a gold that is one letter is multiple choice, and an answer that is the gold but
for capitals, quotes and full stops is right, as is an equal number. For the rest a judge is asked; where there is
none the grader abstains (None): it does not know that an answer in other words is wrong.
"""

from __future__ import annotations

import re
from fractions import Fraction

from score_jax.tasks.judge import Judge
from score_jax.tasks.math_dress import named
from score_jax.tasks.math_text import tidy
from score_jax.tasks.math_units import Unit, measured
from score_jax.tasks.numbers import LONGEST_TEXT, values
from score_jax.tasks.text_equality import normalised
from score_jax.trajectory import Question

LONGEST = 2000  # characters of an answer
LETTER = re.compile(r"\(?([A-Z])\)?\.?")
DRESSED = re.compile(
  r"(?:the\s+)?(?:(?:final|correct|right|best)\s+)?(?:answer|choice|option)\b\s*(?:is\b)?\s*:?\s*", re.IGNORECASE
)
WRAPPED = re.compile(r"\\(?:boxed|text|mathrm|mathbf|textbf)\s*\{(.*)\}", re.DOTALL)
CHOSEN = re.compile(r"[(\[]?([A-Za-z])(?:[)\].:]{1,2}(?:\s.*)?|\s*[-–]\s.*)?", re.DOTALL)
ELSE = re.compile(r"(?:^|[\s,/&+])[(\[]?(?:[B-HJ-Z]|[A-Z][)\].:])(?![\w'])")


def letter(text: str) -> str:
  """The letter that an answer chooses: "B", "(b)", "B. Paris", "the answer is B"; empty: none, or several."""
  text = text.strip()
  for _ in range(4):
    text = text.strip("$*`\"' \n")
    inner = WRAPPED.fullmatch(text)
    text = inner[1] if inner else DRESSED.sub("", text, count=1) if DRESSED.match(text) else text
  found = CHOSEN.fullmatch(text.strip())
  return "" if found is None or ELSE.search(text.strip()[found.end(1) :]) else found[1].upper()


class Judged:
  """Grades a letter, the same text or the same number by itself, and asks a judge about the rest."""

  def __init__(self, judge: Judge | None):
    self._judge = judge

  def __call__(self, question: Question, answer: str) -> tuple[float | None, str]:
    golds = [gold for gold in (question.answer, *question.aliases) if gold.strip()]
    if not golds:
      return None, "the reference answer is empty"
    if len(answer) > LONGEST:
      return 0.0, f"{len(answer)} characters are too long for an answer"
    if not answer.strip():
      return 0.0, "the answer is empty"
    if any(gold.strip() == answer.strip() or normalised(gold) == normalised(answer) != "" for gold in golds):
      return 1.0, "the same text"
    if choice := LETTER.fullmatch(question.answer.strip()):
      chosen = letter(answer)
      return float(chosen == choice[1]), f"chose {chosen or 'no letter'}"
    if any(normalised(gold) == normalised(named(answer)) != "" for gold in golds):
      return 1.0, "the same text"
    amounts = {amount for gold in golds for amount in _amounts(gold)}
    if amounts and (given := _amounts(answer)):
      return float(not amounts.isdisjoint(given)), "compared as numbers"
    if self._judge is None:
      return None, "not the same text; no judge was given to say more"
    return self._judge(question, answer)


def _amounts(text: str) -> set[tuple[Fraction, Unit | None]]:
  """The number that a text is, with its unit, as `values` has it; none where it counts what the units' table lacks."""
  if len(text) > LONGEST_TEXT:
    return set()
  unit = measured(tidy(text))[1]
  if unit is not None and not unit.dimension:
    return set()
  bare = None if unit is None or unit.dimension == "number" else unit
  return {(value, bare) for value in values(text)}
