"""Drawing one token a slot: repetition penalty, temperature, top-k, top-p, then a keyed draw."""

from __future__ import annotations

import jax
import jax.numpy as jnp

NEVER = -1e30


def penalised(logits_BxV: jax.Array, seen_BxV: jax.Array, penalty_B: jax.Array) -> jax.Array:
  """Logits of tokens seen in the context divided (or, below 0, multiplied) by the penalty (Keskar et al. 2019)."""
  penalty = penalty_B[:, None]
  return jnp.where(seen_BxV, jnp.where(logits_BxV > 0, logits_BxV / penalty, logits_BxV * penalty), logits_BxV)


def truncated(logits_BxV: jax.Array, top_k_B: jax.Array, top_p_B: jax.Array) -> jax.Array:
  """Keeps the `top_k` likeliest tokens (0: all), of them the fewest that reach `top_p`; the others get `NEVER`.

  Tokens as likely as the least that is kept are kept too. At `top_p` 1 nothing is cut, also where rounding has the
  sum reach 1 early: so a slot draws the same whether or not one beside it cuts.
  """
  vocab = logits_BxV.shape[-1]
  ordered = jnp.sort(logits_BxV, axis=-1, descending=True)
  k = jnp.where(top_k_B > 0, jnp.minimum(top_k_B, vocab), vocab)
  ranked = jnp.where(jnp.arange(vocab)[None] < k[:, None], ordered, NEVER)
  probability = jax.nn.softmax(ranked, axis=-1)
  before = jnp.cumsum(probability, axis=-1) - probability
  short = (before < top_p_B[:, None]) | (top_p_B >= 1.0)[:, None]
  kept = jnp.maximum(jnp.sum(short & (ranked > NEVER), axis=-1), 1)
  least = jnp.take_along_axis(ordered, (kept - 1)[:, None], axis=-1)
  return jnp.where(logits_BxV >= least, logits_BxV, NEVER)


def draw(
  logits_BxV: jax.Array,
  seen_BxV: jax.Array,
  keys_Bx2: jax.Array,
  positions_B: jax.Array,
  *,
  temperature: jax.Array,
  top_k: jax.Array,
  top_p: jax.Array,
  penalty: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """One token a row, and its log-probability under the distribution that it was drawn from.

  Args:
    logits_BxV: float32 [B, V].
    seen_BxV: bool [B, V], tokens of the context so far.
    keys_Bx2: uint32 [B, 2], the request's key; the draw's is that folded with the position.
    positions_B: int32 [B], place in its context that the drawn token will have.
    temperature: float32 [B]; 0 takes the likeliest token, whose log-probability is then 0.
    top_k: int32 [B], 0 for all. top_p: float32 [B]. penalty: float32 [B], 1 for none.

  Returns:
    Tokens int32 [B], log-probabilities float32 [B].
  """
  logits = penalised(logits_BxV, seen_BxV, penalty)
  greedy = temperature <= 0
  logits = logits / jnp.where(greedy, 1.0, temperature)[:, None]
  cut = jnp.any((top_k > 0) | (top_p < 1.0))
  logits = jax.lax.cond(cut, lambda x: truncated(x, top_k, top_p), lambda x: x, logits)

  def one(key: jax.Array, position: jax.Array, row: jax.Array) -> jax.Array:
    return jax.random.categorical(jax.random.fold_in(jax.random.wrap_key_data(key), position), row)

  drawn = jax.vmap(one)(keys_Bx2, positions_B, logits)
  tokens = jnp.where(greedy, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)
  logp = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), tokens[:, None], axis=-1)[:, 0]
  return tokens, jnp.where(greedy, 0.0, logp)
