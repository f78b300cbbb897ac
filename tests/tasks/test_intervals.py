"""The intervals against numbers worked out by hand and from textbooks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from score_jax.tasks import intervals


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
  found = intervals.accuracy_interval(singles(right, n))
  assert found.n == n
  assert found.mean == pytest.approx(right / n)
  assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_several_tries_are_clustered_by_question():
  # Means 1, 1/2, 1/2, 0: p = 1/2, variance 1/8, squared error 1/32, so as many as (1/4)/(1/32) = 8 draws;
  # the 8 tries would only be that if they were independent. Wilson with 4 of 8: 0.2152 to 0.7848.
  found = intervals.accuracy_interval([[1, 1], [1, 0], [0, 1], [0, 0]])
  assert (found.mean, found.n) == (0.5, 4)
  assert (found.low, found.high) == pytest.approx((0.2152, 0.7848), abs=5e-5)


def test_repeated_tries_that_always_agree_add_nothing():
  once = intervals.accuracy_interval(singles(3, 10))
  assert intervals.accuracy_interval([tries * 32 for tries in singles(3, 10)]) == once


def test_questions_weigh_the_same_however_often_they_were_tried():
  assert intervals.accuracy_interval([[1.0] * 9, [0.0]]).mean == 0.5


def test_no_spread_takes_the_number_of_questions():
  found = intervals.accuracy_interval([[1, 0]] * 25)
  z = 1.959963984540054
  half = z / (1 + z**2 / 25) * math.sqrt(0.25 / 25 + z**2 / 2500)
  assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_all_alike_stays_within_bounds_and_is_not_certain(score: float):
  found = intervals.accuracy_interval([[score] * 4] * 30)
  assert (found.low, found.high) == pytest.approx((0, 0.1135) if score == 0 else (0.8865, 1), abs=5e-5)
  assert 0 <= found.low < found.high <= 1


def test_covers_the_truth_about_as_often_as_it_says():
  rng = np.random.default_rng(0)
  questions = rng.beta(1, 1.5, size=(400, 60))  # their mean success: 0.4
  tries = rng.random((400, 60, 4)) < questions[..., None]
  found = [intervals.accuracy_interval(run.astype(float).tolist()) for run in tries]
  covered = np.mean([x.low <= 0.4 <= x.high for x in found])
  assert 0.92 <= covered <= 0.975
  as_if_independent = [intervals.wilson(mean=x.mean, n=240) for x in found]
  assert np.mean([low <= 0.4 <= high for low, high in as_if_independent]) < 0.9


def test_paired_difference_by_hand():
  # Differences 1, 0, 0, 1/2, 1/2: mean 0.4, squared deviations 0.36 + 0.16 + 0.16 + 0.01 + 0.01 = 0.7, deviation
  # sqrt(0.7/4) = 0.41833, error 0.18708, t(4) = 2.77645: 0.4 -+ 0.51943.
  a = [[0, 0], [1, 1], [0, 0], [0, 0], [0, 1]]
  b = [[1, 1], [1, 1], [0, 0], [1, 0], [1, 1]]
  found = intervals.paired_difference(a, b)
  assert (found.mean, found.n) == (pytest.approx(0.4), 5)
  assert (found.low, found.high) == pytest.approx((-0.11943, 0.91943), abs=1e-5)
  turned = intervals.paired_difference(b, a)
  assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low))


def test_paired_difference_of_the_same_is_nothing():
  found = intervals.paired_difference(singles(3, 10), singles(3, 10))
  assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_paired_difference_of_one_question_says_nothing():
  assert intervals.paired_difference([[0]], [[1]]) == intervals.Interval(1.0, -1.0, 1.0, 1)


@pytest.mark.parametrize(("scores", "says"), [([], "no questions"), ([[1], []], "question 1"), ([[1.5]], "question 0")])
def test_refuses_what_is_no_accuracy(scores: list[list[float]], says: str):
  with pytest.raises(ValueError, match=says):
    intervals.accuracy_interval(scores)


def test_refuses_pairs_of_unequal_length():
  with pytest.raises(ValueError, match="2 questions and b has 1"):
    intervals.paired_difference([[1], [0]], [[1]])
