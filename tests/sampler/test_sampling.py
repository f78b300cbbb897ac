"""What is drawn against probabilities computed exactly, in numpy, another way."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from score_jax.sampler.sampling import (
  MASKED_LOGIT,
  SampledTokens,
  SlotSamplingParams,
  inverse_cdf,
  sample_tokens,
  top_k_top_p,
)
from score_jax.sampler.slots import request_key

LOGITS = np.array([2.0, 1.5, 1.0, 0.25, 0.0, -0.5, -1.0, -3.0], np.float32)
SEEN = np.array([1, 0, 1, 0, 0, 1, 0, 0], bool)
DRAWS = 200_000

SETTINGS = {
  "plain": (1.0, 0, 1.0, 1.0),
  "cold": (0.5, 0, 1.0, 1.0),
  "hot": (2.0, 0, 1.0, 1.0),
  "top-k": (1.0, 4, 1.0, 1.0),
  "top-p": (1.0, 0, 0.8, 1.0),
  "penalty": (1.0, 0, 1.0, 1.5),
  "all at once": (0.6, 5, 0.9, 1.3),
}


def exact(
  temperature: float,
  top_k: int,
  top_p: float,
  penalty: float,
  logits: np.ndarray = LOGITS,
  seen: np.ndarray = SEEN,
) -> np.ndarray:
  """Probabilities [V], by sorting and by hand."""
  z = logits.astype(np.float64)
  z = np.where(seen, np.where(z > 0, z / penalty, z * penalty), z) / temperature
  order = sorted(range(len(z)), key=lambda i: -z[i])
  kept = order[:top_k] if top_k else order
  p = {i: float(np.exp(z[i])) for i in kept}
  total, nucleus, sum_so_far = sum(p.values()), [], 0.0
  for i in kept:
    nucleus.append(i)
    sum_so_far += p[i] / total
    if sum_so_far >= top_p:
      break
  result = np.zeros(len(z))
  for i in nucleus:
    result[i] = p[i] / sum(p[j] for j in nucleus)
  return result


drawn = jax.jit(sample_tokens)


def settings(*slots: tuple[float, int, float, float]) -> SlotSamplingParams:
  """The settings of some slots."""
  kinds = (np.float32, np.int32, np.float32, np.float32)
  return SlotSamplingParams(
    *(np.array(column, kind) for column, kind in zip(zip(*slots, strict=True), kinds, strict=True))
  )


def many(
  *how: float, count: int = DRAWS, first: int = 0, logits: np.ndarray = LOGITS, seen: np.ndarray = SEEN
) -> SampledTokens:
  """Many draws of one request, at as many positions."""
  temperature, top_k, top_p, penalty = how
  return drawn(
    np.tile(logits, (count, 1)),
    np.tile(seen, (count, 1)),
    np.tile(request_key(0, "chi"), (count, 1)),
    np.arange(first, first + count, dtype=np.int32),
    jax.tree.map(lambda x: np.tile(x, count), settings((temperature, int(top_k), top_p, penalty))),
  )


@pytest.mark.parametrize("name", SETTINGS)
def test_draws_follow_the_exact_distribution(name: str) -> None:
  p = exact(*SETTINGS[name])
  found = many(*SETTINGS[name])
  tokens, logprobs = np.asarray(found.tokens), np.asarray(found.logprobs)
  counts = np.bincount(tokens, minlength=len(p))
  possible = p > 0
  assert counts[~possible].sum() == 0
  assert scipy.stats.chisquare(counts[possible], DRAWS * p[possible]).pvalue > 1e-3
  np.testing.assert_allclose(logprobs, np.log(p[tokens]), rtol=0, atol=1e-5)
  np.testing.assert_allclose(found.model_logprobs, scipy.special.log_softmax(LOGITS)[tokens], rtol=0, atol=1e-5)
  for other in SETTINGS.keys() - {name}:  # so many draws tell the settings from each other
    q = np.maximum(exact(*SETTINGS[other]), 1e-9)
    assert scipy.stats.chisquare(counts, DRAWS * q / q.sum()).pvalue < 1e-9, other


WIDE = np.random.default_rng(0).normal(0.0, 1.5, 1000).astype(np.float32)  # several blocks, the last not full
WIDE_SEEN = np.random.default_rng(1).random(1000) < 0.2


@pytest.mark.parametrize(
  "how", [(1.0, 0, 1.0, 1.0), (0.8, 20, 1.0, 1.2), (1.0, 100, 0.9, 1.0)], ids=["all", "few", "sorted"]
)
def test_draws_from_many_blocks_follow_the_exact_distribution(how: tuple[float, int, float, float]) -> None:
  p = exact(*how, WIDE, WIDE_SEEN)
  parts = [many(*how, count=20_000, first=20_000 * i, logits=WIDE, seen=WIDE_SEEN) for i in range(5)]
  counts = np.bincount(np.concatenate([part.tokens for part in parts]), minlength=len(p))
  often = p * counts.sum() >= 5  # what is rarer goes together
  assert counts[p == 0].sum() == 0
  seen = np.append(counts[often], counts[~often].sum())
  expected = counts.sum() * np.append(p[often], p[~often].sum())
  kept = expected > 0
  assert kept.sum() >= 20
  assert scipy.stats.chisquare(seen[kept], expected[kept]).pvalue > 1e-3


def test_the_inverse_of_the_running_sum_by_hand() -> None:
  """Weights 1, 0, 2, 0, 1: up to a quarter the first, up to three quarters the third, then the last."""
  weights = np.zeros((7, 600), np.float32)
  places = (3, 255, 256, 300, 599)
  weights[:, places] = (1, 0, 2, 0, 1)
  below_1 = np.nextafter(np.float32(1), np.float32(0))
  found = inverse_cdf(weights, np.array([0.0, 0.24, 0.26, 0.74, 0.76, 0.99, below_1], np.float32))
  assert np.asarray(found).tolist() == [3, 3, 256, 256, 599, 599, 599]


def test_a_slot_draws_the_same_beside_any_other() -> None:
  """What another slot asks for has all of them go through its program."""
  whole, few, sorting = (0.7, 0, 1.0, 1.0), (0.7, 20, 0.9, 1.1), (0.7, 100, 0.9, 1.0)
  logits, seen = np.tile(WIDE, (64, 1)), np.tile(WIDE_SEEN, (64, 1))
  keys = np.stack([request_key(0, str(i)) for i in range(64)])
  positions = np.arange(64, dtype=np.int32)

  def first_half(mine: tuple[float, int, float, float], others: tuple[float, int, float, float]) -> list[np.ndarray]:
    found = drawn(logits, seen, keys, positions, settings(*[mine] * 32, *[others] * 32))
    return [np.asarray(x)[:32] for x in jax.tree.leaves(found)]

  for mine in (whole, few, sorting):
    expected = first_half(mine, mine)
    for others in (whole, few, sorting):
      for a, b in zip(first_half(mine, others), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_at_temperature_0_the_likeliest_is_taken() -> None:
  found = many(0.0, 0, 1.0, 1.0)
  assert set(np.asarray(found.tokens)) == {0}
  assert set(np.asarray(found.logprobs)) == {0.0}
  found = many(0.0, 2, 0.5, 4.0)  # 2.0 and 1.0 were seen: 0.5 and 0.25 now
  assert set(np.asarray(found.tokens)) == {1}


def test_neighbouring_draws_are_independent() -> None:
  tokens = np.asarray(many(*SETTINGS["plain"]).tokens)
  table = np.zeros((8, 8))
  np.add.at(table, (tokens[:-1], tokens[1:]), 1)
  assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def rows(*values: list[float]) -> np.ndarray:
  return np.log(np.array(values, np.float32))


@pytest.mark.parametrize(
  ("probabilities", "top_k", "top_p", "kept"),
  [
    ([0.1, 0.4, 0.2, 0.3], 0, 1.0, [0, 1, 2, 3]),
    ([0.1, 0.4, 0.2, 0.3], 2, 1.0, [1, 3]),
    ([0.1, 0.4, 0.2, 0.3], 9, 1.0, [0, 1, 2, 3]),
    ([0.1, 0.4, 0.2, 0.3], 0, 0.39, [1]),
    ([0.1, 0.4, 0.2, 0.3], 0, 0.41, [1, 3]),
    ([0.1, 0.4, 0.2, 0.3], 0, 0.69, [1, 3]),
    ([0.1, 0.4, 0.2, 0.3], 0, 0.71, [1, 2, 3]),
    ([0.1, 0.4, 0.2, 0.3], 0, 0.0, [1]),
    ([0.1, 0.4, 0.2, 0.3], 2, 0.5, [1]),  # of 0.4 and 0.3 the first is 0.57; of all it would be 0.4, and two kept
    ([0.1, 0.4, 0.2, 0.3], 2, 0.6, [1, 3]),
    ([0.3, 0.4, 0.3, 0.0], 2, 1.0, [0, 1, 2]),  # as likely as the second
    ([0.3, 0.4, 0.3, 0.0], 0, 0.5, [0, 1, 2]),
    ([0.25, 0.25, 0.25, 0.25], 1, 1.0, [0, 1, 2, 3]),
    ([0.25, 0.25, 0.25, 0.25], 0, 0.1, [0, 1, 2, 3]),
  ],
)
def test_truncation_keeps_what_is_worked_out_by_hand(
  probabilities: list[float], top_k: int, top_p: float, kept: list[int]
) -> None:
  with np.errstate(divide="ignore"):
    logits = np.maximum(rows(probabilities), -80.0)
  found = np.asarray(top_k_top_p(logits, np.array([top_k]), np.array([top_p], np.float32)))[0]
  assert [i for i in range(4) if found[i] > MASKED_LOGIT] == kept
  np.testing.assert_array_equal(found[kept], logits[0, kept])


def test_what_reaches_top_p_exactly_is_kept_and_no_more() -> None:
  """Logits that differ, of which each has a probability of 1/4 in float32, where exp(-1e-9) is 1."""
  logits = np.array([[0.0, -3e-9, -1e-9, -2e-9]], np.float32)
  for top_p, kept in ((0.25, [0]), (0.5, [0, 2]), (0.75, [0, 2, 3]), (0.76, [0, 1, 2, 3])):
    found = np.asarray(top_k_top_p(logits, np.array([0]), np.array([top_p], np.float32)))[0]
    assert [i for i in range(4) if found[i] > MASKED_LOGIT] == kept, top_p


def test_a_row_that_keeps_all_is_left_alone_beside_one_that_does_not() -> None:
  """In float32 the first two tokens' probabilities add up to 1, and the others would be beyond it."""
  logits = np.array([[0.0, 0.0, -30.0, -31.0]] * 2, np.float32)
  found = np.asarray(top_k_top_p(logits, np.array([0, 0]), np.array([1.0, 0.9], np.float32)))
  np.testing.assert_array_equal(found[0], logits[0])
  assert (found[1] > MASKED_LOGIT).tolist() == [True, True, False, False]
