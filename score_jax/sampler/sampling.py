"""Drawing one token a slot: repetition penalty, temperature, top-k, top-p, then a keyed draw.

A slot's token is a function of its own logits, settings, key and position alone:
what others in the batch ask for decides which work is skipped, never its result.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

Array = Any  # of numpy where the host calls, of jax inside programs

MASKED_LOGIT = -1e30
SMALL_TOP_K = 64  # a top_k up to this is found without sorting the vocabulary
CDF_BLOCK = 256  # tokens whose probabilities are summed up before a draw looks into them


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlotSamplingParams:
  """How each slot draws; arrays of length B."""

  temperature: Array  # float32; 0 takes the likeliest token
  top_k: Array  # int32, 0 for all
  top_p: Array  # float32, 1 for all
  penalty: Array  # float32, of repetition; 1 for none


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SampledTokens:
  """One token a slot; arrays of length B."""

  tokens: jax.Array  # int32
  logprobs: jax.Array  # float32, under the distribution that it was drawn from; 0 at temperature 0
  model_logprobs: jax.Array  # float32, under the model's own: temperature 1, nothing cut, no penalty


def apply_repetition_penalty(logits_BxV: jax.Array, seen_BxV: jax.Array, penalty_B: jax.Array) -> jax.Array:
  """Logits of tokens seen in the context divided (or, below 0, multiplied) by the penalty (Keskar et al. 2019)."""
  penalty = penalty_B[:, None]
  return jnp.where(seen_BxV, jnp.where(logits_BxV > 0, logits_BxV / penalty, logits_BxV * penalty), logits_BxV)


def cutoff_logit(ordered_BxM: jax.Array, top_k_B: jax.Array, top_p_B: jax.Array) -> jax.Array:
  """The least logit [B, 1] that is kept, given the greatest M of each slot in falling order.

  That is of the `top_k` likeliest (0: all M) the last of the fewest that reach `top_p`. At `top_p` 1 none is left out,
  also where rounding has the sum reach 1 early.
  """
  most = ordered_BxM.shape[-1]
  k = jnp.where(top_k_B > 0, jnp.minimum(top_k_B, most), most)
  ranked = jnp.where(jnp.arange(most)[None] < k[:, None], ordered_BxM, MASKED_LOGIT)
  probability = jax.nn.softmax(ranked, axis=-1)
  before = jnp.cumsum(probability, axis=-1) - probability
  short = (before < top_p_B[:, None]) | (top_p_B >= 1.0)[:, None]
  kept = jnp.maximum(jnp.sum(short & (ranked > MASKED_LOGIT), axis=-1), 1)
  return jnp.take_along_axis(ordered_BxM, (kept - 1)[:, None], axis=-1)


def top_k_top_p(logits_BxV: jax.Array, top_k_B: jax.Array, top_p_B: jax.Array) -> jax.Array:
  """Keeps the `top_k` likeliest tokens (0: all), of them the fewest that reach `top_p`; the others get MASKED_LOGIT.

  Tokens as likely as the least that is kept are kept too.
  """
  cut = (top_k_B > 0) | (top_p_B < 1.0)
  few = (top_k_B > 0) & (top_k_B <= SMALL_TOP_K)
  nothing = jnp.full((len(top_k_B), 1), -jnp.inf, logits_BxV.dtype)

  def among_few(z: jax.Array) -> jax.Array:
    return cutoff_logit(jax.lax.top_k(z, min(SMALL_TOP_K, z.shape[-1]))[0], top_k_B, top_p_B)

  def among_all(z: jax.Array) -> jax.Array:
    return cutoff_logit(jnp.sort(z, axis=-1, descending=True), top_k_B, top_p_B)

  of_few = jax.lax.cond(jnp.any(few), among_few, lambda _: nothing, logits_BxV)
  of_all = jax.lax.cond(jnp.any(cut & ~few), among_all, lambda _: nothing, logits_BxV)
  bound = jnp.where(few[:, None], of_few, jnp.where(cut[:, None], of_all, nothing))
  return jnp.where(logits_BxV >= bound, logits_BxV, MASKED_LOGIT)


def keyed_uniform(keys_Bx2: jax.Array, positions_B: jax.Array) -> jax.Array:
  """A number of [0, 1) for each slot, float32 [B], from its request's key folded with the position."""

  def one(key: jax.Array, position: jax.Array) -> jax.Array:
    return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key), position))

  return jax.vmap(one)(keys_Bx2, positions_B)


def inverse_cdf(weights_BxV: jax.Array, uniform_B: jax.Array) -> jax.Array:
  """The first token at which the running sum of the weights, over their total, exceeds `uniform`; int32 [B].

  Sums run over blocks first and then within one, so that the vocabulary is read once. A token of weight 0 is never
  taken, whatever rounding does to the sums.
  """
  rows, vocab = weights_BxV.shape
  weights = jnp.pad(weights_BxV, ((0, 0), (0, -vocab % CDF_BLOCK))).reshape(rows, -1, CDF_BLOCK)

  def first(parts_BxM: jax.Array, target_Bx1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the running sum exceeds the target, and what is left of the target there."""
    sums = jnp.cumsum(parts_BxM, axis=-1)
    last = jnp.argmax(sums >= sums[:, -1:], axis=-1)[:, None]  # the last that adds something
    at = jnp.minimum(jnp.sum(sums <= target_Bx1, axis=-1, keepdims=True), last)
    before = jnp.where(at > 0, jnp.take_along_axis(sums, jnp.maximum(at - 1, 0), axis=-1), 0.0)
    return at, target_Bx1 - before

  of_blocks = jnp.sum(weights, axis=-1)
  block, rest = first(of_blocks, uniform_B[:, None] * jnp.cumsum(of_blocks, axis=-1)[:, -1:])
  place, _ = first(jnp.take_along_axis(weights, block[..., None], axis=1)[:, 0], rest)
  return (block * CDF_BLOCK + place)[:, 0].astype(jnp.int32)


def sample_tokens(
  logits_BxV: jax.Array, seen_BxV: jax.Array, keys_Bx2: jax.Array, positions_B: jax.Array, settings: SlotSamplingParams
) -> SampledTokens:
  """One token a slot.

  Args:
    logits_BxV: float32 [B, V].
    seen_BxV: bool [B, V], tokens of the context so far.
    keys_Bx2: uint32 [B, 2], the request's key.
    positions_B: int32 [B], place in its context that the drawn token will have.
  """
  s = settings
  greedy = s.temperature <= 0
  z = apply_repetition_penalty(logits_BxV, seen_BxV, s.penalty) / jnp.where(greedy, 1.0, s.temperature)[:, None]
  cut = jnp.any((s.top_k > 0) | (s.top_p < 1.0))
  z = jax.lax.cond(cut, lambda z: top_k_top_p(z, s.top_k, s.top_p), lambda z: z, z)
  highest = jnp.max(z, axis=-1, keepdims=True)
  weights = jnp.exp(z - highest)
  drawn = inverse_cdf(weights, keyed_uniform(keys_Bx2, positions_B))
  tokens = jnp.where(greedy, jnp.argmax(z, axis=-1), drawn).astype(jnp.int32)

  def of_token(x_BxV: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BxV, tokens[:, None], axis=-1)[:, 0]

  logp = of_token(z) - highest[:, 0] - jnp.log(jnp.sum(weights, axis=-1))
  plain = of_token(logits_BxV) - jax.nn.logsumexp(logits_BxV, axis=-1)
  return SampledTokens(tokens, jnp.where(greedy, 0.0, logp), plain)
