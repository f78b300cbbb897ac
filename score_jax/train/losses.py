"""Log-probabilities over packed batches, and every reduction of them that losses and metrics make.

A token's log-probability comes from the position before it, so a trajectory's
first token has none and can never carry loss. Every reduction is in float32 and
over `learnt` tokens only: at any other position the gradient is exactly zero.
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
  """The batch's part of the mean of x over the learnt tokens of its update."""
  return jnp.sum(jnp.where(batch.loss_mask > 0, x_BxT, 0.0)) / batch.denominator


def weighted_sum(x_BxT: jax.Array, batch: Batch) -> jax.Array:
  """The batch's part of the sum of x over the learnt tokens of its update, each by its share."""
  return jnp.sum(jnp.where(batch.loss_mask > 0, x_BxT * batch.loss_weight, 0.0))


def sequence_mean(x_BxT: jax.Array, batch: Batch) -> jax.Array:
  """At each token the mean of x over the learnt tokens of its trajectory, [B, T]; 0 where that has none."""
  count = sequence_sum(batch.loss_mask, batch.segments)
  return sequence_sum(x_BxT * batch.loss_mask, batch.segments) / jnp.maximum(count, 1.0)


@jax.custom_vjp
def sequence_sum(x_BxT: jax.Array, segments_BxT: jax.Array) -> jax.Array:
  """At each token the sum of x over the tokens of its segment, [B, T].

  It is its own transpose. Sums are running ones that begin anew with each segment, in an order that is fixed: no
  scattered addition, whose order a GPU does not promise.
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


def _sequence_sum(x_BxT: jax.Array, segments_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
  return sequence_sum(x_BxT, segments_BxT), segments_BxT


def _sequence_sum_gradient(segments_BxT: jax.Array, gradient_BxT: jax.Array) -> tuple[jax.Array, None]:
  return sequence_sum(gradient_BxT, segments_BxT), None


sequence_sum.defvjp(_sequence_sum, _sequence_sum_gradient)


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
  """Log-probability of each token and entropy of what it was drawn from, both float32 [B, T].

  The logits exist for `chunk` positions of each row at a time and are made again
  in the backward pass, so no array of [B, T, V] does, unless a chunk is a whole row. Position 0 gets 0.
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
  nothing = jnp.zeros((rows, 1), jnp.float32)
  whole = (part_PxBxC.swapaxes(0, 1).reshape(rows, count * chunk) for part_PxBxC in found)
  logp, entropy = (jnp.concatenate([nothing, part], axis=1)[:, :length] for part in whole)
  return logp, entropy


Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def logprob_and_entropy(
  x_MxD: jax.Array, table_VxD: jax.Array, target_M: jax.Array, temperature: float, keep: bool
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each target, and entropy, at the logits x table' / temperature; float32 [M].

  The backward pass makes the gradient of the logits in one go, where the derivative of the formula written out reads
  and writes an array of their size for each of its steps (on CPU that took longer than the products). It takes M
  positions along one axis: of a product that sums over two, XLA:CPU copies an operand in another order first.

  Args:
    keep: the logits are kept for the backward pass, which makes them again otherwise.
  """
  return _predict(x_MxD, table_VxD, target_M, temperature, keep)[0]


def _logits(x_MxD: jax.Array, table_VxD: jax.Array, temperature: float) -> jax.Array:
  return jnp.einsum("md,vd->mv", x_MxD, table_VxD, preferred_element_type=jnp.float32) / temperature


def _predict(
  x_MxD: jax.Array, table_VxD: jax.Array, target_M: jax.Array, temperature: float, keep: bool
) -> tuple[tuple[jax.Array, jax.Array], Residuals]:
  z_MxV = _logits(x_MxD, table_VxD, temperature)
  highest_Mx1 = jnp.max(z_MxV, axis=-1, keepdims=True)
  weight_MxV = jnp.exp(z_MxV - highest_Mx1)
  total_M = jnp.sum(weight_MxV, axis=-1)
  normalizer_M = highest_Mx1[..., 0] + jnp.log(total_M)
  entropy_M = normalizer_M - jnp.sum(weight_MxV * z_MxV, axis=-1) / total_M
  logp_M = jnp.take_along_axis(z_MxV, target_M[..., None], axis=-1)[..., 0] - normalizer_M
  kept = z_MxV if keep else None
  return (logp_M, entropy_M), (x_MxD, table_VxD, target_M, normalizer_M, entropy_M, kept)


def _predict_gradient(
  temperature: float, keep: bool, residuals: Residuals, gradients: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, None]:
  """With p the probabilities and h the entropy: d logp = onehot - p, d h = -p (log p + h)."""
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


logprob_and_entropy.defvjp(_predict, _predict_gradient)


def sft_loss(logp_BxT: jax.Array, batch: Batch) -> jax.Array:
  """Mean negative log-likelihood of the learnt tokens (paper, SFT)."""
  return -weighted_sum(logp_BxT, batch)
