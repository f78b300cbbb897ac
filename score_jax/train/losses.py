"""Losses over packed batches, as pure functions of log-probabilities; and those log-probabilities.

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

from score_jax.model.attention import Rows, blocks
from score_jax.model.decoder import Decoder, Weights
from score_jax.train.batch import Batch


def learnt_mean(x: jax.Array, batch: Batch) -> jax.Array:
  """The batch's part of the mean of x over the learnt tokens of its update."""
  return jnp.sum(jnp.where(batch.learnt > 0, x, 0.0)) / batch.denominator


def token_logprobs(
  graph: nnx.GraphDef[Decoder],
  weights: Weights,
  batch: Batch,
  *,
  temperature: float,
  chunk: int,
  mix: Rows = blocks,
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
    found: Any = predict(x_BxCxD.reshape(-1, width), model.table, target_BxC.reshape(-1), temperature, count == 1)
    return None, tuple(part_M.reshape(rows, chunk) for part_M in found)

  _, found = jax.lax.scan(piece, None, (x_PxBxCxD, target_PxBxC))
  nothing = jnp.zeros((rows, 1), jnp.float32)
  whole = (part_PxBxC.swapaxes(0, 1).reshape(rows, count * chunk) for part_PxBxC in found)
  logp, entropy = (jnp.concatenate([nothing, part], axis=1)[:, :length] for part in whole)
  return logp, entropy


Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def predict(
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


predict.defvjp(_predict, _predict_gradient)


def sft_loss(logp_BxT: jax.Array, batch: Batch) -> jax.Array:
  """Mean negative log-likelihood of the learnt tokens (paper, SFT)."""
  return -learnt_mean(logp_BxT, batch)


def policy_gradient_loss(
  logp_BxT: jax.Array, batch: Batch, *, clip: float, dual_clip: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Clipped surrogate, mean over the learnt tokens of the batch (paper, RL: GRPO with token mean).

  With r the ratio of a token's probability now to when it was drawn, the loss of
  a token is max(-A r, -A clip(r, 1-clip, 1+clip)), and for A < 0 at most
  -A dual_clip (Ye et al. 2020).

  Returns:
    The loss, and `clip_fraction`, `kl` (mean of r - 1 - log r, an estimate of the
    divergence from the sampling policy), `logprob_gap_max` (greatest difference of
    log-probabilities, the trainer's against the sampler's).
  """
  difference = (logp_BxT - batch.sampled) * batch.learnt
  ratio = jnp.exp(difference)
  advantage = batch.advantages
  plain = -advantage * ratio
  clipped = -advantage * jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
  loss = jnp.maximum(plain, clipped)
  loss = jnp.where(advantage < 0, jnp.minimum(loss, -advantage * dual_clip), loss)
  numbers = {
    "clip_fraction": learnt_mean((clipped > plain).astype(jnp.float32), batch),
    "kl": learnt_mean(ratio - 1.0 - difference, batch),
    "logprob_gap_max": jnp.max(jnp.abs(difference)),
  }
  return learnt_mean(loss, batch), numbers
