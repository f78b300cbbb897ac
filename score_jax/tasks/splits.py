r"""Splits, duplicates and overlap of questions (paper, data).

All three compare the normal form of a text. It ignores case, whitespace, Unicode form (NFKC), quotation marks, sentence
punctuation and LaTeX's delimiters and spacing ($ \( \[ \,). It keeps what changes the meaning of a formula: operators,
signs, relations, brackets, decimal points, exponents, indices, primes, factorials, ratios and LaTeX's commands. In
doubt it keeps a mark: a duplicate that is missed costs less than a question that is dropped.

`split_by_hash` splits by a seeded hash of the normal form, so copies of one question fall into the same part.
`deduplicate_questions` drops repeated questions and those without text or answer. `decontaminate_questions` drops a
training question that has the normal form of an evaluation question, or 13 words in a row of one with the same marks
between them. A text of fewer than 13 words, or of a language without spaces between words, overlaps by equality
alone. The measure also finds phrases that many questions share; what is dropped is listed with the words in common.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from score_jax.trajectory import Question

_WORD = r"[^\W_]+(?:(?<=\d)\.(?=\d)[^\W_]+)*"
_TOKEN = re.compile(
  rf"(?:(?<![^\W_])(?<!\.)\.(?=\d))?{_WORD}"  # a word or a number, with its decimal points
  r"|\\[a-z]+|\\\\|\\[^\w\s]|!=|_+|[^\w\s]"  # a command, the end of a row, an escaped mark, other marks
)
#: as LaTeX writes them: spacing and delimiters, which say nothing; characters that stand for themselves
_SPACING, _ESCAPED = frozenset(rf"\{c}" for c in ",;:!()[]$"), frozenset(rf"\{c}" for c in "%#&_")
_DROPPED = frozenset('.,;?$\\"`«»‹›“”„‟‘‚‛—―¿¡。、「」『』《》〈〉・')
_PROSE = 3  # letters of a word after which a colon or an exclamation mark is punctuation
_DASHES = dict.fromkeys(map(ord, "‐‑‒–−"), "-")
_APOSTROPHES = dict.fromkeys(map(ord, "’‘‛′´ʹʼ"), "'") | {ord("″"): "''", ord("‴"): "'''"}
_QUOTED = re.compile(r"(?<![^\W_])(?<![')\]}])'([^']*)'(?![^\W_'])")


def normalise_question(text: str) -> str:
  """The normal form, its tokens with one space between them; the normal form of itself."""
  return " ".join(tokenize_question(text))


def tokenize_question(text: str) -> list[str]:
  """The words, numbers and marks of the normal form."""
  text = _QUOTED.sub(r" \1 ", _folded(text))
  found: list[str] = []
  end = -1  # of what came before, where a further part may belong to it
  for match in _TOKEN.finditer(text):
    token, glued = match[0], bool(found) and match.start() == end
    if token in _SPACING:
      continue
    if unicodedata.category(token[-1])[0] == "M" or (glued and _marked(found[-1]) and is_word(token)):
      # a vowel sign or an accent without a composed form, and what follows within the word
      found[-1:] = [found[-1] + token] if glued else [*found[-1:], token]
    elif token == "'":
      if not (glued and _takes_prime(found[-1])) or text[match.end() :][:1].isalpha():
        continue
      found[-1] += token
    elif token == "!":
      if not found or text[end : match.start()].strip() or not _takes_factorial(found[-1]):
        continue
      found.append(token)
    elif token in _DROPPED or (token == ":" and glued and _prose(found[-1]) and not text[match.end() :][:1].strip()):
      continue
    else:
      found.append("_" if token[0] == "_" else token[1:] if token in _ESCAPED else token)
    end = match.end()
  return found


def is_word(token: str) -> bool:
  """Whether a token is a word or a number, or a command, and no mark."""
  return any(map(str.isalnum, token))


def _prose(token: str) -> bool:
  """Whether it is a word of a sentence rather than a name in a formula."""
  return token.isalpha() and len(token) >= _PROSE


def _takes_factorial(last: str) -> bool:
  """Whether an exclamation mark after this belongs to a formula, as in 5! and (n + 1)!."""
  return last in tuple(")]}|!") or (is_word(last) and not _prose(last))


def _takes_prime(last: str) -> bool:
  """Whether an apostrophe after this is a prime, as in f' and (f + g)', and not the end of a quotation."""
  stem = last.rstrip("'")
  return stem in tuple(")]}") or (stem.isalnum() and (len(stem) == 1 or stem.isdigit()))


def _marked(token: str) -> bool:
  return unicodedata.category(token[-1])[0] == "M"


def _folded(text: str) -> str:
  """The text in one Unicode form and case, with ASCII's dashes and apostrophes, powers and indices written out."""
  if not text.isascii():
    text = _raised(text.translate(_APOSTROPHES).replace("…", " "))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = text.translate(_DASHES).translate(_APOSTROPHES).replace("⁄", "/")
    return "".join(c for c in text if unicodedata.category(c) != "Cf")
  return text.casefold()


def _raised(text: str) -> str:
  """x² as x^2 and x₂ as x_2; 3½ as 3 1/2. NFKC alone would make x2 and 31/2 of them."""
  parts: list[str] = []
  kind = ""  # of the run of raised or lowered characters that is open
  for c in text:
    form = unicodedata.decomposition(c).partition(" ")[0]
    if form != kind and kind:
      parts.append("}")
    if form in ("<super>", "<sub>"):
      parts.append(("^{" if form == "<super>" else "_{") * (form != kind))
    kind = form if form in ("<super>", "<sub>") else ""
    parts.append(f" {c}" if form == "<fraction>" else c)
  written = "".join(parts) + "}" * bool(kind)
  return re.sub(r"([\^_])\{(\w+)\}", r"\1\2", written)


def hash_fraction(question: Question, salt: str) -> float:
  """A number in [0, 1) that depends on the salt and the question's text alone; each decision has a salt of its own."""
  digest = hashlib.sha256(f"{salt}/{normalise_question(question.text)}".encode()).digest()
  return int.from_bytes(digest[:8]) / 2**64


def split_by_hash(questions: Iterable[Question], *, salt: str, first: float) -> tuple[list[Question], list[Question]]:
  """The questions whose share is below `first`, and the rest; each in the given order."""
  low: list[Question] = []
  high: list[Question] = []
  for question in questions:
    (low if hash_fraction(question, salt) < first else high).append(question)
  return low, high


OVERLAP_WORDS = 13


@dataclasses.dataclass(frozen=True)
class DroppedQuestion:
  """A question that is not used, and why."""

  id: str
  why: str  # no_question | no_answer | duplicate | same_text | same_words
  other: str = ""  # id of the question that it repeats or overlaps
  shared: str = ""  # the words that both have


def describe_dropped(dropped: Iterable[DroppedQuestion]) -> str:
  """How many questions are not used for which reason, such as "2 duplicate, 1 no_answer"; "none" where all are."""
  counts = Counter(one.why for one in dropped)
  return ", ".join(f"{counts[why]} {why}" for why in sorted(counts)) or "none"


def deduplicate_questions(questions: Iterable[Question]) -> tuple[list[Question], list[DroppedQuestion]]:
  """The questions that have a text and an answer, the first of each normal form; and the others."""
  kept: dict[str, Question] = {}
  dropped: list[DroppedQuestion] = []
  for question in questions:
    form = normalise_question(question.text)
    if not form or not question.answer:
      dropped.append(DroppedQuestion(question.id, "no_answer" if form else "no_question"))
      continue
    first = kept.setdefault(form, question)
    if first is not question:
      dropped.append(DroppedQuestion(question.id, "duplicate", first.id, form))
  return list(kept.values()), dropped


def decontaminate_questions(
  training: Iterable[Question], evaluation: Sequence[Question], *, words: int = OVERLAP_WORDS
) -> tuple[list[Question], list[DroppedQuestion]]:
  """The training questions that do not overlap the evaluation, and those that do.

  `words`: how many in a row are too many; 0 compares whole texts only.
  """
  texts = {normalise_question(q.text): q.id for q in evaluation}
  runs: dict[str, str] = {}
  for question in evaluation:
    for run in _runs(question, words):
      runs.setdefault(run, question.id)
  kept: list[Question] = []
  dropped: list[DroppedQuestion] = []
  for question in training:
    text = normalise_question(question.text)
    shared = next((run for run in _runs(question, words) if run in runs), None)
    if text in texts:
      dropped.append(DroppedQuestion(question.id, "same_text", texts[text], text))
    elif shared is not None:
      dropped.append(DroppedQuestion(question.id, "same_words", runs[shared], shared))
    else:
      kept.append(question)
  return kept, dropped


def _runs(question: Question, words: int) -> Iterator[str]:
  """Every `words` words in a row, with the marks between them: x + 1 and x - 1 are no common words."""
  found = tokenize_question(question.text)
  at = [i for i, token in enumerate(found) if is_word(token)]
  ends = at[words - 1 :] if words else ()
  return (" ".join(found[start : end + 1]) for start, end in zip(at, ends, strict=False))
