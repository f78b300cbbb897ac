"""The leak guard: a teacher that knows the reference answer must not write it into the student's step.

A corrected step leaks when it states the reference answer, or an equal form, although nothing before it produced the
answer: neither the question nor an earlier step's thought, code or observation. What the step's own code prints is no
excuse: a thought that states a number before it is computed leaks. So does a comment, or a submitted literal.
Computing the answer is no leak.

  - Answers under three characters (12, C), and answers that the question contains, occur in many texts by accident.
    They count only as a literal that is submitted with final_answer_print. An answer that the question contains must
    then have been observed; an earlier thought that repeats the question is no evidence. The letter of an option is
    observed when a line of an observation is that letter, or when the option's text is observed.
  - yes, no, true and false are not guarded: they are too common for a text to be their source.

`AnswerForms` has the forms of one reference answer: numbers with and without separators, as decimals (rounded from
three places on), fractions and percent; symbols as LaTeX or as Python; names without case, articles and punctuation;
dates in either order. Each box of an answer with several boxes is one answer.
Not detected: a rearranged expression, a number in words, a paraphrase, and prose that names an option of the question.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Literal

from score_jax.grading.math_text import BOX_PATTERN, find_closing, normalise_math_text, remove_redundant_spaces
from score_jax.grading.math_units import split_unit
from score_jax.grading.numbers import parse_number
from score_jax.grading.short_answers import normalise_answer, parse_choice_letter
from score_jax.teaching.literals import extract_code_texts, find_literals_passed_to, find_submitted_literals
from score_jax.trajectory import Question, Step

MIN_GUARDED_CHARS = 3  # a shorter answer occurs in any text by accident
UNGUARDED_ANSWERS = ("yes", "no", "true", "false")  # too common to be looked for
MAX_NUMBER_CHARS = 400  # longer numbers are ignored
PRINTED_FLOAT_NOISE = Fraction(1, 10**9)  # relative rounding error of a printed float

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
class AnswerForms:
  """One answer in all its known forms. Empty fields: the answer has no such form."""

  text: str
  numbers: tuple[Fraction, ...]  # equal values: 40% is 40 and 2/5
  symbols: str  # an expression, as by normalise_symbols
  words: str  # as by normalise_answer
  dates: frozenset[tuple[int, int, int]]  # (year, month, day)
  letter: str = ""  # of a multiple-choice option
  option: AnswerForms | None = None  # the text of that option

  @property
  def is_short(self) -> bool:
    """Whether the answer may occur in any text by accident."""
    letters = re.sub(r"\W", "", self.text)
    return len(self.text) < MIN_GUARDED_CHARS or (letters.isalpha() and len(letters) < MIN_GUARDED_CHARS)

  def occurs_in(self, text: str) -> bool:
    """Whether the text contains a form of the answer."""
    if self.dates:
      return not self.dates.isdisjoint(find_dates(text))
    if self.numbers:
      return any(_same(wanted, given, places) for given, places in find_exact_numbers(text) for wanted in self.numbers)
    if self.symbols:
      return self._bounded.search(normalise_symbols(text)) is not None
    if not self.words:
      return False
    found = normalise_answer(text)
    return f" {self.words} " in f" {found} " if self.words.isascii() else self.words in found

  @functools.cached_property
  def _bounded(self) -> re.Pattern[str]:
    """The symbols as a pattern that does not match inside a longer expression."""
    before = r"(?<![\w+\-*/^.])" if self.symbols[0].isalnum() else ""
    after = r"(?![\w+\-*/^]|[.,]\d)" if self.symbols[-1].isalnum() else ""
    return re.compile(before + re.escape(self.symbols) + after)

  def matches_submission(self, text: str) -> bool:
    """Whether submitting this text submits the answer."""
    if self.letter:
      return parse_choice_letter(text) == self.letter or (self.option is not None and self.option.occurs_in(text))
    return self.occurs_in(text)


def find_guarded_answers(question: Question) -> list[AnswerForms]:
  """The answers that must not leak: each box, or the whole, of the reference answer and of each alias."""
  found = [parse_answer_forms(part) for gold in (question.answer, *question.aliases) for part in _parts(gold)]
  found = [one for one in found if one.text and one.text.lower() not in UNGUARDED_ANSWERS]
  options = {name: parse_answer_forms(text) for name, text in _OPTION.findall(question.text)}
  if len(options) < 2:
    return found
  return [
    dataclasses.replace(one, letter=one.text, option=options.get(one.text)) if re.fullmatch("[A-Z]", one.text) else one
    for one in found
  ]


def parse_answer_forms(gold: str) -> AnswerForms:
  """The forms of one answer."""
  tidied = _NAMED.sub("", normalise_math_text(gold))
  text = _TEXT.sub(r"\1", tidied).strip()
  when = frozenset(find_dates(text))
  value = None if when else parse_number(tidied)
  if value is not None:
    bare, unit = split_unit(tidied)  # without its unit: "10 apples" is as short as "10"
    if unit is not None and unit.dimension == "percent":
      return AnswerForms(f"{bare}%", (value, value / 100), "", "", when)
    return AnswerForms(bare, (value,), "", "", when)
  mathematical = not when and re.search(r"[\\^=+*/|<>\[\]]|\d", text) is not None
  return AnswerForms(
    text, (), normalise_symbols(text) if mathematical else "", "" if mathematical else normalise_answer(text), when
  )


def _parts(gold: str) -> list[str]:
  """The contents of the boxes of an answer; the whole answer if it has none."""
  found: list[str] = []
  for box in BOX_PATTERN.finditer(gold):
    end = find_closing(gold, box.end() - 1)
    found.append(gold[box.end() : end if end > 0 else len(gold)])
  return found or [gold]


def find_exact_numbers(text: str) -> Iterator[tuple[Fraction, int]]:
  """The numbers in a text, each with its number of decimal places (0: it is exact)."""
  text = normalise_math_text(text)

  def plain(found: re.Match[str]) -> str:
    return f" {found[1] or found[2]}/{found[3] or found[4]} "

  for found in _NUMBER.finditer(_FRACTION.sub(plain, text)):
    if len(found[1]) > MAX_NUMBER_CHARS:
      continue
    value = Fraction(found[1].replace(",", ""))
    places = len(found[2] or "")
    if found[3]:
      if int(found[3]) == 0:
        continue
      value, places = value / int(found[3]), 0
      if value.denominator == 1:  # 84/2 is a computation, not a form of the number 42
        continue
    yield value, places
    if found[4]:
      yield value / 100, places + 2 if places else 0


def _same(wanted: Fraction, given: Fraction, places: int) -> bool:
  """Whether two numbers are equal up to float noise, or up to rounding to three places or more."""
  error = abs(wanted - given)
  return error <= abs(wanted) * PRINTED_FLOAT_NOISE or (
    places >= 3 and given != 0 and error <= Fraction(1, 2 * 10**places)
  )


def normalise_symbols(text: str) -> str:
  r"""An expression, or a text with expressions, in one spelling: \frac{a}{b} and a/(b) become a/b, without brackets."""
  text = _TEXT.sub(r"\1", normalise_math_text(text)).replace("\\cdot", "*")
  text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
  for _ in range(20):
    before = text
    text = re.sub(r"(\\sqrt|\^|_)\s*\{([^{}]*)\}", r"\1(\2)", text)
    text = re.sub(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"(\1)/(\2)", text)
    if text == before:
      break
  plain = remove_redundant_spaces(re.sub(r"[\\{}()*]", "", text))
  return re.sub(r"(?<=\d) (?=[A-Za-z](?![A-Za-z]))", "", plain)


def find_dates(text: str) -> set[tuple[int, int, int]]:
  """The dates in a text, as (year, month, day)."""
  found: set[tuple[int, int, int]] = set()
  for pattern in _DATES:
    for date in pattern.finditer(text):
      month = str(date["m"]).lower()
      found.add((int(date["y"]), int(month) if month.isdigit() else _MONTHS.index(month) + 1, int(date["d"])))
  return found


LeakPlace = Literal["thought", "code", "submission"]


@dataclasses.dataclass(frozen=True)
class Leak:
  """A form of the answer, and the part of the step that states it."""

  where: LeakPlace
  form: str


def find_step_leak(question: Question, before: Sequence[Step], thought: str, code: str) -> Leak | None:
  """The first leak of a step that follows the steps `before`; None: there is none."""
  for one in find_guarded_answers(question):
    in_question = one.occurs_in(question.text)
    if not in_question and _seen(one, before):
      continue
    if not one.is_short and not in_question:
      if one.occurs_in(thought):
        return Leak("thought", one.text)
      if any(map(one.occurs_in, extract_code_texts(code))):
        return Leak("code", one.text)
    if any(map(one.matches_submission, find_submitted_literals(code))) and not _observed(one, before):
      return Leak("submission", one.text)
  return None


def text_leaks_answer(question: Question, before: Sequence[Step], text: str) -> bool:
  """Whether a text about the step after `before`, such as a diagnosis, leaks the answer."""
  return any(
    not one.is_short and one.occurs_in(text) and not one.occurs_in(question.text) and not _seen(one, before)
    for one in find_guarded_answers(question)
  )


def is_answer_supported(question: Question, steps: Sequence[Step]) -> bool | None:
  """Whether a right answer, submitted by the last of `steps`, was computed, observed or given; None: undecided.

  A computed answer is supported. A literal is supported if the question contains it, or an earlier observation that is
  not the print of that literal. The letter of an option must be observed, since the question always contains it. A
  name counts as a literal if it is assigned once in all steps, to that literal. Undecided are yes, no, true and false,
  and literals in no known form.
  """
  *before, last = steps
  wanted = find_guarded_answers(question)
  literals = find_submitted_literals(last.code) or find_submitted_literals(
    "\n".join(step.code for step in steps if step.reason == "ok")
  )
  if not literals:
    return True if wanted else None
  found = [one for one in wanted if any(map(one.matches_submission, literals))]
  if not found:
    return None
  shown = [step for step in before if step.observation]
  return any(
    (not one.letter and one.occurs_in(question.text))
    or _observed(
      one, [s for s in shown if not any(map(one.matches_submission, find_literals_passed_to(s.code, "print")))]
    )
    for one in found
  )


def _seen(one: AnswerForms, before: Iterable[Step]) -> bool:
  """Whether a step before contains the answer: in its thought, code, observation or submission."""
  return any(
    one.occurs_in(text)
    for step in before
    for text in (step.thought, *extract_code_texts(step.code), step.observation, step.answer or "")
  )


def _observed(one: AnswerForms, before: Sequence[Step]) -> bool:
  """Whether an observation of the steps before shows the answer."""
  for step in before:
    if one.letter:
      lines = step.observation.splitlines()
      shown = any(parse_choice_letter(line) == one.letter for line in lines)
      if shown or (one.option is not None and one.option.occurs_in(step.observation)):
        return True
    elif one.occurs_in(step.observation):
      return True
  return False
