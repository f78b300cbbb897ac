"""The leak guard: a teacher that knows the reference answer must not write it into the student's step.

A corrected step leaks when the reference answer, or an equal form of it, stands in it although nothing before it
produced it: neither the question nor an earlier step's thought, code, observation. What the step's own code prints
excuses nothing that is written in it: a thought that states a number before it is computed leaks, and so does a
comment, or a literal that is submitted. Computing the answer is no leak.

  - Answers under three characters (12, C), and answers that stand in the question, are in too many texts by accident:
    they count only where a literal is submitted with final_answer_print. An answer that stands in the question must
    then have been observed; that an earlier thought repeats the question is no evidence. A letter to choose is
    observed when a line of an observation is that letter, or when its option's text is observed.
  - yes, no, true and false say too little for a text to be their source: they are not guarded.

Equal forms: numbers with and without separators, as decimals (rounded ones from three places on), fractions, percent;
symbolic answers spelled as LaTeX or as Python; names without regard to case, articles and punctuation; dates in either
order. An answer of several boxes leaks when one of them does. Not seen: numbers in words, an expression rearranged,
a paraphrase, a step that names the answer's option where options stand in the question.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Literal

from score_jax.tasks.choice import letter
from score_jax.tasks.math_text import BOX, closing, squeezed, tidy
from score_jax.tasks.math_units import measured
from score_jax.tasks.numbers import number
from score_jax.tasks.qa_answers import normalised
from score_jax.trajectory import Question, Step

SHORT = 3  # characters; an answer with fewer is not looked for in running text
CLOSED = ("yes", "no", "true", "false")
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

Where = Literal["thought", "code", "submission"]


@dataclasses.dataclass(frozen=True)
class Leak:
  """A form of the answer, and where it stands."""

  where: Where
  form: str


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


def step_leak(question: Question, before: Sequence[Step], thought: str, code: str) -> Leak | None:
  """The first leak of a step that is to follow `before`; None: there is none."""
  for one in targets(question):
    standing = one.stands_in(question.text)
    if not standing and _seen(one, before):
      continue
    if not one.short and not standing:
      if one.stands_in(thought):
        return Leak("thought", one.text)
      if any(map(one.stands_in, _written(code))):
        return Leak("code", one.text)
    if any(map(one.submitted_as, submitted(code))) and not _observed(one, before):
      return Leak("submission", one.text)
  return None


def text_leak(question: Question, before: Sequence[Step], text: str) -> bool:
  """Whether a text about the step after `before`, such as a diagnosis, states the answer."""
  return any(
    not one.short and one.stands_in(text) and not one.stands_in(question.text) and not _seen(one, before)
    for one in targets(question)
  )


def _parts(gold: str) -> list[str]:
  """What stands in the boxes of an answer; all of it where there are none."""
  found: list[str] = []
  for box in BOX.finditer(gold):
    end = closing(gold, box.end() - 1)
    found.append(gold[box.end() : end if end > 0 else len(gold)])
  return found or [gold]


def _seen(one: Target, before: Iterable[Step]) -> bool:
  """Whether the path has produced it: said, written or observed."""
  return any(
    one.stands_in(text)
    for step in before
    for text in (step.thought, *_written(step.code), step.observation, step.answer or "")
  )


def _observed(one: Target, before: Sequence[Step]) -> bool:
  """Whether running the path's code has shown it."""
  for step in before:
    if one.letter:
      lines = step.observation.splitlines()
      shown = any(letter(line) == one.letter for line in lines)
      if shown or (one.option is not None and one.option.stands_in(step.observation)):
        return True
    elif one.stands_in(step.observation):
      return True
  return False


def _written(code: str) -> Iterator[str]:
  """The text of some code, and what each string in it says once its escapes are read."""
  yield code
  tree = _tree(code)
  if tree is not None:
    for node in ast.walk(tree):
      if isinstance(node, ast.JoinedStr | ast.Constant) and (text := _literal(node, {})) is not None:
        yield text


def _tree(code: str) -> ast.Module | None:
  """The code, read; None where it is no Python."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of escapes such as "\\b"
    try:
      return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
      return None


def submitted(code: str) -> list[str]:
  """The literals that the code submits, as texts; what it computes is none."""
  tree = _tree(code)
  if tree is None:
    return []
  assigned: dict[str, ast.expr | None] = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      assigned[node.id] = None if node.id in assigned else _value_of(tree, node)
  names = {name: text for name, value in assigned.items() if value is not None and (text := _literal(value, {}))}
  calls = [
    node
    for node in ast.walk(tree)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "final_answer_print"
  ]
  texts = [_literal(argument, names) for call in calls for argument in (*call.args, *(k.value for k in call.keywords))]
  return [text for text in texts if text is not None]


def _value_of(tree: ast.Module, name: ast.Name) -> ast.expr | None:
  """What a plain assignment gives a name."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Assign) and node.targets == [name]:
      return node.value
  return None


def _literal(node: ast.expr | ast.Constant, names: dict[str, str]) -> str | None:
  """What an expression without computation says; a fraction of two literals, or a literal dressed up, is one."""
  match node:
    case ast.Constant(value=value):
      return str(value)
    case ast.Name(id=name):
      return names.get(name)
    case ast.JoinedStr(values=parts):
      return _joined([_literal(part, names) for part in parts], "")
    case ast.FormattedValue(value=value):
      return _literal(value, names)
    case ast.UnaryOp(op=ast.USub(), operand=value):
      return _joined(["-", _literal(value, names)], "")
    case ast.BinOp(left=left, op=ast.Div(), right=right):
      return _joined([_literal(left, names), _literal(right, names)], "/")
    case ast.BinOp(left=left, op=ast.Add(), right=right) if _text_in(left) or _text_in(right):
      return _joined([_literal(left, names), _literal(right, names)], "")
    case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
      return _joined([_literal(part, names) for part in parts], ", ")
    case ast.Call(func=ast.Name(id="str" | "int" | "float" | "repr"), args=[value]):
      return _literal(value, names)
    case ast.Call(func=ast.Name(id="Fraction" | "Rational") | ast.Attribute(attr="Fraction" | "Rational"), args=parts):
      return _joined([_literal(part, names) for part in parts], "/")
  return None


def _text_in(node: ast.expr) -> bool:
  return any(
    isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str))
    for part in ast.walk(node)
  )


def _joined(parts: Sequence[str | None], between: str) -> str | None:
  texts = [part for part in parts if part is not None]
  return between.join(texts) if len(texts) == len(parts) else None


def values(text: str) -> Iterator[tuple[Fraction, int]]:
  """The numbers that stand in a text, each with how many decimals it is written with (0: it is exact)."""
  text = tidy(text)

  def plain(found: re.Match[str]) -> str:
    return f" {found[1] or found[2]}/{found[3] or found[4]} "

  for found in _NUMBER.finditer(_FRACTION.sub(plain, text)):
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
