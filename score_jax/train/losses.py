"""Log-probabilities over packed batches, and the sums and means of them that losses and metrics need.

The log-probability of a token comes from the position before it. So the first token of a trajectory has none, and never
carries loss. Every sum and mean is in float32 and over tokens under the loss mask only: at any other position the
gradient is exactly zero.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from score_jax.model.attention import RowAttention, blockwise_attention
from score_jax.model.decoder import Decoder, Weights
from score_jax.train.batch import Batch


def masked_mean(x_BxT: jax.Array, batch: Batch) -> jax.Array:
  """The batch's part of the mean of x over the loss-mask tokens of its update, float32 []."""
  return jnp.sum(jnp.where(batch.loss_mask > 0, x_BxT, 0.0)) / batch.denominator


def weighted_sum(x_BxT: jax.Array, batch: Batch) -> jax.Array:
  """The batch's part of the sum of x times `loss_weight` over the loss-mask tokens of its update, float32 []."""
  return jnp.sum(jnp.where(batch.loss_mask > 0, x_BxT * batch.loss_weight, 0.0))


def sequence_mean(x_BxT: jax.Array, batch: Batch) -> jax.Array:
  """At each token the mean of x over the loss-mask tokens of its trajectory, [B, T]; 0 if it has none."""
  count = sequence_sum(batch.loss_mask, batch.segments)
  return sequence_sum(x_BxT * batch.loss_mask, batch.segments) / jnp.maximum(count, 1.0)


@jax.custom_vjp
def sequence_sum(x_BxT: jax.Array, segments_BxT: jax.Array) -> jax.Array:
  """At each token the sum of x over the tokens of its segment, [B, T].

  The operation is its own transpose. It is a running sum that restarts at each segment, in a fixed order: not a
  scatter-add, whose order is not deterministic on a GPU.
  """
  length = x_BxT.shape[1]
  edge = jnp.ones_like(segments_BxT[:, :1], bool)
  inner = segments_BxT[:, 1:] != segments_BxT[:, :-1]
  begins, ends = (jnp.concatenate(parts, axis=1) for parts in ((edge, inner), (inner, edge)))

  def join(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return jnp.where(b[1], b[0], a[0] + b[0]), a[1] | b[1]

  running, _ = jax.lax.associative_scan(join, (x_BxT, begins), axis=1)
  last = jax.lax.cummin(jnp.where(ends, jnp.arange(length)[None], length), axis=1, reverse=True)
  return jnp.take_along_axis(running, last, axis=1)


def _sequence_sum_forward(x_BxT: jax.Array, segments_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
  return sequence_sum(x_BxT, segments_BxT), segments_BxT


def _sequence_sum_backward(segments_BxT: jax.Array, gradient_BxT: jax.Array) -> tuple[jax.Array, None]:
  return sequence_sum(gradient_BxT, segments_BxT), None


sequence_sum.defvjp(_sequence_sum_forward, _sequence_sum_backward)


def token_logprobs(
  graph: nnx.GraphDef[Decoder],
  weights: Weights,
  batch: Batch,
  *,
  temperature: float,
  chunk: int,
  mix: RowAttention = blockwise_attention,
  remat: str = "none",
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each token, and entropy of its distribution, both float32 [B, T]; 0 at position 0.

  Logits are in memory for `chunk` positions of each row at a time, and are recomputed in the backward pass. So there is
  no array [B, T, V], unless a chunk is a whole row.
  """
  model = nnx.merge(graph, weights)
  x_BxTxD = model(batch.tokens, batch.positions, batch.segments, mix=mix, remat=remat)
  rows, length, width = x_BxTxD.shape
  chunk = min(chunk, length)
  count = -(-length // chunk)
  targets = jnp.concatenate([batch.tokens[:, 1:], jnp.zeros_like(batch.tokens[:, :1])], axis=1)
  fill = count * chunk - length
  x_PxBxCxD = jnp.pad(x_BxTxD, ((0, 0), (0, fill), (0, 0))).reshape(rows, count, chunk, width).swapaxes(0, 1)
  target_PxBxC = jnp.pad(targets, ((0, 0), (0, fill))).reshape(rows, count, chunk).swapaxes(0, 1)

  def piece(_: None, one: tuple[jax.Array, jax.Array]) -> tuple[None, tuple[jax.Array, ...]]:
    x_BxCxD, target_BxC = one
    found: Any = logprob_and_entropy(
      x_BxCxD.reshape(-1, width), model.unembedding_table, target_BxC.reshape(-1), temperature, count == 1
    )
    return None, tuple(part_M.reshape(rows, chunk) for part_M in found)

  _, found = jax.lax.scan(piece, None, (x_PxBxCxD, target_PxBxC))
  zeros = jnp.zeros((rows, 1), jnp.float32)
  whole = (part_PxBxC.swapaxes(0, 1).reshape(rows, count * chunk) for part_PxBxC in found)
  logp, entropy = (jnp.concatenate([zeros, part], axis=1)[:, :length] for part in whole)
  return logp, entropy


Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def logprob_and_entropy(
  x_MxD: jax.Array, table_VxD: jax.Array, target_M: jax.Array, temperature: float, keep: bool
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each target, and entropy, at the logits x table' / temperature; float32 [M].

  The backward pass computes the gradient of the logits in one step. Automatic differentiation reads and writes an
  array of the logits' size at each of its steps, which took longer than the matrix products on CPU. The M positions are
  one axis: XLA:CPU copies an operand of a product that sums over two axes.

  Args:
    keep: keep the logits for the backward pass instead of recomputing them.
  """
  return _forward(x_MxD, table_VxD, target_M, temperature, keep)[0]


def _logits(x_MxD: jax.Array, table_VxD: jax.Array, temperature: float) -> jax.Array:
  return jnp.einsum("md,vd->mv", x_MxD, table_VxD, preferred_element_type=jnp.float32) / temperature


def _forward(
  x_MxD: jax.Array, table_VxD: jax.Array, target_M: jax.Array, temperature: float, keep: bool
) -> tuple[tuple[jax.Array, jax.Array], Residuals]:
  """(log-probability, entropy), and what the backward pass needs."""
  z_MxV = _logits(x_MxD, table_VxD, temperature)
  highest_Mx1 = jnp.max(z_MxV, axis=-1, keepdims=True)
  weight_MxV = jnp.exp(z_MxV - highest_Mx1)
  total_M = jnp.sum(weight_MxV, axis=-1)
  normalizer_M = highest_Mx1[..., 0] + jnp.log(total_M)
  entropy_M = normalizer_M - jnp.sum(weight_MxV * z_MxV, axis=-1) / total_M
  logp_M = jnp.take_along_axis(z_MxV, target_M[..., None], axis=-1)[..., 0] - normalizer_M
  kept = z_MxV if keep else None
  return (logp_M, entropy_M), (x_MxD, table_VxD, target_M, normalizer_M, entropy_M, kept)


def _backward(
  temperature: float, keep: bool, residuals: Residuals, gradients: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, None]:
  """Gradients. With p the probabilities and h the entropy: d logp = onehot - p, d h = -p (log p + h)."""
  del keep
  x_MxD, table_VxD, target_M, normalizer_M, entropy_M, kept = residuals
  of_logp, of_entropy = (g[..., None] for g in gradients)
  z_MxV = _logits(x_MxD, table_VxD, temperature) if kept is None else kept
  logp_MxV = z_MxV - normalizer_M[..., None]
  pull = of_logp + of_entropy * (logp_MxV + entropy_M[..., None])
  hit = jnp.arange(len(table_VxD))[None] == target_M[..., None]
  dz_MxV = (jnp.where(hit, of_logp, 0.0) - jnp.exp(logp_MxV) * pull) / temperature
  dz_MxV = dz_MxV.astype(x_MxD.dtype)
  dx_MxD = jnp.einsum("mv,vd->md", dz_MxV, table_VxD)
  return dx_MxD, jnp.einsum("mv,md->vd", dz_MxV, x_MxD), None


logprob_and_entropy.defvjp(_forward, _backward)


def sft_loss(logp_BxT: jax.Array, batch: Batch) -> jax.Array:
  """Mean negative log-likelihood of the loss-mask tokens (paper, SFT)."""
  return -weighted_sum(logp_BxT, batch)
