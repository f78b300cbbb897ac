r"""The shape of a mathematical answer: a list, a point, an interval, a union, a matrix, an equation or one expression.

    "x \in [-2,7]"       Named("x", Sequence((Atom("-2"), Atom("7")), "[", "]"))
    "-2 <= x <= 7"       the same
    "1 \pm \sqrt{19}"    Sequence((Atom("1 + \sqrt{19}"), Atom("1 - \sqrt{19}")), "", "")
    "{1, 2}"             Sequence((Atom("1"), Atom("2")), "{", "}")

What Python prints for such things (lists, tuples, sets, sympy's Interval and Matrix) is read alike. Text in, shapes
out: expressions stay text, and nothing is computed.
"""

from __future__ import annotations

import dataclasses
import re

from score_jax.tasks.brackets import SET_LEFT, SET_RIGHT, closing, split
from score_jax.tasks.math_labels import LETTER, NAME, is_name
from score_jax.tasks.math_text import joined_thousands, squeezed


@dataclasses.dataclass(frozen=True)
class Atom:
  """One expression, or a name, as tidy text."""

  text: str


@dataclasses.dataclass(frozen=True)
class Sequence:
  """Several things between brackets: "" for none, "{" "}" for a set; two between any of ( ) [ ] may be an interval."""

  items: tuple[Form, ...]
  left: str
  right: str


@dataclasses.dataclass(frozen=True)
class Union:
  """Several intervals or sets."""

  parts: tuple[Form, ...]


@dataclasses.dataclass(frozen=True)
class Matrix:
  """Rows of entries."""

  rows: tuple[tuple[Form, ...], ...]


@dataclasses.dataclass(frozen=True)
class Equation:
  """Two sides that are equal, no side a name alone."""

  left: str
  right: str


@dataclasses.dataclass(frozen=True)
class Named:
  """A thing with the variable that it is the value of: x = 5, x in [0, 1]."""

  name: str
  form: Form


@dataclasses.dataclass(frozen=True)
class Chain:
  """Three sides or more, or a value and its rounding: A = 3 * 4 = 12, 7/2 = 3.5, sqrt(2) ≈ 1.41, 7/2 (3.5)."""

  sides: tuple[str, ...]
  signs: tuple[str, ...]  # "=" or "\\approx", one between each two


@dataclasses.dataclass(frozen=True)
class Ratio:
  """Numbers between colons: 2:3, 1 to 4."""

  parts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Time:
  """A time of day, or a ratio that looks like one: 10:30, 10:30 am."""

  parts: tuple[int, ...]
  half: str  # "a", "p" or ""


Form = Atom | Sequence | Union | Matrix | Equation | Named | Chain | Ratio | Time

SIZE = re.compile(rf"\|\s*({NAME})\s*\|")
POINT = rf"\(\s*{LETTER}(?:\s*,\s*{LETTER})+\s*\)"
ASSIGNED = re.compile(rf"({NAME}|{POINT})\s*(?:\\in(?![a-z])|:)\s*(?=\S)")
RELATION = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z])|<|>")
MIRRORED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne"}
ALL_BUT = re.compile(rf"\\mathbb\{{R\}}\s*(?:\\setminus|\\backslash|-)\s*{SET_LEFT}([^,;{SET_RIGHT}]+){SET_RIGHT}")
EQUALS = re.compile(r"=|\\(?:approx|simeq|doteq)(?![a-zA-Z])|≈")
NOTED = re.compile(
  r"(?P<value>.+?) \((?P<same>(?:or|i\.e\.?,?|=|≈|\\approx|approx(?:imately|\.)?|about)\s*)?(?P<note>[^()]*\d[^()]*)\)"
)
COLON, TO = re.compile(":"), re.compile(r"\s+to\s+")
TIME = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?(?: ?(?:\\text ?\{ ?)?([apAP])\.? ?[mM]\.?(?: ?\})?)?")
BUILDER = re.compile(rf"\s*({NAME})\s*(?:\\in\s*\\mathbb\{{R\}}\s*)?[|:](?!=)(.+)")
COMMA = re.compile(",")
SEMICOLON = re.compile(";")
LIST = re.compile(r"\s*,?\s+(?:and|or)\s+|,")
CUP = re.compile(r"\\cup(?![a-zA-Z])|(?<=[)\]⦄}])\s*[uU]\s*(?=[(\[⦃{])|\s+or\s+")
OR, AND = re.compile(r"\s+or\s+"), re.compile(r"\s+and\s+")
SIGN = re.compile(r"\\pm(?![a-zA-Z])|\\mp(?![a-zA-Z])|\+/-|\+-")
ENVIRONMENT = re.compile(
  r"([^=]*)\\begin\s*\{([pbBvV]?(?:small)?matrix|array)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\s*\{\2\}", re.DOTALL
)
NAMED_CALL = re.compile(r"([A-Za-z]\w*(?:\.\w+)?)\s*\(")
INTERVALS = {
  "Interval": "[]",
  "Interval.open": "()",
  "Interval.Lopen": "(]",
  "Interval.Ropen": "[)",
}
COLLECTIONS = {"FiniteSet": "{}", "set": "", "frozenset": "", "list": "", "tuple": "", "Tuple": "()", "array": ""}
WRAPPERS = "float64 float32 int64 int32 Integer Float mpf Decimal str int float".split()
MATRICES = "Matrix ImmutableMatrix MutableDenseMatrix ImmutableDenseMatrix Vector".split()
LINE = Sequence((Atom(r"-\infty"), Atom(r"\infty")), "(", ")")
DEEPEST = 12


def read(text: str, *, thousands: bool = True, level: int = 0) -> Form:
  """The shape of a tidy answer.

  Args:
    text: what `tidy` gave.
    thousands: whether 1,234 outside of brackets is one number rather than two.
    level: how deep in brackets it stands; what is nested too deep is an Atom.
  """
  text = text.strip()
  if thousands and level == 0:
    text = joined_thousands(text)
  if level > DEEPEST:
    return Atom(text)
  for reader in (_environment, _call, _union, _list, _bracketed, _related):
    if (form := reader(text, level + 1)) is not None:
      return form
  return Atom(text)


def _environment(text: str, level: int) -> Form | None:
  found = ENVIRONMENT.fullmatch(text)
  if found is None or "\\begin" in found[1] + found[3]:
    return None
  factor = found[1].strip()
  rows = [row.split("&") for row in re.split(r"\\\\", found[3]) if row.strip()]
  if factor:
    rows = [[rf"({factor})\cdot ({entry})" for entry in row] for row in rows]
  return Matrix(tuple(tuple(read(entry, level=level) for entry in row) for row in rows))


def _call(text: str, level: int) -> Form | None:
  found = NAMED_CALL.match(text)
  if found is None or closing(text, found.end() - 1) != len(text) - 1:
    return None
  name, inner = found[1], text[found.end() : -1]
  parts = [part.strip() for part in split(inner, COMMA)]
  if name in INTERVALS and len(parts) >= 2:
    left, right = INTERVALS[name]
    if name == "Interval" and parts[2:]:
      flags = [*parts[2:], "False"]
      left, right = "[("[flags[0] == "True"], "])"[flags[1] == "True"]
    return _interval(parts[0], parts[1], left, right)
  if name == "Union":
    return Union(tuple(read(part, level=level) for part in parts))
  if name in WRAPPERS:
    return read(inner, level=level)
  if name in MATRICES:
    return _rows(read(parts[0], level=level))
  if name in COLLECTIONS:
    if not COLLECTIONS[name]:
      return read(inner, level=level)
    return Sequence(tuple(read(part, level=level) for part in parts), *COLLECTIONS[name])
  return None


def _rows(form: Form) -> Form | None:
  """A list of lists as a matrix, a flat one as a column."""
  if not isinstance(form, Sequence):
    return None
  return Matrix(tuple(item.items if isinstance(item, Sequence) else (item,) for item in form.items))


def _union(text: str, level: int) -> Form | None:
  pieces = split(text, CUP)
  if len(pieces) < 2:
    return None
  parts = [read(piece, level=level) for piece in pieces]
  bare = [part.form if isinstance(part, Named) else part for part in parts]
  if not any(_is_interval(part) for part in bare):
    return None
  return Union(tuple(part for piece in bare for part in (piece.parts if isinstance(piece, Union) else (piece,))))


def _is_interval(form: Form) -> bool:
  return isinstance(form, Union) or (isinstance(form, Sequence) and len(form.items) == 2 and form.left in tuple("(["))


def _list(text: str, level: int) -> Form | None:
  pieces = split(text, SEMICOLON)
  if len(pieces) < 2:
    both = [read(piece, level=level) for piece in split(text, AND)] if RELATION.search(text) else []
    if len(both) == 2 and (meeting := _meeting(*both)) is not None:
      return meeting
    pieces = split(text, LIST)
  items = [read(piece, level=level) for piece in pieces if piece.strip()]
  if len(pieces) < 2 or not items:
    return None
  flat = [item for form in items for item in _spread(form)]
  return Sequence(tuple(flat), "", "") if len(flat) > 1 else flat[0]


def _meeting(one: Form, other: Form) -> Form | None:
  """x > -2 and x < 7 as one interval."""
  match one, other:
    case (
      Named(name, Sequence((a, Atom("\\infty")), left, _)),
      Named(same, Sequence((Atom("-\\infty"), b), _, right)),
    ) if name == same:
      return Named(name, Sequence((a, b), left, right))
    case Named(_, Sequence((Atom("-\\infty"), _), _, _)), Named(_, Sequence((_, Atom("\\infty")), _, _)):
      return _meeting(other, one)
  return None


def _spread(form: Form) -> tuple[Form, ...]:
  """The things that a list without brackets has, such as the two of a plus-minus."""
  return form.items if isinstance(form, Sequence) and not form.left else (form,)


def _bracketed(text: str, level: int) -> Form | None:
  if not text or text[0] not in "([{" + SET_LEFT or closing(text, 0) != len(text) - 1:
    return None
  left, right = text[0].replace(SET_LEFT, "{"), text[-1].replace(SET_RIGHT, "}")
  built = BUILDER.fullmatch(text[1:-1]) if left == "{" else None
  if built is not None and (met := _met(read(built[2], level=level), built[1])) is not None:
    return met
  pieces = [p for p in split(text[1:-1], re.compile("[,;]")) if p.strip()]
  items = tuple(read(piece, level=level) for piece in pieces)
  if not items:
    return None
  spread = [item for form in items for item in _spread(form)]
  if spread == [Atom("\\emptyset")] and left == "{":
    return Sequence(tuple(spread), left, right)  # the set of the empty set is not empty
  return Sequence(tuple(spread), left, right) if len(spread) > 1 else spread[0]


def _met(condition: Form, name: str) -> Form | None:
  """The values that meet the condition of a set, such as x > 1, or x = 1 or x = 3; None: it is another's."""
  if isinstance(condition, Named):
    return condition if condition.name == name else None
  named = (
    [item.form for item in condition.items if isinstance(item, Named) and item.name == name]
    if (isinstance(condition, Sequence))
    else []
  )
  return Sequence(tuple(named), "{", "}") if named and len(named) == len(condition.items) else None  # type: ignore


def _related(text: str, level: int) -> Form | None:
  """Assignments, equations, inequalities and both signs of a plus-minus."""
  if text == "\\mathbb{R}" or text.lower() in ("all real numbers", "all reals", "reals"):
    return LINE
  if found := ALL_BUT.fullmatch(text):
    return _half_line(found[1], "\\ne")
  if RELATION.search(text):
    return _inequality(text)
  sides = [side.strip() for side in split(text, EQUALS)]
  if len(sides) > 1:
    return _equated(sides, ["=" if sign == "=" else "\\approx" for sign in _separators(text)], level)
  if (found := TIME.fullmatch(text)) is not None:
    return Time(tuple(int(part) for part in found.groups()[:3] if part), (found[4] or "").lower())
  for colon in (COLON, TO):
    parts = [part.strip() for part in split(text, colon)]
    if len(parts) > 1 and all(map(is_number, parts)):
      return Ratio(tuple(parts))
  if found := ASSIGNED.match(text):
    return Named(squeezed(found[1]), read(text[found.end() :], level=level))
  if (found := NOTED.fullmatch(text)) is not None and _is_note(found):
    return Chain((found["value"].strip(), found["note"].strip()), ("\\approx",))
  if (signs := len(SIGN.findall(text))) and signs <= 2:
    both = (_signed(text, "+", "-"), _signed(text, "-", "+"))
    return Sequence(tuple(read(one, level=level) for one in both), "", "")
  return None


def _separators(text: str) -> list[str]:
  """The equals signs that stand in no bracket."""
  pieces = split(text, EQUALS)
  at = [sum(map(len, pieces[: index + 1])) for index in range(len(pieces) - 1)]
  found = []
  for start in at:
    sign = EQUALS.match(text, start + sum(map(len, found)))
    found.append(sign[0] if sign else "")
  return found


def _equated(sides: list[str], signs: list[str], level: int) -> Form | None:
  """A named value, an equation or a chain."""
  if not all(sides):
    return None
  if len(sides) > 2:
    return Chain(tuple(sides), tuple(signs))
  left, right = sides
  if re.fullmatch(POINT, left) or is_name(left):
    return Named(squeezed(left), read(right, level=level))
  if re.fullmatch(NAME, right):
    return Named(squeezed(right), read(left, level=level))
  return Equation(left, right) if signs == ["="] else Chain((left, right), tuple(signs))


def is_number(text: str) -> bool:
  """Whether no variable stands in it, as far as its letters tell."""
  bare = re.sub(r"\\(?:frac|sqrt|pi|cdot)(?![A-Za-z])|sqrt|pi", "1", text)
  return re.search("[A-Za-z<>=,]", bare) is None and re.search(r"\d", bare) is not None


def _is_note(found: re.Match[str]) -> bool:
  """Whether brackets behind a value say it again rather than multiply it: 7/2 (3.5), but not 2 (3)."""
  both = [found[name].replace("\\%", "%").replace("%", "") for name in ("value", "note")]
  marked = found["same"] is not None or re.search(r"[./%]|\\frac", found["value"] + found["note"]) is not None
  return marked and all(map(is_number, both)) and found["value"].rstrip()[-1] in "0123456789}])%"


def _signed(text: str, plus: str, minus: str) -> str:
  return SIGN.sub(lambda sign: f" {minus if sign[0] == chr(92) + 'mp' else plus} ", text).strip().removeprefix("+ ")


def _inequality(text: str) -> Form | None:
  signs, sides = RELATION.findall(text), [side.strip() for side in RELATION.split(text)]
  names = [bool(re.fullmatch(NAME, side)) for side in sides]
  if len(sides) == 2 and (size := SIZE.fullmatch(sides[0])):
    return Named(size[1], _within(sides[1], signs[0]))
  if len(sides) == 2 and names[0] != names[1]:
    name, value, sign = (*sides, signs[0]) if names[0] else (sides[1], sides[0], MIRRORED[signs[0]])
    return Named(name, _half_line(value, sign))
  if len(sides) == 3 and names == [False, True, False]:
    low, name, high = sides
    if {*signs} <= {"<", "\\le"}:
      return Named(name, _interval(low, high, _bracket(signs[0], "(["), _bracket(signs[1], ")]")))
    if {*signs} <= {">", "\\ge"}:
      return Named(name, _interval(high, low, _bracket(signs[1], "(["), _bracket(signs[0], ")]")))
  return None


def _within(value: str, sign: str) -> Form:
  """Where something is at most, or at least, so far from zero."""
  low = f"-({value})"
  if sign in ("<", "\\le"):
    return _interval(low, value, _bracket(sign, "(["), _bracket(sign, ")]"))
  return Union((_half_line(low, MIRRORED[sign]), _half_line(value, sign)))


def _half_line(value: str, sign: str) -> Form:
  """What lies on one side of a value; on both for "is not"."""
  below = _interval(r"-\infty", value, "(", _bracket(sign, ")]"))
  above = _interval(value, r"\infty", _bracket(sign, "(["), ")")
  if sign == "\\ne":
    return Union((below, above))
  return below if sign in ("<", "\\le") else above


def _bracket(sign: str, open_or_closed: str) -> str:
  return open_or_closed[sign in ("\\le", "\\ge")]


def _interval(low: str, high: str, left: str, right: str) -> Sequence:
  return Sequence((Atom(low), Atom(high)), left, right)
