"""Units and bases at the end of a mathematical answer, and what they are worth in each other."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from score_jax.tasks.math_text import CURRENCY, FUNCTIONS, GREEK, INVERSE
from score_jax.tasks.number_words import PARTS

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
  "angle": {"degree deg": 1},
  "radian": {"radian rad": 1},
  "percent": {"percent % pct": 1},
}
#: number words after a number, which multiply it
NUMBERS = {
  **{"dozen": Fraction(12), "score": Fraction(20), "hundred": Fraction(100), "gross": Fraction(144)},
  **{"thousand": Fraction(10**3), "k": Fraction(10**3), "million": Fraction(10**6), "mio": Fraction(10**6)},
  **{"billion": Fraction(10**9), "bn": Fraction(10**9), "trillion": Fraction(10**12), "halve": Fraction(1, 2)},
  **{word: Fraction(1, part) for word, part in PARTS.items()},
}
#: capitals after a number that are no unit in small letters: 2M are two million, not two metres
CAPITALS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
UNITS = {
  name: (dimension, Fraction(size))
  for dimension, units in SIZES.items()
  for names, size in units.items()
  for name in names.split()
}
SPEEDS = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h"}
GENERIC = {"unit"}  # says nothing of what is counted
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
#: words after a number that change it, doubt it or say something of it rather than name what it counts
NOT_UNITS = {
  *(*FUNCTIONS, *GREEK, *INVERSE, "and", "or", "sqrt", "abs", "oo", "inf", "infinity"),
  *"squared cubed factorial double triple twice plus minus negative mod modulo divided over base".split(),
  *"binary octal hex hexadecimal choose root power to through until between by point x".split(),
  *"is isn was not no nor isnt never wrong incorrect false but except than most least".split(),
  *"maybe possibly perhaps approximately approx about around nearly almost remainder if when where".split(),
  *"lakh crore reciprocal inverse opposite conjugate bar repeating recurring".split(),
}

TAIL = re.compile(
  r"(?:\\text\s*\{(?P<text>[^{}]*)\}|(?<=[\d)}\s])(?P<plain>[A-Za-z][A-Za-z. /-]*))"
  r"\s*(?:\^\s*\{?\s*(?P<power>[23])\s*\}?)?$"
)
MARK = re.compile(r"(?P<mark>%|\\degree|[€£¢¤])$")
HEAD = re.compile(rf"^(?P<sign>[+-]?)\s*(?P<mark>[{CURRENCY}€£]|(?:USD|EUR|GBP|US{CURRENCY})(?![A-Za-z]))\s*")
OF_ANGLE = re.compile(r"(?<![A-Za-z])(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")  # its degrees are not the whole's
BASE = re.compile(r"^([+-]?[0-9A-Fa-f]+)\s*_\s*(?:\{\s*)?(\d{1,2})(?:\s*\})?$")


@dataclasses.dataclass(frozen=True)
class Unit:
  r"""What a number counts: its dimension ("": unknown to the table; "number": nothing), power and size."""

  dimension: str
  power: int = 1
  size: Fraction = Fraction(1)
  count: Fraction = Fraction(1)  # 10**6 of "million dollars"
  name: str = dataclasses.field(default="", compare=False)
  letter: bool = dataclasses.field(default=False, compare=False)  # one without \text: it may be a variable


def unit(name: str, power: int = 1, *, letter: bool = False) -> Unit:
  """The unit of that name, such as cm, square inches, mi, km/h, miles per hour, million dollars."""
  name = " ".join(name.replace(".", " ").split()).replace("per cent", "percent")
  if name in CAPITALS:
    return Unit("number", count=Fraction(CAPITALS[name]), name=name, letter=letter)
  name = SPEEDS.get(name.lower(), name.lower())
  over, slash, under = (part.strip() for part in re.sub(r"\bper\b", "/", name).partition("/"))
  if slash:
    above, below = unit(over), unit(under, power)
    known = bool(above.dimension and below.dimension)
    dimension = f"{above.dimension}{above.power}/{below.dimension}{below.power}" if known else ""
    return Unit(dimension, 1, above.size / below.size, above.count, name)
  parts, count = name.split(), Fraction(1)
  while parts and (number := NUMBERS.get(parts[0]) or NUMBERS.get(parts[0].removesuffix("s"))):
    count *= number
    parts = parts[1:]
  if not parts:
    return Unit("number", count=count, name=name, letter=letter)
  while parts[0] in POWERS and len(parts) > 1:
    power *= POWERS[parts.pop(0)]
  whole = " ".join(parts)
  dimension, size = UNITS.get(whole) or UNITS.get(whole.removesuffix("s")) or ("", Fraction(1))
  return Unit(dimension, power, size**power, count, name, letter)


def alike(one: Unit, other: Unit) -> bool:
  """Whether two units that are not both in the table may be one: their names share a word, or one says just "units"."""
  names = [{word.removesuffix("s") for word in re.findall("[a-z]+", unit.name.lower())} for unit in (one, other)]
  return bool(names[0] & names[1]) or any(name <= {*GENERIC, *POWERS} for name in names)


def measured(text: str) -> tuple[str, Unit | None]:
  """A tidy answer parted into its expression and its unit; None: it has none."""
  if head := HEAD.match(text):
    rest, inner = measured(text[head.end() :])
    money = unit(head["mark"].replace("US" + CURRENCY, "usd"))
    if inner is not None:
      money = inner if inner.dimension == "percent" else dataclasses.replace(money, count=inner.count)
    return head["sign"] + rest, money
  mark = MARK.search(text)
  if mark and not (mark["mark"] == "\\degree" and OF_ANGLE.search(text)):
    name = {"\\degree": "degree"}.get(mark["mark"], mark["mark"])
    return text[: mark.start()].strip(), unit(name)
  tail = TAIL.search(text)
  if tail is None or not re.search(r"\d|\\pi|\\frac|\\sqrt", text[: tail.start()]):
    return text, None
  name = tail["text"] if tail["text"] is not None else tail["plain"]
  plain = tail["text"] is None
  if NOT_UNITS & {*re.findall("[a-z]+", name.lower())} or (plain and not _is_plain_unit(name, text[: tail.start()])):
    return text, None
  return text[: tail.start()].strip(), unit(name, int(tail["power"] or 1), letter=plain and len(name) == 1)


def _is_plain_unit(name: str, head: str) -> bool:
  """Whether letters at the end are a unit rather than variables: 5 cm and 7 apples are, 2 cos x, 4x+2g, 2ab are not."""
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
