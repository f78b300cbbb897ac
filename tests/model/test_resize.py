from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights, init_decoder
from score_jax.model.pretrained import init_new_tokens, pad_vocab
from score_jax.model.sharding import leaf_path, weight_shardings


def small(*, tied: bool) -> DecoderConfig:
  return DecoderConfig(
    vocab=50, width=32, layers=2, heads=4, kv_heads=2, head_width=8, mlp=64, context=64, qkv_bias=False, tied=tied
  )


def logits(config: DecoderConfig, weights: Weights) -> np.ndarray:
  tokens = jnp.array([[1, 49, 7, 7, 30]])
  model = nnx.merge(init_decoder(config, 0)[0], weights)
  return np.asarray(model.unembed(model(tokens, jnp.arange(5)[None], jnp.ones((1, 5), jnp.int32))))


def grow(config: DecoderConfig, weights: Weights, size: int, *, multiple: int, spelled: dict[int, list[int]]) -> Any:
  """The decoder with rows for more tokens, as one is loaded: zeros first, then what they begin with."""
  bigger = pad_vocab(config, size, multiple=multiple)

  def padded(path: Any, leaf: jax.Array) -> jax.Array:
    table = leaf_path(path)[-1] in ("embedding", "unembedding")
    return jnp.pad(leaf, ((0, bigger.vocab - config.vocab), (0, 0))) if table else leaf.copy()

  weights = jax.tree_util.tree_map_with_path(padded, weights)
  return bigger, init_new_tokens(weights, known=config.vocab, spelled=spelled)


def leaves(weights: Weights) -> list[np.ndarray]:
  return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(weights)]


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_token_has_the_mean_logit_of_what_spelled_it(tied: bool) -> None:
  config, weights = small(tied=tied), init_decoder(small(tied=tied), 1)[1]
  bigger, grown = grow(config, weights, 52, multiple=8, spelled={50: [3, 4, 9], 51: [7]})
  assert bigger.vocab == 56
  before, after = logits(config, weights), logits(bigger, grown)
  np.testing.assert_allclose(after[..., :50], before, rtol=0, atol=1e-6)
  np.testing.assert_allclose(after[..., 50], before[..., [3, 4, 9]].mean(-1), rtol=0, atol=1e-6)
  np.testing.assert_allclose(after[..., 51], before[..., 7], rtol=0, atol=1e-6)
  np.testing.assert_allclose(after[..., 52:], before.mean(-1, keepdims=True).repeat(4, -1), rtol=0, atol=1e-6)


def test_a_new_token_may_stand_in_a_row_to_spare() -> None:
  config, weights = small(tied=True), init_decoder(small(tied=True), 1)[1]
  bigger, grown = grow(config, weights, 50, multiple=2, spelled={48: [3, 5]})
  assert bigger == config
  [old], [new] = ([leaf for leaf in leaves(w) if leaf.shape == (50, 32)] for w in (weights, grown))
  np.testing.assert_allclose(new[48], (old[3] + old[5]) / 2, rtol=1e-6)
  np.testing.assert_array_equal(np.delete(new, 48, axis=0), np.delete(old, 48, axis=0))


@pytest.mark.parametrize(
  ("size", "multiple", "vocab"), [(50, 1, 50), (40, 1, 50), (50, 2, 50), (20, 8, 56), (51, 1, 51)]
)
def test_spare_rows_serve_first_and_it_never_shrinks(size: int, multiple: int, vocab: int) -> None:
  config, weights = small(tied=True), init_decoder(small(tied=True), 1)[1]
  bigger, grown = grow(config, weights, size, multiple=multiple, spelled={})
  assert bigger.vocab == vocab and all(leaf.shape != (50, 32) or vocab == 50 for leaf in leaves(grown))


def test_what_is_no_embedding_is_not_copied_and_the_embedding_keeps_its_place(eight_devices: Mesh) -> None:
  config, weights = small(tied=False), init_decoder(dataclasses.replace(small(tied=False), vocab=64), 1)[1]
  weights = jax.device_put(weights, weight_shardings(eight_devices, weights))
  before = dict(jax.tree_util.tree_leaves_with_path(weights))
  mean = np.asarray(weights["unembedding"][...])[:50].mean(0)
  grown = init_new_tokens(weights, known=config.vocab, spelled={50: [1, 2]})
  for path, leaf in jax.tree_util.tree_leaves_with_path(grown):
    assert leaf.sharding == before[path].sharding
    assert (leaf is before[path]) == (leaf_path(path)[-1] not in ("embedding", "unembedding"))
  np.testing.assert_allclose(grown["unembedding"][...][51:], np.broadcast_to(mean, (13, 32)), rtol=0, atol=1e-7)


def test_the_dtype_stays() -> None:
  config, weights = small(tied=False), init_decoder(small(tied=False), 1)[1]
  half = jax.tree_util.tree_map(lambda x: x.astype(jnp.bfloat16), weights)
  _, grown = grow(config, half, 64, multiple=1, spelled={50: [1, 2]})
  assert {leaf.dtype for leaf in leaves(grown)} == {jnp.dtype(jnp.bfloat16)}
