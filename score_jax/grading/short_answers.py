"""Graders of short answers: token F1, GAIA's rules, choice letters with a judge for the rest.

`token_f1` follows the scripts of HotpotQA, 2WikiMultihopQA, MuSiQue and Bamboogle. Answers lose capitals, ASCII
punctuation and the articles a, an, the. F1 is the harmonic mean of token precision and recall; repeated tokens count as
often as both texts have them. HotpotQA's script (also 2WikiMultihopQA's) gives 0 if one side is yes, no or noanswer and
the other differs. SQuAD's script (also MuSiQue's) has no such rule, and two answers that normalise to nothing are
equal. Of several aliases the best counts.

`grade_gaia` compares a number, a list or a string; the gold decides which. For a number, $, % and commas leave the
answer. A gold with a comma or semicolon is a list: equal in length, and item by item. A string is compared without
spaces, capitals and punctuation.

Departures from the scripts: an answer identical to the gold is right even if it normalises to nothing; zero-width
characters are removed; in GAIA "nan" and "inf" are strings.

`JudgeFallback` grades a letter, an equal text or an equal number by itself, and asks a judge about the rest. Without a
judge it abstains (None): it cannot know that an answer in other words is wrong.
`normalise_text` removes capitals, quotes, full stops and spaces, but no sign of mathematics: "paris." is Paris, and 12
is not 1/2, 1.2, 1-2, 1 2 or 12%; [0,1) is not (0,1].
"""

from __future__ import annotations

import collections
import functools
import math
import re
import string
import unicodedata
from fractions import Fraction
from typing import Literal

from score_jax.grading.judge import Judge
from score_jax.grading.math_text import extract_answer, normalise_math_text, remove_invisible_chars
from score_jax.grading.math_units import Unit, split_unit
from score_jax.grading.numbers import MAX_NUMBER_TEXT_CHARS, extract_numbers
from score_jax.trajectory import Question

CJK_RANGES = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
#: all but superscripts and the like, which NFKC would turn into plain digits: 10³ is not 103
NFKC_SAFE_PATTERN = re.compile("[^\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209f\u2150-\u218b\u2460-\u24ff]+")
TEXT_RULES = [
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    ("[“”„«»「」『』《》〈〉]", ""),
    ("[‘’`´]", "'"),
    ("[‐‑–—−]", "-"),
    (r"\s+", " "),
    (rf"(?<=[{CJK_RANGES}])\s+|\s+(?=[{CJK_RANGES}])", ""),
    (rf"(?<=[{CJK_RANGES}])[,.;:!?、。·・'\"](?=[{CJK_RANGES}])", ""),
    (r"(?<![\w.])((?:[a-z]\.){2,})", lambda found: found[1].replace(".", "")),  # u.s.a.
    (r"(?<=[a-z])\.(?= |$)", ""),
    (r"(?<=[a-z]{3})[,;:](?= )|[,;:](?= [a-z]{3})", ""),  # between words; 1, 2 and x, y are lists
    (r"(?<=[a-z])_\{?([a-z0-9])\}?(?![a-z0-9])", r"\1"),
  )
]
END_PUNCTUATION_PATTERN = re.compile(rf"(?:[.,;:?。、]|(?<=[a-z]{{3}})!|(?<=[{CJK_RANGES}])[!~])+$")
TEXT_QUOTE_PAIRS = (('"', '"'), ("'", "'"), ("**", "**"), ("*", "*"), ("$", "$"))
QUOTED_PATTERN = re.compile(r"(?<![\w'])\"(?=\w)([^\"]*[a-z])\"(?!\w)")


def normalise_text(text: str) -> str:
  """The text without capitals, quotes, full stops and extra spaces; signs of mathematics stay."""
  text = (
    NFKC_SAFE_PATTERN.sub(lambda run: unicodedata.normalize("NFKC", run[0]), remove_invisible_chars(text))
    .lower()
    .strip()
  )
  text = _strip_quotes(text)
  for pattern, replacement in TEXT_RULES:
    text = pattern.sub(replacement, text)
  return _strip_quotes(QUOTED_PATTERN.sub(r"\1", text))


def _strip_quotes(text: str) -> str:
  """The text without final punctuation and the quotes around it."""
  for _ in range(4):
    text = END_PUNCTUATION_PATTERN.sub("", text.strip()).strip()
    for left, right in TEXT_QUOTE_PAIRS:
      inner = text[len(left) : -len(right)]
      if text.startswith(left) and text.endswith(right) and inner.strip() and left not in inner:
        text = inner
  return text


F1Script = Literal["hotpotqa", "squad"]

MAX_ANSWER_CHARS = 2000  # characters of an answer
YES_NO_ANSWERS = ("yes", "no", "noanswer")
ARTICLE_PATTERN = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
  """The answer in small letters, without articles, ASCII punctuation and extra spaces."""
  return " ".join(ARTICLE_PATTERN.sub(" ", remove_invisible_chars(text).lower().translate(NO_PUNCTUATION)).split())


def exact_match(gold: str, answer: str) -> bool:
  """Whether both are the same once normalised."""
  return gold == answer or normalise_answer(gold) == normalise_answer(answer) != ""


def matches_any_gold(question: Question, answer: str) -> bool:
  """Whether an answer is the gold or one of its aliases, once normalised."""
  return any(exact_match(gold, answer) for gold in _nonblank_golds(question))


def token_f1(gold: str, answer: str, *, script: F1Script) -> float:
  """The token F1 of an answer against one gold, in [0, 1]."""
  wanted, given = normalise_answer(gold), normalise_answer(answer)
  if gold == answer:
    return 1.0
  if script == "hotpotqa" and wanted != given and (wanted in YES_NO_ANSWERS or given in YES_NO_ANSWERS):
    return 0.0
  if not wanted or not given:
    return float(script == "squad" and wanted == given and gold.strip() != "" != answer.strip())
  common = sum((collections.Counter(wanted.split()) & collections.Counter(given.split())).values())
  if common == 0:
    return 0.0
  precision, recall = common / len(given.split()), common / len(wanted.split())
  return 2 * precision * recall / (precision + recall)


def grade_f1(question: Question, answer: str, *, script: F1Script) -> tuple[float | None, str]:
  """The best F1 over the gold and its aliases."""
  golds = _nonblank_golds(question)
  if not golds:
    return None, "the reference answer is empty"
  if len(answer) > MAX_ANSWER_CHARS:
    return 0.0, f"{len(answer)} characters are too long for an answer"
  if matches_any_gold(question, answer):
    return 1.0, "exact match"
  best = max(token_f1(gold, answer, script=script) for gold in golds)
  return best, f"no exact match, F1 {best:.2f}"


def _nonblank_golds(question: Question) -> list[str]:
  return [gold for gold in (question.answer, *question.aliases) if gold.strip()]


grade_hotpotqa = functools.partial(grade_f1, script="hotpotqa")
grade_squad = functools.partial(grade_f1, script="squad")


GAIA_MAX_CHARS = 2000  # characters of an answer
LIST_SEPARATOR_PATTERN = re.compile("[,;]")
GAIA_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def grade_gaia(question: Question, answer: str) -> tuple[float | None, str]:
  """Right or wrong by GAIA's rules (see the top of this file)."""
  gold, answer = question.answer, remove_invisible_chars(answer)
  if not gold.strip():
    return None, "the reference answer is empty"
  if len(answer) > GAIA_MAX_CHARS:
    return 0.0, f"{len(answer)} characters are too long for an answer"
  if answer.strip() == gold.strip():
    return 1.0, "the same text"
  if _parse_float(gold) is not None:
    kind, right = "number", _same_number(gold, answer)
  elif LIST_SEPARATOR_PATTERN.search(gold):
    kind, right = "list", _same_list(LIST_SEPARATOR_PATTERN.split(gold), LIST_SEPARATOR_PATTERN.split(answer))
  else:
    kind, right = (
      "string",
      _squash(gold).translate(GAIA_NO_PUNCTUATION) == _squash(answer).translate(GAIA_NO_PUNCTUATION) != "",
    )
  return float(right), f"{'equal' if right else 'not equal'} as a {kind}"


def _same_list(gold: list[str], answer: list[str]) -> bool:
  return len(gold) == len(answer) and all(map(_same_item, gold, answer))


def _same_item(gold: str, answer: str) -> bool:
  return _same_number(gold, answer) if _parse_float(gold) is not None else _squash(gold) == _squash(answer)


def _same_number(gold: str, answer: str) -> bool:
  given = _parse_float(re.sub("[$%,]", "", answer))
  return given is not None and given == _parse_float(gold)


def _parse_float(text: str) -> float | None:
  try:
    value = float(text)
  except ValueError:
    return None
  return value if math.isfinite(value) and "_" not in text else None


def _squash(text: str) -> str:
  return re.sub(r"\s", "", text).lower()


JUDGED_MAX_CHARS = 2000  # characters of an answer
CHOICE_GOLD_PATTERN = re.compile(r"\(?([A-Z])\)?\.?")
CHOICE_PHRASE_PATTERN = re.compile(
  r"(?:the\s+)?(?:(?:final|correct|right|best)\s+)?(?:answer|choice|option)\b\s*(?:is\b)?\s*:?\s*", re.IGNORECASE
)
CHOICE_COMMAND_PATTERN = re.compile(r"\\(?:boxed|text|mathrm|mathbf|textbf)\s*\{(.*)\}", re.DOTALL)
CHOICE_LETTER_PATTERN = re.compile(r"[(\[]?([A-Za-z])(?:[)\].:]{1,2}(?:\s.*)?|\s*[-–]\s.*)?", re.DOTALL)
OTHER_CHOICE_PATTERN = re.compile(r"(?:^|[\s,/&+])[(\[]?(?:[B-HJ-Z]|[A-Z][)\].:])(?![\w'])")


def parse_choice_letter(text: str) -> str:
  """The letter that an answer chooses: "B", "(b)", "B. Paris", "the answer is B"; empty: no letter, or several."""
  text = text.strip()
  for _ in range(4):
    text = text.strip("$*`\"' \n")
    inner = CHOICE_COMMAND_PATTERN.fullmatch(text)
    text = (
      inner[1] if inner else CHOICE_PHRASE_PATTERN.sub("", text, count=1) if CHOICE_PHRASE_PATTERN.match(text) else text
    )
  found = CHOICE_LETTER_PATTERN.fullmatch(text.strip())
  return "" if found is None or OTHER_CHOICE_PATTERN.search(text.strip()[found.end(1) :]) else found[1].upper()


class JudgeFallback:
  """Grades a letter, the same text or the same number by itself, and asks a judge about the rest."""

  def __init__(self, judge: Judge | None):
    self._judge = judge

  def __call__(self, question: Question, answer: str) -> tuple[float | None, str]:
    golds = [gold for gold in (question.answer, *question.aliases) if gold.strip()]
    if not golds:
      return None, "the reference answer is empty"
    if len(answer) > JUDGED_MAX_CHARS:
      return 0.0, f"{len(answer)} characters are too long for an answer"
    if not answer.strip():
      return 0.0, "the answer is empty"
    if any(gold.strip() == answer.strip() or normalise_text(gold) == normalise_text(answer) != "" for gold in golds):
      return 1.0, "the same text"
    if choice := CHOICE_GOLD_PATTERN.fullmatch(question.answer.strip()):
      chosen = parse_choice_letter(answer)
      return float(chosen == choice[1]), f"chose {chosen or 'no letter'}"
    if any(normalise_text(gold) == normalise_text(extract_answer(answer)) != "" for gold in golds):
      return 1.0, "the same text"
    amounts = {amount for gold in golds for amount in _amounts(gold)}
    if amounts and (given := _amounts(answer)):
      return float(not amounts.isdisjoint(given)), "compared as numbers"
    if self._judge is None:
      return None, "not the same text; no judge was given to say more"
    return self._judge(question, answer)


def _amounts(text: str) -> set[tuple[Fraction, Unit | None]]:
  """The number in a text with its unit, as `extract_numbers` reads it; empty if the unit is not in the table."""
  if len(text) > MAX_NUMBER_TEXT_CHARS:
    return set()
  unit = split_unit(normalise_math_text(text))[1]
  if unit is not None and not unit.dimension:
    return set()
  bare = None if unit is None or unit.dimension == "number" else unit
  return {(value, bare) for value in extract_numbers(text)}
