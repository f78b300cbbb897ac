"""The decoder: one class for every size and family, written for reading.

It runs in two ways, with the same results:
  * `Decoder.__call__` over whole rows, for training: several trajectories may be packed into a row, and `segments`
    keeps them apart;
  * `Decoder.step` over a chunk of each slot, with a KV cache, for sampling.

Layers are separate modules, or stacked with a leading axis [L] that programs loop over: compiled once for all layers.
The cache has the same layout: one (keys, values) pair per layer, or a single pair with that axis. Keys are blocks of s
positions, [B, K, H, s] each, and values [B, K, s, H]: the order in which a decode step reads them. A program that looks
at the first few blocks takes these arrays as they are; of one large array it would have to copy a part.

Softmax, norms and logits are float32, whatever the dtype of the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from score_jax.errors import UserError
from score_jax.model.attention import RowAttention, blockwise_attention, masked_attention
from score_jax.model.config import DecoderConfig
from score_jax.model.sharding import constrain_sharding

CacheBlocks = tuple[jax.Array, ...]  # consecutive positions; all blocks but the last have one size
KVCache = tuple[tuple[CacheBlocks, CacheBlocks], ...]
Rotation = tuple[jax.Array, jax.Array]  # cosines and sines of each position's angles, float32 [B, T, 1, H/2]

#: what the backward pass of a layer recomputes: nothing; all but matrix products; all but the layer's input
REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
  "none": jax.checkpoint_policies.everything_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


def rope_frequencies(config: DecoderConfig) -> jax.Array:
  """RoPE's frequency of each pair of a head's dimensions, in radians per token; float32 [H/2]."""
  half = config.head_width // 2
  frequency_H = config.rope_base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  scaling = config.rope_scaling
  return frequency_H if scaling is None else frequency_H / scaling.divisors(frequency_H)


def compute_rotation(positions_BxT: jax.Array, frequency_H: jax.Array) -> Rotation:
  """Cosines and sines of RoPE's angles at each position."""
  angle = positions_BxT[:, :, None, None].astype(jnp.float32) * frequency_H[None, None, None]
  return jnp.cos(angle), jnp.sin(angle)


def apply_rope(x_BxTxNxH: jax.Array, rotation: Rotation) -> jax.Array:
  """Rotates each head; a pair is one dimension of each half (Llama's convention)."""
  cos, sin = rotation
  a, b = jnp.split(x_BxTxNxH.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BxTxNxH.dtype)


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


def flat_dot_general(x: jax.Array, kernel: jax.Array, *how: Any, **more: Any) -> jax.Array:
  """Contracts the last axis of x with the first of a kernel, as one product of two matrices.

  Its gradients are products of two matrices too. If the kernel's gradient sums over two axes, XLA:CPU first copies an
  operand in another order.
  """
  found = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), *how[1:], **more)
  return found.reshape(*x.shape[:-1], -1)


def make_linear(config: DecoderConfig, inputs: int, outputs: int, *, bias: bool = False, rngs: nnx.Rngs) -> nnx.Linear:
  """A linear layer, with a LoRA adapter where the config has a rank."""
  if config.lora_rank:
    return nnx.LoRALinear(
      inputs, outputs, lora_rank=config.lora_rank, use_bias=bias, dot_general=flat_dot_general, rngs=rngs
    )
  return nnx.Linear(inputs, outputs, use_bias=bias, dot_general=flat_dot_general, rngs=rngs)


class Attention(nnx.Module):
  """The projections of one attention layer; model/attention.py computes the attention itself."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    d, n, k, h = config.width, config.heads, config.kv_heads, config.head_width
    self.config = config
    self.query = make_linear(config, d, n * h, bias=config.qkv_bias, rngs=rngs)
    self.key = make_linear(config, d, k * h, bias=config.qkv_bias, rngs=rngs)
    self.value = make_linear(config, d, k * h, bias=config.qkv_bias, rngs=rngs)
    self.out = make_linear(config, n * h, d, rngs=rngs)
    if config.qk_norm:
      self.query_norm = RMSNorm(h, epsilon=config.norm_epsilon)
      self.key_norm = RMSNorm(h, epsilon=config.norm_epsilon)

  def project(self, x_BxTxD: jax.Array, rotation: Rotation) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rotated queries [B, T, N, H], and rotated keys and values in the cache's layout [B, K, T, H]."""
    b, t, _ = x_BxTxD.shape
    h = self.config.head_width
    q, k = (project(x_BxTxD).reshape(b, t, -1, h) for project in (self.query, self.key))
    if self.config.qk_norm:
      q, k = self.query_norm(q), self.key_norm(k)
    q, k = apply_rope(q, rotation), apply_rope(k, rotation)
    v = self.value(x_BxTxD).reshape(b, t, -1, h)
    return q, k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)

  def merge(self, mixed_BxTxNxH: jax.Array) -> jax.Array:
    """The output projection over all heads, [B, T, D]."""
    b, t, n, h = mixed_BxTxNxH.shape
    return self.out(mixed_BxTxNxH.reshape(b, t, n * h))


class MLP(nnx.Module):
  """The SwiGLU MLP."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    self.gate = make_linear(config, config.width, config.mlp, rngs=rngs)
    self.up = make_linear(config, config.width, config.mlp, rngs=rngs)
    self.down = make_linear(config, config.mlp, config.width, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
  """Attention and MLP, each on a normed copy of the residual stream."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    self.attention_norm = RMSNorm(config.width, epsilon=config.norm_epsilon)
    self.attention = Attention(config, rngs=rngs)
    self.mlp_norm = RMSNorm(config.width, epsilon=config.norm_epsilon)
    self.mlp = MLP(config, rngs=rngs)

  def __call__(self, x: jax.Array, rotation: Rotation, segments: jax.Array, mix: RowAttention) -> jax.Array:
    q, k, v = self.attention.project(self.attention_norm(x), rotation)
    x = x + self.attention.merge(mix(q, k, v, segments))
    return constrain_sharding(x + self.mlp(self.mlp_norm(x)), "rows", None, None)

  def step(
    self,
    x: jax.Array,
    positions: jax.Array,
    rotation: Rotation,
    pair: tuple[CacheBlocks, CacheBlocks],
    layer: tuple[jax.Array, ...],
    slots: jax.Array | None,
    *,
    blocks: int,
  ) -> tuple[jax.Array, tuple[CacheBlocks, CacheBlocks]]:
    """Runs a chunk and writes its keys and values into the cache at `positions`; it sees the first `blocks` blocks.

    `layer` is the layer's index into the cache pair where layers are stacked, else ().
    """
    q, k, v = self.attention.project(self.attention_norm(x), rotation)
    to = jnp.arange(x.shape[0]) if slots is None else slots
    size = pair[1][0].shape[-2]

    def write(whole: CacheBlocks, new: jax.Array, *heads: slice) -> CacheBlocks:
      return (*(put(block, i * size, new, heads) for i, block in enumerate(whole[:blocks])), *whole[blocks:])

    def put(block: jax.Array, begin: int, new: jax.Array, before: tuple[slice, ...]) -> jax.Array:
      place = jnp.where(
        positions < begin, size, positions - begin
      )  # `size` is out of range: positions outside of the block are dropped
      return block.at[(*layer, to[:, None], slice(None), *before, place)].set(new, mode="drop")

    keys, values = write(pair[0], k.transpose(0, 2, 1, 3), slice(None)), write(pair[1], v.transpose(0, 2, 1, 3))
    index = (*layer, slice(None) if slots is None else slots)
    seen_keys, seen_values = ([block[index] for block in whole[:blocks]] for whole in (keys, values))
    visible = jnp.arange(sum(block.shape[2] for block in seen_values))[None, None] <= positions[..., None]
    x = x + self.attention.merge(masked_attention(q, seen_keys, seen_values, visible))
    return constrain_sharding(x + self.mlp(self.mlp_norm(x)), "rows", None, None), (keys, values)


class Decoder(nnx.Module):
  """A causal language model. `__call__` and `step` return the input of `unembed`, which returns logits."""

  def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
    self.config = config
    init = nnx.initializers.normal(0.02)
    self.embedding = nnx.Param(init(rngs.params(), (config.vocab, config.width), jnp.float32))
    self.blocks: Any = (  # a list of Block, or one Block with stacked parameters
      _stack(config, rngs) if config.stacked else nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
    )
    self.norm = RMSNorm(config.width, epsilon=config.norm_epsilon)
    if not config.tied:
      self.unembedding = nnx.Param(init(rngs.params(), (config.vocab, config.width), jnp.float32))

  def __call__(
    self,
    tokens_BxT: jax.Array,
    positions_BxT: jax.Array,
    segments_BxT: jax.Array,
    *,
    mix: RowAttention = blockwise_attention,
    remat: str = "none",
  ) -> jax.Array:
    """The normed residual stream [B, T, D] of whole rows.

    A token sees itself and earlier tokens of its segment. Segment 0 is padding, which other segments do not see.

    Args:
      mix: attention over rows, from model/attention.py; all compute the same.
      remat: what the backward pass recomputes, a key of REMAT_POLICIES.
    """
    if remat not in REMAT_POLICIES:
      raise UserError(f"train.remat = {remat!r}; choose from {', '.join(REMAT_POLICIES)}")
    rotation = compute_rotation(positions_BxT, rope_frequencies(self.config))
    x = constrain_sharding(self.embedding[...][tokens_BxT], "rows", None, None)

    def make_layer(graph: nnx.GraphDef[Block]) -> Callable[[jax.Array, Any], tuple[jax.Array, None]]:
      def layer(x: jax.Array, weights: Any) -> tuple[jax.Array, None]:
        return nnx.merge(graph, weights)(x, rotation, segments_BxT, mix), None

      return (
        layer
        if remat == "none"
        else jax.checkpoint(layer, policy=REMAT_POLICIES[remat], prevent_cse=not self.config.stacked)
      )

    if self.config.stacked:
      graph, weights = nnx.split(self.blocks)
      x, _ = jax.lax.scan(make_layer(graph), x, weights)
    else:
      for block in self.blocks:
        graph, weights = nnx.split(block)
        x, _ = make_layer(graph)(x, weights)
    return self.norm(x)

  def step(
    self,
    tokens_BxT: jax.Array,
    positions_BxT: jax.Array,
    cache: KVCache,
    slots_B: jax.Array | None,
    *,
    blocks: int,
  ) -> tuple[jax.Array, KVCache]:
    """Runs a chunk of tokens after those in the cache: the normed residual stream [B, T, D] and the new cache.

    Row i belongs to slot `slots_B[i]` of the cache; without `slots_B` to slot i. Several rows may belong to one slot;
    each sees those of lower positions. `positions_BxT` are positions in the cache. A position at or beyond its length
    is padding and writes nothing, nor does a slot beyond the last. `blocks` (static) is the number of cache blocks that
    are read; every position that is not padding must lie within them.
    """
    rotation = compute_rotation(positions_BxT, rope_frequencies(self.config))
    x = constrain_sharding(self.embedding[...][tokens_BxT], "rows", None, None)
    if not self.config.stacked:
      pairs = []
      for block, pair in zip(self.blocks, cache, strict=True):
        x, pair = block.step(x, positions_BxT, rotation, pair, (), slots_B, blocks=blocks)
        pairs.append(pair)
      return self.norm(x), tuple(pairs)
    graph, weights = nnx.split(self.blocks)

    def layer(carry: Any, this: Any) -> tuple[Any, None]:
      (x, pair), (number, weights) = carry, this
      block = nnx.merge(graph, weights)
      return block.step(x, positions_BxT, rotation, pair, (number,), slots_B, blocks=blocks), None

    (x, pair), _ = jax.lax.scan(layer, (x, cache[0]), (jnp.arange(self.config.layers), weights))
    return self.norm(x), (pair,)

  @property
  def unembedding_table(self) -> jax.Array:
    """The matrix that maps the residual stream to logits, [V, D]; the embedding where they are tied."""
    return (self.embedding if self.config.tied else self.unembedding)[...]

  def unembed(self, x: jax.Array) -> jax.Array:
    """Float32 logits [..., V]."""
    return jnp.einsum("...d,vd->...v", x, self.unembedding_table, preferred_element_type=jnp.float32)

  def empty_cache(self, slots: int, length: int, *, block: int) -> KVCache:
    """A zeroed cache of `length` positions for each of `slots`, in blocks of `block`, in the weights' dtype."""
    c, dtype = self.config, self.embedding.dtype
    sizes = [min(block, length - begin) for begin in range(0, length, block)]
    layers = (c.layers,) if c.stacked else ()

    def pair() -> tuple[CacheBlocks, CacheBlocks]:
      axes = (*layers, slots, c.kv_heads)
      keys = tuple(jnp.zeros((*axes, c.head_width, size), dtype) for size in sizes)
      return keys, tuple(jnp.zeros((*axes, size, c.head_width), dtype) for size in sizes)

    return tuple(pair() for _ in range(1 if c.stacked else c.layers))


def _stack(config: DecoderConfig, rngs: nnx.Rngs) -> Block:
  """One Block whose parameters have a leading axis [L]."""
  keys = jax.random.split(rngs.params(), config.layers)
  graph = nnx.graphdef(Block(config, rngs=nnx.Rngs(0)))
  return nnx.merge(graph, jax.vmap(lambda key: nnx.state(Block(config, rngs=nnx.Rngs(params=key))))(keys))


Weights = nnx.State  # the pytree of a decoder's parameters


def init_decoder(config: DecoderConfig, seed: int) -> tuple[nnx.GraphDef[Decoder], Weights]:
  """A newly initialised decoder, split into its structure and its weights."""
  return nnx.split(Decoder(config, rngs=nnx.Rngs(seed)))


def abstract_decoder(config: DecoderConfig) -> tuple[nnx.GraphDef[Decoder], Weights]:
  """The decoder's structure, and the shapes of its weights; computes nothing."""
  return nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
