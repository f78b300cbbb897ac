"""A checksum of weights: equal bits give equal checksums, on any mesh.

It is computed on the devices, in one pass. Sums of 32-bit integers that wrap do not depend on the order of addition.
"""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: two pairs of odd multipliers, one pair for each of two sums
HASH_MULTIPLIERS = ((0x9E3779B1, 0x85EBCA6B), (0xC2B2AE35, 0x27D4EB2F))


def checksum_weights(weights: Any) -> str:
  """Sixteen hexadecimal digits that depend on names, shapes, dtypes and bits of a tree of arrays."""
  leaves = jax.tree_util.tree_leaves_with_path(weights)
  # One leaf at a time: several queued sums over processes hang.
  sums = [jax.device_get(_sums(leaf)) for _, leaf in leaves]
  digest = hashlib.sha256()
  for (path, leaf), found in zip(leaves, sums, strict=True):
    digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
    digest.update(np.asarray(found).tobytes())
  return digest.hexdigest()[:16]


@jax.jit
def _sums(x: jax.Array) -> jax.Array:
  """Two sums over the array's words, each word mixed with its index; uint32 [2]."""
  words = jax.lax.bitcast_convert_type(x, np.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
  place = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):
    place = place * jnp.uint32(size % (1 << 32)) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  return jnp.stack([jnp.sum(_mixed(words, place, *pair), dtype=jnp.uint32) for pair in HASH_MULTIPLIERS])


def _mixed(words: jax.Array, place: jax.Array, first: int, second: int) -> jax.Array:
  """Mixes words with their indices, so that a swap of two words changes the sum, as does +1 here and -1 there."""
  x = (words + place * jnp.uint32(first)) * jnp.uint32(second)
  x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(first)
  return x ^ (x >> jnp.uint32(13))
