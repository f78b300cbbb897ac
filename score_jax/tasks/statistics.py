"""How sure a measured accuracy is: 95 % intervals clustered by question.

Several tries at one question are not independent, so the question is the unit:
all spread is taken between the means of questions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.special

Z_975 = 1.959963984540054  # the normal distribution's 97.5 % quantile
NEGLIGIBLE_VARIANCE = 1e-12  # squared standard errors below this are rounding


@dataclasses.dataclass(frozen=True)
class Interval:
  """A mean over questions and its 95 % interval."""

  mean: float
  low: float
  high: float
  n: int  # questions, or runs


def wilson_interval(*, mean: float, n: float) -> tuple[float, float]:
  """The 95 % score interval of a share `mean` seen in `n` independent draws (Wilson 1927)."""
  shrink = 1 + Z_975**2 / n
  centre = (mean + Z_975**2 / (2 * n)) / shrink
  half = Z_975 / shrink * math.sqrt(mean * (1 - mean) / n + Z_975**2 / (4 * n**2))
  return max(0.0, centre - half), min(1.0, centre + half)


def accuracy_interval(successes_by_question: Sequence[Sequence[float]]) -> Interval:
  """The mean over questions of each question's mean, with an interval that stays within [0, 1].

  A Wilson interval with as many draws as would give the standard error seen
  between questions, p(1-p)/se²; with one try of 0 or 1 a question that is the
  number of questions, and so it is taken to be where there is no spread.

  Args:
    successes_by_question: for every question the scores of its tries, each in [0, 1].

  Raises:
    ValueError: there is no question, one has no try, or a score is outside [0, 1].
  """
  means = _question_means(successes_by_question)
  return _interval(float(means.mean()), float(means.var()) / len(means), len(means))


def average_interval(benchmarks: Sequence[Sequence[Sequence[float]]]) -> Interval:
  """The mean of several benchmarks' means, all weighing the same, with an interval made as in accuracy_interval.

  Their errors are independent, so that the squared error of the mean of m of them is the sum of theirs / m².

  Args:
    benchmarks: of each what accuracy_interval takes.

  Raises:
    ValueError: as accuracy_interval.
  """
  means = [_question_means(scores) for scores in benchmarks]
  squared_error = sum(float(m.var()) / len(m) for m in means) / len(means) ** 2
  return _interval(float(np.mean([m.mean() for m in means])), squared_error, sum(map(len, means)))


def _interval(mean: float, squared_error: float, n: int) -> Interval:
  draws = n if squared_error < NEGLIGIBLE_VARIANCE else mean * (1 - mean) / squared_error
  return Interval(mean, *wilson_interval(mean=mean, n=draws), n)


def pass_at_k(k: int, *, tries: int, right: int) -> float:
  """The chance that of k tries, drawn from `tries` of which `right` are right, one is right: 1 - C(n-c, k) / C(n, k).

  It is unbiased for the chance that one of k new tries is right (Chen et al. 2021, arXiv 2107.03374, equation 1).

  Raises:
    ValueError: k is not between 1 and `tries`.
  """
  if not 1 <= k <= tries:
    raise ValueError(f"pass@{k} cannot be told from {tries} tries")
  return 1 - math.comb(tries - right, k) / math.comb(tries, k)


def paired_difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Interval:
  """How much better `b` does than `a` on the same questions, in the same order.

  The mean of the differences of question means and Student's t interval of it,
  within [-1, 1]; one question alone says nothing of the spread: [-1, 1].

  Raises:
    ValueError: as accuracy_interval, or `a` and `b` have not as many questions.
  """
  if len(a) != len(b):
    raise ValueError(f"paired by question, but a has {len(a)} questions and b has {len(b)}")
  return _student(_question_means(b) - _question_means(a), least=-1.0)


def seed_interval(values: Sequence[float], *, least: float) -> Interval:
  """The mean of what several training runs (seeds) reached and Student's t interval of it, within [least, 1].

  The run is the unit: all questions of a run share its weights, so pooled questions would claim too much. One run
  alone says nothing of the spread between runs: [least, 1].

  Args:
    values: one for each run: its accuracy, or the difference of two of its models.
    least: 0 for accuracies, -1 for differences.

  Raises:
    ValueError: there is no run, or a value is outside [least, 1].
  """
  if not values or not all(least <= x <= 1 for x in values):
    raise ValueError(f"runs with the values {values!r}; it needs one or more, each in [{least:g}, 1]")
  return _student(np.array(values, np.float64), least=least)


def _student(values: np.ndarray, *, least: float) -> Interval:
  """The mean of `values` and Student's t interval of it, within [least, 1]; all of that where there is one value."""
  n, mean = len(values), float(values.mean())
  if n == 1:
    return Interval(mean, least, 1.0, n)
  half = float(scipy.special.stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n))
  return Interval(mean, max(least, mean - half), min(1.0, mean + half), n)


def _question_means(scores: Sequence[Sequence[float]]) -> np.ndarray:
  if not scores:
    raise ValueError("no questions: an accuracy needs at least one")
  for i, tries in enumerate(scores):
    if not len(tries) or not all(0 <= x <= 1 for x in tries):
      raise ValueError(f"question {i} has the scores {tries!r}; it needs one or more, each in [0, 1]")
  return np.array([np.mean(tries) for tries in scores], np.float64)
