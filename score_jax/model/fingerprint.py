"""A name for some weights: equal bits have equal checksums, on whatever mesh they lie.

Made where the weights are, in one pass: 32-bit sums that wrap do not hang on the order in which they are added.
"""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: odd multipliers of two sums
HASH_MULTIPLIERS = ((0x9E3779B1, 0x85EBCA6B), (0xC2B2AE35, 0x27D4EB2F))


def checksum_weights(weights: Any) -> str:
  """Sixteen hexadecimal digits over names, shapes, dtypes and bits of a tree of arrays."""
  leaves = jax.tree_util.tree_leaves_with_path(weights)
  sums = [jax.device_get(_sums(leaf)) for _, leaf in leaves]  # one by one: sums over processes hang where they queue
  digest = hashlib.sha256()
  for (path, leaf), found in zip(leaves, sums, strict=True):
    digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
    digest.update(np.asarray(found).tobytes())
  return digest.hexdigest()[:16]


@jax.jit
def _sums(x: jax.Array) -> jax.Array:
  """Two sums over the array's words, each mixed with its place; uint32 [2]."""
  words = jax.lax.bitcast_convert_type(x, np.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
  place = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):
    place = place * jnp.uint32(size % (1 << 32)) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  return jnp.stack([jnp.sum(_mixed(words, place, *pair), dtype=jnp.uint32) for pair in HASH_MULTIPLIERS])


def _mixed(words: jax.Array, place: jax.Array, first: int, second: int) -> jax.Array:
  """The words, so mixed with their places that swapping two of them, or adding to one what another loses, shows."""
  x = (words + place * jnp.uint32(first)) * jnp.uint32(second)
  x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(first)
  return x ^ (x >> jnp.uint32(13))
