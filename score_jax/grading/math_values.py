r"""Values of expressions: math-verify parses the LaTeX, and the values are compared.

Two rational numbers are compared exactly, other constants at 50 digits. Expressions with variables are compared at
fixed points, some of them negative. math-verify's own comparison decides the rest, such as undefined functions.
Only the worker process imports this module: nothing here limits the time and memory that SymPy takes.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import mpmath
import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from score_jax.grading.math_latex import decimal_tolerance, to_latex

READABLE_COMMANDS = set(
  "frac sqrt pi infty cdot binom dbinom tbinom pm sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh"
  " log ln lg exp max min gcd lfloor rfloor lceil rceil overline bar text theta alpha beta gamma delta epsilon lambda"
  " mu phi varphi psi rho sigma omega tau emptyset".split()
)
CALCULUS_COMMANDS = {"sum", "prod", "int", "lim", "to"}  # allowed in golds only: they can take very long
READABLE_PATTERN = re.compile(r"[0-9A-Za-z\\{}()\[\]|+\-*/^_=!<>., ]*")
#: refused here, because math-verify joins two numbers: "2 3" would be 5, "8..75" 8.75
SPLIT_NUMBER_PATTERN, TWO_POINTS_PATTERN = re.compile(r"\d\s+\d"), re.compile(r"\.\d*\.")
MAX_DIGITS = 1500  # digits
MAX_NON_DIGITS = 400  # characters of an expression besides its digits
POWER_TOWER_PATTERN = re.compile(
  r"\^\{[^{}]*\^\{[^{}]*\^|!\s*!"
)  # powers of powers of powers, factorials of factorials
MAX_EXACT_BITS = 200_000  # bits of a number that is computed exactly
EVAL_DIGITS, EVAL_BITS = 50, 170  # precision of all other numbers, in digits and in bits
mpmath.mp.prec = EVAL_BITS
SAME_TOLERANCE = 1e-30  # relative difference of two numbers that were computed at 50 digits and are the same
FLOAT_NOISE = 1e-12  # relative error of an answer that was printed as a binary float
POSITIVE_POINTS, MIXED_POINTS, NEGATIVE_POINTS = 3, 3, 2  # points whose coordinates are so
#: math_text.py and math_latex.py have normalised the spelling before
NO_NORMALIZATION = NormalizationConfig(
  basic_latex=False, units=False, malformed_operators=False, nits=False, boxed="none", equations=False
)
EXTRACTION_CONFIG = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=NO_NORMALIZATION)]
INDEXED_ROOT_PATTERN = re.compile(r"\\sqrt\s*\[")
FRACTIONAL_POWER_PATTERN = re.compile(r"\^\{[^{}]*(?:/|\.|\\frac)")
RATIONAL_PATTERN = re.compile(
  r"([+-]?)\s*(?:(\d+)(\.\d*)?|(\.\d+)|(\d+)\s*/\s*(\d+)|\\frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\})"
)


@functools.lru_cache(maxsize=256)
def parse_expression(text: str, *, gold: bool = False) -> Any:
  """Parses normalised text to a SymPy expression; None: it is not one. Only golds may have sums and integrals."""
  spelled = to_latex(text)
  if TWO_POINTS_PATTERN.search(text) or SPLIT_NUMBER_PATTERN.search(spelled):
    return None
  commands = set(re.findall(r"\\([A-Za-z]+)", spelled))
  if commands - READABLE_COMMANDS - (CALCULUS_COMMANDS if gold else set()) or POWER_TOWER_PATTERN.search(spelled):
    return None
  if not READABLE_PATTERN.fullmatch(spelled) or len(re.sub(r"\d", "", spelled)) > MAX_NON_DIGITS:
    return None
  if re.search(rf"\d{{{MAX_DIGITS}}}", spelled):
    return None
  found = parse(f"${spelled}$", EXTRACTION_CONFIG, fallback_mode="no_fallback", parsing_timeout=None)  # type: ignore
  if len(found) != 1 or not isinstance(found[0], sympy.Expr):
    return None
  named = {"i": sympy.I, "e": sympy.E}
  value = found[0].xreplace({s: named[str(s)] for s in found[0].free_symbols if str(s) in named})
  if commands & CALCULUS_COMMANDS:
    value = value.doit()
  return (
    _real_roots(value)
    if INDEXED_ROOT_PATTERN.search(spelled) and not FRACTIONAL_POWER_PATTERN.search(spelled)
    else value
  )


def _real_roots(value: Any) -> Any:
  r"""The value of a constant where odd roots of negative numbers are the real ones: \sqrt[3]{-8} is -2.

  (-8)^{1/3} keeps its principal value, which is not real.
  """
  if value.free_symbols:
    return value

  def odd(power: Any) -> bool:
    exponent = power.args[1] if isinstance(power, sympy.Pow) else None
    return (
      isinstance(exponent, sympy.Rational) and exponent.q % 2 == 1 and exponent.q > 1 and _is_below_zero(power.args[0])
    )

  def real(power: Any) -> Any:
    base, exponent = power.args
    return (-1) ** exponent.p * (-base) ** exponent

  return value.replace(odd, real)


def _is_below_zero(value: Any) -> bool:
  return bool(value.is_extended_real) and bool(value < 0)


def parse_rational(text: str) -> Fraction | None:
  """The number in a normalised text, if it can be read without SymPy."""
  found = RATIONAL_PATTERN.fullmatch(text)
  if found is None or len(text) > MAX_DIGITS:
    return None
  sign, whole, part, small, over, under, above, below = found.groups()
  if (under or below or "1").strip("0") == "":
    return None
  if whole:
    value = Fraction(whole + (part or "").rstrip("."))
  else:
    value = Fraction(small) if small else Fraction(int(over or above), int(under or below))
  return -value if sign == "-" else value


def values_equal(gold: str, answer: str, *, scale: Any = 1) -> bool:
  """Whether answer times `scale` (a Fraction or SymPy number) equals the gold."""
  g, a = parse_rational(gold), parse_rational(answer)
  if g is not None and a is not None and isinstance(scale, int | Fraction):
    return g == a * scale or _near(g, a * scale, gold, answer)
  return _same(parse_expression(gold, gold=True), _scaled(parse_expression(answer), scale), gold, answer)


def equations_equal(gold: tuple[str, str], answer: tuple[str, str]) -> bool:
  """Whether two equations, each as its sides, hold for the same values: one is a multiple of the other.

  An equation without variables, true or false, equals another if their sides agree.
  """
  sides = [parse_expression(side) for side in (*gold, *answer)]
  if any(side is None for side in sides):
    return False
  left, right = sides[0] - sides[1], sides[2] - sides[3]
  if not (left.free_symbols and right.free_symbols):
    return any(values_equal(gold[0], a) and values_equal(gold[1], b) for a, b in (answer, answer[::-1]))
  ratios = [_ratio(_number(left, p), _number(right, p)) for p in _points(left.free_symbols | right.free_symbols)]
  first = ratios[0] if ratios else None
  return first is not None and all(r is not None and abs(r - first) <= 1e-25 * abs(first) for r in ratios)


def is_constant(text: str) -> bool:
  """Whether a normalised text has a value and no variable."""
  if parse_rational(text) is not None:
    return True
  found = parse_expression(text)
  return found is not None and not found.free_symbols and _number(found, {}) is not None


def rounds_to(exact: str, decimal: str) -> bool:
  """Whether `decimal` is `exact` rounded; or cut off, if it has at least two digits after the point."""
  places = len(decimal.partition(".")[2])
  value, shown = parse_expression(exact), parse_rational(decimal)
  number = parse_rational(exact) if value is None else _number(value, {})
  if number is None or shown is None or isinstance(number, float) or not _is_real(number):
    return False
  off = abs(_complex(number) - _complex(shown)) * 10**places
  return bool(off < 1 if places >= 2 else off <= 0.5)


def precompute_value(text: str) -> None:
  """Parses and evaluates a gold once, so that a failure shows before any answer is compared."""
  found = parse_expression(text, gold=True) if parse_rational(text) is None else None
  if found is not None:
    _number(found, next(_points(found.free_symbols)))


def _scaled(value: Any, scale: Any) -> Any:
  if value is None or (isinstance(scale, int) and scale == 1):
    return value
  factor = sympy.Rational(scale.numerator, scale.denominator) if isinstance(scale, Fraction) else scale
  return value * factor


def _near(gold: Fraction, answer: Fraction, gold_text: str, answer_text: str) -> bool:
  """Whether a long decimal approximates a gold without a finite decimal form, or a printed float equals one."""
  return abs(gold - answer) < abs(gold) * Fraction(_tolerance(gold, gold_text, answer_text))


def _tolerance(gold: Fraction | None, gold_text: str, answer_text: str) -> float:
  """The relative error allowed in an answer; `gold` is None if it is not rational."""
  unit, floats = decimal_tolerance(answer_text)
  ends = gold is not None and ("." in gold_text or _is_finite_decimal(gold.denominator))
  return max(FLOAT_NOISE if floats else 0.0, 0.0 if ends else unit)


def _is_finite_decimal(denominator: int) -> bool:
  """Whether fractions with this denominator have a finite decimal form."""
  for prime in (2, 5):
    while denominator % prime == 0:
      denominator //= prime
  return denominator == 1


def _same(gold: Any, answer: Any, gold_text: str, answer_text: str) -> bool:
  if gold is None or answer is None:
    return False
  symbols = gold.free_symbols | answer.free_symbols
  if not symbols:
    exact = (_exact(gold), _exact(answer))
    tolerance = _tolerance(exact[0], gold_text, answer_text)
    if None not in exact and tolerance == 0.0:
      return exact[0] == exact[1]
    decided = _close(_number(gold, {}), _number(answer, {}), max(SAME_TOLERANCE, tolerance))
  else:
    decided = _same_at_points(gold, answer, symbols, max(1e-25, decimal_tolerance(answer_text)[0]))
  return _verified(gold, answer) if decided is None else decided


def _same_at_points(gold: Any, answer: Any, symbols: Any, tolerance: float) -> bool | None:
  """Whether both agree at the fixed points; None: undecided.

  Undecided: they agree where all variables are positive; elsewhere a value is missing, or both are complex and differ.
  """
  numbers = [(_number(gold, p), _number(answer, p)) for p in _points(symbols)]
  found = [_close(*pair, tolerance) for pair in numbers]
  differing = [index for index, close in enumerate(found) if close is False]
  if any(index < POSITIVE_POINTS or any(map(_is_real, numbers[index])) for index in differing):
    return False
  return True if all(found) else None


def _verified(gold: Any, answer: Any) -> bool:
  return verify(gold, answer, timeout_seconds=None)  # type: ignore


def _points(symbols: Any) -> Iterator[dict[Any, Any]]:
  """Values for the variables, the same each time: all positive first, then mixed, then all negative."""
  ordered = sorted(symbols, key=str)
  for index in range(POSITIVE_POINTS + MIXED_POINTS + NEGATIVE_POINTS):
    values = (
      sympy.Rational(1009 + 613 * index + 211 * k * (k + index + 1), 1013 + 97 * k) for k in range(len(ordered))
    )
    negative = index >= POSITIVE_POINTS + MIXED_POINTS
    flips = (-1 if negative or (index >= POSITIVE_POINTS and (index + k) % 2) else 1 for k in range(len(ordered)))
    yield {s: v * f for s, v, f in zip(ordered, values, flips, strict=True)}


def _number(value: Any, point: dict[Any, Any]) -> Any:
  """A Fraction, a complex mpmath number at 50 digits, or an infinity; None: not a number."""
  at = value.xreplace(point) if point else value
  exact = _exact(at)
  if exact is not None:
    return exact
  found = at.evalf(EVAL_DIGITS)
  if not found.is_number or found.has(sympy.nan, sympy.zoo):
    found = at.doit().evalf(EVAL_DIGITS)
  if found in (sympy.oo, -sympy.oo):
    return math.inf if found == sympy.oo else -math.inf
  real, imaginary = found.as_real_imag()
  if not (real.is_Float or real.is_Rational) or not (imaginary.is_Float or imaginary.is_Rational):
    return None
  return mpmath.mpc(real._to_mpmath(EVAL_BITS), imaginary._to_mpmath(EVAL_BITS))


def _close(one: Any, other: Any, tolerance: float) -> bool | None:
  """Whether two numbers differ by at most a relative tolerance; None where one of them is no number."""
  if one is None or other is None:
    return None
  if isinstance(one, float) or isinstance(other, float):
    return one == other
  if isinstance(one, Fraction) and isinstance(other, Fraction):
    return abs(one - other) <= abs(one) * Fraction(tolerance if tolerance > 1e-24 else 0)
  a, b = _complex(one), _complex(other)
  size = max(abs(a), abs(b))
  return bool(abs(a - b) <= size * tolerance or (size < SAME_TOLERANCE and 0 in (one, other)))


def _is_real(value: Any) -> bool:
  return isinstance(value, Fraction | float) or abs(value.imag) <= abs(value) * SAME_TOLERANCE


def _complex(value: Any) -> Any:
  if not isinstance(value, Fraction):
    return value
  return mpmath.mpc(value.numerator) / value.denominator


def _ratio(one: Any, other: Any) -> Any:
  """The ratio of two numbers; None if either is missing, infinite or zero."""
  if one is None or other is None or isinstance(one, float) or isinstance(other, float):
    return None
  a, b = _complex(one), _complex(other)
  return a / b if a != 0 and b != 0 else None


def _exact(value: Any) -> Fraction | None:
  """The value of rational numbers with + - * /, whole powers and factorials; None if it is too large."""
  if isinstance(value, sympy.Rational):
    return Fraction(int(value.p), int(value.q))
  if isinstance(value, sympy.UnevaluatedExpr):
    return _exact(value.args[0])
  parts = []
  if isinstance(value, sympy.Add | sympy.Mul | sympy.Pow | sympy.factorial):
    for argument in value.args:
      parts.append(_exact(argument))
      if parts[-1] is None:
        return None
  match value:
    case sympy.Add():
      return sum(parts, Fraction())
    case sympy.Mul():
      return math.prod(parts, start=Fraction(1)) if sum(map(_bits, parts)) < MAX_EXACT_BITS else None
    case sympy.Pow():
      return _power(*parts)
    case sympy.factorial() if parts[0].denominator == 1 and 0 <= parts[0] <= 5000:
      return Fraction(math.factorial(int(parts[0])))
  return None


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
  whole = exponent.denominator == 1 and abs(exponent) * max(1, _bits(base)) < MAX_EXACT_BITS
  return base**exponent if whole and (base != 0 or exponent > 0) else None  # type: ignore


def _bits(value: Fraction) -> int:
  return value.numerator.bit_length() + value.denominator.bit_length()


def shares_equal(gold: str, wanted: str | None, answer: str, given: str | None) -> bool:
  """Whether two numbers are equal; `wanted` and `given` are "percent" or None (rule 4 of math_compare.py)."""
  if {wanted, given} - {"percent", None}:
    return False
  if wanted == given:
    return values_equal(gold, answer)
  if wanted is None:
    value = parse_rational(gold)
    small = value is None or 0 < abs(value) < 1
    return (not small and values_equal(gold, answer)) or values_equal(gold, answer, scale=Fraction(1, 100))
  return values_equal(gold, answer) or values_equal(gold, answer, scale=Fraction(100))


def angles_equal(gold: str, wanted: str | None, answer: str, given: str | None) -> bool:
  """Whether two angles are equal.

  A number without a unit is in degrees or radians, as the other is, unless it contains pi.
  A rational number without a unit is never in radians.
  """
  if {wanted, given} - {"angle", "radian", None}:
    return False
  if wanted is None and given == "radian" and parse_rational(gold) is not None:
    return False
  radians = [kind == "radian" or (kind is None and "pi" in text) for kind, text in ((wanted, gold), (given, answer))]
  if radians[0] == radians[1] or (not radians[0] and wanted is None) or (not radians[1] and given is None):
    return values_equal(gold, answer)
  return values_equal(gold, answer, scale=sympy.pi / 180 if radians[0] else 180 / sympy.pi)
