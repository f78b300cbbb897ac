r"""What a chain of equal sides says, and whether it contradicts itself: x = \frac{4}{2} = 2 says 2, x = 7 = 2 nothing.

A decimal may be the rounding of a side before it, x = \frac{10}{3} = 3.33; a whole number only after \approx.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from score_jax.tasks import math_values
from score_jax.tasks.math_form import Atom, Chain, Equation, Form, Named, is_number, read
from score_jax.tasks.math_labels import NAME, is_label
from score_jax.tasks.math_quantity import same_quantity
from score_jax.tasks.math_text import squeezed
from score_jax.tasks.math_units import measured

DECIMAL = re.compile(r"[+-]?\d*\.\d+")
WHOLE = re.compile(r"[+-]?\d+")


def value(gold: Chain | Equation) -> Form | None:
  """What a gold of several sides says; None: it is an equation with variables, or not true."""
  if isinstance(gold, Equation):
    both = _is_constant(gold.left) and _is_constant(gold.right)
    return Atom(gold.right) if both and _agree(gold.left, gold.right, "=") else None
  last = read(gold.sides[-1])
  name = gold.sides[0]
  return Named(squeezed(name), last) if re.fullmatch(NAME, name) else last


def values(chain: Chain, same: Callable[[Form, Form], bool]) -> Iterator[Form]:
  """The forms in which a chain gives its value, all of the same; none where it contradicts itself.

  Args:
    chain: what an answer says; its first side may be a label.
    same: whether two shapes are one.
  """
  labelled = is_label(chain.sides[0])
  sides, signs = chain.sides[labelled:], chain.signs[labelled:]
  constant = [_is_constant(side) for side in sides]
  last = read(sides[-1])
  if not constant[-1]:
    if all(same(last, read(side)) for side in sides[:-1]):
      yield last
    return
  known = [index for index, is_constant in enumerate(constant) if is_constant]
  if any(index not in known and (not labelled or is_number(side)) for index, side in enumerate(sides)):
    return
  pairs = [(i, j) for i in known for j in known if i < j]
  if all(_agree(sides[i], sides[j], "=" if {*signs[i:j]} == {"="} else "\\approx") for i, j in pairs):
    yield from (Atom(sides[index]) for index in known)


def _is_constant(side: str) -> bool:
  return math_values.is_constant(measured(side)[0])


def _agree(one: str, other: str, sign: str) -> bool:
  """Whether two sides are equal, or the second is the first rounded."""
  if same_quantity(one, other) or same_quantity(other, one):
    return True
  (exact, unit), (shown, other_unit) = measured(one), measured(other)
  if None not in (unit, other_unit) and unit != other_unit:
    return False
  if DECIMAL.fullmatch(shown):
    return (sign != "=" or not DECIMAL.fullmatch(exact)) and math_values.rounds(exact, shown)
  return sign != "=" and WHOLE.fullmatch(shown) is not None and math_values.rounds(exact, shown)
