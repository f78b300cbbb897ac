"""Questions that are not used: they overlap the evaluation, repeat another, or lack a text or an answer.

A training question overlaps an evaluation question when their normal forms
(tasks/normal_form.py) are equal, or when they have 13 words in a row in common,
with the same marks between them. One of fewer than 13 words overlaps by
equality alone; so do texts of languages that put no spaces between words,
mostly. The measure also finds phrases that many
questions share ("where m and n are relatively prime positive integers find m
n …"): what is dropped is listed with the words in common.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from score_jax.tasks.normal_form import is_word, normalised, tokens
from score_jax.trajectory import Question

WORDS = 13


@dataclasses.dataclass(frozen=True)
class Dropped:
  """A question that is not used, and why."""

  id: str
  why: str  # no_question | no_answer | duplicate | same_text | same_words
  other: str = ""  # id of the question that it repeats or overlaps
  shared: str = ""  # the words that both have


def reasons(dropped: Iterable[Dropped]) -> str:
  """How many questions are not used for which reason, such as "2 duplicate, 1 no_answer"; "none" where all are."""
  counts = Counter(one.why for one in dropped)
  return ", ".join(f"{counts[why]} {why}" for why in sorted(counts)) or "none"


def distinct(questions: Iterable[Question]) -> tuple[list[Question], list[Dropped]]:
  """The questions that have a text and an answer, the first of each normal form; and the others."""
  kept: dict[str, Question] = {}
  dropped: list[Dropped] = []
  for question in questions:
    form = normalised(question.text)
    if not form or not question.answer:
      dropped.append(Dropped(question.id, "no_answer" if form else "no_question"))
      continue
    first = kept.setdefault(form, question)
    if first is not question:
      dropped.append(Dropped(question.id, "duplicate", first.id, form))
  return list(kept.values()), dropped


def without_overlap(
  training: Iterable[Question], evaluation: Sequence[Question], *, words: int = WORDS
) -> tuple[list[Question], list[Dropped]]:
  """The training questions that do not overlap the evaluation, and those that do.

  `words`: how many in a row are too many; 0 compares whole texts only.
  """
  texts = {normalised(q.text): q.id for q in evaluation}
  runs: dict[str, str] = {}
  for question in evaluation:
    for run in _runs(question, words):
      runs.setdefault(run, question.id)
  kept: list[Question] = []
  dropped: list[Dropped] = []
  for question in training:
    text = normalised(question.text)
    shared = next((run for run in _runs(question, words) if run in runs), None)
    if text in texts:
      dropped.append(Dropped(question.id, "same_text", texts[text], text))
    elif shared is not None:
      dropped.append(Dropped(question.id, "same_words", runs[shared], shared))
    else:
      kept.append(question)
  return kept, dropped


def _runs(question: Question, words: int) -> Iterator[str]:
  """Every `words` words in a row, with the marks between them: x + 1 and x - 1 are no common words."""
  found = tokens(question.text)
  at = [i for i, token in enumerate(found) if is_word(token)]
  ends = at[words - 1 :] if words else ()
  return (" ".join(found[start : end + 1]) for start, end in zip(at, ends, strict=False))
