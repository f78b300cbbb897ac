"""Room in the embedding for tokens that a model did not come with."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from score_jax.mesh.sharding import path_name
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights

NOISE = 0.1  # of each column's standard deviation: tells new rows apart, and leaves their logits near the mean one
SEED = 0


def with_vocabulary(
  config: DecoderConfig, weights: Weights, size: int, *, multiple: int
) -> tuple[DecoderConfig, Weights]:
  """The decoder with at least `size` rows in its embedding (and unembedding), their number a multiple of `multiple`.

  Rows that it has to spare serve first: where they suffice it is returned as it
  is, and it never shrinks. A new row is the mean of the old ones and a little noise, the same
  in every run, so that a new token is at first about as likely as the average one.
  """
  if size <= config.vocab and config.vocab % multiple == 0:
    return config, weights
  vocab = -(-max(size, config.vocab) // multiple) * multiple

  def grown(path: Any, leaf: jax.Array) -> jax.Array:
    if path_name(path)[-1] not in ("embedding", "unembedding"):
      return leaf
    rows = leaf.astype(jnp.float32)
    noise = jax.random.normal(jax.random.key(SEED), (vocab - config.vocab, config.width))
    new = jnp.mean(rows, axis=0, keepdims=True) + NOISE * jnp.std(rows, axis=0, keepdims=True) * noise
    return jnp.concatenate([leaf, new.astype(leaf.dtype)])

  return dataclasses.replace(config, vocab=vocab), jax.tree_util.tree_map_with_path(grown, weights)
