"""The decoder against itself run in other ways, and against numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from score_jax.model import attention, decoder
from score_jax.model.attention import blockwise_attention
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, Weights
from tests.conftest import Tiny


def hidden(graph: nnx.GraphDef[Decoder], weights: Weights, tokens: Any, positions: Any, segments: Any) -> jax.Array:
  return nnx.merge(graph, weights)(tokens, positions, segments)


run = jax.jit(hidden, static_argnums=0)
ROW = 40


def alone(tiny: Tiny, tokens: np.ndarray) -> np.ndarray:
  """The normed residual stream [T, D] of one sequence in a row of its own, whose end is padding."""
  row, segments = np.zeros((1, ROW), np.int32), np.zeros((1, ROW), np.int32)
  row[0, : len(tokens)], segments[0, : len(tokens)] = tokens, 1
  return np.asarray(run(tiny.graph, tiny.weights, row, np.arange(ROW)[None], segments)[0, : len(tokens)])


def draw(length: int, *, seed: int = 0, vocab: int = 64) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, vocab, length).astype(np.int32)


# Cached steps


@pytest.mark.parametrize("chunks", [(7, 9, 7), (1,) * 23], ids=["chunks", "tokens"])
def test_cached_steps_give_the_full_forward(tiny: Tiny, chunks: tuple[int, ...]) -> None:
  rows = np.stack([draw(23, seed=1), draw(23, seed=2)])
  full = np.stack([alone(tiny, row) for row in rows])
  slots = np.array([2, 0])
  cache = tiny.model.empty_cache(3, 32, block=16)
  step = jax.jit(
    lambda weights, *args, blocks: nnx.merge(tiny.graph, weights).step(*args, blocks=blocks), static_argnames="blocks"
  )
  found, at = [], 0
  for size in chunks:
    positions = np.broadcast_to(np.arange(at, at + size), (2, size))
    x, cache = step(tiny.weights, rows[:, at : at + size], positions, cache, slots, blocks=1 if at + size < 16 else 2)
    found.append(x)
    at += size
  np.testing.assert_allclose(np.concatenate(found, axis=1), full, rtol=0, atol=1e-5 * np.abs(full).max())
  assert not any(np.any(part[1]) for part in jax.tree.leaves(cache)), "a slot that was not stepped holds something"


def test_a_step_writes_nothing_for_padding(tiny: Tiny) -> None:
  row = draw(8)[None]
  beyond, outside = np.array([3]), np.arange(8)[None]
  step = jax.jit(lambda *args: tiny.model.step(*args, blocks=2)[1])
  for positions, slots in ((outside, beyond), (np.full_like(outside, 16), np.array([1]))):
    cache = step(row, positions, tiny.model.empty_cache(3, 16, block=8), slots)
    assert not any(np.any(part) for part in jax.tree.leaves(cache))


# Packing


def packed(*lengths: int, total: int, vocab: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Tokens, positions and segments of one row, [1, total] each."""
  tokens, positions, segments = (np.zeros((1, total), np.int32) for _ in range(3))
  at = 0
  for number, length in enumerate(lengths, start=1):
    tokens[0, at : at + length] = draw(length, seed=number, vocab=vocab)
    positions[0, at : at + length] = np.arange(length)
    segments[0, at : at + length] = number
    at += length
  return tokens, positions, segments


def test_packed_rows_are_the_rows_unpacked(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(attention, "QUERY_BLOCK_SIZE", 16)
  tokens, positions, segments = packed(9, 5, 11, total=32)
  found = np.asarray(jax.jit(tiny.model)(tokens, positions, segments))[0]
  for number in (1, 2, 3):
    here = segments[0] == number
    expected = alone(tiny, tokens[0, here])
    np.testing.assert_allclose(found[here], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_no_gradient_reaches_another_packed_trajectory(
  make_tiny: Callable[..., Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
  """Each of the three trajectories and the padding has tokens of its own, so rows of the embedding tell them apart."""
  monkeypatch.setattr(attention, "QUERY_BLOCK_SIZE", 16)
  tiny = make_tiny(tied=False)
  tokens, positions, segments = packed(9, 5, 11, total=32, vocab=16)
  tokens += 16 * segments

  def seen(weights: Weights, segment: jax.Array) -> jax.Array:
    x = hidden(tiny.graph, weights, tokens, positions, segments)
    return jnp.sum(jnp.where((segments == segment)[..., None], jnp.square(x), 0.0))

  gradient = jax.jit(jax.grad(seen))
  for segment in (1, 2, 3):
    rows = np.asarray(gradient(tiny.weights, segment)["embedding"][...]).reshape(4, 16, -1)
    reached = np.abs(rows).max(axis=(1, 2)) > 0
    assert reached.tolist() == [number == segment for number in range(4)]


# Attention


def test_attention_in_blocks_is_one_softmax() -> None:
  b, t, n, k, h = 2, 300, 4, 2, 8
  draws = np.random.default_rng(0)
  q, keys, values = (draws.normal(0, 2, s).astype(np.float32) for s in ((b, t, n, h), (b, k, t, h), (b, k, t, h)))
  segments = np.repeat([[1, 2, 3], [1, 2, 0]], 100, axis=1)
  expected = np.zeros((b, t, n, h))
  for row in range(b):
    visible = (segments[row][:, None] == segments[row]) & np.tri(t, dtype=bool)
    for head in range(n):
      group = head // (n // k)
      scores = q[row, :, head].astype(np.float64) @ keys[row, group].T / np.sqrt(h)
      weights = np.exp(scores - scores.max(axis=-1, keepdims=True)) * visible
      expected[row, :, head] = weights / weights.sum(axis=-1, keepdims=True) @ values[row, group]
  np.testing.assert_allclose(jax.jit(blockwise_attention)(q, keys, values, segments), expected, rtol=0, atol=2e-5)


def test_nothing_depends_on_what_comes_later(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
  """All tokens differ, so the embedding's rows are the places: the gradient of place t reaches rows 0..t, no others."""
  monkeypatch.setattr(attention, "QUERY_BLOCK_SIZE", 5)
  t = 8
  row = np.arange(t, dtype=np.int32)[None]

  def one(weights: Weights, place: jax.Array) -> jax.Array:
    x = hidden(tiny.graph, weights, row, np.arange(t)[None], np.ones_like(row))
    return jnp.sum(jnp.square(x[0, place]))

  gradients = jax.jit(jax.vmap(jax.grad(one), in_axes=(None, 0)))(tiny.weights, jnp.arange(t))
  reached = np.abs(np.asarray(gradients["embedding"][...])).max(axis=-1)[:, :t] > 0
  np.testing.assert_array_equal(reached, np.tri(t, dtype=bool))


# First weights


def test_the_seed_decides_the_first_weights(make_tiny: Callable[..., Tiny]) -> None:
  config = make_tiny(layers=1).config
  one, again, other = (jax.tree.leaves(decoder.init_decoder(config, seed)[1]) for seed in (0, 0, 1))
  assert [x.shape for x in one] == [x.shape for x in jax.tree.leaves(decoder.abstract_decoder(config)[1])]
  assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
  assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# Counts


@pytest.mark.parametrize("field", ["qkv_bias", "qk_norm", "tied"])
@pytest.mark.parametrize("value", [True, False])
def test_parameters_are_the_sizes_added_up(make_tiny: Callable[..., Tiny], field: str, value: bool) -> None:
  tiny = make_tiny(**{field: value})
  assert tiny.config.parameters == sum(leaf.size for leaf in jax.tree.leaves(tiny.weights))


def test_flops_are_those_counted_by_hand() -> None:
  """One token, 10 tokens in sight: multiply and add of each weight, of its scores and of what it mixes."""
  config = DecoderConfig(
    vocab=100, width=8, layers=3, heads=4, kv_heads=2, head_width=2, mlp=16, context=64, qkv_bias=False
  )
  projections = 8 * 8 + 2 * 8 * 4 + 8 * 8  # query, key and value, out
  layer = 2 * (projections + 3 * 8 * 16 + 2 * 8) + 2 * 2 * (10 * 8)
  expected = 3 * layer + 2 * (8 + 100 * 8)
  assert config.flops_per_token(10) == expected
  assert dataclasses.replace(config, tied=False).flops_per_token(10) == expected, "looking a token up costs nothing"
