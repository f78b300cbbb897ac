"""Losses over packed batches, as pure functions of log-probabilities; and those log-probabilities.

A token's log-probability comes from the position before it, so a trajectory's
first token has none and can never carry loss. Every reduction is in float32 and
over `learnt` tokens only: at any other position the gradient is exactly zero.
"""

from __future__ import annotations

import functools

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
  in the backward pass, so no array of [B, T, V] does. Position 0 gets 0.
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

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def piece(_: None, one: tuple[jax.Array, jax.Array]) -> tuple[None, tuple[jax.Array, jax.Array]]:
    x_BxCxD, target_BxC = one
    logp = jax.nn.log_softmax(model.unembed(x_BxCxD) / temperature, axis=-1)
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    return None, (jnp.take_along_axis(logp, target_BxC[..., None], axis=-1)[..., 0], entropy)

  _, found = jax.lax.scan(piece, None, (x_PxBxCxD, target_PxBxC))
  nothing = jnp.zeros((rows, 1), jnp.float32)
  whole = (part_PxBxC.swapaxes(0, 1).reshape(rows, count * chunk) for part_PxBxC in found)
  logp, entropy = (jnp.concatenate([nothing, part], axis=1)[:, :length] for part in whole)
  return logp, entropy


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
