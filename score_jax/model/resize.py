"""Room in the embedding for tokens that a model did not come with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from score_jax.mesh.sharding import path_name
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights


def with_vocabulary(
  config: DecoderConfig, weights: Weights, size: int, *, multiple: int, spelled: Mapping[int, Sequence[int]]
) -> tuple[DecoderConfig, Weights]:
  """The decoder with at least `size` rows in its embedding (and unembedding), their number a multiple of `multiple`.

  Rows that it has to spare serve first, and it never shrinks. A new token
  begins as the mean of the old ones that used to spell it: it is told from the
  others by what it says, so that a few updates teach a tied model to write it.
  (At the mean of all rows SmolLM2-135M wrote no tag after twenty updates; see
  benchmarks/LOG.md.) Rows that no token has are the mean of all.

  Args:
    spelled: new token -> old tokens; both kinds of ids may be anywhere below `size`.
  """
  vocab = -(-max(size, config.vocab) // multiple) * multiple
  if vocab == config.vocab and not spelled:
    return config, weights

  def grown(path: Any, leaf: jax.Array) -> jax.Array:
    if path_name(path)[-1] not in ("embedding", "unembedding"):
      return leaf
    old = leaf.astype(jnp.float32)
    rest = jnp.broadcast_to(old.mean(axis=0), (vocab - config.vocab, config.width))
    table = jnp.concatenate([leaf, rest.astype(leaf.dtype)])
    for token, pieces in spelled.items():
      table = table.at[token].set(old[jnp.array(pieces)].mean(axis=0).astype(leaf.dtype))
    return table

  return dataclasses.replace(config, vocab=vocab), jax.tree_util.tree_map_with_path(grown, weights)
