"""Attention: with a mask over the KV cache, and causal within segments over whole rows.

`train.attention` selects one of `ROW_ATTENTIONS` for whole rows; all compute the same. "auto" takes the platform's own:

    blocks      queries in blocks, which compute no later keys; by far the fastest on CPU
    xla         jax.nn.dot_product_attention, the reference
    cudnn       the same with cuDNN's fused kernel (GPU, 16-bit)
    splash      JAX's own fused kernel for TPU
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec

from score_jax.errors import UserError
from score_jax.model.sharding import current_mesh, partition_spec

MASK_VALUE = -1e30  # finite, so that a row with no visible key stays finite
QUERY_BLOCK_SIZE = 128  # measured on two CPU cores: 3 to 4 times faster than 512 queries at once
TPU_LANES = 128  # lanes of a TPU's vector unit; splash needs a head width that is a multiple

RowAttention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def masked_attention(
  q_BxTxNxH: jax.Array, keys: Sequence[jax.Array], values: Sequence[jax.Array], visible_BxTxS: jax.Array
) -> jax.Array:
  """Grouped-query attention with an explicit mask; returns [B, T, N, H].

  Keys and values come in blocks of s of the S positions, [B, K, H, s] and [B, K, s, H]. The results of blocks are added
  from left to right. So the result of a query has the same bits, however many blocks follow those that it sees.
  """
  b, t, n, h = q_BxTxNxH.shape
  kv = keys[0].shape[1]
  group = n // kv  # queries that share a key head are rows of one matrix product
  q = q_BxTxNxH.reshape(b, t, kv, group, h).transpose(0, 2, 3, 1, 4).reshape(b, kv, group * t, h)
  ends = itertools.accumulate(block.shape[3] for block in keys)

  def score(k_BxKxHxs: jax.Array, end: int) -> jax.Array:
    scores = jnp.einsum("bkqh,bkhs->bkqs", q, k_BxKxHxs, preferred_element_type=jnp.float32) * h**-0.5
    visible = visible_BxTxS[:, None, None, :, end - k_BxKxHxs.shape[3] : end]
    return jnp.where(visible, scores.reshape(b, kv, group, t, -1), MASK_VALUE).reshape(b, kv, group * t, -1)

  def mix(weights: jax.Array, v_BxKxsxH: jax.Array) -> jax.Array:
    return jnp.einsum("bkqs,bksh->bkqh", weights.astype(v_BxKxsxH.dtype), v_BxKxsxH, preferred_element_type=jnp.float32)

  scores = list(map(score, keys, ends))
  highest = functools.reduce(jnp.maximum, [jnp.max(x, axis=-1, keepdims=True) for x in scores])
  weights = [jnp.exp(x - jax.lax.stop_gradient(highest)) for x in scores]
  total = functools.reduce(jnp.add, [jnp.sum(w, axis=-1, keepdims=True) for w in weights])
  mixed = functools.reduce(jnp.add, map(mix, weights, values))
  mixed = (mixed / total).astype(values[0].dtype)
  return mixed.reshape(b, kv, group, t, h).transpose(0, 3, 1, 2, 4).reshape(b, t, n, h)


def select_row_attention(name: str, platform: str, dtype: str) -> RowAttention:
  """The attention over whole rows that a config names.

  It maps q [B, T, N, H], k and v [B, K, T, H] and segments [B, T] to an array like q.


  Args:
    platform: of the devices: cpu, gpu, tpu.
    dtype: of the forward pass; cuDNN's kernel takes 16 bits only.
  """
  if name == "auto":
    name = {"cpu": "blocks", "gpu": "xla" if dtype == "float32" else "cudnn", "tpu": "splash"}.get(platform, "xla")
  if name not in ROW_ATTENTIONS:
    raise UserError(f"train.attention = {name!r}; choose auto, {', '.join(ROW_ATTENTIONS)}")
  return ROW_ATTENTIONS[name]


def blockwise_attention(
  q_BxTxNxH: jax.Array, k_BxKxTxH: jax.Array, v_BxKxTxH: jax.Array, segments_BxT: jax.Array
) -> jax.Array:
  """Attention one block of queries at a time; keys after the block are not computed."""
  t = q_BxTxNxH.shape[1]
  mixed = []
  for start in range(0, t, QUERY_BLOCK_SIZE):
    end = min(start + QUERY_BLOCK_SIZE, t)
    causal = jnp.arange(start, end)[:, None] >= jnp.arange(end)[None]
    visible = causal[None] & (segments_BxT[:, start:end, None] == segments_BxT[:, None, :end])
    mixed.append(
      masked_attention(
        q_BxTxNxH[:, start:end], [k_BxKxTxH[:, :, :end].swapaxes(2, 3)], [v_BxKxTxH[:, :, :end]], visible
      )
    )
  return jnp.concatenate(mixed, axis=1)


def reference_attention(
  q_BxTxNxH: jax.Array,
  k_BxKxTxH: jax.Array,
  v_BxKxTxH: jax.Array,
  segments_BxT: jax.Array,
  *,
  implementation: Literal["xla", "cudnn"] = "xla",
) -> jax.Array:
  """jax.nn.dot_product_attention with the segments as a mask."""
  same = segments_BxT[:, None, :, None] == segments_BxT[:, None, None, :]
  k, v = k_BxKxTxH.transpose(0, 2, 1, 3), v_BxKxTxH.transpose(0, 2, 1, 3)
  return jax.nn.dot_product_attention(q_BxTxNxH, k, v, mask=same, is_causal=True, implementation=implementation)


def tpu_splash_attention(
  q_BxTxNxH: jax.Array,
  k_BxKxTxH: jax.Array,
  v_BxKxTxH: jax.Array,
  segments_BxT: jax.Array,
  *,
  interpret: bool = False,
) -> jax.Array:
  """The fused TPU kernel on each device's own rows and heads; heads are zero-padded to a multiple of `TPU_LANES`."""
  t, n, h = q_BxTxNxH.shape[1:]
  wide = [(0, 0)] * 3 + [(0, -h % TPU_LANES)]
  q, k, v = (jnp.pad(x, wide) for x in (q_BxTxNxH.transpose(0, 2, 1, 3) * h**-0.5, k_BxKxTxH, v_BxKxTxH))

  def one(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> Any:
    mask = splash_attention.MultiHeadMask([splash_attention.CausalMask((t, t))] * q.shape[1])
    kernel = splash_attention.make_splash_mha_single_device(mask, interpret=interpret)
    return jax.vmap(kernel)(q, k, v, splash_attention.SegmentIds(segments, segments))

  mesh = current_mesh()
  if mesh is not None:
    heads = "heads" if k.shape[1] % mesh.shape["tensor"] == 0 else None
    if heads is None:  # key heads do not divide: each device gets a copy of the keys of its query heads
      k, v = (jnp.repeat(x, n // x.shape[1], axis=1) for x in (k, v))
    spec: PartitionSpec = partition_spec("rows", "heads" if n % mesh.shape["tensor"] == 0 else None, None, None)
    one = jax.shard_map(
      one, mesh=mesh, in_specs=(spec,) * 3 + (partition_spec("rows", None),), out_specs=spec, check_vma=False
    )
  return one(q, k, v, segments_BxT)[..., :h].transpose(0, 2, 1, 3)


ROW_ATTENTIONS: dict[str, RowAttention] = {
  "blocks": blockwise_attention,
  "xla": reference_attention,
  "cudnn": functools.partial(reference_attention, implementation="cudnn"),
  "splash": tpu_splash_attention,
}
