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
def test_a_new_token_has_the_mean_logit_of_what_spelled_it(tied: bool) -> None:
  config, weights = small(tied=tied), create(small(tied=tied), 1)[1]
  bigger, grown = with_vocabulary(config, weights, 52, multiple=8, spelled={50: [3, 4, 9], 51: [7]})
  assert bigger.vocab == 56
  before, after = logits(config, weights), logits(bigger, grown)
  np.testing.assert_allclose(after[..., :50], before, rtol=0, atol=1e-6)
  np.testing.assert_allclose(after[..., 50], before[..., [3, 4, 9]].mean(-1), rtol=0, atol=1e-6)
  np.testing.assert_allclose(after[..., 51], before[..., 7], rtol=0, atol=1e-6)
  np.testing.assert_allclose(after[..., 52:], before.mean(-1, keepdims=True).repeat(4, -1), rtol=0, atol=1e-6)


def test_a_new_token_may_stand_in_a_row_to_spare() -> None:
  config, weights = small(tied=True), create(small(tied=True), 1)[1]
  bigger, grown = with_vocabulary(config, weights, 50, multiple=2, spelled={48: [3, 5]})
  assert bigger == config
  [old], [new] = ([leaf for leaf in leaves(w) if leaf.shape == (50, 32)] for w in (weights, grown))
  np.testing.assert_allclose(new[48], (old[3] + old[5]) / 2, rtol=1e-6)
  np.testing.assert_array_equal(np.delete(new, 48, axis=0), np.delete(old, 48, axis=0))


@pytest.mark.parametrize(
  ("size", "multiple", "vocab"), [(50, 1, 50), (40, 1, 50), (50, 2, 50), (20, 8, 56), (51, 1, 51)]
)
def test_spare_rows_serve_first_and_it_never_shrinks(size: int, multiple: int, vocab: int) -> None:
  config, weights = small(tied=True), create(small(tied=True), 1)[1]
  bigger, grown = with_vocabulary(config, weights, size, multiple=multiple, spelled={})
  assert bigger.vocab == vocab
  assert (grown is weights) == (vocab == 50)


def test_the_dtype_stays() -> None:
  config, weights = small(tied=False), create(small(tied=False), 1)[1]
  half = jax.tree_util.tree_map(lambda x: x.astype(jnp.bfloat16), weights)
  _, grown = with_vocabulary(config, half, 64, multiple=1, spelled={50: [1, 2]})
  assert {leaf.dtype for leaf in leaves(grown)} == {jnp.dtype(jnp.bfloat16)}
