r"""Units, number bases, number words and labels of mathematical answers.

`split_unit` splits "5 cm" into expression and unit; a unit has a dimension and a factor, so that units convert.
`split_base` splits a number such as 52_8. `parse_number_words` reads numbers in English: "two and a half".
`is_label` says whether the left side of an equation only names the value: x, f(2), P(A), \angle ABC, total, a/b.
2x, x^2 and x+3 are no labels: 2x = 2 does not state that the answer is 2.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from score_jax.grading.math_text import CURRENCY_SIGN, FUNCTION_NAMES, GREEK_LETTERS, INVERSE_FUNCTIONS, find_closing

WORDS_BELOW_TWENTY = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
  " eighteen nineteen"
).split()
TENS_WORDS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
WORDS_BELOW_HUNDRED = {**{word: value for value, word in enumerate(WORDS_BELOW_TWENTY)}, **TENS_WORDS}
SCALE_WORDS = {"trillion": 10**12, "billion": 10**9, "million": 10**6, "thousand": 10**3}
FRACTION_WORDS = {
  "half": 2,
  "third": 3,
  "quarter": 4,
  "fourth": 4,
  "fifth": 5,
  "sixth": 6,
  "seventh": 7,
  "eighth": 8,
  "ninth": 9,
  "tenth": 10,
  "hundredth": 100,
}
MAX_WORDS_CHARS = 100


def parse_number_words(text: str) -> Fraction | None:
  """The number that English number words state; None: the text is something else."""
  words = (
    text.lower().replace("-", " ").replace("\\text", " ").strip("{} .").split() if len(text) <= MAX_WORDS_CHARS else []
  )
  sign = -1 if words[:1] in (["minus"], ["negative"]) else 1
  words = words[sign < 0 :]
  if words[-3:] == ["and", "a", "half"] and (value := _whole(words[:-3])) is not None:
    return sign * (value + Fraction(1, 2))
  part = _denominator(words[-1]) if len(words) > 1 else None
  over = part and (1 if words[:-1] in (["a"], ["an"]) else _whole(words[:-1]))
  if part and over is not None and (over == 1) == (words[-1] in FRACTION_WORDS):
    return sign * Fraction(over, part)
  value = _whole(words)
  return None if value is None else Fraction(sign * value)


def _denominator(word: str) -> int | None:
  """The denominator of a fraction word: 3 for "third" and "thirds"."""
  return 2 if word == "halves" else FRACTION_WORDS.get(word.removesuffix("s"))


def _whole(words: list[str]) -> int | None:
  """A whole number in words such as "two thousand one hundred and five"; "one two" gives None."""
  total, rest = 0, words
  for scale, size in SCALE_WORDS.items():
    if scale in rest:
      at = rest.index(scale)
      head, rest = _below_thousand(rest[:at]), rest[at + 1 :]
      if head is None:
        return None
      total += head * size
      if not rest:
        return total
  tail = _below_thousand(rest)
  return None if tail is None else total + tail


def _below_thousand(words: list[str]) -> int | None:
  if words[1:2] != ["hundred"]:
    return _below_hundred(words)
  rest = words[3:] if words[2:3] == ["and"] and words[3:] else words[2:]
  hundreds, tail = WORDS_BELOW_HUNDRED.get(words[0], 10), _below_hundred(rest) if rest else 0
  return 100 * hundreds + tail if 0 < hundreds < 10 and tail is not None else None


def _below_hundred(words: list[str]) -> int | None:
  match words:
    case [one]:
      return WORDS_BELOW_HUNDRED.get(one)
    case [ten, one] if ten in TENS_WORDS and 0 < WORDS_BELOW_HUNDRED.get(one, 0) < 10:
      return TENS_WORDS[ten] + WORDS_BELOW_HUNDRED[one]
  return None


#: dimension -> unit in the singular and its other names -> size
UNIT_SIZES: dict[str, dict[str, Fraction | int]] = {
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
MULTIPLIERS = {
  **{"dozen": Fraction(12), "score": Fraction(20), "hundred": Fraction(100), "gross": Fraction(144)},
  **{"thousand": Fraction(10**3), "k": Fraction(10**3), "million": Fraction(10**6), "mio": Fraction(10**6)},
  **{"billion": Fraction(10**9), "bn": Fraction(10**9), "trillion": Fraction(10**12), "halve": Fraction(1, 2)},
  **{word: Fraction(1, part) for word, part in FRACTION_WORDS.items()},
}
#: capitals are read before units in small letters: 2M is two million, not two metres
CAPITAL_MULTIPLIERS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
UNITS = {
  name: (dimension, Fraction(size))
  for dimension, units in UNIT_SIZES.items()
  for names, size in units.items()
  for name in names.split()
}
SPEED_UNITS = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h"}
GENERIC_UNITS = {"unit"}  # does not name what is counted
POWER_WORDS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
#: words after a number that change, doubt or qualify it; they name no unit
NOT_UNITS = {
  *(*FUNCTION_NAMES, *GREEK_LETTERS, *INVERSE_FUNCTIONS, "and", "or", "sqrt", "abs", "oo", "inf", "infinity"),
  *"squared cubed factorial double triple twice plus minus negative mod modulo divided over base".split(),
  *"binary octal hex hexadecimal choose root power to through until between by point x".split(),
  *"is isn was not no nor isnt never wrong incorrect false but except than most least".split(),
  *"maybe possibly perhaps approximately approx about around nearly almost remainder if when where".split(),
  *"lakh crore reciprocal inverse opposite conjugate bar repeating recurring".split(),
}

UNIT_SUFFIX_PATTERN = re.compile(
  r"(?:\\text\s*\{(?P<text>[^{}]*)\}|(?<=[\d)}\s])(?P<plain>[A-Za-z][A-Za-z. /-]*))"
  r"\s*(?:\^\s*\{?\s*(?P<power>[23])\s*\}?)?$"
)
UNIT_SIGN_PATTERN = re.compile(r"(?P<mark>%|\\degree|[€£¢¤])$")
CURRENCY_PREFIX_PATTERN = re.compile(
  rf"^(?P<sign>[+-]?)\s*(?P<mark>[{CURRENCY_SIGN}€£]|(?:USD|EUR|GBP|US{CURRENCY_SIGN})(?![A-Za-z]))\s*"
)
TRIG_PATTERN = re.compile(r"(?<![A-Za-z])(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")  # sin 30° is not in degrees
BASED_NUMBER_PATTERN = re.compile(r"^([+-]?[0-9A-Fa-f]+)\s*_\s*(?:\{\s*)?(\d{1,2})(?:\s*\})?$")


@dataclasses.dataclass(frozen=True)
class Unit:
  """A unit: dimension ("" if not in the table, "number" if only a multiplier), power and factor to the base unit."""

  dimension: str
  power: int = 1
  factor: Fraction = Fraction(1)
  multiplier: Fraction = Fraction(1)  # 10**6 of "million dollars"
  name: str = dataclasses.field(default="", compare=False)
  is_single_letter: bool = dataclasses.field(default=False, compare=False)  # without \text: it may be a variable


def parse_unit(name: str, power: int = 1, *, letter: bool = False) -> Unit:
  """The unit of that name, such as cm, square inches, mi, km/h, miles per hour, million dollars."""
  name = " ".join(name.replace(".", " ").split()).replace("per cent", "percent")
  if name in CAPITAL_MULTIPLIERS:
    return Unit("number", multiplier=Fraction(CAPITAL_MULTIPLIERS[name]), name=name, is_single_letter=letter)
  name = SPEED_UNITS.get(name.lower(), name.lower())
  over, slash, under = (part.strip() for part in re.sub(r"\bper\b", "/", name).partition("/"))
  if slash:
    above, below = parse_unit(over), parse_unit(under, power)
    known = bool(above.dimension and below.dimension)
    dimension = f"{above.dimension}{above.power}/{below.dimension}{below.power}" if known else ""
    return Unit(dimension, 1, above.factor / below.factor, above.multiplier, name)
  parts, count = name.split(), Fraction(1)
  while parts and (number := MULTIPLIERS.get(parts[0]) or MULTIPLIERS.get(parts[0].removesuffix("s"))):
    count *= number
    parts = parts[1:]
  if not parts:
    return Unit("number", multiplier=count, name=name, is_single_letter=letter)
  while parts[0] in POWER_WORDS and len(parts) > 1:
    power *= POWER_WORDS[parts.pop(0)]
  whole = " ".join(parts)
  dimension, size = UNITS.get(whole) or UNITS.get(whole.removesuffix("s")) or ("", Fraction(1))
  return Unit(dimension, power, size**power, count, name, letter)


def units_may_match(one: Unit, other: Unit) -> bool:
  """Whether two units outside the table may be equal: their names share a word, or one is just "units"."""
  names = [{word.removesuffix("s") for word in re.findall("[a-z]+", unit.name.lower())} for unit in (one, other)]
  return bool(names[0] & names[1]) or any(name <= {*GENERIC_UNITS, *POWER_WORDS} for name in names)


def split_unit(text: str) -> tuple[str, Unit | None]:
  """Splits a normalised answer into its expression and its unit; None: no unit."""
  if head := CURRENCY_PREFIX_PATTERN.match(text):
    rest, inner = split_unit(text[head.end() :])
    money = parse_unit(head["mark"].replace("US" + CURRENCY_SIGN, "usd"))
    if inner is not None:
      money = inner if inner.dimension == "percent" else dataclasses.replace(money, multiplier=inner.multiplier)
    return head["sign"] + rest, money
  mark = UNIT_SIGN_PATTERN.search(text)
  if mark and not (mark["mark"] == "\\degree" and TRIG_PATTERN.search(text)):
    name = {"\\degree": "degree"}.get(mark["mark"], mark["mark"])
    return text[: mark.start()].strip(), parse_unit(name)
  tail = UNIT_SUFFIX_PATTERN.search(text)
  if tail is None or not re.search(r"\d|\\pi|\\frac|\\sqrt", text[: tail.start()]):
    return text, None
  name = tail["text"] if tail["text"] is not None else tail["plain"]
  plain = tail["text"] is None
  if NOT_UNITS & {*re.findall("[a-z]+", name.lower())} or (plain and not _is_plain_unit(name, text[: tail.start()])):
    return text, None
  return text[: tail.start()].strip(), parse_unit(name, int(tail["power"] or 1), letter=plain and len(name) == 1)


def _is_plain_unit(name: str, head: str) -> bool:
  """Whether letters at the end are a unit rather than variables: 5 cm and 7 apples are, 2 cos x, 4x+2g, 2ab are not."""
  numeral = not re.search(r"(?<![\\A-Za-z])[A-Za-z]", head)
  return numeral and (bool(parse_unit(name).dimension) or (head.endswith(" ") and len(name.split()[0]) >= 3))


def split_base(text: str) -> tuple[str, int] | None:
  """The digits and the base of a number such as 52_8; None: it has no base."""
  found = BASED_NUMBER_PATTERN.match(text)
  return (found[1].lower().lstrip("+").lstrip("0") or "0", int(found[2])) if found else None


def parse_int_in_base(digits: str, base: int) -> int | None:
  """The value of digits in a base; None if they are not valid in it."""
  try:
    return int(digits, base) if 2 <= base <= 36 else None
  except ValueError:
    return None


LETTER_PATTERN = r"(?:[A-Za-z]|\\(?:theta|alpha|beta|gamma|delta|lambda|mu|rho|sigma|phi|varphi|omega)(?![a-z]))"
NAME_PATTERN = rf"{LETTER_PATTERN}(?:_\{{?\w+\}}?|')?(?:\s*\(\s*[A-Za-z]\s*\))?"
FUNCTION_CALL_PATTERN = re.compile(
  r"(?:[fghpqPFGHEASVNTRQLCDKM]|\\(?:varphi|phi|mu|sigma|Pr|mathbb\s*\{[EP]\}|mathrm\s*\{[EP]\})|[A-Za-z]{2,})"
  r"(?:_\{\w+\})?'*(?:\^\{-1\}|\^-1)?\s*[(\[]"
)
MARK_COMMAND_PATTERN = re.compile(
  r"\\(?:m?angle|overline|triangle|widehat|hat|bar|vec|overrightarrow|text)(?![A-Za-z])"
)
SUBSCRIPT_PATTERN = re.compile(r"_\{[^{}]*\}")
FUNCTION_PATTERN = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc|det|deg|dim)(?![A-Za-z])")
GREEK_PATTERN = re.compile(r"\\(?:theta|alpha|beta|gamma|delta|lambda|mu|rho|sigma|phi|varphi|omega)(?![A-Za-z])")
OPERATION_PATTERN = re.compile(rf"{FUNCTION_PATTERN.pattern}|\\(?:frac|cdot)(?![A-Za-z])")
LABEL_PATTERN = re.compile(r"[A-Za-z{}()\[\]|+\-*/: ',]+")
KNOWN_FUNCTIONS = {"sqrt", "cbrt", "root", "abs", "max", "min", "gcd", *FUNCTION_NAMES}


def is_name(side: str) -> bool:
  """Whether a side names one value: a variable, function, segment, angle, or words."""
  if re.fullmatch(NAME_PATTERN, side):
    return True
  called = FUNCTION_CALL_PATTERN.match(side)
  if (
    called and called[0].rstrip("([ ") not in KNOWN_FUNCTIONS and find_closing(side, called.end() - 1) == len(side) - 1
  ):
    return True
  if KNOWN_FUNCTIONS & set(re.findall("[A-Za-z]+", side)):
    return False
  bare = SUBSCRIPT_PATTERN.sub("", MARK_COMMAND_PATTERN.sub(" ", side)).strip()
  return re.fullmatch(r"[{|(\[]*\s*(?:[A-Z]+|[A-Za-z ]{3,}(?<! ))\s*[}|)\]]*", bare) is not None and bare != ""


def is_label(side: str) -> bool:
  """Whether a side is a name, or several variables added, multiplied or divided."""
  if is_name(side):
    return True
  bare = SUBSCRIPT_PATTERN.sub(
    "", OPERATION_PATTERN.sub(" ", GREEK_PATTERN.sub(" z ", MARK_COMMAND_PATTERN.sub(" ", side)))
  )
  letters = re.findall("[A-Za-z]+", bare)
  several = len({letter for run in letters for letter in run}) > 1 or FUNCTION_PATTERN.search(side) is not None
  return LABEL_PATTERN.fullmatch(bare) is not None and several and not KNOWN_FUNCTIONS & {*letters}


NOT_WORDS = {
  *FUNCTION_NAMES,
  *GREEK_LETTERS,
  *INVERSE_FUNCTIONS,
  "frac",
  "sqrt",
  "cdot",
  "infty",
  "binom",
  "degree",
  "text",
  "abs",
}


def is_verbal(text: str) -> bool:
  r"""Whether a text is words: in \text, or letters that are no product of variables and no function."""
  return "\\text" in text or any(run not in NOT_WORDS for run in re.findall(r"(?<![\\A-Za-z])[A-Za-z]{4,}", text))
