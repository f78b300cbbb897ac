"""Tests where the success rate of continuations falls, with a bound on false alarms (Boschloo's exact test).

V(k) is the chance that a continuation after the first k steps of a trajectory ends right. It is estimated by counts:
some of n continuations were right. A step is named as the error when

    the success rate falls over it by `delta` or more, and
    its p-value, times the number of tested steps, is at most `alpha` (Bonferroni).

So if V falls nowhere, a step is named with probability `alpha` at most. The same bound holds for the sound steps before
a real error. Of several falls the earliest is taken.

The p-value is Boschloo's (1970): the greatest probability, over all values of a common V, of counts that are at least
as extreme by Fisher's exact test. It is exact and needs fewer continuations than Fisher's own p-value: for 4 of 4
before and 0 of 4 after it is 1/256 instead of 1/70.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from score_jax.trajectory import Step

#: tolerance when rates are compared: 0.6 - 0.2 is less than 0.4 in floating point
FLOAT_TOLERANCE = 1e-9

FallStatus = Literal[
  "located",  # V falls over one step
  "undecided",  # V falls, but over no single step for sure: gradually, over a gap, or with too few draws
  "level",  # V was high enough to fall and did not
  "low",  # V was too low to fall, everywhere
  "failed",  # hosts or graders failed every continuation
]


@dataclasses.dataclass(frozen=True)
class ValueEstimate:
  """Counts of the continuations from one prefix: an estimate of V."""

  successes: int  # continuations that ended right
  tries: int  # continuations with a verdict: neither host nor grader failed
  first_steps: tuple[Step, ...] = ()  # first new steps of the right continuations, commonest first
  terminal: bool = False  # no step can follow, so V is exactly 0

  @property
  def success_rate(self) -> float | None:
    """The estimate of V; None without a verdict, which says nothing about V."""
    if self.terminal:
      return 0.0
    return self.successes / self.tries if self.tries else None


#: V after the end: the wrong answer is submitted, the turn is malformed, or the context is full
TERMINAL_VALUE = ValueEstimate(0, 0, terminal=True)


@dataclasses.dataclass(frozen=True)
class FallTest:
  """The test for a fall of V, with its thresholds."""

  delta: float
  alpha: float

  def detects_fall(self, before: ValueEstimate, after: ValueEstimate, *, tested: int) -> bool:
    """Whether V falls from one prefix to a later one. `tested`: number of steps tested (Bonferroni)."""
    if (
      before.success_rate is None
      or after.success_rate is None
      or not self.drops_by_delta(before.success_rate, after.success_rate)
    ):
      return False
    return p_value(before, after) * tested <= self.alpha

  def drops_by_delta(self, before: float, after: float) -> bool:
    """Whether the rate drops by delta or more."""
    return before - after >= self.delta - FLOAT_TOLERANCE

  def can_fall(self, value: ValueEstimate) -> bool:
    """Whether V is high enough to fall by delta."""
    return value.success_rate is not None and value.success_rate >= self.delta - FLOAT_TOLERANCE

  def min_continuations(self, *, tested: int) -> int:
    """The least number of continuations for which a fall from all right to none right is significant."""
    return next(
      n for n in itertools.count(1) if p_value(ValueEstimate(n, n), ValueEstimate(0, n)) * tested <= self.alpha
    )


def p_value(before: ValueEstimate, after: ValueEstimate) -> float:
  """The p-value of a fall: the greatest probability of so extreme a fall if V does not fall."""
  if after.terminal:  # V after is exactly 0, so one right continuation before proves a fall
    return 0.0 if before.successes else 1.0
  return _boschloo(before.successes, before.tries, after.successes, after.tries)


@functools.cache
def _boschloo(right: int, tries: int, right_after: int, tries_after: int) -> float:
  """Boschloo's p-value; the maximum over the common V is taken on a grid of 1025 points."""
  fisher = _fisher(tries, tries_after)
  extreme = fisher <= fisher[right, right_after] * (1 + FLOAT_TOLERANCE)
  common = np.linspace(0.0, 1.0, 1025)
  reached = np.einsum("ag,bg,ab->g", _binomial(tries, common), _binomial(tries_after, common), extreme)
  return float(min(reached.max(), 1.0))


@functools.cache
def _fisher(tries: int, tries_after: int) -> np.ndarray:
  """Fisher's one-sided p-value of each pair of counts, [tries + 1, tries_after + 1]."""

  def tail(right: int, right_after: int) -> float:
    total = right + right_after
    ways = (math.comb(tries, i) * math.comb(tries_after, total - i) for i in range(right, min(tries, total) + 1))
    return sum(ways) / math.comb(tries + tries_after, total)

  return np.array([[tail(a, b) for b in range(tries_after + 1)] for a in range(tries + 1)])


def _binomial(tries: int, chance: np.ndarray) -> np.ndarray:
  """Binomial probabilities of each count for each chance of success, [tries + 1, n]."""
  counts = np.arange(tries + 1)[:, None]
  ways = np.array([math.comb(tries, k) for k in range(tries + 1)], np.float64)[:, None]
  return ways * chance[None] ** counts * (1.0 - chance[None]) ** (tries - counts)


def locate_fall(values: Mapping[int, ValueEstimate], rule: FallTest, *, tested: int) -> tuple[FallStatus, int]:
  """The status, and the step over which V first falls (-1 if none is located).

  Args:
    values: estimates by number of steps kept; prefixes without draws may be missing.
    tested: number of steps that could be located.
  """
  known = {k: value for k, value in sorted(values.items()) if value.success_rate is not None}
  if all(value.terminal for value in known.values()):
    return "failed", -1
  for (k, before), (after_k, after) in itertools.pairwise(known.items()):
    if rule.detects_fall(before, after, tested=tested):
      return ("located", k) if after_k == k + 1 else ("undecided", -1)
  if not any(map(rule.can_fall, known.values())):
    return "low", -1
  shares = [share for value in known.values() if (share := value.success_rate) is not None]
  highest = itertools.accumulate(shares, max)
  fell = any(itertools.starmap(rule.drops_by_delta, zip(highest, shares, strict=True)))
  return ("undecided" if fell else "level"), -1


def next_bisection_prefixes(values: Mapping[int, ValueEstimate], count: int, rule: FallTest) -> list[int]:
  """The next prefix of a bisection, as a list of at most one; empty when it is done.

  Bisection assumes that V never rises again once it has fallen. A prefix counts as fallen if its rate is nearer to the
  rate at the upper end of the interval. A prefix without any verdict is replaced by another one.

  Args:
    values: all estimates so far, including the end if no step can follow it.
    count: prefixes 0, 1, …, count - 1 can be drawn.
  """
  left = [k for k in range(count) if k not in values]
  known = {k: share for k, value in sorted(values.items()) if (share := value.success_rate) is not None}
  first = next((k for k, value in values.items() if not value.terminal and k in known), None)
  if first is None:
    return left[:1]
  last = max(known)
  if last < count - 1 and left and left[-1] > last:
    return left[-1:]
  low, high = min(known), last
  if not rule.drops_by_delta(known[low], known[high]):
    return []
  while between := [k for k in range(low + 1, high) if k not in values or k in known]:
    middle = between[len(between) // 2]
    if middle not in known:
      return [middle]
    fallen = known[middle] - known[high] < known[low] - known[middle]
    low, high = (low, middle) if fallen else (middle, high)
  return []
