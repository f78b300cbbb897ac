"""Questions are split once, by a seeded hash, and no question is in two parts (paper, data).

The hash is taken over the normalised text, so that two copies of one question
under different ids fall into the same part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from score_jax.tasks.normal_form import normalised
from score_jax.trajectory import Question


def share(question: Question, salt: str) -> float:
  """A number in [0, 1) that depends on the salt and the question's text alone; each decision has a salt of its own."""
  digest = hashlib.sha256(f"{salt}/{normalised(question.text)}".encode()).digest()
  return int.from_bytes(digest[:8]) / 2**64


def split(questions: Iterable[Question], *, salt: str, first: float) -> tuple[list[Question], list[Question]]:
  """The questions whose share is below `first`, and the rest; each in the given order."""
  low: list[Question] = []
  high: list[Question] = []
  for question in questions:
    (low if share(question, salt) < first else high).append(question)
  return low, high
