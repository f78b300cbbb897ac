"""The intervals against numbers worked out by hand and from textbooks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from score_jax.tasks import statistics


def singles(right: int, n: int) -> list[list[float]]:
  return [[1.0]] * right + [[0.0]] * (n - right)


@pytest.mark.parametrize(
  ("right", "n", "low", "high"),
  [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: the score interval
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
  ],
)
def test_single_tries_give_the_textbook_wilson_interval(right: int, n: int, low: float, high: float):
  found = statistics.accuracy_interval(singles(right, n))
  assert found.n == n
  assert found.mean == pytest.approx(right / n)
  assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_several_tries_are_clustered_by_question():
  # Means 1, 1/2, 1/2, 0: p = 1/2, variance 1/8, squared error 1/32, so as many as (1/4)/(1/32) = 8 draws;
  # the 8 tries would only be that if they were independent. Wilson with 4 of 8: 0.2152 to 0.7848.
  found = statistics.accuracy_interval([[1, 1], [1, 0], [0, 1], [0, 0]])
  assert (found.mean, found.n) == (0.5, 4)
  assert (found.low, found.high) == pytest.approx((0.2152, 0.7848), abs=5e-5)


def test_repeated_tries_that_always_agree_add_nothing():
  once = statistics.accuracy_interval(singles(3, 10))
  assert statistics.accuracy_interval([tries * 32 for tries in singles(3, 10)]) == once


def test_questions_weigh_the_same_however_often_they_were_tried():
  assert statistics.accuracy_interval([[1.0] * 9, [0.0]]).mean == 0.5


def test_no_spread_takes_the_number_of_questions():
  found = statistics.accuracy_interval([[1, 0]] * 25)
  z = 1.959963984540054
  half = z / (1 + z**2 / 25) * math.sqrt(0.25 / 25 + z**2 / 2500)
  assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_all_alike_stays_within_bounds_and_is_not_certain(score: float):
  found = statistics.accuracy_interval([[score] * 4] * 30)
  assert (found.low, found.high) == pytest.approx((0, 0.1135) if score == 0 else (0.8865, 1), abs=5e-5)
  assert 0 <= found.low < found.high <= 1


def test_covers_the_truth_about_as_often_as_it_says():
  rng = np.random.default_rng(0)
  questions = rng.beta(1, 1.5, size=(400, 60))  # their mean success: 0.4
  tries = rng.random((400, 60, 4)) < questions[..., None]
  found = [statistics.accuracy_interval(run.astype(float).tolist()) for run in tries]
  covered = np.mean([x.low <= 0.4 <= x.high for x in found])
  assert 0.92 <= covered <= 0.975
  as_if_independent = [statistics.wilson_interval(mean=x.mean, n=240) for x in found]
  assert np.mean([low <= 0.4 <= high for low, high in as_if_independent]) < 0.9


def test_paired_difference_by_hand():
  # Differences 1, 0, 0, 1/2, 1/2: mean 0.4, squared deviations 0.36 + 0.16 + 0.16 + 0.01 + 0.01 = 0.7, deviation
  # sqrt(0.7/4) = 0.41833, error 0.18708, t(4) = 2.77645: 0.4 -+ 0.51943.
  a = [[0, 0], [1, 1], [0, 0], [0, 0], [0, 1]]
  b = [[1, 1], [1, 1], [0, 0], [1, 0], [1, 1]]
  found = statistics.paired_difference(a, b)
  assert (found.mean, found.n) == (pytest.approx(0.4), 5)
  assert (found.low, found.high) == pytest.approx((-0.11943, 0.91943), abs=1e-5)
  turned = statistics.paired_difference(b, a)
  assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low))


def test_paired_difference_of_the_same_is_nothing():
  found = statistics.paired_difference(singles(3, 10), singles(3, 10))
  assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_paired_difference_of_one_question_says_nothing():
  assert statistics.paired_difference([[0]], [[1]]) == statistics.Interval(1.0, -1.0, 1.0, 1)


def test_the_unit_of_several_training_runs_is_the_run():
  """Differences .070, .058, .026 of three seeds: mean .05133, squared deviations (.01867² + .00667² + .02533²) =
  .0010347, deviation sqrt(.0010347/2) = .022745, error .013132, t(2) = 4.30265: -+ .05650. Pooling 500 questions of
  each seed claims +3.4 to +6.8 points for the same runs."""
  found = statistics.seed_interval([0.070, 0.058, 0.026], least=-1.0)
  assert found.n == 3
  assert (found.mean, found.low, found.high) == pytest.approx((0.051333, -0.005170, 0.107837), abs=1e-5)


def test_runs_stay_within_their_bounds_and_one_run_says_nothing_of_the_spread():
  assert statistics.seed_interval([0.99, 0.97, 1.0], least=0.0).high == 1.0
  assert statistics.seed_interval([0.4], least=0.0) == statistics.Interval(0.4, 0.0, 1.0, 1)
  assert statistics.seed_interval([0.4], least=-1.0) == statistics.Interval(0.4, -1.0, 1.0, 1)


@pytest.mark.parametrize("values", [[], [1.1], [float("nan")], [-0.1]])
def test_refuses_runs_without_an_accuracy(values: list[float]):
  with pytest.raises(ValueError, match="one or more, each in"):
    statistics.seed_interval(values, least=0.0)


@pytest.mark.parametrize(("scores", "says"), [([], "no questions"), ([[1], []], "question 1"), ([[1.5]], "question 0")])
def test_refuses_what_is_no_accuracy(scores: list[list[float]], says: str):
  with pytest.raises(ValueError, match=says):
    statistics.accuracy_interval(scores)


def test_refuses_pairs_of_unequal_length():
  with pytest.raises(ValueError, match="2 questions and b has 1"):
    statistics.paired_difference([[1], [0]], [[1]])


@pytest.mark.parametrize(
  ("k", "tries", "right", "expected"),
  [  # by hand: 1 - C(n-c, k) / C(n, k)
    (1, 4, 1, 1 / 4),
    (2, 4, 1, 1 - 3 / 6),  # of the 6 pairs 3 lack the right one; 1 - (3/4)², which is biased, gives 0.4375
    (2, 5, 2, 1 - 3 / 10),
    (3, 5, 3, 1.0),  # no three of two wrong ones
    (4, 4, 0, 0.0),
    (8, 32, 4, 1 - 3_108_105 / 10_518_300),
  ],
)
def test_pass_at_k_by_hand(k: int, tries: int, right: int, expected: float):
  assert statistics.pass_at_k(k, tries=tries, right=right) == pytest.approx(expected, rel=1e-12)


def test_pass_at_k_is_without_bias():
  """Its mean over the 2^6 outcomes of six tries, each right with chance 0.3, is the chance of k new ones, 1 - 0.7^k."""
  for k in (1, 2, 5):
    outcomes = [
      (math.comb(6, c) * 0.3**c * 0.7 ** (6 - c), statistics.pass_at_k(k, tries=6, right=c)) for c in range(7)
    ]
    assert sum(chance * value for chance, value in outcomes) == pytest.approx(1 - 0.7**k, rel=1e-12)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_needs_k_tries(k: int):
  with pytest.raises(ValueError, match=f"pass@{k} cannot be told from 4 tries"):
    statistics.pass_at_k(k, tries=4, right=2)


def test_the_average_of_benchmarks_by_hand():
  """Means 1/2 (n 4, variance 1/8) and 1 (n 2, variance 0): 3/4; squared error (1/32 + 0)/4 = 1/128, so as many as
  (3/16)/(1/128) = 24 draws; all 6 questions in one pot would have the mean 2/3. Wilson with 18 of 24."""
  found = statistics.average_interval([[[1, 1], [1, 0], [0, 1], [0, 0]], [[1], [1]]])
  assert (found.mean, found.n) == (0.75, 6)
  assert (found.low, found.high) == pytest.approx(statistics.wilson_interval(mean=0.75, n=24))
  one = [[1, 0], [0, 0], [1, 1]]
  assert statistics.average_interval([one]) == statistics.accuracy_interval(one)
