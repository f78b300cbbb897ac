"""Units and bases at the end of a mathematical answer, and what they are worth in each other."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from score_jax.tasks.math_text import CURRENCY, FUNCTIONS, GREEK, INVERSE

#: dimension -> unit in the singular and its other names -> size
SIZES: dict[str, dict[str, Fraction | int]] = {
  "money": {"dollar usd buck ¤": 1, "cent ¢ penny pennies": Fraction(1, 100)},
  "euro": {"euro eur €": 1},
  "pound": {"£ gbp": 1},
  "length": {
    "m meter metre": 1,
    "cm centimeter centimetre": Fraction(1, 100),
    "mm millimeter millimetre": Fraction(1, 1000),
    "km kilometer kilometre": 1000,
    "in inch inche": Fraction(254, 10000),
    "ft foot feet": Fraction(3048, 10000),
    "yd yard": Fraction(9144, 10000),
    "mi mile": Fraction(1609344, 1000),
  },
  "time": {"s sec second": 1, "min minute": 60, "h hr hour": 3600, "day": 86400, "week": 604800},
  "mass": {"g gram": 1, "kg kilogram": 1000, "mg milligram": Fraction(1, 1000)},
  "weight": {"lb pound": 16, "oz ounce": 1},
  "volume": {"l liter litre": 1000, "ml milliliter millilitre": 1},
  "speed": {"mph": 1},
  "angle": {"degree deg": 1},
  "radian": {"radian rad": 1},
  "percent": {"percent %": 1},
  "number": {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12},
}
UNITS = {
  name: (dimension, Fraction(size))
  for dimension, units in SIZES.items()
  for names, size in units.items()
  for name in names.split()
}
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
NOT_UNITS = {*FUNCTIONS, *GREEK, *INVERSE, "and", "or", "sqrt", "abs", "oo", "inf", "infinity"}

TAIL = re.compile(
  r"(?:\\text\s*\{(?P<text>[^{}]*)\}|(?<=[\d)}\s])(?P<plain>[A-Za-z][A-Za-z. /-]*))"
  r"\s*(?:\^\s*\{?\s*(?P<power>[23])\s*\}?)?$"
)
MARK = re.compile(r"(?P<mark>%|\\degree|[€£¢¤])$")
HEAD = re.compile(rf"^(?P<sign>[+-]?)\s*(?P<mark>[{CURRENCY}€£]|(?:USD|EUR|GBP|US{CURRENCY})(?![A-Za-z]))\s*")
BASE = re.compile(r"^([+-]?[0-9A-Fa-f]+)\s*_\s*(?:\{\s*)?(\d{1,2})(?:\s*\})?$")


@dataclasses.dataclass(frozen=True)
class Unit:
  """What a number counts: its dimension ("": unknown to the table), power and size."""

  dimension: str
  power: int = 1
  size: Fraction = Fraction(1)


def unit(name: str, power: int = 1) -> Unit:
  """The unit of that name, such as cm, square inches, mi."""
  parts = [part for part in re.split(r"[\s.]+", name.lower().strip()) if part]
  while parts and parts[0] in POWERS and len(parts) > 1:
    power *= POWERS[parts.pop(0)]
  whole = " ".join(parts)
  known = UNITS.get(whole) or UNITS.get(whole.removesuffix("s"))
  return Unit(known[0], power, known[1] ** power) if known else Unit("", power)


def measured(text: str) -> tuple[str, Unit | None]:
  """A tidy answer parted into its expression and its unit; None: it has none."""
  if head := HEAD.match(text):
    rest, inner = measured(text[head.end() :])
    name = head["mark"].replace("US" + CURRENCY, "usd")
    return head["sign"] + rest, inner if inner and inner.dimension == "percent" else unit(name)
  if mark := MARK.search(text):
    name = {"\\degree": "degree"}.get(mark["mark"], mark["mark"])
    return text[: mark.start()].strip(), unit(name)
  tail = TAIL.search(text)
  if tail is None or not re.search(r"\d|\\pi|\\frac|\\sqrt", text[: tail.start()]):
    return text, None
  name = tail["text"] if tail["text"] is not None else tail["plain"]
  plain = tail["text"] is None
  if plain and not _is_plain_unit(name, text[: tail.start()]):
    return text, None
  return text[: tail.start()].strip(), unit(name, int(tail["power"] or 1))


def _is_plain_unit(name: str, head: str) -> bool:
  """Whether letters at the end are a unit rather than variables: 5 cm and 7 apples are, 2 cos x, 4x+2g, 2ab are not."""
  if NOT_UNITS & set(re.findall("[A-Za-z]+", name)):
    return False
  numeral = not re.search(r"(?<![\\A-Za-z])[A-Za-z]", head)
  return numeral and (bool(unit(name).dimension) or (head.endswith(" ") and len(name.split()[0]) >= 3))


def based(text: str) -> tuple[str, int] | None:
  """The digits and the base of a number such as 52_8; None: it is none."""
  found = BASE.match(text)
  return (found[1].lower().lstrip("+").lstrip("0") or "0", int(found[2])) if found else None


def decimal(digits: str, base: int) -> int | None:
  """The number that digits are in a base; None where they are none in it."""
  try:
    return int(digits, base) if 2 <= base <= 36 else None
  except ValueError:
    return None
