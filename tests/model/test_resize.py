from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights, create
from score_jax.model.resize import with_vocabulary


def small(*, tied: bool) -> DecoderConfig:
  return DecoderConfig(
    vocab=50, width=32, layers=2, heads=4, kv_heads=2, head_width=8, mlp=64, context=64, qkv_bias=False, tied=tied
  )


def logits(config: DecoderConfig, weights: Weights) -> np.ndarray:
  tokens = jnp.array([[1, 49, 7, 7, 30]])
  model = nnx.merge(create(config, 0)[0], weights)
  return np.asarray(model.unembed(model(tokens, jnp.arange(5)[None], jnp.ones((1, 5), jnp.int32))))


def leaves(weights: Weights) -> list[np.ndarray]:
  return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(weights)]


@pytest.mark.parametrize("tied", [True, False])
def test_old_tokens_keep_their_logits_and_new_ones_are_about_average(tied: bool) -> None:
  config, weights = small(tied=tied), create(small(tied=tied), 1)[1]
  bigger, grown = with_vocabulary(config, weights, 53, multiple=8)
  assert bigger.vocab == 56
  before, after = logits(config, weights), logits(bigger, grown)
  np.testing.assert_allclose(after[..., :50], before, rtol=0, atol=1e-6)
  new, spread = after[..., 50:], before.std(axis=-1, keepdims=True)
  assert np.all(np.abs(new - before.mean(axis=-1, keepdims=True)) < spread)


def test_new_rows_differ_and_are_the_same_in_every_run() -> None:
  config, weights = small(tied=True), create(small(tied=True), 1)[1]
  first, second = (leaves(with_vocabulary(config, weights, 60, multiple=1)[1]) for _ in range(2))
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a, b)
  [table] = [leaf for leaf in first if leaf.shape == (60, 32)]
  assert len(np.unique(table[50:], axis=0)) == 10


@pytest.mark.parametrize(
  ("size", "multiple", "vocab"), [(50, 1, 50), (40, 1, 50), (50, 2, 50), (20, 8, 56), (51, 1, 51)]
)
def test_spare_rows_serve_first_and_it_never_shrinks(size: int, multiple: int, vocab: int) -> None:
  config, weights = small(tied=True), create(small(tied=True), 1)[1]
  bigger, grown = with_vocabulary(config, weights, size, multiple=multiple)
  assert bigger.vocab == vocab
  assert (grown is weights) == (vocab == 50)


def test_the_dtype_stays() -> None:
  config, weights = small(tied=False), create(small(tied=False), 1)[1]
  half = jax.tree_util.tree_map(lambda x: x.astype(jnp.bfloat16), weights)
  assert {leaf.dtype for leaf in leaves(with_vocabulary(config, half, 64, multiple=1)[1])} == {jnp.dtype(jnp.bfloat16)}
