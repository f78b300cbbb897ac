"""Graders of numeric answers: exact decimals, numbers in free-form text (GSM8K), and floats (GSM-Hard).

`parse_number` reads one number with its unit or box. `extract_numbers` also reads chains of equal sums, such as
3 * 14 = 42. `evaluate_arithmetic` computes a sum exactly, as a Fraction: four operations and small whole powers; no
names, no functions, no large numbers.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from score_jax.grading import math_units
from score_jax.grading.math_text import (
  CURRENCY_SIGN,
  join_thousands,
  normalise_math_text,
  remove_invisible_chars,
  split_outside,
)
from score_jax.grading.math_units import split_unit
from score_jax.trajectory import Question

MAX_ARITHMETIC_CHARS = 200
MAX_POWER, MAX_BITS = 20, 2000
ARITHMETIC_PATTERN = re.compile(r"[\d.+\-*/() ]+", re.ASCII)
FRAC_COMMAND_PATTERN = re.compile(r"\\frac\s*\(([^()]*)\)\s*\(([^()]*)\)")
ARITHMETIC_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def evaluate_arithmetic(text: str) -> Fraction | None:
  """The value of a normalised text; None: it is no such sum, divides by zero or is too large."""
  if len(text) > MAX_ARITHMETIC_CHARS:
    return None
  spelled = (
    re.sub(r"(?<=\d) ?x ?(?=\d)", "*", text)
    .replace("\\cdot", "*")
    .replace("{", "(")
    .replace("}", ")")
    .replace("^", "**")
  )
  spelled = re.sub(r"(?<![\d.])0+(?=\d)", "", FRAC_COMMAND_PATTERN.sub(r"((\1)/(\2))", spelled)).strip()
  if not ARITHMETIC_PATTERN.fullmatch(spelled) or "//" in spelled:
    return None
  try:
    return _evaluate_node(ast.parse(spelled, mode="eval").body)
  except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
    return None


def _evaluate_node(node: ast.expr) -> Fraction:
  """The value of one node of a parsed sum.

  Raises:
    ValueError: it is something else than numbers and the four operations, or too large.
    ZeroDivisionError: it divides by zero.
  """
  match node:
    case ast.Constant(int() | float()):
      return Fraction(ast.unparse(node))
    case ast.UnaryOp(ast.USub(), inner):
      return -_evaluate_node(inner)
    case ast.UnaryOp(ast.UAdd(), inner):
      return _evaluate_node(inner)
    case ast.BinOp(left, operation, right):
      one, other = _evaluate_node(left), _evaluate_node(right)
      if isinstance(operation, ast.Pow) and other.denominator == 1 and abs(other) <= MAX_POWER:
        found = one ** int(other)
      elif type(operation) in ARITHMETIC_OPERATORS:
        found = ARITHMETIC_OPERATORS[type(operation)](one, other)
      else:
        raise ValueError("no such operation")
      if found.numerator.bit_length() + found.denominator.bit_length() < MAX_BITS:
        return found
  raise ValueError("no number")


MAX_NUMBER_CHARS = 64  # characters of a number
MAX_NUMBER_TEXT_CHARS = 200  # of a number and the text around it
MAX_CHAIN_CHARS = 2000  # with the work before it
MAX_EXPONENT = 400  # no answer has a larger power of ten
THOUSANDS_NUMBER_PATTERN = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
NUMERAL_PATTERN = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
FRACTION_PATTERN = re.compile(r"([+-]?\d+)\s*/\s*(\d+)|([+-]?)\\frac\s*\{(\d+)\}\s*\{(\d+)\}", re.ASCII)
MIXED_NUMBER_PATTERN = re.compile(r"([+-]?)(\d+) ?(?:(?<= )(\d+)\s*/\s*(\d+)|\\frac\s*\{(\d+)\}\s*\{(\d+)\})", re.ASCII)
EQUALS_PATTERN = re.compile(r"=|\\(?:approx|simeq)(?![a-zA-Z])")
LABEL_SIDE_PATTERN = re.compile(r"[^\d=]*[A-Za-z\u4e00-\u9fff][^\d=]*")  # what an equation may begin with
DECIMAL_PATTERN = re.compile(r"[+-]?\d*\.\d+", re.ASCII)
AIME_PATTERN = re.compile(r"0*\d{1,3}", re.ASCII)

#: relative and absolute error that a float gold allows; both must hold
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = Fraction(1, 10**4), Fraction(1, 10**3)
#: relative error that is rounding of binary floats
FLOAT_NOISE = Fraction(1, 10**12)


def _parse_decimal(text: str) -> Decimal | None:
  digits = remove_invisible_chars(text).strip().removeprefix("$")
  try:
    value = Decimal(digits.replace(",", "") if THOUSANDS_NUMBER_PATTERN.fullmatch(digits) else digits)
  except InvalidOperation:
    return None
  return value if value.is_finite() and "_" not in digits else None


def grade_number(question: Question, answer: str) -> tuple[float | None, str]:
  """Right when both are the same decimal number: "42", "42.0", "1,042" are numbers, "42 apples" and "4,2" are not."""
  if len(answer) > MAX_NUMBER_CHARS:
    return 0.0, "the answer is too long for a number"
  gold, given = _parse_decimal(question.answer), _parse_decimal(answer)
  if gold is None:
    return None, f"the reference answer {question.answer!r} is not a number"
  if given is None:
    return 0.0, f"{answer[:40]!r} is not a number"
  return (1.0, "equal") if given == gold else (0.0, f"{given} is not {gold}")


def extract_numbers(text: str) -> tuple[Fraction, ...]:
  """The number in an answer, or the value of a chain of equal sums, in digits or English words.

  Several only where a side is another one rounded: 10/3 and 3.33 of "10/3 = 3.33". None where a chain contradicts
  itself or has an unknown in it.
  """
  tidied = normalise_math_text(text) if len(text) <= MAX_CHAIN_CHARS else ""
  sides = [side.strip() for side in split_outside(tidied, EQUALS_PATTERN)]
  if len(sides) > 1 and LABEL_SIDE_PATTERN.fullmatch(sides[0]):
    sides = sides[1:]
  if len(sides) == 1:
    found = parse_number(sides[0])
    found = math_units.parse_number_words(sides[0]) if found is None else found
    return () if found is None else (found,)
  found = [_parse_side(side) for side in sides]
  if None in found:
    return ()
  exact = [value for value in found if value is not None]
  loose = [sign != "=" for sign in EQUALS_PATTERN.findall(tidied)][-len(exact) + 1 :]
  rounded = [_rounds(one, sides[i + 1], two, loose=loose[i]) for i, (one, two) in enumerate(itertools.pairwise(exact))]
  return tuple(dict.fromkeys(exact)) if all(rounded) else ()


def _parse_side(text: str) -> Fraction | None:
  found = parse_number(text)
  return evaluate_arithmetic(split_unit(text)[0].replace(CURRENCY_SIGN, "")) if found is None else found


def _rounds(exact: Fraction, text: str, shown: Fraction, *, loose: bool) -> bool:
  """Whether two sides are equal, or the second, a decimal (or whole, after \\approx), rounds the first."""
  bare = split_unit(text)[0]
  places = len(bare.partition(".")[2]) if DECIMAL_PATTERN.fullmatch(bare) or (loose and bare.isdecimal()) else None
  return exact == shown or (places is not None and abs(exact - shown) * 10**places <= Fraction(1, 2))


def parse_number(text: str) -> Fraction | None:
  """The one number in a text without its unit, dollars, box and "the answer is"; None: not one number.

  Percent signs are removed like a unit. Fractions of whole numbers count, other arithmetic does not.
  """
  if len(text) > MAX_NUMBER_TEXT_CHARS:
    return None
  bare, counted = split_unit(normalise_math_text(text))
  bare, size = join_thousands(bare), counted.multiplier if counted else 1
  bare = re.sub(r"^[A-Za-z]\s*=\s*", "", bare)
  if (found := MIXED_NUMBER_PATTERN.fullmatch(bare)) is not None:
    sign, whole, *parts = found.groups()
    over, under = (int(part) for part in parts if part)
    return size * (-1 if sign == "-" else 1) * (int(whole) + Fraction(over, under)) if under else None
  if (found := FRACTION_PATTERN.fullmatch(bare)) is not None:
    over, under = int(found[1] or found[3] + found[4]), int(found[2] or found[5])
    return size * Fraction(over, under) if under else None
  if len(bare) > MAX_NUMBER_CHARS or not NUMERAL_PATTERN.fullmatch(bare):
    return None
  value = Decimal(bare)
  return size * Fraction(value) if abs(value.adjusted()) < MAX_EXPONENT else None


def grade_free_form_number(question: Question, answer: str) -> tuple[float | None, str]:
  """Right when the answer is the number, with any unit: "42 apples", "$42", "the answer is 42", "84/2".

  The rounding of binary floats is allowed, a relative error of 1e-12.
  """
  return _compare(question, answer, _equal)


def grade_approximate_number(question: Question, answer: str) -> tuple[float | None, str]:
  """Right when the answer is the number, floats to a relative error of 1e-4 and at most 1e-3.

  A gold that is a whole number allows the rounding of binary floats only, a relative error of 1e-12.
  """
  return _compare(question, answer, _near)


def _equal(gold: Fraction, given: Fraction) -> bool:
  return abs(gold - given) <= abs(gold) * FLOAT_NOISE


def _near(gold: Fraction, given: Fraction) -> bool:
  error = abs(gold - given)
  if _equal(gold, given):
    return True
  return gold.denominator != 1 and error <= min(abs(gold) * RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE)


def _compare(question: Question, answer: str, same: Callable[[Fraction, Fraction], bool]) -> tuple[float | None, str]:
  golds, given = extract_numbers(question.answer), extract_numbers(answer)
  if not golds:
    return None, f"the reference answer {question.answer[:40]!r} is not a number"
  if not given:
    return 0.0, f"{answer[:40]!r} is not one number"
  right = any(same(golds[-1], value) for value in given)
  return (1.0, "equal") if right else (0.0, f"{answer[:40]!r} is not {question.answer[:40]}")


def is_aime_answer(gold: str) -> bool:
  """Whether a gold has the form of AIME answers: a whole number from 0 to 999, leading zeros allowed."""
  return AIME_PATTERN.fullmatch(gold.strip()) is not None
