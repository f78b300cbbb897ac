"""Sums of numbers, worked out exactly: 3 * 14 = 42, (2 + 1/2)^2. No names, no functions, nothing large."""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction

LONGEST = 200  # characters
LARGEST_POWER, MOST_BITS = 20, 2000
SIGNS = re.compile(r"[\d.+\-*/() ]+", re.ASCII)
FRACTION = re.compile(r"\\frac\s*\(([^()]*)\)\s*\(([^()]*)\)")
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def value(text: str) -> Fraction | None:
  """The value of a tidy text; None: it is no such sum, divides by zero or is too large."""
  if len(text) > LONGEST:
    return None
  spelled = (
    re.sub(r"(?<=\d) ?x ?(?=\d)", "*", text)
    .replace("\\cdot", "*")
    .replace("{", "(")
    .replace("}", ")")
    .replace("^", "**")
  )
  spelled = re.sub(r"(?<![\d.])0+(?=\d)", "", FRACTION.sub(r"((\1)/(\2))", spelled)).strip()
  if not SIGNS.fullmatch(spelled) or "//" in spelled:
    return None
  try:
    return _worked_out(ast.parse(spelled, mode="eval").body)
  except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
    return None


def _worked_out(node: ast.expr) -> Fraction:
  """
  Raises:
    ValueError: it is something else than numbers and the four operations, or too large.
    ZeroDivisionError: it divides by zero.
  """
  match node:
    case ast.Constant(int() | float()):
      return Fraction(ast.unparse(node))
    case ast.UnaryOp(ast.USub(), inner):
      return -_worked_out(inner)
    case ast.UnaryOp(ast.UAdd(), inner):
      return _worked_out(inner)
    case ast.BinOp(left, operation, right):
      one, other = _worked_out(left), _worked_out(right)
      if isinstance(operation, ast.Pow) and other.denominator == 1 and abs(other) <= LARGEST_POWER:
        found = one ** int(other)
      elif type(operation) in OPERATIONS:
        found = OPERATIONS[type(operation)](one, other)
      else:
        raise ValueError("no such operation")
      if found.numerator.bit_length() + found.denominator.bit_length() < MOST_BITS:
        return found
  raise ValueError("no number")
