"""Whether a mathematical answer is the gold: by their shapes, their units, their names, and their values.

Rules where mathematics alone does not say:

 1. A gold without brackets ("1,-2") or in braces is a set: any order. One in round or square brackets is a point or
    an interval: its order counts, and the kind of bracket too where there are two things in it.
 2. What Python prints for several values (list, tuple) will do for a gold without brackets.
 3. An answer may leave out the gold's unit, base ("52" for 52_8) or variable ("5" for x = 5), or give a unit where
    the gold has none; another unit is converted ("90 minutes" is 1.5 hours), another kind of unit or base is wrong.
 4. 73 % is 73, as the benchmark's own grader has it, and 0.73; a number below one in size is never its own percentage.
 5. A decimal stands for a number that has no end as a decimal if it has at least six digits after the point, and six
    significant ones, and is off by less than one unit in the last; for other numbers it must be equal, but for the last
    digits of a printed float.
 6. Names are compared without regard to case, articles and punctuation.
"""

from __future__ import annotations

import re
from fractions import Fraction

import sympy

from score_jax.tasks import math_values
from score_jax.tasks.choice import letter
from score_jax.tasks.math_form import Atom, Equation, Form, Matrix, Named, Sequence, Union, read
from score_jax.tasks.math_text import FUNCTIONS, GREEK, INVERSE, squeezed, tidy, words
from score_jax.tasks.math_units import Unit, based, decimal, measured

MOST_ITEMS = 40
SUM = re.compile(r"[A-Za-z](?:[\s+-]*[A-Za-z])*|[^A-Za-z]*")  # m+n = 42 and 40+2 = 42 say 42; 5x-8 = 42 does not
HUNDREDTH = Fraction(1, 100)
NOT_NAMES = {*FUNCTIONS, *GREEK, *INVERSE, "frac", "sqrt", "cdot", "infty", "binom", "degree", "text", "abs"}


def prepare(gold: str) -> None:
  """Reads a gold and works it out, so that what goes wrong in `right` is the answer's doing."""
  for atom in _atoms(read(tidy(gold))):
    math_values.understand(measured(atom)[0])


def right(gold: str, answer: str) -> bool:
  """Whether the answer is the gold, by the rules above."""
  given, wanted = tidy(answer), tidy(gold)
  if not given:
    return False
  if squeezed(given) == squeezed(wanted):
    return True
  form = read(wanted)
  listed = isinstance(form, Sequence) and form.left == ""
  return same(form, read(given, thousands=not listed))


def same(gold: Form, answer: Form) -> bool:
  """Whether two shapes are one."""
  match gold, answer:
    case Named(), Named():
      return _same_name(gold.name, answer.name) and same(gold.form, answer.form)
    case Named(name, Atom(text)), Equation():
      return math_values.equations((name, text), (answer.left, answer.right))
    case Equation(), Named(name, Atom(text)):
      return math_values.equations((gold.left, gold.right), (name, text))
    case Equation(), Equation():
      return math_values.equations((gold.left, gold.right), (answer.left, answer.right))
    case Named(), _:
      return same(gold.form, answer)
    case _, Named():
      return same(gold, answer.form)
    case _, Equation():
      return SUM.fullmatch(answer.left) is not None and same(gold, Atom(answer.right))
    case Atom(), Atom():
      return _same_atom(gold.text, answer.text)
    case Matrix(), _:
      return _same_matrix(gold, answer)
    case Union(), Union() | Sequence():
      return _in_any_order(gold.parts, _parts(answer))
    case Sequence(), Sequence():
      return _same_sequence(gold, answer)
    case Sequence(), Matrix():
      return len(gold.items) > 1 and gold.left in ("", "(", "[") and _same_matrix(_column(gold), answer)
    case Sequence(), Union() if not gold.left:
      return _in_any_order(gold.items, answer.parts)
  return False


def _parts(form: Union | Sequence) -> tuple[Form, ...]:
  if isinstance(form, Union):
    return form.parts
  return form.items if not form.left else (form,)


def _same_name(gold: str, answer: str) -> bool:
  """f(x) and y are two names of a value."""
  return gold == answer or ("(" in gold) != ("(" in answer)


def _same_sequence(gold: Sequence, answer: Sequence) -> bool:
  if len(gold.items) != len(answer.items):
    return False
  brackets, given, two = gold.left + gold.right, answer.left + answer.right, len(gold.items) == 2
  if not brackets:
    return given in ("", "()", "[]", "{}") and _in_any_order(gold.items, answer.items)
  if brackets == "{}":
    return (given in ("{}", "") or (given == "[]" and not two)) and _in_any_order(gold.items, answer.items)
  loose = {"()": ("",) if two else ("", "[]"), "[]": () if two else ("", "()")}
  return given in (brackets, *loose.get(brackets, ())) and _in_order(gold.items, answer.items)


def _same_matrix(gold: Matrix, answer: Form) -> bool:
  if isinstance(answer, Sequence) and answer.left in ("", "(", "["):
    nested = all(isinstance(item, Sequence) for item in answer.items)
    answer = Matrix(tuple(_items(item) for item in answer.items)) if nested else _column(answer)
  if not isinstance(answer, Matrix):
    return False
  shapes = [[len(row) for row in matrix.rows] for matrix in (gold, answer)]
  return shapes[0] == shapes[1] and all(map(_in_order, gold.rows, answer.rows))


def _column(form: Sequence) -> Matrix:
  return Matrix(tuple((item,) for item in form.items))


def _items(form: Form) -> tuple[Form, ...]:
  return form.items if isinstance(form, Sequence) else (form,)


def _in_order(gold: tuple[Form, ...], answer: tuple[Form, ...]) -> bool:
  return len(gold) == len(answer) and all(map(same, gold, answer))


def _in_any_order(gold: tuple[Form, ...], answer: tuple[Form, ...]) -> bool:
  left = list(answer)
  if len(gold) != len(left) or len(left) > MOST_ITEMS:
    return False
  for item in gold:
    found = next((index for index, other in enumerate(left) if same(item, other)), None)
    if found is None:
      return False
    del left[found]
  return True


def _same_atom(gold: str, answer: str) -> bool:
  if squeezed(gold) == squeezed(answer):
    return True
  if _is_name(measured(gold)[0]):
    return words(gold) in (words(answer), letter(answer).lower()) and words(gold) != ""
  wanted, given = based(gold), based(answer)
  if wanted is not None:
    return wanted == (given or based(f"{answer}_{wanted[1]}"))
  if given is not None:
    return (value := decimal(*given)) is not None and math_values.equal(gold, str(value))
  return _same_quantity(*measured(gold), *measured(answer))


def _is_name(text: str) -> bool:
  r"""Whether it is words: in \text, or letters that are no product of variables and no function."""
  return "\\text" in text or any(run not in NOT_NAMES for run in re.findall(r"(?<![\\A-Za-z])[A-Za-z]{4,}", text))


def _same_quantity(gold: str, wanted: Unit | None, answer: str, given: Unit | None) -> bool:
  kinds = (wanted.dimension if wanted else None, given.dimension if given else None)
  if "percent" in kinds:
    return _same_share(gold, kinds[0], answer, kinds[1])
  if {"angle", "radian"} & {*kinds}:
    return _same_angle(gold, kinds[0], answer, kinds[1])
  if "number" in kinds:
    sizes = [kind.size if kind and kind.dimension == "number" else 1 for kind in (wanted, given)]
    return math_values.equal(gold, answer, scale=Fraction(sizes[1]) / sizes[0])
  if wanted is None or given is None or "" in kinds:
    return math_values.equal(gold, answer)
  if (wanted.dimension, wanted.power) != (given.dimension, given.power):
    return False
  return math_values.equal(gold, answer, scale=given.size / wanted.size)


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
  """A number without a unit is in degrees or radians, whichever the other is in, unless pi stands in it."""
  if {wanted, given} - {"angle", "radian", None}:
    return False
  radians = [kind == "radian" or (kind is None and "pi" in text) for kind, text in ((wanted, gold), (given, answer))]
  if radians[0] == radians[1] or (not radians[0] and wanted is None) or (not radians[1] and given is None):
    return math_values.equal(gold, answer)
  return math_values.equal(gold, answer, scale=sympy.pi / 180 if radians[0] else 180 / sympy.pi)


def _atoms(form: Form) -> list[str]:
  match form:
    case Atom():
      return [form.text]
    case Equation():
      return [form.left, form.right]
    case Named():
      return _atoms(form.form)
    case Matrix():
      return [text for row in form.rows for entry in row for text in _atoms(entry)]
    case Sequence() | Union():
      return [text for part in (form.items if isinstance(form, Sequence) else form.parts) for text in _atoms(part)]
