"""The forms of a reference answer, and whether one of them stands in a text.

Equal are numbers with and without separators, as decimals (rounded ones from three places on), fractions and percent;
symbolic answers spelled as LaTeX or as Python; names without regard to case, articles and punctuation; dates in either
order. Each box of an answer with several is an answer.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from fractions import Fraction

from score_jax.tasks.brackets import closing
from score_jax.tasks.choice import letter
from score_jax.tasks.math_dress import BOX
from score_jax.tasks.math_text import squeezed, tidy
from score_jax.tasks.math_units import measured
from score_jax.tasks.numbers import number
from score_jax.tasks.qa_answers import normalised
from score_jax.trajectory import Question

SHORT = 3  # characters; an answer with fewer may stand in any text by accident
CLOSED = ("yes", "no", "true", "false")  # say too little to be looked for
LONGEST = 400  # characters of a number that is looked at
NOISE = Fraction(1, 10**9)  # relative difference that is rounding of a printed float

_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_NAMED = re.compile(r"^[A-Za-z](?:_\{?\w+\}?|\^\{?\d\}?|\([A-Za-z]\))?\s*=\s*(?=\S)")
_FRACTION = re.compile(r"\\frac\s*(?:\{\s*([+-]?\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_NUMBER = re.compile(
  r"(?<![\w.])([+-]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?:\.(\d+))?(?:[eE][+-]?\d{1,2}(?!\w))?)"
  r"(?:\s?/\s?(\d{1,30})(?![\d.]))?(\s*(?:%|percent))?"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"(?P<m>{'|'.join(_MONTHS)})[a-z]*\.?"
_DATES = [
  re.compile(pattern, re.IGNORECASE)
  for pattern in (
    rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?:\s+of)?\s+{_MONTH},?\s+(?P<y>\d{{4}})\b",
    rf"\b{_MONTH}\s+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<y>\d{{4}})\b",
    r"\b(?P<y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})\b",
  )
]
_OPTION = re.compile(r"(?:^|\s)\(?([A-Z])[.)]\s*(.+?)(?=\s+\(?[A-Z][.)]\s|\s*$)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Target:
  """One answer to be looked for, in all the forms in which it is known."""

  text: str
  numbers: tuple[Fraction, ...]
  symbols: str  # without brackets and spaces; "": it is a number or words
  words: str
  dates: frozenset[tuple[int, int, int]]
  letter: str = ""  # of an option to choose
  option: Target | None = None  # what that option says

  @property
  def short(self) -> bool:
    """Whether it may stand in any text by accident."""
    letters = re.sub(r"\W", "", self.text)
    return len(self.text) < SHORT or (letters.isalpha() and len(letters) < SHORT)

  def stands_in(self, text: str) -> bool:
    """Whether some form of it does."""
    if self.dates:
      return not self.dates.isdisjoint(dates(text))
    if self.numbers:
      return any(_same(wanted, given, places) for given, places in values(text) for wanted in self.numbers)
    if self.symbols:
      return self._bounded.search(symbols(text)) is not None
    if not self.words:
      return False
    found = normalised(text)
    return f" {self.words} " in f" {found} " if self.words.isascii() else self.words in found

  @functools.cached_property
  def _bounded(self) -> re.Pattern[str]:
    """Its symbols, alone: not as a part of a longer expression."""
    before = r"(?<![\w+\-*/^.])" if self.symbols[0].isalnum() else ""
    after = r"(?![\w+\-*/^]|[.,]\d)" if self.symbols[-1].isalnum() else ""
    return re.compile(before + re.escape(self.symbols) + after)

  def submitted_as(self, text: str) -> bool:
    """Whether who submits this text submits it."""
    if self.letter:
      return letter(text) == self.letter or (self.option is not None and self.option.stands_in(text))
    return self.stands_in(text)


def targets(question: Question) -> list[Target]:
  """What a leak would be: each box of the reference answer, or the whole of it; and of each alias."""
  found = [target(part) for gold in (question.answer, *question.aliases) for part in _parts(gold)]
  found = [one for one in found if one.text and one.text.lower() not in CLOSED]
  options = {name: target(text) for name, text in _OPTION.findall(question.text)}
  if len(options) < 2:
    return found
  return [
    dataclasses.replace(one, letter=one.text, option=options.get(one.text)) if re.fullmatch("[A-Z]", one.text) else one
    for one in found
  ]


def target(gold: str) -> Target:
  """An answer's forms."""
  tidied = _NAMED.sub("", tidy(gold))
  text = _TEXT.sub(r"\1", tidied).strip()
  when = frozenset(dates(text))
  value = None if when else number(tidied)
  if value is not None:
    bare, unit = measured(tidied)  # 10 apples is as short as 10
    if unit is not None and unit.dimension == "percent":
      return Target(f"{bare}%", (value, value / 100), "", "", when)
    return Target(bare, (value,), "", "", when)
  mathematical = not when and re.search(r"[\\^=+*/|<>\[\]]|\d", text) is not None
  return Target(text, (), symbols(text) if mathematical else "", "" if mathematical else normalised(text), when)


def _parts(gold: str) -> list[str]:
  """What stands in the boxes of an answer; all of it where there are none."""
  found: list[str] = []
  for box in BOX.finditer(gold):
    end = closing(gold, box.end() - 1)
    found.append(gold[box.end() : end if end > 0 else len(gold)])
  return found or [gold]


def values(text: str) -> Iterator[tuple[Fraction, int]]:
  """The numbers that stand in a text, each with how many decimals it is written with (0: it is exact)."""
  text = tidy(text)

  def plain(found: re.Match[str]) -> str:
    return f" {found[1] or found[2]}/{found[3] or found[4]} "

  for found in _NUMBER.finditer(_FRACTION.sub(plain, text)):
    if len(found[1]) > LONGEST:
      continue
    value = Fraction(found[1].replace(",", ""))
    places = len(found[2] or "")
    if found[3]:
      if int(found[3]) == 0:
        continue
      value, places = value / int(found[3]), 0
      if value.denominator == 1:  # something to be worked out, rather than a form of the number
        continue
    yield value, places
    if found[4]:
      yield value / 100, places + 2 if places else 0


def _same(wanted: Fraction, given: Fraction, places: int) -> bool:
  """Equal, but for the noise of a float, or what rounding to three places or more leaves out."""
  error = abs(wanted - given)
  return error <= abs(wanted) * NOISE or (places >= 3 and given != 0 and error <= Fraction(1, 2 * 10**places))


def symbols(text: str) -> str:
  r"""An expression, or a text with expressions, in one spelling: \frac{a}{b} and a/(b) are a/b, brackets are gone."""
  text = _TEXT.sub(r"\1", tidy(text)).replace("\\cdot", "*")
  text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
  for _ in range(20):
    before = text
    text = re.sub(r"(\\sqrt|\^|_)\s*\{([^{}]*)\}", r"\1(\2)", text)
    text = re.sub(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"(\1)/(\2)", text)
    if text == before:
      break
  plain = squeezed(re.sub(r"[\\{}()*]", "", text))
  return re.sub(r"(?<=\d) (?=[A-Za-z](?![A-Za-z]))", "", plain)


def dates(text: str) -> set[tuple[int, int, int]]:
  """The days that stand in a text, as (year, month, day)."""
  found: set[tuple[int, int, int]] = set()
  for pattern in _DATES:
    for date in pattern.finditer(text):
      month = str(date["m"]).lower()
      found.add((int(date["y"]), int(month) if month.isdigit() else _MONTHS.index(month) + 1, int(date["d"])))
  return found
