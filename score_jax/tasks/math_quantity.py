"""Whether two expressions, each with its unit or base, or two names, are one; the rules are in math_compare.py."""

from __future__ import annotations

import re
from fractions import Fraction

import sympy

from score_jax.tasks import math_values
from score_jax.tasks.choice import letter
from score_jax.tasks.math_text import FUNCTIONS, GREEK, INVERSE, squeezed, words
from score_jax.tasks.math_units import Unit, alike, based, decimal, measured

HUNDREDTH = Fraction(1, 100)
NOT_NAMES = {*FUNCTIONS, *GREEK, *INVERSE, "frac", "sqrt", "cdot", "infty", "binom", "degree", "text", "abs"}


def same_atom(gold: str, answer: str) -> bool:
  """Whether two tidy texts say one value or name."""
  if squeezed(gold) == squeezed(answer):
    return True
  if _is_name(measured(gold)[0]):
    return words(gold) in (words(answer), letter(answer).lower()) and words(gold) != ""
  wanted, given = based(gold), based(answer)
  if wanted is not None:
    return wanted == (given or based(f"{answer}_{wanted[1]}"))
  if given is not None:
    return (value := decimal(*given)) is not None and math_values.equal(gold, str(value))
  return _same_quantity(*_parted(gold, answer))


def _parted(gold: str, answer: str) -> tuple[str, Unit | None, str, Unit | None]:
  """Both texts with their units; one letter is a unit only where the other text has that unit or is a plain number."""
  (wanted, unit), (given, other) = measured(gold), measured(answer)
  if unit is not None and unit.letter and not _confirms(other, unit):
    wanted, unit = gold, None
  if other is not None and other.letter and not _confirms(measured(gold)[1], other):
    thousands = other.dimension == "number" and math_values.is_constant(gold)
    given, other = (given, other) if thousands else (answer, None)
  return wanted, unit, given, other


def _confirms(unit: Unit | None, letter: Unit) -> bool:
  return unit is not None and not unit.letter and unit.dimension == letter.dimension


def _is_name(text: str) -> bool:
  r"""Whether it is words: in \text, or letters that are no product of variables and no function."""
  return "\\text" in text or any(run not in NOT_NAMES for run in re.findall(r"(?<![\\A-Za-z])[A-Za-z]{4,}", text))


def _same_quantity(gold: str, wanted: Unit | None, answer: str, given: Unit | None) -> bool:
  kinds = [None if unit is None or unit.dimension == "number" else unit.dimension for unit in (wanted, given)]
  count = (given.count if given else 1) / Fraction(wanted.count if wanted else 1)
  if count != 1 and {*kinds} & {"percent", "angle", "radian"}:
    return False
  if "percent" in kinds:
    return _same_share(gold, kinds[0], answer, kinds[1])
  if {"angle", "radian"} & {*kinds}:
    return _same_angle(gold, kinds[0], answer, kinds[1])
  if wanted is None or given is None or None in kinds:
    return math_values.equal(gold, answer, scale=count)
  if "" in kinds:
    return alike(wanted, given) and math_values.equal(gold, answer, scale=count)
  if (wanted.dimension, wanted.power) != (given.dimension, given.power):
    return False
  return math_values.equal(gold, answer, scale=count * given.size / wanted.size)


def same_quantity(one: str, other: str) -> bool:
  """Whether two texts, each a number with or without a unit, are one quantity."""
  return _same_quantity(*_parted(one, other))


def _same_share(gold: str, wanted: str | None, answer: str, given: str | None) -> bool:
  if {wanted, given} - {"percent", None}:
    return False
  if wanted == given:
    return math_values.equal(gold, answer)
  if wanted is None:
    value = math_values.rational(gold)
    small = value is None or 0 < abs(value) < 1
    return (not small and math_values.equal(gold, answer)) or math_values.equal(gold, answer, scale=HUNDREDTH)
  return math_values.equal(gold, answer) or math_values.equal(gold, answer, scale=Fraction(100))


def _same_angle(gold: str, wanted: str | None, answer: str, given: str | None) -> bool:
  """A number without a unit is in degrees or radians, whichever the other is in, unless pi stands in it.

  A rational number without a unit is in no radians.
  """
  if {wanted, given} - {"angle", "radian", None}:
    return False
  if wanted is None and given == "radian" and math_values.rational(gold) is not None:
    return False
  radians = [kind == "radian" or (kind is None and "pi" in text) for kind, text in ((wanted, gold), (given, answer))]
  if radians[0] == radians[1] or (not radians[0] and wanted is None) or (not radians[1] and given is None):
    return math_values.equal(gold, answer)
  return math_values.equal(gold, answer, scale=sympy.pi / 180 if radians[0] else 180 / sympy.pi)
