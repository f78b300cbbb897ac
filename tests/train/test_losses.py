"""Log-probabilities against numpy and transformers, losses against numbers worked out by hand, and their gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from score_jax.model import pretrained
from score_jax.model.decoder import Decoder, Weights
from score_jax.train.batch import Batch, Example, fill_batch, make_update, take_micro_batch
from score_jax.train.losses import (
  logprob_and_entropy,
  masked_mean,
  sequence_mean,
  sequence_sum,
  sft_loss,
  token_logprobs,
  weighted_sum,
)
from score_jax.train.policy_gradient import PolicyGradientConfig, policy_gradient_loss
from tests.conftest import Tiny

scored = jax.jit(token_logprobs, static_argnums=0, static_argnames=("temperature", "chunk"))


def trajectory(lengths: tuple[int, ...], *, first: int, advantage: float, seed: int = 0) -> Example:
  """A question, a turn, an observation, a turn …, of these lengths; its tokens are `first`, `first` + 1, …"""
  learnt = np.concatenate([np.full(n, i % 2, np.float32) for i, n in enumerate(lengths)])
  sampled = np.random.default_rng(seed).normal(-4.0, 0.3, len(learnt)).astype(np.float32) * learnt
  return Example(np.arange(first, first + len(learnt), dtype=np.int32), learnt, sampled, advantage)


@pytest.fixture(scope="module")
def tiny(make_tiny: Callable[..., Tiny]) -> Tiny:
  return make_tiny(layers=1)


@pytest.fixture(scope="module")
def rows() -> list[list[Example]]:
  """Two packed, the second of which ends with an observation, and one alone; padding after both."""
  one = trajectory((3, 3, 2, 2), first=1, advantage=1.0, seed=1)
  two = trajectory((2, 4, 2), first=20, advantage=-2.0, seed=2)
  three = trajectory((4, 2, 1, 3, 2, 1), first=40, advantage=0.5, seed=3)
  return [[one, two], [three]]


@pytest.fixture(scope="module")
def batch(rows: list[list[Example]]) -> Batch:
  return fill_batch(rows, length=20, count=2, denominator=sum(float(s.loss_mask.sum()) for row in rows for s in row))


# Log-probabilities


def expected_logprobs(logits_BxTxV: np.ndarray, tokens_BxT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Log-probabilities and entropies in float64; position 0 gets 0."""
  z = logits_BxTxV.astype(np.float64)
  logp = z - z.max(axis=-1, keepdims=True)
  logp -= np.log(np.exp(logp).sum(axis=-1, keepdims=True))
  entropy = -(np.exp(logp) * logp).sum(axis=-1)
  picked = np.take_along_axis(logp[:, :-1], tokens_BxT[:, 1:, None], axis=-1)[..., 0]
  nothing = np.zeros((len(z), 1))
  return np.concatenate([nothing, picked], axis=1), np.concatenate([nothing, entropy[:, :-1]], axis=1)


@pytest.mark.parametrize(("temperature", "chunk"), [(1.0, 7), (0.6, 64)])
def test_log_probabilities_are_those_of_the_next_token(
  tiny: Tiny, batch: Batch, temperature: float, chunk: int
) -> None:
  found, entropy = scored(tiny.graph, tiny.weights, batch, temperature=temperature, chunk=chunk)

  @jax.jit
  def logits(weights: Weights) -> jax.Array:
    model = nnx.merge(tiny.graph, weights)
    return model.unembed(model(batch.tokens, batch.positions, batch.segments))

  expected, expected_entropy = expected_logprobs(np.asarray(logits(tiny.weights)) / temperature, batch.tokens)
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
  np.testing.assert_allclose(entropy, expected_entropy, rtol=0, atol=2e-5)
  assert found.dtype == entropy.dtype == jnp.float32


def test_log_probabilities_are_those_of_transformers(tiny: Tiny, batch: Batch, tmp_path: Path) -> None:
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  pretrained.save_pretrained(str(tmp_path), tiny.config, tiny.weights, dtype="float32")
  theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
  found, _ = scored(tiny.graph, tiny.weights, batch, temperature=1.0, chunk=7)
  checked = 0
  for row, segment in ((0, 1), (0, 2), (1, 1)):
    here = batch.segments[row] == segment
    tokens = batch.tokens[row][here][None]
    with torch.no_grad():
      logits = theirs(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    expected, _ = expected_logprobs(logits, tokens)
    np.testing.assert_allclose(found[row][here][1:], expected[0, 1:], rtol=0, atol=2e-5)
    checked += len(expected[0, 1:])
  assert checked == 9 + 7 + 12


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_gradients_of_log_probability_and_entropy_are_those_of_numpy(temperature: float, keep: bool) -> None:
  """In float64, through the Jacobian of the softmax; a position that nothing pulls at gets exactly nothing."""
  draws = np.random.default_rng(5)
  x_MxD, table_VxD = draws.normal(size=(6, 5)), draws.normal(size=(11, 5))
  target_M, pulls_2xM = draws.integers(0, 11, 6), draws.normal(size=(2, 6))
  pulls_2xM[:, 2] = 0.0
  found, pull_back = jax.vjp(
    lambda x, table: logprob_and_entropy(x, table, jnp.asarray(target_M, jnp.int32), temperature, keep),
    jnp.asarray(x_MxD, jnp.float32),
    jnp.asarray(table_VxD, jnp.float32),
  )
  dx, dtable = pull_back(tuple(jnp.asarray(pull, jnp.float32) for pull in pulls_2xM))

  z_MxV = x_MxD @ table_VxD.T / temperature
  dz_MxV = np.zeros_like(z_MxV)
  for i, (z, target, (of_logp, of_entropy)) in enumerate(zip(z_MxV, target_M, pulls_2xM.T, strict=True)):
    p = np.exp(z) / np.exp(z).sum()
    jacobian = np.diag(p) - np.outer(p, p)
    dz_MxV[i] = of_logp * jacobian[target] / p[target] - of_entropy * jacobian @ (np.log(p) + 1)
    np.testing.assert_allclose([found[0][i], found[1][i]], [np.log(p[target]), -p @ np.log(p)], rtol=1e-5)
  np.testing.assert_allclose(dx, dz_MxV @ table_VxD / temperature, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(dtable, dz_MxV.T @ x_MxD / temperature, rtol=1e-4, atol=1e-6)
  assert np.all(np.asarray(dx)[2] == 0.0)


# Losses by hand


def table(**rows: list[list[float]]) -> Batch:
  """A batch of which the losses see only what is given."""
  grids = {name: np.array(value, np.float32) for name, value in rows.items()}
  nothing = np.zeros_like(grids["loss_mask"])
  denominator = np.float32(grids["loss_mask"].sum())
  whole = {name: nothing for name in ("advantages", "sampling_logprobs", "old_logprobs", "reference_logprobs")}
  tokens, share = nothing.astype(np.int32), grids["loss_mask"] / denominator
  return Batch(tokens, tokens, tokens, **(whole | grids), loss_weight=share, denominator=denominator)


def test_sft_loss_is_the_mean_over_learnt_tokens() -> None:
  logp = jnp.array([[-7.0, -1.0, -2.0, -3.0], [-9.0, -50.0, -10.0, -80.0]])
  batch = table(loss_mask=[[0, 1, 1, 1], [0, 0, 1, 0]])
  assert float(sft_loss(logp, batch)) == 4.0  # (1 + 2 + 3 + 10) / 4
  # without the mask it would be 20.25; a mean of the rows' means would be 6


# Reductions


@pytest.fixture(scope="module")
def masked(batch: Batch) -> tuple[jax.Array, np.ma.MaskedArray]:
  """Numbers at every place, and the same as numpy masks them; those of places that are not learnt are absurd."""
  x = np.random.default_rng(3).normal(size=batch.loss_mask.shape)
  x[batch.loss_mask == 0] = 1e30
  return jnp.asarray(x, jnp.float32), np.ma.masked_array(x, mask=batch.loss_mask == 0)


def test_means_are_those_of_numpys_masked_arrays(masked: tuple[jax.Array, np.ma.MaskedArray], batch: Batch) -> None:
  x, expected = masked
  assert float(masked_mean(x, batch)) == pytest.approx(expected.mean(), rel=1e-5)
  assert float(weighted_sum(x, batch)) == pytest.approx(expected.mean(), rel=1e-5), "without shares it is the mean"


def test_sums_by_share_are_those_of_numpys_masked_arrays(
  masked: tuple[jax.Array, np.ma.MaskedArray], rows: list[list[Example]]
) -> None:
  x, expected = masked
  batch = fill_batch(rows, length=20, count=2, denominator=1.0, share=lambda count: 1.0 / (3 * count))
  of_each = [expected[0][:10].mean(), expected[0][10:18].mean(), expected[1][:13].mean()]
  assert float(weighted_sum(x, batch)) == pytest.approx(np.mean(of_each), rel=1e-5)
  assert abs(np.mean(of_each) - expected.mean()) > 0.01, "the mean over tokens is another"


def test_means_of_sequences_are_those_of_numpys_masked_arrays(
  masked: tuple[jax.Array, np.ma.MaskedArray], batch: Batch
) -> None:
  x, expected = masked
  found = np.asarray(jax.jit(sequence_mean)(jnp.where(batch.loss_mask > 0, x, 7.0), batch))
  for row, segment in ((0, 1), (0, 2), (1, 1)):
    here = batch.segments[row] == segment
    np.testing.assert_allclose(found[row][here], expected[row][here].mean(), rtol=1e-5)
  assert np.all(found[batch.segments == 0] == 0.0)


@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_sums_of_segments_are_those_of_loops(length: int) -> None:
  """Their transpose too: each place pulls on all of its segment."""
  draws = np.random.default_rng(length)
  segments = np.cumsum(draws.random((5, length)) < 0.4, axis=1).astype(np.int32)
  x, pull = (draws.normal(size=segments.shape).astype(np.float32) for _ in range(2))

  def looped(values: np.ndarray) -> np.ndarray:
    same = segments[:, :, None] == segments[:, None]
    return np.einsum("bts,bs->bt", same, values.astype(np.float64))

  found, pull_back = jax.vjp(lambda values: sequence_sum(values, segments), jnp.asarray(x))
  np.testing.assert_allclose(found, looped(x), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(pull_back(jnp.asarray(pull))[0], looped(pull), rtol=1e-5, atol=1e-6)


# Gradients through the model

Objective = Callable[[jax.Array, Batch], jax.Array]


KNOBS = PolicyGradientConfig("token", "group_std", "token", 0.2, 0.2, dual_clip=3.0, truncate=0.0, kl=0.0, distill=0.0)


def surrogate_loss(logp: jax.Array, batch: Batch) -> jax.Array:
  return policy_gradient_loss(logp, batch, knobs=KNOBS)[0]


OBJECTIVES = [pytest.param(sft_loss, id="sft"), pytest.param(surrogate_loss, id="rl")]


def loss_of(tiny: Tiny, objective: Objective) -> Callable[[Weights, Batch], jax.Array]:
  def loss(weights: Weights, batch: Batch) -> jax.Array:
    return objective(token_logprobs(tiny.graph, weights, batch, temperature=1.0, chunk=64)[0], batch)

  return loss


@pytest.fixture(scope="module", params=OBJECTIVES)
def differentiated(request: pytest.FixtureRequest, tiny: Tiny) -> Callable[[Weights, Batch], Any]:
  return jax.jit(jax.value_and_grad(loss_of(tiny, request.param)))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradient_is_zero_wherever_nothing_is_learnt(
  tiny: Tiny, batch: Batch, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
  """With respect to the log-probabilities, and to the residual stream that the logits come from.

  A token's logits stand at the place before it. What is never predicted, be it
  question, observation, padding or the first token of a packed trajectory,
  leaves no gradient at all.
  """
  logp, _ = scored(tiny.graph, tiny.weights, batch, temperature=1.0, chunk=7)
  gradient = np.asarray(jax.grad(objective)(logp, batch))
  assert np.all(gradient[batch.loss_mask == 0] == 0.0)
  assert np.any(gradient[batch.loss_mask == 1] != 0.0)

  plain = Decoder.__call__
  shape = (*batch.tokens.shape, tiny.config.width)

  def probed(nudge_BxTxD: jax.Array) -> jax.Array:
    with monkeypatch.context() as patch:
      patch.setattr(Decoder, "__call__", lambda self, *args, **how: plain(self, *args, **how) + nudge_BxTxD)
      return loss_of(tiny, objective)(tiny.weights, batch)

  found = np.abs(np.asarray(jax.jit(jax.grad(probed))(jnp.zeros(shape)))).max(axis=-1) > 0
  before = np.concatenate([gradient[:, 1:], np.zeros_like(gradient[:, :1])], axis=1)
  np.testing.assert_array_equal(found, before != 0.0)


def test_what_comes_after_the_last_turn_has_no_gradient(make_tiny: Callable[..., Tiny], batch: Batch) -> None:
  """The embedding of a token that no learnt token comes after gets none; all others do."""
  tiny = make_tiny(tied=False, layers=1)
  gradient = jax.jit(jax.grad(loss_of(tiny, sft_loss)))(tiny.weights, batch)
  reached = np.abs(np.asarray(gradient["embedding"][...])).max(axis=-1) > 0
  inputs = {*range(1, 10), *range(20, 25), *range(40, 52)}  # the last tokens are only predicted, 26 and 27 observed
  assert set(np.flatnonzero(reached)) == inputs


def test_gradient_agrees_with_finite_differences(
  tiny: Tiny, batch: Batch, differentiated: Callable[[Weights, Batch], Any]
) -> None:
  _, gradient = differentiated(tiny.weights, batch)
  step = 3e-3
  for seed in range(3):
    draws = np.random.default_rng(seed)
    way = jax.tree.map(lambda x, d=draws: jnp.asarray(d.normal(size=x.shape), x.dtype), tiny.weights)
    scale = step / jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(way)))
    move = functools.partial(jax.tree.map, lambda x, d, by: x + by * d)
    ahead, behind = (
      float(differentiated(move(tiny.weights, way, jax.tree.map(lambda _, s=s: s, way)), batch)[0])
      for s in (scale, -scale)
    )
    expected = float(sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, way)), strict=True)) * scale)
    assert (ahead - behind) / 2 == pytest.approx(expected, rel=0.03, abs=2e-6)


def test_micro_batches_add_up_to_the_whole(
  tiny: Tiny, rows: list[list[Example]], batch: Batch, differentiated: Callable[[Weights, Batch], Any]
) -> None:
  whole = differentiated(tiny.weights, batch)
  assert len(rows) == 2
  update = make_update(rows, length=20, micro=1, most=2)
  singles = [differentiated(tiny.weights, take_micro_batch(update, i)) for i in range(2)]
  total = jax.tree.map(jnp.add, *singles)
  for found, expected in zip(jax.tree.leaves(total), jax.tree.leaves(whole), strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
