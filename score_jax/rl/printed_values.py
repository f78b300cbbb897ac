"""Parses printed output into values: numbers, formulas and words, with their labels and units.

    Total: 42 apples        the number 42, label "total", unit "apples"
    x = 3, y = 1/2          the numbers 3 and 1/2, labels "x" and "y"
    [(1, 2), (3, 4)]        four numbers, nested
    2*sqrt(3)*R             a formula
    There are 3 of them     the number 3 in a text

No printed text is executed. Expressions are parsed with `ast`; only arithmetic and the functions listed below are
evaluated. Numbers compare within a tolerance, formulas by their values at fixed points.
"""

from __future__ import annotations

import ast
import cmath
import dataclasses
import hashlib
import operator
import re
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal

#: Tolerances between two numbers: absolute, relative to the greater, and relative if one of them is whole.
#: Whole numbers and ratios of whole numbers compare exactly.
ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, WHOLE_NUMBER_TOLERANCE = (
  Fraction(1, 10**9),
  Fraction(1, 10**6),
  Fraction(1, 10**9),
)

MAX_EXPRESSION_CHARS = 1000  # a longer line is not parsed as an expression
MAX_POWER_BITS = 4000  # a greater exact power is not evaluated
FLOAT_LIMIT = 10**300  # smaller numbers can be converted to float
EVALUATION_POINTS = 3  # number of points at which formulas are compared

ValueRelation = Literal["equal", "different", "undecided"]


@dataclasses.dataclass(frozen=True)
class Number:
  """A real number. `decimals`: digits after the point as printed; None if it was computed from an expression."""

  value: Fraction
  exact: bool  # a whole number or a ratio of whole numbers, not a float
  decimals: int | None = None


@dataclasses.dataclass(frozen=True)
class Formula:
  """An expression with names, or a complex number: its values at EVALUATION_POINTS fixed points."""

  samples: tuple[complex, ...]


@dataclasses.dataclass(frozen=True)
class Word:
  """One word or one quoted text, in lower case; `EMPTY_CONTAINER` for a container without elements."""

  text: str


PrintedValue = Number | Formula | Word
EMPTY_CONTAINER = Word("[]")
TRUTH_WORDS = (Word("true"), Word("false"))
EMPTY_WORDS = (EMPTY_CONTAINER, Word("none"))


@dataclasses.dataclass(frozen=True)
class ParsedOutput:
  """A parsed observation. Words are in lower case."""

  values: tuple[PrintedValue, ...]  # in printed order; elements of sets and dicts are sorted
  shape: str = ""  # nesting, without the outermost brackets of a line; empty: flat
  labels: tuple[str, ...] = ()  # before a value
  units: tuple[str, ...] = ()  # after a number
  text: tuple[str, ...] = ()  # words of lines that are more than labels and values


def parse_output(observation: str) -> ParsedOutput:
  """Parses an observation line by line. A line that is no value becomes text."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the parser warns about odd literals
    lines = [_parse_line(line.strip()) for line in observation.splitlines() if line.strip()]
  return _concatenate(lines)


def compare_values(a: PrintedValue, b: PrintedValue) -> ValueRelation:
  """Whether two values are equal.

  Undecided are: a number and its rounding to fewer decimals (a format or an error); a truth value and a word or a
  number; a word and a number; formulas that agree at some points only.
  """
  if isinstance(a, Word) or isinstance(b, Word):
    return _compare_words(a, b)
  if isinstance(a, Number) and isinstance(b, Number):
    return "equal" if _numbers_agree(a, b) else "undecided" if _is_rounding(a, b) else "different"
  agree = [cmath.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for x, y in zip(_samples(a), _samples(b), strict=True)]
  return "equal" if all(agree) else "undecided" if any(agree) else "different"


def _compare_words(a: PrintedValue, b: PrintedValue) -> ValueRelation:
  """Compares two values of which one or both are words."""
  if a == b:
    return "equal"
  if isinstance(a, Word) and isinstance(b, Word):
    alike = (a in TRUTH_WORDS) == (b in TRUTH_WORDS) and not (a in EMPTY_WORDS and b in EMPTY_WORDS)
    return "different" if alike else "undecided"
  return "different" if a in EMPTY_WORDS or b in EMPTY_WORDS else "undecided"


def _numbers_agree(a: Number, b: Number) -> bool:
  """Whether two numbers are equal within the tolerances."""
  if a.value == b.value:
    return True
  if a.exact and b.exact:
    return False
  whole = 1 in (a.value.denominator, b.value.denominator)
  relative = WHOLE_NUMBER_TOLERANCE if whole else RELATIVE_TOLERANCE
  return abs(a.value - b.value) <= max(ABSOLUTE_TOLERANCE, relative * max(abs(a.value), abs(b.value)))


def _is_rounding(a: Number, b: Number) -> bool:
  """Whether one is the other rounded to fewer decimals."""
  if a.decimals == b.decimals:
    return False
  fewest = min(n.decimals for n in (a, b) if n.decimals is not None)
  return abs(a.value - b.value) <= Fraction(1, 2) * Fraction(10) ** -fewest


def _samples(value: PrintedValue) -> Sequence[complex]:
  """The value at each evaluation point; a number is the same at all."""
  if isinstance(value, Formula):
    return value.samples
  assert isinstance(value, Number)
  return (complex(value.value) if abs(value.value) < FLOAT_LIMIT else cmath.inf,) * EVALUATION_POINTS


# Lines

_NUMERAL = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
_SIGNED = re.compile(rf"[+-]?{_NUMERAL}", re.ASCII)
_THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\d,])", re.ASCII)
_SEPARATOR = re.compile(r":\s*|(?<![<>!=:])=(?!=)|≈|\s(?:is|are|was|equals)\s", re.IGNORECASE)
_WITH_UNIT = re.compile(rf"([$€£]?)\s*([+-]?{_NUMERAL})\s*(%|°|[^\W\d_]+(?:[ /][^\W\d_]+)?)?", re.ASCII)
_NO_UNITS = frozenset("is are was be not no and or of to in mod divides equals if for than".split())
_TOKEN = re.compile(rf"[^\W\d]\w*|(?<![\w)])[+-]?{_NUMERAL}|{_NUMERAL}|[<>=!≠≤≥+*/^~&|∈∪∩]")
_DATE = re.compile(r"\d+(?:[-/]\d+){2,}", re.ASCII)


def _parse_line(line: str) -> ParsedOutput:
  """Parses one line: as one value, as values between commas, as values between spaces, or as prose."""
  line = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), line)
  if (found := _parse_part(line)) is not None:
    return found
  between_commas = [_parse_part(part) for part in _split_outside_brackets(line, ",;")]
  if all(between_commas):
    return _concatenate([part for part in between_commas if part])
  between_spaces = [_parse_value(part) for part in _split_outside_brackets(line, " ")]
  if all(part and all(_is_not_prose(v) for v in part.values) for part in between_spaces):
    return _concatenate([part for part in between_spaces if part])
  return _parse_prose(line)


def _split_outside_brackets(line: str, marks: str) -> list[str]:
  """The parts between those marks, split only outside brackets."""
  depth, parts = 0, [""]
  for char in line:
    depth += (char in "([{") - (char in ")]}")
    if depth == 0 and char in marks:
      parts.append("")
    else:
      parts[-1] += char
  return [part.strip() for part in parts if part.strip()]


def _is_not_prose(value: PrintedValue) -> bool:
  """Whether the value has a meaning alone: it is not a word of a sentence."""
  return not isinstance(value, Word) or value in (*TRUTH_WORDS, *EMPTY_WORDS)


def _parse_part(part: str) -> ParsedOutput | None:
  """A value alone, with a unit, or after a label; None: the part is something else."""
  bare = part.removesuffix(".") if part[-2:-1].isalpha() else part
  if (found := _parse_value(bare)) is not None:
    return found
  for separator in reversed(list(_SEPARATOR.finditer(bare))):
    label, rest = bare[: separator.start()], bare[separator.end() :].strip()
    tokens = [token.lower() for token in _TOKEN.findall(label)]
    if rest and tokens and not _SEPARATOR.search(label) and not any(map(_SIGNED.fullmatch, tokens)):
      found = _parse_value(rest)
      return None if found is None else dataclasses.replace(found, labels=tuple(tokens))
  return None


def _parse_value(text: str) -> ParsedOutput | None:
  """A signed number, a number with a unit, or an expression; None: the text is none of them."""
  if (found := _SIGNED.fullmatch(text)) is not None:
    return ParsedOutput((_parse_number(found[0]),))
  if (found := _WITH_UNIT.fullmatch(text)) is not None:
    units = tuple(unit.lower() for unit in (found[1], *re.split("[ /]", found[3] or "")) if unit)
    if not _NO_UNITS.intersection(units):
      return ParsedOutput((_parse_number(found[2]),), units=units)
  try:
    return _parse_expression(text)
  except (_NotAValue, SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
    return None


def _parse_prose(line: str) -> ParsedOutput:
  """The numbers and the words of a line of prose."""
  tokens = _TOKEN.findall(line)
  numbers = tuple(_parse_number(token) for token in tokens if _SIGNED.fullmatch(token))
  words = tuple(token.lower() for token in tokens if not _SIGNED.fullmatch(token))
  return ParsedOutput(numbers, text=words)


def _concatenate(parts: Sequence[ParsedOutput]) -> ParsedOutput:
  """The parts as one output, in order."""
  columns = ([x for part in parts for x in getattr(part, f.name)] for f in dataclasses.fields(ParsedOutput))
  values, shape, *words = columns
  return ParsedOutput(tuple(values), "".join(shape), *map(tuple, words))


def _parse_number(text: str) -> Number:
  """A printed number with its decimal places; it is exact if it has digits only."""
  mantissa, _, exponent = text.lower().partition("e")
  decimals = len(mantissa.partition(".")[2]) - int(exponent or "0")
  return Number(Fraction(text), text.lstrip("+-").isdigit(), max(decimals, 0))


# Expressions


class _NotAValue(Exception):
  """The text is not a value."""


_OPERATORS: dict[type[ast.operator], Callable[[complex, complex], complex]] = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
}
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
  name: getattr(cmath, name) for name in "sqrt exp log sin cos tan asin acos atan sinh cosh tanh".split()
} | {"ln": cmath.log, "Abs": abs}
_RATIOS = ("Fraction", "Rational")
_WRAPPERS = frozenset(
  "Integer Float Decimal mpf int64 float64 int32 float32 array Matrix FiniteSet frozenset set deque Counter "
  "dict_keys dict_values dict_items".split()
)
_CONSTANTS = {"pi": cmath.pi, "E": cmath.e, "I": 1j}


def _parse_expression(text: str) -> ParsedOutput:
  """The values of an expression or of a container.

  Raises:
    _NotAValue, SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError: the text is neither.
  """
  if len(text) > MAX_EXPRESSION_CHARS or "\\" in text or _DATE.fullmatch(text):
    raise _NotAValue
  node = ast.parse(text, mode="eval").body
  values, shape = _collect_values(node, text)
  inner = shape[1:-1] if shape.startswith("(") else shape
  return ParsedOutput(tuple(values), inner if "(" in inner else "")


def _collect_values(node: ast.expr, text: str) -> tuple[list[PrintedValue], str]:
  """The values in a container, or the single value of a node, and their nesting, such as "((..)(.))"."""
  if isinstance(node, ast.Call) and _last_name(node.func) in _WRAPPERS:
    return _collect_values(node.args[0], text) if node.args else ([EMPTY_CONTAINER], ".")
  if isinstance(node, ast.List | ast.Tuple | ast.Set):
    parts = [_collect_values(element, text) for element in node.elts]
  elif isinstance(node, ast.Dict):
    parts = [
      _collect_values(ast.Tuple([k, v]), text) for k, v in zip(node.keys, node.values, strict=True) if k is not None
    ]
  else:
    return [_parse_leaf(node, text)], "."
  if not parts:
    return [EMPTY_CONTAINER], "."
  if isinstance(node, ast.Set | ast.Dict):
    parts.sort(key=lambda part: repr(part[0]))
  return [value for values, _ in parts for value in values], f"({''.join(shape for _, shape in parts)})"


def _parse_leaf(node: ast.expr, text: str) -> PrintedValue:
  """One element that is not a container: a word, a number or a formula."""
  if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool | str)):
    content = " ".join(str(node.value).split())
    return _parse_number(content) if _SIGNED.fullmatch(content) else Word(content.lower())
  if isinstance(node, ast.Name) and node.id != "pi":
    return Word(node.id.lower())
  if isinstance(node, ast.Attribute) and node.attr in ("True_", "False_"):
    return Word(node.attr.lower().removesuffix("_"))
  if (found := _SIGNED.fullmatch(ast.get_source_segment(text, node) or "")) is not None:
    return _parse_number(found[0])
  samples = [_evaluate(node, point) for point in range(EVALUATION_POINTS)]
  first = samples[0]
  if isinstance(first, Fraction) and samples.count(first) == EVALUATION_POINTS:
    return Number(first, exact=True)
  values = tuple(map(_complex, samples))
  if len(set(values)) == 1 and abs(values[0].imag) <= 1e-12 * abs(values[0]):
    return Number(Fraction(values[0].real), exact=False)
  return Formula(values)


def _last_name(node: ast.expr) -> str:
  """The last part of a dotted name."""
  return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _evaluate(node: ast.expr, point: int) -> Fraction | complex:
  """The value of an expression at one point; a Fraction if all its numbers are whole.

  Raises:
    _NotAValue, ArithmeticError, ValueError: it has no value.
  """
  match node:
    case ast.Constant(value=int() | float() | complex() as value) if not isinstance(value, bool):
      return Fraction(value) if isinstance(value, int) else complex(value)
    case ast.Name(id=name):
      return complex(_CONSTANTS[name]) if name in _CONSTANTS else _value_of_name(name, point)
    case ast.UnaryOp(op=ast.USub(), operand=operand):
      return -_evaluate(operand, point)
    case ast.BinOp(left=left, op=ast.Pow(), right=right):
      return _power(_evaluate(left, point), _evaluate(right, point))
    case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
      return _apply(_OPERATORS[type(op)], _evaluate(left, point), _evaluate(right, point))
    case ast.Call(func=func, args=[over, under]) if _last_name(func) in _RATIOS:
      return _apply(operator.truediv, _evaluate(over, point), _evaluate(under, point))
    case ast.Call(func=func, args=[operand]) if _last_name(func) in _FUNCTIONS:
      return complex(_FUNCTIONS[_last_name(func)](_complex(_evaluate(operand, point))))
    case _:
      raise _NotAValue


def _apply(op: Callable[..., complex], a: Fraction | complex, b: Fraction | complex) -> Fraction | complex:
  """Applies an operator, exactly if both operands are fractions."""
  return op(a, b) if isinstance(a, Fraction) and isinstance(b, Fraction) else op(_complex(a), _complex(b))


def _power(base: Fraction | complex, exponent: Fraction | complex) -> Fraction | complex:
  """A power, exact for a fraction with a whole exponent. Huge powers are refused, since they could hang."""
  if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MAX_POWER_BITS:
      raise _NotAValue
    return base ** int(exponent)
  return _complex(base) ** _complex(exponent)


def _complex(value: Fraction | complex) -> complex:
  """The number as a complex number.

  Raises:
    _NotAValue: it is not finite.
  """
  found = complex(float(value)) if isinstance(value, Fraction) else complex(value)
  if not cmath.isfinite(found):
    raise _NotAValue
  return found


def _value_of_name(name: str, point: int) -> complex:
  """The value of a name at a point: between 1 and 2, or its negative. A hash makes it equal in every process."""
  digest = hashlib.sha256(f"{point}/{name}".encode()).digest()
  size = 1 + int.from_bytes(digest[:4]) / 2**32
  return complex(-size if digest[4] % 2 else size)
