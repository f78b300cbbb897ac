"""What is drawn against probabilities computed exactly, in numpy, another way."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.stats

from score_jax.sampler.draw import NEVER, draw, truncated
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


def exact(temperature: float, top_k: int, top_p: float, penalty: float) -> np.ndarray:
  """Probabilities [V], by sorting and by hand."""
  z = LOGITS.astype(np.float64)
  z = np.where(SEEN, np.where(z > 0, z / penalty, z * penalty), z) / temperature
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


drawn = jax.jit(draw)


def many(temperature: float, top_k: int, top_p: float, penalty: float) -> tuple[np.ndarray, np.ndarray]:
  """Tokens and log-probabilities of many draws of one request, at as many positions."""

  def each(value: float, dtype: type) -> np.ndarray:
    return np.full(DRAWS, value, dtype)

  tokens, logprobs = drawn(
    np.tile(LOGITS, (DRAWS, 1)),
    np.tile(SEEN, (DRAWS, 1)),
    np.tile(request_key(0, "chi"), (DRAWS, 1)),
    np.arange(DRAWS, dtype=np.int32),
    temperature=each(temperature, np.float32),
    top_k=each(top_k, np.int32),
    top_p=each(top_p, np.float32),
    penalty=each(penalty, np.float32),
  )
  return np.asarray(tokens), np.asarray(logprobs)


@pytest.mark.parametrize("name", SETTINGS)
def test_draws_follow_the_exact_distribution(name: str) -> None:
  p = exact(*SETTINGS[name])
  tokens, logprobs = many(*SETTINGS[name])
  counts = np.bincount(tokens, minlength=len(p))
  possible = p > 0
  assert counts[~possible].sum() == 0
  assert scipy.stats.chisquare(counts[possible], DRAWS * p[possible]).pvalue > 1e-3
  np.testing.assert_allclose(logprobs, np.log(p[tokens]), rtol=0, atol=1e-5)
  for other in SETTINGS.keys() - {name}:  # so many draws tell the settings from each other
    q = np.maximum(exact(*SETTINGS[other]), 1e-9)
    assert scipy.stats.chisquare(counts, DRAWS * q / q.sum()).pvalue < 1e-9, other


def test_at_temperature_0_the_likeliest_is_taken() -> None:
  tokens, logprobs = many(0.0, 0, 1.0, 1.0)
  assert set(tokens) == {0}
  assert set(logprobs) == {0.0}
  tokens, _ = many(0.0, 2, 0.5, 4.0)  # 2.0 and 1.0 were seen: 0.5 and 0.25 now
  assert set(tokens) == {1}


def test_neighbouring_draws_are_independent() -> None:
  tokens, _ = many(*SETTINGS["plain"])
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
  found = np.asarray(truncated(logits, np.array([top_k]), np.array([top_p], np.float32)))[0]
  assert [i for i in range(4) if found[i] > NEVER] == kept
  np.testing.assert_array_equal(found[kept], logits[0, kept])


def test_a_row_that_keeps_all_is_left_alone_beside_one_that_does_not() -> None:
  """In float32 the first two tokens' probabilities add up to 1, and the others would be beyond it."""
  logits = np.array([[0.0, 0.0, -30.0, -31.0]] * 2, np.float32)
  found = np.asarray(truncated(logits, np.array([0, 0]), np.array([1.0, 0.9], np.float32)))
  np.testing.assert_array_equal(found[0], logits[0])
  assert (found[1] > NEVER).tolist() == [True, True, False, False]
