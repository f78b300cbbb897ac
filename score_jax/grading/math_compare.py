r"""Compares a mathematical answer with the gold: by form, unit, name and value.

`matches_gold` is the entry. `forms_equal` compares two forms, `atoms_equal` two expressions with their units, bases or
names. In a chain of equal sides a decimal may round a side before it: x = \frac{10}{3} = 3.33. A whole number may do so
only after \approx.

Rules where mathematics alone does not decide:

 1. A gold without brackets ("1,-2") or in braces is a set: any order. One in round or square brackets is a point or
    an interval: its order counts, and the kind of bracket too where there are two things in it.
 2. What Python prints for several values (list, tuple) counts for a gold without brackets.
 3. An answer may leave out the gold's unit, base ("52" for 52_8) or variable ("5" for x = 5), or give a unit where
    the gold has none; another unit is converted ("90 minutes" is 1.5 hours), another kind of unit or base is wrong.
 4. 73 % is 73, as the benchmark's own grader has it, and 0.73; a number below one in size is never its own percentage.
 5. A decimal equals a number without a finite decimal form if it has at least six digits after the point, and six
    significant ones, and is off by less than one unit in the last; for other numbers it must be equal, but for the last
    digits of a printed float.
 6. Names are compared without regard to case, articles and punctuation.
 7. A chain of equal sides ("x = 4/2 = 2") has the value of its sides, if they agree; it may end with a rounded decimal.
    An equation with an unknown in it ("2x = 2", "x^2 = 4") is no value, unless it begins with a label
    (math_units.is_label).
 8. Values with names of their own ("x = 1, y = 2") count by name; against a list or point without names, in the order
    of the names.
 9. One letter after a number ("6s^2", "5 m") is a variable, unless the other text has that unit in words or \text. A
    word that changes a number ("5 squared", "3 halves", "2 million") is not a unit.
10. A gold with a colon is a ratio (4:6 and 2/3 are 2:3), or a time of day (10:30) if it looks like one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

from score_jax.grading import math_units, math_values
from score_jax.grading.math_form import (
  AnswerForm,
  Assignment,
  Atom,
  EqualityChain,
  Equation,
  Matrix,
  Ratio,
  SetUnion,
  TimeOfDay,
  ValueList,
  is_variable_free,
  parse_form,
)
from score_jax.grading.math_text import (
  normalise_math_text,
  normalise_name,
  remove_redundant_spaces,
)
from score_jax.grading.math_units import (
  NAME_PATTERN,
  Unit,
  is_label,
  is_verbal,
  parse_int_in_base,
  split_base,
  split_unit,
  units_may_match,
)
from score_jax.grading.short_answers import parse_choice_letter


def atoms_equal(gold: str, answer: str) -> bool:
  """Whether two normalised texts are one value, with its unit or base, or one name."""
  if remove_redundant_spaces(gold) == remove_redundant_spaces(answer):
    return True
  if is_verbal(split_unit(gold)[0]):
    return (
      normalise_name(gold) in (normalise_name(answer), parse_choice_letter(answer).lower())
      and normalise_name(gold) != ""
    )
  wanted, given = split_base(gold), split_base(answer)
  if wanted is not None:
    return wanted == (given or split_base(f"{answer}_{wanted[1]}"))
  if given is not None:
    return (value := parse_int_in_base(*given)) is not None and math_values.values_equal(gold, str(value))
  return _same_quantity(*_split_units(gold, answer))


def _split_units(gold: str, answer: str) -> tuple[str, Unit | None, str, Unit | None]:
  """Both texts with their units; one letter is a unit only where the other text has that unit or is a plain number."""
  (wanted, unit), (given, other) = split_unit(gold), split_unit(answer)
  if unit is not None and unit.is_single_letter and not _is_spelled_out(other, unit):
    wanted, unit = gold, None
  if other is not None and other.is_single_letter and not _is_spelled_out(split_unit(gold)[1], other):
    thousands = other.dimension == "number" and math_values.is_constant(gold)
    given, other = (given, other) if thousands else (answer, None)
  return wanted, unit, given, other


def _is_spelled_out(unit: Unit | None, letter: Unit) -> bool:
  return unit is not None and not unit.is_single_letter and unit.dimension == letter.dimension


def _same_quantity(gold: str, wanted: Unit | None, answer: str, given: Unit | None) -> bool:
  kinds = [None if unit is None or unit.dimension == "number" else unit.dimension for unit in (wanted, given)]
  count = (given.multiplier if given else 1) / Fraction(wanted.multiplier if wanted else 1)
  if count != 1 and {*kinds} & {"percent", "angle", "radian"}:
    return False
  if "percent" in kinds:
    return math_values.shares_equal(gold, kinds[0], answer, kinds[1])
  if {"angle", "radian"} & {*kinds}:
    return math_values.angles_equal(gold, kinds[0], answer, kinds[1])
  if wanted is None or given is None or None in kinds:
    return math_values.values_equal(gold, answer, scale=count)
  if "" in kinds:
    return units_may_match(wanted, given) and math_values.values_equal(gold, answer, scale=count)
  if (wanted.dimension, wanted.power) != (given.dimension, given.power):
    return False
  return math_values.values_equal(gold, answer, scale=count * given.factor / wanted.factor)


def quantities_equal(one: str, other: str) -> bool:
  """Whether two texts, each a number with or without a unit, are one quantity."""
  return _same_quantity(*_split_units(one, other))


DECIMAL_PATTERN = re.compile(r"[+-]?\d*\.\d+")
INTEGER_PATTERN = re.compile(r"[+-]?\d+")


def reduce_gold_chain(gold: EqualityChain | Equation) -> AnswerForm | None:
  """The form that a gold of several sides reduces to; None: an equation with variables, or a false one."""
  if isinstance(gold, Equation):
    both = _is_constant(gold.left) and _is_constant(gold.right)
    return Atom(gold.right) if both and _agree(gold.left, gold.right, "=") else None
  last = parse_form(gold.sides[-1])
  name = gold.sides[0]
  return Assignment(remove_redundant_spaces(name), last) if re.fullmatch(NAME_PATTERN, name) else last


def iter_chain_forms(chain: EqualityChain, same: Callable[[AnswerForm, AnswerForm], bool]) -> Iterator[AnswerForm]:
  """Yields the forms of the value of a chain, all equal; none if its sides contradict each other.

  Args:
    chain: the answer; its first side may be a label.
    same: whether two forms are equal.
  """
  labelled = is_label(chain.sides[0])
  sides, signs = chain.sides[labelled:], chain.signs[labelled:]
  constant = [_is_constant(side) for side in sides]
  last = parse_form(sides[-1])
  if not constant[-1]:
    if all(same(last, parse_form(side)) for side in sides[:-1]):
      yield last
    return
  known = [index for index, is_constant in enumerate(constant) if is_constant]
  if any(index not in known and (not labelled or is_variable_free(side)) for index, side in enumerate(sides)):
    return
  pairs = [(i, j) for i in known for j in known if i < j]
  if all(_agree(sides[i], sides[j], "=" if {*signs[i:j]} == {"="} else "\\approx") for i, j in pairs):
    yield from (Atom(sides[index]) for index in known)


def _is_constant(side: str) -> bool:
  return math_values.is_constant(split_unit(side)[0])


def _agree(one: str, other: str, sign: str) -> bool:
  """Whether two sides are equal, or the second is the first rounded."""
  if quantities_equal(one, other) or quantities_equal(other, one):
    return True
  (exact, unit), (shown, other_unit) = split_unit(one), split_unit(other)
  if None not in (unit, other_unit) and unit != other_unit:
    return False
  if DECIMAL_PATTERN.fullmatch(shown):
    return (sign != "=" or not DECIMAL_PATTERN.fullmatch(exact)) and math_values.rounds_to(exact, shown)
  return sign != "=" and INTEGER_PATTERN.fullmatch(shown) is not None and math_values.rounds_to(exact, shown)


MAX_UNORDERED_ITEMS = 40


def prepare_gold(gold: str) -> None:
  """Parses a gold and computes its values first, so that a failure in `matches_gold` is due to the answer."""
  for atom in _atoms(parse_form(_normalise(gold))):
    math_values.precompute_value(split_unit(atom)[0])


def matches_gold(gold: str, answer: str) -> bool:
  """Whether the answer is the gold, by the rules above."""
  given, wanted = _normalise(answer), _normalise(gold)
  if not given:
    return False
  if remove_redundant_spaces(given) == remove_redundant_spaces(wanted):
    return True
  form = parse_form(wanted)
  listed = isinstance(form, ValueList) and form.left == ""
  return forms_equal(form, parse_form(given, thousands=not listed))


def _normalise(text: str) -> str:
  """The normalised text; a number in words becomes digits."""
  text = normalise_math_text(text)
  value = math_units.parse_number_words(text)
  return text if value is None else str(value)


def forms_equal(gold: AnswerForm, answer: AnswerForm) -> bool:
  """Whether two forms are equal."""
  match gold, answer:
    case EqualityChain() | Equation(), _ if (value := reduce_gold_chain(gold)) is not None:
      return forms_equal(value, answer)
    case _, EqualityChain():
      return any(forms_equal(gold, form) for form in iter_chain_forms(answer, forms_equal))
    case Assignment(), Assignment():
      return _same_name(gold.name, answer.name) and forms_equal(gold.form, answer.form)
    case Assignment(name, Atom(text)), Equation():
      return math_values.equations_equal((name, text), (answer.left, answer.right))
    case Equation(), Assignment(name, Atom(text)):
      return math_values.equations_equal((gold.left, gold.right), (name, text))
    case Equation(), Equation():
      return math_values.equations_equal((gold.left, gold.right), (answer.left, answer.right))
    case Assignment(), _:
      return forms_equal(gold.form, answer)
    case _, Assignment():
      return forms_equal(gold, answer.form)
    case _, Equation():
      return _equation_states(gold, answer)
    case Ratio(), _:
      return _same_ratio(gold, answer)
    case TimeOfDay(), TimeOfDay():
      return gold.parts == answer.parts and (
        gold.meridiem == answer.meridiem or not (gold.meridiem and answer.meridiem)
      )
    case Atom(), Atom():
      return atoms_equal(gold.text, answer.text)
    case Matrix(), _:
      return _same_matrix(gold, answer)
    case SetUnion(), SetUnion() | ValueList():
      return _in_any_order(gold.parts, _parts(answer))
    case ValueList(), ValueList():
      return _same_sequence(gold, answer)
    case ValueList(), Matrix():
      return len(gold.items) > 1 and gold.left in ("", "(", "[") and _same_matrix(_column(gold), answer)
    case ValueList(), SetUnion() if not gold.left:
      return _in_any_order(gold.items, answer.parts)
  return False


def _equation_states(gold: AnswerForm, answer: Equation) -> bool:
  """Whether an equation states the gold's value: m+n = 42 and 40+2 = 42 do; 5x-8 = 42 does not."""
  for label, side in ((answer.left, answer.right), (answer.right, answer.left)):
    if is_label(label):
      return forms_equal(gold, parse_form(side))
  return any(
    forms_equal(gold, form)
    for form in iter_chain_forms(EqualityChain((answer.left, answer.right), ("=",)), forms_equal)
  )


def _same_ratio(gold: Ratio, answer: AnswerForm) -> bool:
  match answer:
    case TimeOfDay(parts, ""):
      given = tuple(map(str, parts))
    case Ratio(parts):
      given = parts
    case Atom(text) if len(gold.parts) == 2 and ("/" in text or "\\frac" in text):
      given = (text, "1")
    case _:
      return False
  shares = [[rf"\frac{{{part}}}{{{parts[-1]}}}" for part in parts] for parts in (gold.parts, given)]
  return len(gold.parts) == len(given) and all(map(math_values.values_equal, *shares))


def _parts(form: SetUnion | ValueList) -> tuple[AnswerForm, ...]:
  if isinstance(form, SetUnion):
    return form.parts
  return form.items if not form.left else (form,)


def _same_name(gold: str, answer: str) -> bool:
  """f(x) and y are two names of a value, f(1) and y are not."""
  functions = [re.fullmatch(r"[A-Za-z]\([A-Za-z]\)", name) is not None for name in (gold, answer)]
  return gold == answer or (functions[0] != functions[1] and "y" in (gold, answer))


def _same_sequence(gold: ValueList, answer: ValueList) -> bool:
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


def _in_names_order(gold: ValueList, answer: ValueList) -> bool | None:
  """Whether named values are equal: x = 1, y = 2 is (1, 2).

  None: neither side names its values, or all have the same name.
  """
  names = [_names(form) for form in (gold, answer)]
  if not any(names) or any(form.left == "{" for form in (gold, answer)):
    return None
  if not gold.left and not names[0] and len({name.partition("_")[0] for name in names[1]}) == 1:
    return None  # x_1 and x_2 only number the values
  if all(names):
    values = {name: item for name, item in zip(names[1], answer.items, strict=True)}
    return {*names[0]} == {*names[1]} and all(
      forms_equal(i, values[n]) for n, i in zip(names[0], gold.items, strict=True)
    )
  if names[0] and not answer.left:
    return _in_order(gold.items, answer.items)
  wanted, given = (_sorted(form, order) for form, order in zip((gold, answer), names, strict=True))
  return "[" not in (gold.left, answer.left) and _in_order(wanted, given)


def _names(form: ValueList) -> list[str]:
  """The names of values that have one each, all different; else none."""
  names = [item.name for item in form.items if isinstance(item, Assignment)]
  return names if len({*names}) == len(form.items) > 1 else []


def _sorted(form: ValueList, names: list[str]) -> tuple[AnswerForm, ...]:
  """The values by their names, as (x, y) has them; those without names in their own order."""
  pairs = zip(names, form.items, strict=True) if names else ()
  return tuple(item for _, item in sorted(pairs, key=lambda pair: pair[0].strip("\\"))) or form.items


def _same_matrix(gold: Matrix, answer: AnswerForm) -> bool:
  if isinstance(answer, ValueList) and answer.left in ("", "(", "["):
    nested = all(isinstance(item, ValueList) for item in answer.items)
    answer = Matrix(tuple(_items(item) for item in answer.items)) if nested else _column(answer)
  if not isinstance(answer, Matrix):
    return False
  shapes = [[len(row) for row in matrix.rows] for matrix in (gold, answer)]
  return shapes[0] == shapes[1] and all(map(_in_order, gold.rows, answer.rows))


def _column(form: ValueList) -> Matrix:
  return Matrix(tuple((item,) for item in form.items))


def _items(form: AnswerForm) -> tuple[AnswerForm, ...]:
  return form.items if isinstance(form, ValueList) else (form,)


def _in_order(gold: tuple[AnswerForm, ...], answer: tuple[AnswerForm, ...]) -> bool:
  return len(gold) == len(answer) and all(map(forms_equal, gold, answer))


def _in_any_order(gold: tuple[AnswerForm, ...], answer: tuple[AnswerForm, ...]) -> bool:
  left = list(answer)
  if len(gold) != len(left) or len(left) > MAX_UNORDERED_ITEMS:
    return False
  for item in gold:
    found = next((index for index, other in enumerate(left) if forms_equal(item, other)), None)
    if found is None:
      return False
    del left[found]
  return True


def _atoms(form: AnswerForm) -> list[str]:
  match form:
    case Atom():
      return [form.text]
    case TimeOfDay():
      return []
    case Ratio():
      return [*form.parts]
    case EqualityChain():
      return [*form.sides]
    case Equation():
      return [form.left, form.right]
    case Assignment():
      return _atoms(form.form)
    case Matrix():
      return [text for row in form.rows for entry in row for text in _atoms(entry)]
    case ValueList() | SetUnion():
      return [text for part in (form.items if isinstance(form, ValueList) else form.parts) for text in _atoms(part)]
