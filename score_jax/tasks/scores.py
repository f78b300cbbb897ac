"""What graded tries at a benchmark come to: its metric with an interval, exactly right ones, pass@k, and the ungraded.

A try whose grading failed, or whose tool did (its grade is None), is neither right nor wrong: it is counted apart. The
metric is the mean over the others, and its interval reaches from where it would begin if all ungraded ones were wrong
to where it would end if all were right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from score_jax.tasks import qa_answers
from score_jax.tasks.exam import Exam
from score_jax.tasks.intervals import average_interval, pass_at
from score_jax.trajectory import Question, Trajectory

Groups = Sequence[Sequence[Trajectory]]  # the tries at each question, in the order of the exam's questions
Marks = list[list[float | None]]  # of each question those of its tries, in [0, 1]; None: not graded


def scores(exam: Exam, groups: Groups) -> dict[str, Any]:
  """The fields of a row of results.json that tell how a model did.

  `accuracy` is the mean of the exam's metric (of the token F1 where that is it), None where nothing was graded, with
  `low` and `high` and the number `n` of questions; `exact` is the share that is right; `pass_at` tells pass@k for
  k = 1, 2, 4, … to the number of tries, each over the questions that have so many graded ones.
  """
  marks = marked(exam, groups)
  right = [
    [_exact(exam, q, t) for t in group if t.grade is not None] for q, group in zip(exam.questions, groups, strict=True)
  ]
  return together([marks]) | {
    "metric": exam.metric,
    "exact": _mean(map(_mean, right)),
    "tries": exam.tries,
    "pass_at": {str(k): _pass_at(k, right) for k in _powers_of_two(exam.tries)},
    "ungraded": sum(mark is None for tries in marks for mark in tries),
  }


def marked(exam: Exam, groups: Groups) -> Marks:
  """The metric of every try."""

  def mark(t: Trajectory) -> float | None:
    return t.grade if t.grade is None or exam.metric == "f1" else float(t.right)

  return [[mark(t) for t in group] for group in groups]


def together(benchmarks: Sequence[Marks]) -> dict[str, Any]:
  """accuracy, n, low and high of the mean over some benchmarks (or one), which weigh the same."""

  def filled(value: float) -> list[list[list[float]]]:
    return [[[value if m is None else m for m in tries] for tries in marks] for marks in benchmarks]

  graded = [[known for tries in marks if (known := [m for m in tries if m is not None])] for marks in benchmarks]
  return {
    "accuracy": average_interval(graded).mean if all(graded) else None,
    "n": sum(map(len, benchmarks)),
    "low": average_interval(filled(0.0)).low,
    "high": average_interval(filled(1.0)).high,
  }


def _exact(exam: Exam, question: Question, trajectory: Trajectory) -> bool:
  """An F1 of 1 is not enough: it does not see in which order the words stand."""
  return trajectory.right and (exam.metric != "f1" or qa_answers.exact(question, trajectory.answer or ""))


def _pass_at(k: int, right: Sequence[Sequence[bool]]) -> float | None:
  return _mean(pass_at(k, tries=len(tries), right=sum(tries)) for tries in right if len(tries) >= k)


def _powers_of_two(limit: int) -> list[int]:
  return [2**i for i in range(limit.bit_length())]


def _mean(values: Iterable[float | None]) -> float | None:
  """Of those that are there; None where none is."""
  found = [value for value in values if value is not None]
  return float(np.mean(found)) if found else None
