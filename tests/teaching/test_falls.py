"""The test of a fall: exact p-values against scipy, and how often a sound step is named, by simulation and by sums."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from score_jax.teaching.falls import (
  TERMINAL_VALUE,
  FallTest,
  ValueEstimate,
  locate_fall,
  next_bisection_prefixes,
  p_value,
)

RULE = FallTest(0.5, 0.05)


@pytest.mark.parametrize(
  ("before", "after"),
  [((4, 4), (0, 4)), ((4, 4), (1, 4)), ((3, 4), (0, 4)), ((8, 8), (2, 8)), ((9, 16), (1, 16)), ((5, 6), (1, 3))],
)
def test_p_values_are_boschloos(before: tuple[int, int], after: tuple[int, int]) -> None:
  table = [[before[0], after[0]], [before[1] - before[0], after[1] - after[0]]]
  theirs = stats.boschloo_exact(table, alternative="greater").pvalue
  assert p_value(ValueEstimate(*before), ValueEstimate(*after)) == pytest.approx(theirs, rel=1e-3)


def test_p_values_by_hand() -> None:
  """All right before and none after is the one outcome as extreme: p^n (1 - p)^n is greatest at a half."""
  assert p_value(ValueEstimate(4, 4), ValueEstimate(0, 4)) == pytest.approx(1 / 256)
  assert p_value(ValueEstimate(2, 2), ValueEstimate(0, 2)) == pytest.approx(1 / 16)
  assert p_value(ValueEstimate(2, 4), ValueEstimate(2, 4)) > 0.5
  assert p_value(ValueEstimate(0, 4), ValueEstimate(4, 4)) == pytest.approx(1.0)
  assert (p_value(ValueEstimate(1, 4), TERMINAL_VALUE), p_value(ValueEstimate(0, 4), TERMINAL_VALUE)) == (0.0, 1.0), (
    "after the end nothing is drawn"
  )


def test_the_fewest_continuations() -> None:
  """4^-n times the steps must not exceed alpha: 9 / 4^4 = 0.035, 9 / 4^3 = 0.14; 1 / 4^3 = 0.016, 1 / 4^2 = 0.063."""
  assert [RULE.min_continuations(tested=n) for n in (1, 3, 4, 9, 12, 13)] == [3, 3, 4, 4, 4, 5]


def test_a_share_of_delta_is_a_fall_of_delta() -> None:
  """0.6 - 0.2 is 0.39999999999999997."""
  assert FallTest(0.4, 0.9).detects_fall(ValueEstimate(3, 5), ValueEstimate(1, 5), tested=1)


def named_early(draws: int, chance: float, rule: FallTest) -> float:
  """How often a fall is seen among four sound prefixes, all from one chance: summed over all outcomes."""
  counts = [math.comb(draws, k) * chance**k * (1 - chance) ** (draws - k) for k in range(draws + 1)]
  states = dict(enumerate(counts))  # of no fall so far, by the last count
  for _ in range(3):
    states = {
      new: sum(
        p * counts[new]
        for old, p in states.items()
        if not rule.detects_fall(ValueEstimate(old, draws), ValueEstimate(new, draws), tested=3)
      )
      for new in range(draws + 1)
    }
  return 1 - sum(states.values())


@pytest.mark.parametrize("chance", [0.65, 0.5])
@pytest.mark.parametrize("draws", [4, 8, 16])
def test_a_sound_step_is_seldom_named(draws: int, chance: float) -> None:
  """Four sound prefixes: as often as the sum over all outcomes says, and never more often than alpha."""
  rng, runs = np.random.default_rng(17), 20_000
  drawn = rng.binomial(draws, chance, (runs, 4))
  falls = {
    pair: RULE.detects_fall(ValueEstimate(pair[0], draws), ValueEstimate(pair[1], draws), tested=3)
    for pair in itertools.product(range(draws + 1), repeat=2)
  }
  simulated = np.mean([any(falls[a, b] for a, b in itertools.pairwise(row)) for row in drawn.tolist()])
  exact = named_early(draws, chance, RULE)
  assert exact <= RULE.alpha
  assert simulated == pytest.approx(exact, abs=4 * math.sqrt(RULE.alpha / runs))


@pytest.mark.parametrize(("chance", "expected"), [(0.65, 0.375), (0.5, 0.410)])
def test_without_a_test_chance_names_sound_steps_at_four_draws(chance: float, expected: float) -> None:
  """What delta alone, with no bound on chance, comes to: the reason for the test."""
  assert named_early(4, chance, FallTest(0.5, math.inf)) == pytest.approx(expected, abs=1e-3)


PLACES = {
  "a gap is no fall": ({0: (4, 4), 1: (0, 0), 2: (4, 4), 3: (0, 4)}, ("located", 2)),
  "a fall over a gap": ({0: (4, 4), 1: (0, 0), 2: (0, 4)}, ("undecided", -1)),
  "nothing but failures": ({0: (0, 0), 1: (0, 0)}, ("failed", -1)),
  "gradual": ({0: (4, 4), 1: (3, 4), 2: (2, 4), 3: (1, 4), 4: (0, 4)}, ("undecided", -1)),
  "too few to be sure": ({0: (4, 4), 1: (4, 4), 2: (2, 4), 3: (2, 4)}, ("undecided", -1)),
  "level": ({0: (4, 4), 1: (3, 4), 2: (4, 4)}, ("level", -1)),
  "low": ({0: (1, 4), 1: (0, 4), 2: (1, 4)}, ("low", -1)),
  "the earliest": ({0: (16, 16), 1: (4, 16), 2: (16, 16), 3: (0, 16)}, ("located", 0)),
}


@pytest.mark.parametrize(("values", "expected"), PLACES.values(), ids=PLACES.keys())
def test_places(values: dict[int, tuple[int, int]], expected: tuple[str, int]) -> None:
  assert locate_fall({k: ValueEstimate(*v) for k, v in values.items()}, RULE, tested=len(values) - 1) == expected


def test_before_the_end_there_is_nothing_to_compare_by_chance() -> None:
  """After the last step V is 0 for certain: half of the continuations right from before it are a fall of a half."""
  assert locate_fall({0: ValueEstimate(2, 4), 1: TERMINAL_VALUE}, RULE, tested=1) == ("located", 0)
  assert locate_fall({0: ValueEstimate(1, 4), 1: TERMINAL_VALUE}, RULE, tested=1) == ("low", -1)


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("lost", [None, 0, 3, 5])
@pytest.mark.parametrize("error", range(9))
def test_halving_comes_to_the_step_where_v_falls(error: int, lost: int | None, ended: bool) -> None:
  """Ten prefixes, V 1 up to the error and 0 after it; of one prefix every continuation is failed."""
  values, count, asked = ({10: TERMINAL_VALUE} if ended else {}), 10, 0
  while wanted := next_bisection_prefixes(values, count, RULE):
    [k] = wanted
    assert k not in values
    asked += k != lost
    values[k] = ValueEstimate(0, 0) if k == lost else ValueEstimate(4 if k <= error else 0, 4)
  found = locate_fall(values, RULE, tested=9)
  if lost == error == 0:
    assert found == ("low", -1), "what was there before the error is not known"
  else:
    assert found == (("undecided", -1) if lost in (error, error + 1) and lost in values else ("located", error))
  assert asked <= 6


def test_halving_stops_where_nothing_fell() -> None:
  assert next_bisection_prefixes({0: ValueEstimate(1, 4), 10: TERMINAL_VALUE}, 10, RULE) == []
  assert next_bisection_prefixes({0: ValueEstimate(4, 4), 9: ValueEstimate(3, 4)}, 10, RULE) == []
