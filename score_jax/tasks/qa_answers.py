"""Short answers to questions about facts: exact match and token F1, as the benchmarks' own scripts define them.

Both compare answers in small letters without ASCII punctuation, without the articles a, an, the, with single spaces.
F1 is the harmonic mean of the shares of common words, repeated ones as often as both have them. HotpotQA's script
(2WikiMultihopQA's too) gives 0 where one of the two is yes, no or noanswer and the other is not the same; SQuAD's
(MuSiQue's too) has no such rule, and two answers of which nothing is left are equal. Of a gold with aliases the best
counts. Two departures: an answer that is the gold, letter for letter, is right even where normalising leaves nothing,
and signs that show nothing (zero-width spaces) are left out.
"""

from __future__ import annotations

import collections
import functools
import re
import string
from typing import Literal

from score_jax.tasks.math_dress import visible
from score_jax.trajectory import Question

Script = Literal["hotpotqa", "squad"]

LONGEST = 2000  # characters of an answer
CLOSED = ("yes", "no", "noanswer")
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
  """What is compared of an answer."""
  return " ".join(ARTICLES.sub(" ", visible(text).lower().translate(PUNCTUATION)).split())


def exact_match(gold: str, answer: str) -> bool:
  """Whether both are the same once normalised."""
  return gold == answer or normalised(gold) == normalised(answer) != ""


def exact(question: Question, answer: str) -> bool:
  """Whether an answer is the gold or one of its aliases, once normalised."""
  return any(exact_match(gold, answer) for gold in _golds(question))


def f1(gold: str, answer: str, *, script: Script) -> float:
  """The token F1 of an answer against one gold, in [0, 1]."""
  wanted, given = normalised(gold), normalised(answer)
  if gold == answer:
    return 1.0
  if script == "hotpotqa" and wanted != given and (wanted in CLOSED or given in CLOSED):
    return 0.0
  if not wanted or not given:
    return float(script == "squad" and wanted == given and gold.strip() != "" != answer.strip())
  common = sum((collections.Counter(wanted.split()) & collections.Counter(given.split())).values())
  if common == 0:
    return 0.0
  precision, recall = common / len(given.split()), common / len(wanted.split())
  return 2 * precision * recall / (precision + recall)


def qa(question: Question, answer: str, *, script: Script) -> tuple[float | None, str]:
  """The best F1 over the gold and its aliases."""
  golds = _golds(question)
  if not golds:
    return None, "the reference answer is empty"
  if len(answer) > LONGEST:
    return 0.0, f"{len(answer)} characters are too long for an answer"
  if exact(question, answer):
    return 1.0, "exact match"
  best = max(f1(gold, answer, script=script) for gold in golds)
  return best, f"no exact match, F1 {best:.2f}"


def _golds(question: Question) -> list[str]:
  return [gold for gold in (question.answer, *question.aliases) if gold.strip()]


hotpotqa = functools.partial(qa, script="hotpotqa")
squad = functools.partial(qa, script="squad")
