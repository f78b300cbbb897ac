r"""Whether a mathematical answer is the gold: by their shapes, their units, their names, and their values.

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
 7. A chain of equal sides ("x = 4/2 = 2") has the value of its sides, if they agree; it may end with a rounded decimal.
    An equation with an unknown in it ("2x = 2", "x^2 = 4") is no value, unless it begins with a label (math_labels.py).
 8. Values with names of their own ("x = 1, y = 2") count by name; against a list or point without names, in the order
    of the names.
 9. One letter after a number ("6s^2", "5 m") is a variable, unless the other text has that unit in words or \text. A
    word that changes a number ("5 squared", "3 halves", "2 million") is not a unit.
10. A gold with a colon is a ratio (4:6 and 2/3 are 2:3), or a time of day (10:30) if it looks like one.
"""

from __future__ import annotations

import re

from score_jax.tasks import math_chain, math_values, number_words
from score_jax.tasks.math_form import Atom, Chain, Equation, Form, Matrix, Named, Ratio, Sequence, Time, Union, read
from score_jax.tasks.math_labels import is_label
from score_jax.tasks.math_quantity import same_atom
from score_jax.tasks.math_text import squeezed, tidy
from score_jax.tasks.math_units import measured

MOST_ITEMS = 40


def prepare(gold: str) -> None:
  """Reads a gold and works it out, so that what goes wrong in `right` is the answer's doing."""
  for atom in _atoms(read(_tidied(gold))):
    math_values.understand(measured(atom)[0])


def right(gold: str, answer: str) -> bool:
  """Whether the answer is the gold, by the rules above."""
  given, wanted = _tidied(answer), _tidied(gold)
  if not given:
    return False
  if squeezed(given) == squeezed(wanted):
    return True
  form = read(wanted)
  listed = isinstance(form, Sequence) and form.left == ""
  return same(form, read(given, thousands=not listed))


def _tidied(text: str) -> str:
  """A tidy text, a number in words as digits."""
  text = tidy(text)
  value = number_words.number(text)
  return text if value is None else str(value)


def same(gold: Form, answer: Form) -> bool:
  """Whether two shapes are one."""
  match gold, answer:
    case Chain() | Equation(), _ if (value := math_chain.value(gold)) is not None:
      return same(value, answer)
    case _, Chain():
      return any(same(gold, form) for form in math_chain.values(answer, same))
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
      return _same_as_equated(gold, answer)
    case Ratio(), _:
      return _same_ratio(gold, answer)
    case Time(), Time():
      return gold.parts == answer.parts and (gold.half == answer.half or not (gold.half and answer.half))
    case Atom(), Atom():
      return same_atom(gold.text, answer.text)
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


def _same_as_equated(gold: Form, answer: Equation) -> bool:
  """Whether an equation says that something has the gold's value: m+n = 42 and 40+2 = 42 say 42; 5x-8 = 42 does not."""
  for label, side in ((answer.left, answer.right), (answer.right, answer.left)):
    if is_label(label):
      return same(gold, read(side))
  return any(same(gold, form) for form in math_chain.values(Chain((answer.left, answer.right), ("=",)), same))


def _same_ratio(gold: Ratio, answer: Form) -> bool:
  match answer:
    case Time(parts, ""):
      given = tuple(map(str, parts))
    case Ratio(parts):
      given = parts
    case Atom(text) if len(gold.parts) == 2 and ("/" in text or "\\frac" in text):
      given = (text, "1")
    case _:
      return False
  shares = [[rf"\frac{{{part}}}{{{parts[-1]}}}" for part in parts] for parts in (gold.parts, given)]
  return len(gold.parts) == len(given) and all(map(math_values.equal, *shares))


def _parts(form: Union | Sequence) -> tuple[Form, ...]:
  if isinstance(form, Union):
    return form.parts
  return form.items if not form.left else (form,)


def _same_name(gold: str, answer: str) -> bool:
  """f(x) and y are two names of a value, f(1) and y are not."""
  functions = [re.fullmatch(r"[A-Za-z]\([A-Za-z]\)", name) is not None for name in (gold, answer)]
  return gold == answer or (functions[0] != functions[1] and "y" in (gold, answer))


def _same_sequence(gold: Sequence, answer: Sequence) -> bool:
  if len(gold.items) != len(answer.items):
    return False
  if (named := _in_names_order(gold, answer)) is not None:
    return named
  brackets, given, two = gold.left + gold.right, answer.left + answer.right, len(gold.items) == 2
  if not brackets:
    return given in ("", "()", "[]", "{}") and _in_any_order(gold.items, answer.items)
  if brackets == "{}":
    return (given in ("{}", "") or (given == "[]" and not two)) and _in_any_order(gold.items, answer.items)
  loose = {"()": ("",) if two else ("", "[]"), "[]": () if two else ("", "()")}
  return given in (brackets, *loose.get(brackets, ())) and _in_order(gold.items, answer.items)


def _in_names_order(gold: Sequence, answer: Sequence) -> bool | None:
  """Whether x = 1, y = 2 and (1, 2) are one; None: neither names its values, or gives all the same name."""
  names = [_names(form) for form in (gold, answer)]
  if not any(names) or any(form.left == "{" for form in (gold, answer)):
    return None
  if not gold.left and not names[0] and len({name.partition("_")[0] for name in names[1]}) == 1:
    return None  # x_1 and x_2 only number the values
  if all(names):
    values = {name: item for name, item in zip(names[1], answer.items, strict=True)}
    return {*names[0]} == {*names[1]} and all(same(i, values[n]) for n, i in zip(names[0], gold.items, strict=True))
  if names[0] and not answer.left:
    return _in_order(gold.items, answer.items)
  wanted, given = (_sorted(form, order) for form, order in zip((gold, answer), names, strict=True))
  return "[" not in (gold.left, answer.left) and _in_order(wanted, given)


def _names(form: Sequence) -> list[str]:
  """The names of values that have one each, all different; else none."""
  names = [item.name for item in form.items if isinstance(item, Named)]
  return names if len({*names}) == len(form.items) > 1 else []


def _sorted(form: Sequence, names: list[str]) -> tuple[Form, ...]:
  """The values by their names, as (x, y) has them; those without names as they stand."""
  pairs = zip(names, form.items, strict=True) if names else ()
  return tuple(item for _, item in sorted(pairs, key=lambda pair: pair[0].strip("\\"))) or form.items


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


def _atoms(form: Form) -> list[str]:
  match form:
    case Atom():
      return [form.text]
    case Time():
      return []
    case Ratio():
      return [*form.parts]
    case Chain():
      return [*form.sides]
    case Equation():
      return [form.left, form.right]
    case Named():
      return _atoms(form.form)
    case Matrix():
      return [text for row in form.rows for entry in row for text in _atoms(entry)]
    case Sequence() | Union():
      return [text for part in (form.items if isinstance(form, Sequence) else form.parts) for text in _atoms(part)]
