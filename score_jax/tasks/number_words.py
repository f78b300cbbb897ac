"""Numbers in English words: "twenty-one", "minus three", "one half", "two and a half"."""

from __future__ import annotations

from fractions import Fraction

SMALL = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
  " eighteen nineteen"
).split()
TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
ONES = {**{word: value for value, word in enumerate(SMALL)}, **TENS}
SCALES = {"trillion": 10**12, "billion": 10**9, "million": 10**6, "thousand": 10**3}
PARTS = {
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
LONGEST = 100  # characters


def number(text: str) -> Fraction | None:
  """The number that a text of nothing but number words says; None: it says none."""
  words = text.lower().replace("-", " ").replace("\\text", " ").strip("{} .").split() if len(text) <= LONGEST else []
  sign = -1 if words[:1] in (["minus"], ["negative"]) else 1
  words = words[sign < 0 :]
  if words[-3:] == ["and", "a", "half"] and (value := _whole(words[:-3])) is not None:
    return sign * (value + Fraction(1, 2))
  part = _part(words[-1]) if len(words) > 1 else None
  over = part and (1 if words[:-1] in (["a"], ["an"]) else _whole(words[:-1]))
  if part and over is not None and (over == 1) == (words[-1] in PARTS):
    return sign * Fraction(over, part)
  value = _whole(words)
  return None if value is None else Fraction(sign * value)


def _part(word: str) -> int | None:
  """What a fraction of that name is over: 3 of "third" and "thirds"."""
  return 2 if word == "halves" else PARTS.get(word.removesuffix("s"))


def _whole(words: list[str]) -> int | None:
  """A whole number in words such as "two thousand one hundred and five"; "one two" is none."""
  total, rest = 0, words
  for scale, size in SCALES.items():
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
  hundreds, tail = ONES.get(words[0], 10), _below_hundred(rest) if rest else 0
  return 100 * hundreds + tail if 0 < hundreds < 10 and tail is not None else None


def _below_hundred(words: list[str]) -> int | None:
  match words:
    case [one]:
      return ONES.get(one)
    case [ten, one] if ten in TENS and 0 < ONES.get(one, 0) < 10:
      return TENS[ten] + ONES[one]
  return None
