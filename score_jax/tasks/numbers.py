"""Numeric answers: exact ones, whole ones between 0 and 999, and floats."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from score_jax.tasks import arithmetic, number_words
from score_jax.tasks.brackets import split
from score_jax.tasks.math_dress import visible
from score_jax.tasks.math_text import CURRENCY, joined_thousands, tidy
from score_jax.tasks.math_units import measured
from score_jax.trajectory import Question

LONGEST = 64  # characters of a number
LONGEST_TEXT = 200  # of a number with what stands around it
LONGEST_ANSWER = 2000  # with the work before it
LARGEST = 400  # a power of ten beyond all answers
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
NUMERAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
FRACTION = re.compile(r"([+-]?\d+)\s*/\s*(\d+)|([+-]?)\\frac\s*\{(\d+)\}\s*\{(\d+)\}", re.ASCII)
MIXED = re.compile(r"([+-]?)(\d+) ?(?:(?<= )(\d+)\s*/\s*(\d+)|\\frac\s*\{(\d+)\}\s*\{(\d+)\})", re.ASCII)
EQUALS = re.compile(r"=|\\(?:approx|simeq)(?![a-zA-Z])")
LABEL = re.compile(r"[^\d=]*[A-Za-z\u4e00-\u9fff][^\d=]*")  # what an equation may begin with
DECIMAL = re.compile(r"[+-]?\d*\.\d+", re.ASCII)
WHOLE = re.compile(r"0*\d{1,3}", re.ASCII)

#: relative and absolute error that a float gold allows; both must hold
RELATIVE, ABSOLUTE = Fraction(1, 10**4), Fraction(1, 10**3)
#: relative error that is rounding of binary floats
FLOAT_NOISE = Fraction(1, 10**12)


def _number(text: str) -> Decimal | None:
  digits = visible(text).strip().removeprefix("$")
  try:
    value = Decimal(digits.replace(",", "") if THOUSANDS.fullmatch(digits) else digits)
  except InvalidOperation:
    return None
  return value if value.is_finite() and "_" not in digits else None


def numeric(question: Question, answer: str) -> tuple[float | None, str]:
  """Right when both are the same decimal number: "42", "42.0", "1,042" are numbers, "42 apples" and "4,2" are not."""
  if len(answer) > LONGEST:
    return 0.0, "the answer is too long for a number"
  gold, given = _number(question.answer), _number(answer)
  if gold is None:
    return None, f"the reference answer {question.answer!r} is not a number"
  if given is None:
    return 0.0, f"{answer[:40]!r} is not a number"
  return (1.0, "equal") if given == gold else (0.0, f"{given} is not {gold}")


def values(text: str) -> tuple[Fraction, ...]:
  """The number that an answer is, or that a chain of equal sums comes to, as `number` reads it or in English words.

  Several only where a side is another one rounded: 10/3 and 3.33 of "10/3 = 3.33". None where a chain contradicts
  itself or has an unknown in it.
  """
  tidied = tidy(text) if len(text) <= LONGEST_ANSWER else ""
  sides = [side.strip() for side in split(tidied, EQUALS)]
  if len(sides) > 1 and LABEL.fullmatch(sides[0]):
    sides = sides[1:]
  if len(sides) == 1:
    found = number(sides[0])
    found = number_words.number(sides[0]) if found is None else found
    return () if found is None else (found,)
  found = [_side(side) for side in sides]
  if None in found:
    return ()
  exact = [value for value in found if value is not None]
  loose = [sign != "=" for sign in EQUALS.findall(tidied)][-len(exact) + 1 :]
  rounded = [_rounds(one, sides[i + 1], two, loose=loose[i]) for i, (one, two) in enumerate(itertools.pairwise(exact))]
  return tuple(dict.fromkeys(exact)) if all(rounded) else ()


def _side(text: str) -> Fraction | None:
  found = number(text)
  return arithmetic.value(measured(text)[0].replace(CURRENCY, "")) if found is None else found


def _rounds(exact: Fraction, text: str, shown: Fraction, *, loose: bool) -> bool:
  """Whether two sides are equal, or the second, a decimal (or whole, after \\approx), rounds the first."""
  bare = measured(text)[0]
  places = len(bare.partition(".")[2]) if DECIMAL.fullmatch(bare) or (loose and bare.isdecimal()) else None
  return exact == shown or (places is not None and abs(exact - shown) * 10**places <= Fraction(1, 2))


def number(text: str) -> Fraction | None:
  """The one number that a text is once its unit, its dollars or box, and "the answer is" are off; None: it is none.

  Percent signs are taken off like a unit. Fractions of whole numbers count, other arithmetic does not.
  """
  if len(text) > LONGEST_TEXT:
    return None
  bare, counted = measured(tidy(text))
  bare, size = joined_thousands(bare), counted.count if counted else 1
  bare = re.sub(r"^[A-Za-z]\s*=\s*", "", bare)
  if (found := MIXED.fullmatch(bare)) is not None:
    sign, whole, *parts = found.groups()
    over, under = (int(part) for part in parts if part)
    return size * (-1 if sign == "-" else 1) * (int(whole) + Fraction(over, under)) if under else None
  if (found := FRACTION.fullmatch(bare)) is not None:
    over, under = int(found[1] or found[3] + found[4]), int(found[2] or found[5])
    return size * Fraction(over, under) if under else None
  if len(bare) > LONGEST or not NUMERAL.fullmatch(bare):
    return None
  value = Decimal(bare)
  return size * Fraction(value) if abs(value.adjusted()) < LARGEST else None


def in_words(question: Question, answer: str) -> tuple[float | None, str]:
  """Right when the answer is the number, whatever it counts: "42 apples", "$42", "the answer is 42", "84/2".

  The rounding of binary floats is allowed, a relative error of 1e-12.
  """
  return _compared(question, answer, _equal)


def approximate(question: Question, answer: str) -> tuple[float | None, str]:
  """Right when the answer is the number, floats to a relative error of 1e-4 and at most 1e-3.

  A gold that is a whole number allows the rounding of binary floats only, a relative error of 1e-12.
  """
  return _compared(question, answer, _near)


def _equal(gold: Fraction, given: Fraction) -> bool:
  return abs(gold - given) <= abs(gold) * FLOAT_NOISE


def _near(gold: Fraction, given: Fraction) -> bool:
  error = abs(gold - given)
  if _equal(gold, given):
    return True
  return gold.denominator != 1 and error <= min(abs(gold) * RELATIVE, ABSOLUTE)


def _compared(question: Question, answer: str, same: Callable[[Fraction, Fraction], bool]) -> tuple[float | None, str]:
  golds, given = values(question.answer), values(answer)
  if not golds:
    return None, f"the reference answer {question.answer[:40]!r} is not a number"
  if not given:
    return 0.0, f"{answer[:40]!r} is not one number"
  right = any(same(golds[-1], value) for value in given)
  return (1.0, "equal") if right else (0.0, f"{answer[:40]!r} is not {question.answer[:40]}")


def is_aime(gold: str) -> bool:
  """Whether a gold is what AIME answers are: a whole number from 0 to 999, leading zeros allowed."""
  return WHOLE.fullmatch(gold.strip()) is not None
