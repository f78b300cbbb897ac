r"""The form of a mathematical answer: a list, point, interval, union, matrix, equation or one expression.

    "x \in [-2,7]"       Assignment("x", ValueList((Atom("-2"), Atom("7")), "[", "]"))
    "-2 <= x <= 7"       the same
    "1 \pm \sqrt{19}"    ValueList((Atom("1 + \sqrt{19}"), Atom("1 - \sqrt{19}")), "", "")
    "{1, 2}"             ValueList((Atom("1"), Atom("2")), "{", "}")

Printed Python (lists, tuples, sets, sympy's Interval and Matrix) parses to the same forms. Nothing is computed.
"""

from __future__ import annotations

import dataclasses
import re

from score_jax.grading.math_text import (
  SET_LEFT,
  SET_RIGHT,
  find_closing,
  join_thousands,
  remove_redundant_spaces,
  split_outside,
)
from score_jax.grading.math_units import LETTER_PATTERN, NAME_PATTERN, is_name


@dataclasses.dataclass(frozen=True)
class Atom:
  """One expression, or a name, as normalised text."""

  text: str


@dataclasses.dataclass(frozen=True)
class ValueList:
  """Several values between brackets: "" for none, "{" "}" for a set; two between ( ) [ ] may be an interval."""

  items: tuple[AnswerForm, ...]
  left: str
  right: str


@dataclasses.dataclass(frozen=True)
class SetUnion:
  """Several intervals or sets."""

  parts: tuple[AnswerForm, ...]


@dataclasses.dataclass(frozen=True)
class Matrix:
  """Rows of entries."""

  rows: tuple[tuple[AnswerForm, ...], ...]


@dataclasses.dataclass(frozen=True)
class Equation:
  """Two equal sides; neither is only a name."""

  left: str
  right: str


@dataclasses.dataclass(frozen=True)
class Assignment:
  """A variable and its value: x = 5, x in [0, 1]."""

  name: str
  form: AnswerForm


@dataclasses.dataclass(frozen=True)
class EqualityChain:
  """Three or more equal sides, or a value and its rounding: A = 3 * 4 = 12, 7/2 = 3.5, sqrt(2) ≈ 1.41, 7/2 (3.5)."""

  sides: tuple[str, ...]
  signs: tuple[str, ...]  # "=" or "\\approx", one between each pair


@dataclasses.dataclass(frozen=True)
class Ratio:
  """Numbers between colons: 2:3, 1 to 4."""

  parts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TimeOfDay:
  """A time of day, or a ratio that looks like one: 10:30, 10:30 am."""

  parts: tuple[int, ...]
  meridiem: str  # "a", "p" or ""


AnswerForm = Atom | ValueList | SetUnion | Matrix | Equation | Assignment | EqualityChain | Ratio | TimeOfDay

ABSOLUTE_VALUE_PATTERN = re.compile(rf"\|\s*({NAME_PATTERN})\s*\|")
POINT_PATTERN = rf"\(\s*{LETTER_PATTERN}(?:\s*,\s*{LETTER_PATTERN})+\s*\)"
ASSIGNMENT_PATTERN = re.compile(rf"({NAME_PATTERN}|{POINT_PATTERN})\s*(?:\\in(?![a-z])|:)\s*(?=\S)")
RELATION_PATTERN = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z])|<|>")
MIRRORED_RELATIONS = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne"}
ALL_REALS_BUT_PATTERN = re.compile(
  rf"\\mathbb\{{R\}}\s*(?:\\setminus|\\backslash|-)\s*{SET_LEFT}([^,;{SET_RIGHT}]+){SET_RIGHT}"
)
EQUALS_PATTERN = re.compile(r"=|\\(?:approx|simeq|doteq)(?![a-zA-Z])|≈")
NOTED_VALUE_PATTERN = re.compile(
  r"(?P<value>.+?) \((?P<same>(?:or|i\.e\.?,?|=|≈|\\approx|approx(?:imately|\.)?|about)\s*)?(?P<note>[^()]*\d[^()]*)\)"
)
COLON_PATTERN, TO_PATTERN = re.compile(":"), re.compile(r"\s+to\s+")
TIME_PATTERN = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?(?: ?(?:\\text ?\{ ?)?([apAP])\.? ?[mM]\.?(?: ?\})?)?")
SET_BUILDER_PATTERN = re.compile(rf"\s*({NAME_PATTERN})\s*(?:\\in\s*\\mathbb\{{R\}}\s*)?[|:](?!=)(.+)")
COMMA_PATTERN = re.compile(",")
SEMICOLON_PATTERN = re.compile(";")
LIST_SEPARATOR_PATTERN = re.compile(r"\s*,?\s+(?:and|or)\s+|,")
UNION_PATTERN = re.compile(r"\\cup(?![a-zA-Z])|(?<=[)\]⦄}])\s*[uU]\s*(?=[(\[⦃{])|\s+or\s+")
AND_PATTERN = re.compile(r"\s+and\s+")
PLUS_MINUS_PATTERN = re.compile(r"\\pm(?![a-zA-Z])|\\mp(?![a-zA-Z])|\+/-|\+-")
MATRIX_PATTERN = re.compile(
  r"([^=]*)\\begin\s*\{([pbBvV]?(?:small)?matrix|array)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\s*\{\2\}", re.DOTALL
)
CALL_PATTERN = re.compile(r"([A-Za-z]\w*(?:\.\w+)?)\s*\(")
INTERVAL_CALLS = {"Interval": "[]", "Interval.open": "()", "Interval.Lopen": "(]", "Interval.Ropen": "[)"}
COLLECTION_CALLS = {"FiniteSet": "{}", "set": "", "frozenset": "", "list": "", "tuple": "", "Tuple": "()", "array": ""}
NUMBER_CALLS = "float64 float32 int64 int32 Integer Float mpf Decimal str int float".split()
MATRIX_CALLS = "Matrix ImmutableMatrix MutableDenseMatrix ImmutableDenseMatrix Vector".split()
REAL_LINE = ValueList((Atom(r"-\infty"), Atom(r"\infty")), "(", ")")
MAX_FORM_DEPTH = 12


def parse_form(text: str, *, thousands: bool = True, level: int = 0) -> AnswerForm:
  """The form of a normalised answer.

  Args:
    text: the output of `normalise_math_text`.
    thousands: whether 1,234 outside of brackets is one number rather than two.
    level: nesting depth; beyond MAX_FORM_DEPTH the text stays an Atom.
  """
  text = text.strip()
  if thousands and level == 0:
    text = join_thousands(text)
  if level > MAX_FORM_DEPTH:
    return Atom(text)
  for parse in (_parse_matrix, _parse_call, _parse_union, _parse_list, _parse_brackets, _parse_relation):
    if (form := parse(text, level + 1)) is not None:
      return form
  return Atom(text)


def _parse_matrix(text: str, level: int) -> AnswerForm | None:
  found = MATRIX_PATTERN.fullmatch(text)
  if found is None or "\\begin" in found[1] + found[3]:
    return None
  factor = found[1].strip()
  rows = [row.split("&") for row in re.split(r"\\\\", found[3]) if row.strip()]
  if factor:
    rows = [[rf"({factor})\cdot ({entry})" for entry in row] for row in rows]
  return Matrix(tuple(tuple(parse_form(entry, level=level) for entry in row) for row in rows))


def _parse_call(text: str, level: int) -> AnswerForm | None:
  found = CALL_PATTERN.match(text)
  if found is None or find_closing(text, found.end() - 1) != len(text) - 1:
    return None
  name, inner = found[1], text[found.end() : -1]
  parts = [part.strip() for part in split_outside(inner, COMMA_PATTERN)]
  if name in INTERVAL_CALLS and len(parts) >= 2:
    left, right = INTERVAL_CALLS[name]
    if name == "Interval" and parts[2:]:
      flags = [*parts[2:], "False"]
      left, right = "[("[flags[0] == "True"], "])"[flags[1] == "True"]
    return _interval(parts[0], parts[1], left, right)
  if name == "Union":
    return SetUnion(tuple(parse_form(part, level=level) for part in parts))
  if name in NUMBER_CALLS:
    return parse_form(inner, level=level)
  if name in MATRIX_CALLS:
    return _rows(parse_form(parts[0], level=level))
  if name in COLLECTION_CALLS:
    if not COLLECTION_CALLS[name]:
      return parse_form(inner, level=level)
    return ValueList(tuple(parse_form(part, level=level) for part in parts), *COLLECTION_CALLS[name])
  return None


def _rows(form: AnswerForm) -> AnswerForm | None:
  """A list of lists as a matrix, a flat one as a column."""
  if not isinstance(form, ValueList):
    return None
  return Matrix(tuple(item.items if isinstance(item, ValueList) else (item,) for item in form.items))


def _parse_union(text: str, level: int) -> AnswerForm | None:
  pieces = split_outside(text, UNION_PATTERN)
  if len(pieces) < 2:
    return None
  parts = [parse_form(piece, level=level) for piece in pieces]
  bare = [part.form if isinstance(part, Assignment) else part for part in parts]
  if not any(_is_interval(part) for part in bare):
    return None
  return SetUnion(tuple(part for piece in bare for part in (piece.parts if isinstance(piece, SetUnion) else (piece,))))


def _is_interval(form: AnswerForm) -> bool:
  return isinstance(form, SetUnion) or (
    isinstance(form, ValueList) and len(form.items) == 2 and form.left in tuple("([")
  )


def _parse_list(text: str, level: int) -> AnswerForm | None:
  pieces = split_outside(text, SEMICOLON_PATTERN)
  if len(pieces) < 2:
    both = (
      [parse_form(piece, level=level) for piece in split_outside(text, AND_PATTERN)]
      if RELATION_PATTERN.search(text)
      else []
    )
    if len(both) == 2 and (meeting := _intersect(*both)) is not None:
      return meeting
    pieces = split_outside(text, LIST_SEPARATOR_PATTERN)
  items = [parse_form(piece, level=level) for piece in pieces if piece.strip()]
  if len(pieces) < 2 or not items:
    return None
  flat = [item for form in items for item in _spread(form)]
  return ValueList(tuple(flat), "", "") if len(flat) > 1 else flat[0]


def _intersect(one: AnswerForm, other: AnswerForm) -> AnswerForm | None:
  """x > -2 and x < 7 as one interval; None: they do not combine."""
  match one, other:
    case (
      Assignment(name, ValueList((a, Atom("\\infty")), left, _)),
      Assignment(same, ValueList((Atom("-\\infty"), b), _, right)),
    ) if name == same:
      return Assignment(name, ValueList((a, b), left, right))
    case Assignment(_, ValueList((Atom("-\\infty"), _), _, _)), Assignment(_, ValueList((_, Atom("\\infty")), _, _)):
      return _intersect(other, one)
  return None


def _spread(form: AnswerForm) -> tuple[AnswerForm, ...]:
  """The items of a list without brackets, such as both values of a plus-minus; else the form itself."""
  return form.items if isinstance(form, ValueList) and not form.left else (form,)


def _parse_brackets(text: str, level: int) -> AnswerForm | None:
  if not text or text[0] not in "([{" + SET_LEFT or find_closing(text, 0) != len(text) - 1:
    return None
  left, right = text[0].replace(SET_LEFT, "{"), text[-1].replace(SET_RIGHT, "}")
  built = SET_BUILDER_PATTERN.fullmatch(text[1:-1]) if left == "{" else None
  if built is not None and (met := _set_members(parse_form(built[2], level=level), built[1])) is not None:
    return met
  pieces = [p for p in split_outside(text[1:-1], re.compile("[,;]")) if p.strip()]
  items = tuple(parse_form(piece, level=level) for piece in pieces)
  if not items:
    return None
  spread = [item for form in items for item in _spread(form)]
  if spread == [Atom("\\emptyset")] and left == "{":
    return ValueList(tuple(spread), left, right)  # the set of the empty set is not empty
  return ValueList(tuple(spread), left, right) if len(spread) > 1 else spread[0]


def _set_members(condition: AnswerForm, name: str) -> AnswerForm | None:
  """The values that meet a set condition, such as x > 1, or x = 1 or x = 3; None: another variable's."""
  if isinstance(condition, Assignment):
    return condition if condition.name == name else None
  named = (
    [item.form for item in condition.items if isinstance(item, Assignment) and item.name == name]
    if (isinstance(condition, ValueList))
    else []
  )
  return ValueList(tuple(named), "{", "}") if named and len(named) == len(condition.items) else None  # type: ignore


def _parse_relation(text: str, level: int) -> AnswerForm | None:
  """Assignments, equations, inequalities and both signs of a plus-minus."""
  if text == "\\mathbb{R}" or text.lower() in ("all real numbers", "all reals", "reals"):
    return REAL_LINE
  if found := ALL_REALS_BUT_PATTERN.fullmatch(text):
    return _half_line(found[1], "\\ne")
  if RELATION_PATTERN.search(text):
    return _inequality(text)
  sides = [side.strip() for side in split_outside(text, EQUALS_PATTERN)]
  if len(sides) > 1:
    return _parse_equality(sides, ["=" if sign == "=" else "\\approx" for sign in _separators(text)], level)
  if (found := TIME_PATTERN.fullmatch(text)) is not None:
    return TimeOfDay(tuple(int(part) for part in found.groups()[:3] if part), (found[4] or "").lower())
  for colon in (COLON_PATTERN, TO_PATTERN):
    parts = [part.strip() for part in split_outside(text, colon)]
    if len(parts) > 1 and all(map(is_variable_free, parts)):
      return Ratio(tuple(parts))
  if found := ASSIGNMENT_PATTERN.match(text):
    return Assignment(remove_redundant_spaces(found[1]), parse_form(text[found.end() :], level=level))
  if (found := NOTED_VALUE_PATTERN.fullmatch(text)) is not None and _is_note(found):
    return EqualityChain((found["value"].strip(), found["note"].strip()), ("\\approx",))
  if (signs := len(PLUS_MINUS_PATTERN.findall(text))) and signs <= 2:
    both = (_signed(text, "+", "-"), _signed(text, "-", "+"))
    return ValueList(tuple(parse_form(one, level=level) for one in both), "", "")
  return None


def _separators(text: str) -> list[str]:
  """The equals signs outside of brackets."""
  pieces = split_outside(text, EQUALS_PATTERN)
  at = [sum(map(len, pieces[: index + 1])) for index in range(len(pieces) - 1)]
  found = []
  for start in at:
    sign = EQUALS_PATTERN.match(text, start + sum(map(len, found)))
    found.append(sign[0] if sign else "")
  return found


def _parse_equality(sides: list[str], signs: list[str], level: int) -> AnswerForm | None:
  """An assignment, an equation or a chain; None: a side is empty."""
  if not all(sides):
    return None
  if len(sides) > 2:
    return EqualityChain(tuple(sides), tuple(signs))
  left, right = sides
  if re.fullmatch(POINT_PATTERN, left) or is_name(left):
    return Assignment(remove_redundant_spaces(left), parse_form(right, level=level))
  if re.fullmatch(NAME_PATTERN, right):
    return Assignment(remove_redundant_spaces(right), parse_form(left, level=level))
  return Equation(left, right) if signs == ["="] else EqualityChain((left, right), tuple(signs))


def is_variable_free(text: str) -> bool:
  """Whether a text has digits and no variable, judged by its letters."""
  bare = re.sub(r"\\(?:frac|sqrt|pi|cdot)(?![A-Za-z])|sqrt|pi", "1", text)
  return re.search("[A-Za-z<>=,]", bare) is None and re.search(r"\d", bare) is not None


def _is_note(found: re.Match[str]) -> bool:
  """Whether brackets after a value repeat the value and do not multiply it: 7/2 (3.5), but not 2 (3)."""
  both = [found[name].replace("\\%", "%").replace("%", "") for name in ("value", "note")]
  marked = found["same"] is not None or re.search(r"[./%]|\\frac", found["value"] + found["note"]) is not None
  return marked and all(map(is_variable_free, both)) and found["value"].rstrip()[-1] in "0123456789}])%"


def _signed(text: str, plus: str, minus: str) -> str:
  return (
    PLUS_MINUS_PATTERN.sub(lambda sign: f" {minus if sign[0] == chr(92) + 'mp' else plus} ", text)
    .strip()
    .removeprefix("+ ")
  )


def _inequality(text: str) -> AnswerForm | None:
  signs, sides = RELATION_PATTERN.findall(text), [side.strip() for side in RELATION_PATTERN.split(text)]
  names = [bool(re.fullmatch(NAME_PATTERN, side)) for side in sides]
  if len(sides) == 2 and (size := ABSOLUTE_VALUE_PATTERN.fullmatch(sides[0])):
    return Assignment(size[1], _within(sides[1], signs[0]))
  if len(sides) == 2 and names[0] != names[1]:
    name, value, sign = (*sides, signs[0]) if names[0] else (sides[1], sides[0], MIRRORED_RELATIONS[signs[0]])
    return Assignment(name, _half_line(value, sign))
  if len(sides) == 3 and names == [False, True, False]:
    low, name, high = sides
    if {*signs} <= {"<", "\\le"}:
      return Assignment(name, _interval(low, high, _bracket(signs[0], "(["), _bracket(signs[1], ")]")))
    if {*signs} <= {">", "\\ge"}:
      return Assignment(name, _interval(high, low, _bracket(signs[1], "(["), _bracket(signs[0], ")]")))
  return None


def _within(value: str, sign: str) -> AnswerForm:
  """The interval of |x| < value, or the two half-lines of |x| > value."""
  low = f"-({value})"
  if sign in ("<", "\\le"):
    return _interval(low, value, _bracket(sign, "(["), _bracket(sign, ")]"))
  return SetUnion((_half_line(low, MIRRORED_RELATIONS[sign]), _half_line(value, sign)))


def _half_line(value: str, sign: str) -> AnswerForm:
  """The half-line on one side of a value; both half-lines for "is not"."""
  below = _interval(r"-\infty", value, "(", _bracket(sign, ")]"))
  above = _interval(value, r"\infty", _bracket(sign, "(["), ")")
  if sign == "\\ne":
    return SetUnion((below, above))
  return below if sign in ("<", "\\le") else above


def _bracket(sign: str, open_or_closed: str) -> str:
  return open_or_closed[sign in ("\\le", "\\ge")]


def _interval(low: str, high: str, left: str, right: str) -> ValueList:
  return ValueList((Atom(low), Atom(high)), left, right)
