"""The decoder: one class for every size and family, written for reading.

Two ways to run it, which give the same numbers:
  * `Decoder.__call__` over whole rows: training, where several trajectories may
    be packed into a row and see each other's tokens never (`segments`);
  * `Decoder.step` over a chunk of each slot, with a cache of keys and values.
Layers are unrolled; a cache is a tuple of one (keys, values) pair a layer, each
[B, K, S, H]. Softmax, norms and logits are float32 whatever the weights are.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from score_jax.model.config import DecoderConfig

Cache = tuple[tuple[jax.Array, jax.Array], ...]
MASKED = -1e30  # finite, so that a row which sees nothing stays finite
QUERY_BLOCK = 128  # on two CPU cores 3 to 4 times faster than all of 512 at once


def frequencies(config: DecoderConfig) -> jax.Array:
  """How far rope turns each pair of a head's dimensions at each token, in radians; float32 [H/2]."""
  half = config.head_width // 2
  frequency_H = config.rope_base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  scaling = config.rope_scaling
  return frequency_H if scaling is None else frequency_H / scaling.divisors(frequency_H)


def rope(x_BxTxNxH: jax.Array, positions_BxT: jax.Array, frequency_H: jax.Array) -> jax.Array:
  """Rotates the two halves of each head by the token's position (Llama's convention)."""
  angle = positions_BxT[:, :, None, None].astype(jnp.float32) * frequency_H[None, None, None]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  a, b = jnp.split(x_BxTxNxH.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BxTxNxH.dtype)


def attend(
  q_BxTxNxH: jax.Array, k_BxKxSxH: jax.Array, v_BxKxSxH: jax.Array, visible_BxTxS: jax.Array, *, block: int
) -> jax.Array:
  """Grouped-query attention with an explicit mask; returns [B, T, N, H].

  Keys are taken `block` at a time, in products of one shape whose results are added from the left: what a query gets
  has the same bits however many blocks stand after those that it sees.
  """
  b, t, n, h = q_BxTxNxH.shape
  kv, s = k_BxKxSxH.shape[1:3]
  group = n // kv  # the queries that share a key are rows of one matrix product
  q = q_BxTxNxH.reshape(b, t, kv, group, h).transpose(0, 2, 3, 1, 4).reshape(b, kv, group * t, h)
  spans = [slice(at, min(at + block, s)) for at in range(0, s, block)]

  def score(span: slice) -> jax.Array:
    scores = jnp.einsum("bkqh,bksh->bkqs", q, k_BxKxSxH[:, :, span], preferred_element_type=jnp.float32) * h**-0.5
    scores = scores.reshape(b, kv, group, t, -1)
    return jnp.where(visible_BxTxS[:, None, None, :, span], scores, MASKED).reshape(b, kv, group * t, -1)

  def mix(weights: jax.Array, span: slice) -> jax.Array:
    values = v_BxKxSxH[:, :, span]
    return jnp.einsum("bkqs,bksh->bkqh", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)

  scores = [score(span) for span in spans]
  highest = functools.reduce(jnp.maximum, [jnp.max(x, axis=-1, keepdims=True) for x in scores])
  weights = [jnp.exp(x - jax.lax.stop_gradient(highest)) for x in scores]
  total = functools.reduce(jnp.add, [jnp.sum(w, axis=-1, keepdims=True) for w in weights])
  mixed = functools.reduce(jnp.add, [mix(w, span) for w, span in zip(weights, spans, strict=True)])
  mixed = (mixed / total).astype(v_BxKxSxH.dtype)
  return mixed.reshape(b, kv, group, t, h).transpose(0, 3, 1, 2, 4).reshape(b, t, n, h)


def attend_rows(q_BxTxNxH: jax.Array, k_BxKxTxH: jax.Array, v_BxKxTxH: jax.Array, segments_BxT: jax.Array) -> jax.Array:
  """Causal attention within segments over whole rows, a block of queries at a time: what lies ahead costs nothing."""
  t = q_BxTxNxH.shape[1]
  blocks = []
  for start in range(0, t, QUERY_BLOCK):
    end = min(start + QUERY_BLOCK, t)
    causal = jnp.arange(start, end)[:, None] >= jnp.arange(end)[None]
    visible = causal[None] & (segments_BxT[:, start:end, None] == segments_BxT[:, None, :end])
    blocks.append(attend(q_BxTxNxH[:, start:end], k_BxKxTxH[:, :, :end], v_BxKxTxH[:, :, :end], visible, block=end))
  return jnp.concatenate(blocks, axis=1)


class RMSNorm(nnx.Module):
  """x / rms(x) * scale, in float32."""

  def __init__(self, width: int, *, epsilon: float):
    self.scale = nnx.Param(jnp.ones(width))
    self.epsilon = epsilon

  def __call__(self, x: jax.Array) -> jax.Array:
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.epsilon)
    scale = jnp.expand_dims(self.scale[...].astype(jnp.float32), range(x.ndim - 1))
    return (x32 * scale).astype(x.dtype)


class Attention(nnx.Module):
  """Projections of one layer; the mixing itself is `attend`."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    d, n, k, h = config.width, config.heads, config.kv_heads, config.head_width
    self.config = config
    self.query = nnx.Linear(d, n * h, use_bias=config.qkv_bias, rngs=rngs)
    self.key = nnx.Linear(d, k * h, use_bias=config.qkv_bias, rngs=rngs)
    self.value = nnx.Linear(d, k * h, use_bias=config.qkv_bias, rngs=rngs)
    self.out = nnx.Linear(n * h, d, use_bias=False, rngs=rngs)
    if config.qk_norm:
      self.query_norm = RMSNorm(h, epsilon=config.norm_epsilon)
      self.key_norm = RMSNorm(h, epsilon=config.norm_epsilon)

  def project(self, x_BxTxD: jax.Array, positions_BxT: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rotated queries [B, T, N, H], and rotated keys and values in the cache's layout [B, K, T, H]."""
    b, t, _ = x_BxTxD.shape
    h, frequency_H = self.config.head_width, frequencies(self.config)
    q, k = (linear(x_BxTxD).reshape(b, t, -1, h) for linear in (self.query, self.key))
    if self.config.qk_norm:
      q, k = self.query_norm(q), self.key_norm(k)
    q, k = (rope(heads, positions_BxT, frequency_H) for heads in (q, k))
    v = self.value(x_BxTxD).reshape(b, t, -1, h)
    return q, k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)

  def merge(self, mixed_BxTxNxH: jax.Array) -> jax.Array:
    b, t, n, h = mixed_BxTxNxH.shape
    return self.out(mixed_BxTxNxH.reshape(b, t, n * h))


class MLP(nnx.Module):
  """SwiGLU."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    self.gate = nnx.Linear(config.width, config.mlp, use_bias=False, rngs=rngs)
    self.up = nnx.Linear(config.width, config.mlp, use_bias=False, rngs=rngs)
    self.down = nnx.Linear(config.mlp, config.width, use_bias=False, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
  """Attention and MLP, each on a normed copy of the residual stream."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    self.attention_norm = RMSNorm(config.width, epsilon=config.norm_epsilon)
    self.attention = Attention(config, rngs=rngs)
    self.mlp_norm = RMSNorm(config.width, epsilon=config.norm_epsilon)
    self.mlp = MLP(config, rngs=rngs)

  def __call__(self, x: jax.Array, positions: jax.Array, segments: jax.Array) -> jax.Array:
    q, k, v = self.attention.project(self.attention_norm(x), positions)
    x = x + self.attention.merge(attend_rows(q, k, v, segments))
    return x + self.mlp(self.mlp_norm(x))

  def step(
    self,
    x: jax.Array,
    positions: jax.Array,
    layer: tuple[jax.Array, jax.Array],
    slots: jax.Array | None,
    *,
    filled: int,
    bucket: int,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """A chunk whose keys and values go into the cache at `positions`; it sees the first `filled` places."""
    q, k, v = self.attention.project(self.attention_norm(x), positions)
    to = jnp.arange(x.shape[0]) if slots is None else slots
    place = (to[:, None, None], jnp.arange(k.shape[1])[:, None], positions[:, None, :])
    keys, values = (c.at[place].set(new, mode="drop") for c, new in zip(layer, (k, v), strict=True))
    seen_keys, seen_values = (c[:, :, :filled] if slots is None else c[slots, :, :filled] for c in (keys, values))
    visible = jnp.arange(filled)[None, None] <= positions[..., None]
    x = x + self.attention.merge(attend(q, seen_keys, seen_values, visible, block=bucket))
    return x + self.mlp(self.mlp_norm(x)), (keys, values)


class Decoder(nnx.Module):
  """A causal language model. `unembed` gives logits; the passes give what goes into it."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    self.config = config
    init = nnx.initializers.normal(0.02)
    self.embedding = nnx.Param(init(rngs.params(), (config.vocab, config.width), jnp.float32))
    self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
    self.norm = RMSNorm(config.width, epsilon=config.norm_epsilon)
    if not config.tied:
      self.unembedding = nnx.Param(init(rngs.params(), (config.vocab, config.width), jnp.float32))

  def __call__(self, tokens_BxT: jax.Array, positions_BxT: jax.Array, segments_BxT: jax.Array) -> jax.Array:
    """The normed residual stream [B, T, D] of whole rows.

    A token sees the tokens at or before it that have its segment number; segment
    0 is padding, which nothing of another segment sees.
    """
    x = self.embedding[...][tokens_BxT]
    for block in self.blocks:
      x = block(x, positions_BxT, segments_BxT)
    return self.norm(x)

  def step(
    self,
    tokens_BxT: jax.Array,
    positions_BxT: jax.Array,
    cache: Cache,
    slots_B: jax.Array | None,
    *,
    filled: int,
    bucket: int,
  ) -> tuple[jax.Array, Cache]:
    """A chunk of tokens after what the cache holds: the normed residual stream [B, T, D] and the new cache.

    Row i belongs to slot `slots_B[i]` of the cache, or to slot i where that is
    None. `positions_BxT` are places in the cache; one at or beyond its length
    writes nothing (padding), nor does a slot beyond the last. `filled` (static)
    bounds the places that are looked at and must exceed every position that counts;
    attention goes over them `bucket` (static) at a time.
    """
    x = self.embedding[...][tokens_BxT]
    layers = []
    for block, layer in zip(self.blocks, cache, strict=True):
      x, layer = block.step(x, positions_BxT, layer, slots_B, filled=filled, bucket=bucket)
      layers.append(layer)
    return self.norm(x), tuple(layers)

  def unembed(self, x: jax.Array) -> jax.Array:
    """Float32 logits [..., V]."""
    table = self.embedding if self.config.tied else self.unembedding
    return jnp.einsum("...d,vd->...v", x, table[...], preferred_element_type=jnp.float32)

  def empty_cache(self, slots: int, length: int) -> Cache:
    """A cache of `length` places for each of `slots`, of the weights' dtype."""
    shape = (slots, self.config.kv_heads, length, self.config.head_width)
    dtype = self.embedding.dtype
    return tuple((jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(self.config.layers))


Weights = nnx.State  # the pytree of a decoder's parameters


def create(config: DecoderConfig, seed: int) -> tuple[nnx.GraphDef[Decoder], Weights]:
  """A freshly initialised decoder, split into its structure and its weights."""
  return nnx.split(Decoder(config, rngs=nnx.Rngs(seed)))


def structure(config: DecoderConfig) -> tuple[nnx.GraphDef[Decoder], Weights]:
  """The same with shapes in the place of the weights; nothing is computed."""
  return nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
