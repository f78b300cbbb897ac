"""The sampler's three device programs, for one model on one mesh.

A slot's context is `length` tokens whose keys and values are in the cache, and
one more, `pending`, which the next decode step feeds: every token goes through
the model once, and every draw comes out of a decode step over all slots. So a
request's bits depend neither on its slot nor on what stands beside it; they can
change with the number of slots, the mesh and the backend.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from score_jax.mesh.sharding import abstract, sharding, traced_for, weight_shardings
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Cache, Decoder, Weights
from score_jax.sampler.draw import draw

Array = Any  # of numpy where the host calls, of jax inside the programs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeviceState:
  """What lives on the device between calls; every program takes it and gives it back, donated."""

  cache: Cache  # a layer's keys and values, [B, K, S, H] each
  seen: jax.Array  # bool [B, V], tokens of the slot's context


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Controls:
  """What the host says of each slot in a decode call; arrays of length B."""

  live: Array  # bool, whether the slot decodes
  length: Array  # int32, tokens in the cache
  pending: Array  # int32, the context's last token
  budget: Array  # int32, how many tokens it may still write
  key: Array  # uint32 [B, 2]
  temperature: Array  # float32
  top_k: Array  # int32
  top_p: Array  # float32
  penalty: Array  # float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoded:
  """What a decode call wrote; beyond `count` the arrays hold nothing of meaning."""

  tokens: jax.Array  # int32 [B, n]
  logprobs: jax.Array  # float32 [B, n], under the distribution drawn from
  count: jax.Array  # int32 [B]
  steps: jax.Array  # int32, how many steps the call took


class Programs:
  """empty, extend, decode, fork, jitted; weights are arguments, so one instance serves all checkpoints of a shape.

  Attributes:
    slots, length: the cache's.
    bucket: the filled part of the cache is looked at in multiples of this; the static `filled` of extend and decode
      is one, or the whole length.
  """

  def __init__(
    self,
    graph: nnx.GraphDef[Decoder],
    config: DecoderConfig,
    mesh: Mesh,
    *,
    slots: int,
    length: int,
    bucket: int,
    stop: int,
    dtype: str = "float32",
  ):
    self.mesh, self.config, self.slots, self.length, self.bucket = mesh, config, slots, length, bucket
    self._dtype = dtype
    self._graph, self._stop = graph, stop
    # Made once for each set of places, so that what it compiles serves all weights that come from there.
    self._move = functools.cache(
      lambda places: jax.jit(lambda leaves: [x.astype(dtype) for x in leaves], out_shardings=list(places))
    )
    heads = "heads" if config.kv_heads % mesh.shape["tensor"] == 0 else None
    if config.stacked:
      pairs, layer = 1, sharding(mesh, None, "rows", heads, None, None)
    else:
      pairs, layer = config.layers, sharding(mesh, "rows", heads, None, None)
    self._places: Any = DeviceState(((layer, layer),) * pairs, sharding(mesh, "rows", None))  # pyright: ignore[reportArgumentType]
    self.empty = jax.jit(self._empty, out_shardings=self._places)
    out = functools.partial(jax.jit, donate_argnums=0)
    self.extend = out(self._extend, static_argnames="filled", out_shardings=self._places)
    self.fork = out(self._fork, out_shardings=self._places)
    self.decode = out(self._decode, static_argnames=("n", "filled"), out_shardings=(self._places, sharding(mesh)))

  def take(self, weights: Weights) -> Weights:
    """The weights as the programs want them: the same arrays where dtype and place agree, else moved by one program.

    Trainer and sampler may lie on other meshes of the same devices.
    """
    places = weight_shardings(self.mesh, weights)
    leaves, tree = jax.tree.flatten(weights)
    wanted = jax.tree.leaves(places)
    other = [
      i
      for i, (x, place) in enumerate(zip(leaves, wanted, strict=True))
      if x.dtype != self._dtype or not x.sharding.is_equivalent_to(place, x.ndim)
    ]
    if other:
      move = self._move(tuple(wanted[i] for i in other))
      for i, x in zip(other, move([leaves[i] for i in other]), strict=True):
        leaves[i] = x
    return jax.tree.unflatten(tree, leaves)

  def abstract(self, weights: Weights) -> DeviceState:
    """Shapes and shardings of a state."""
    return abstract(jax.eval_shape(self._empty, weights), self._places)

  def _empty(self, weights: Weights) -> DeviceState:
    """A state of empty slots, the cache in the weights' dtype."""
    cache = nnx.merge(self._graph, weights).empty_cache(self.slots, self.length)
    return DeviceState(cache, jnp.zeros((self.slots, self.config.vocab), bool))

  def _extend(
    self,
    state: DeviceState,
    weights: Weights,
    slots_R: jax.Array,
    tokens_RxC: jax.Array,
    start_R: jax.Array,
    count_R: jax.Array,
    pending_R: jax.Array,
    *,
    filled: int,
  ) -> DeviceState:
    """Puts `count` tokens of each row into its slot's cache from place `start` on; start 0 empties the slot.

    A row whose slot is `slots` (one beyond the last) is padding.
    """
    place = jnp.arange(tokens_RxC.shape[1])[None]
    counts = place < count_R[:, None]
    positions = jnp.where(counts, start_R[:, None] + place, self.length)
    with traced_for(self.mesh):
      model = nnx.merge(self._graph, weights)
      _, cache = model.step(tokens_RxC, positions, state.cache, slots_R, filled=filled, bucket=self.bucket)
    kept = jnp.where((start_R == 0)[:, None], False, state.seen[jnp.minimum(slots_R, self.slots - 1)])
    rows = jnp.arange(len(slots_R))
    written = kept.at[rows[:, None], jnp.where(counts, tokens_RxC, self.config.vocab)].set(True, mode="drop")
    written = written.at[rows, pending_R].set(True)
    return DeviceState(cache, state.seen.at[slots_R].set(written, mode="drop"))

  def _fork(self, state: DeviceState, source_R: jax.Array, target_R: jax.Array) -> DeviceState:
    """Copies slots; a target of `slots` (one beyond the last) is padding."""
    slot = (slice(None),) if self.config.stacked else ()  # the axes before the one of slots

    def copied(x: jax.Array) -> jax.Array:
      return x.at[*slot, target_R].set(x[*slot, source_R], mode="drop")

    return DeviceState(
      jax.tree.map(copied, state.cache), state.seen.at[target_R].set(state.seen[source_R], mode="drop")
    )

  def _decode(
    self, state: DeviceState, weights: Weights, controls: Controls, *, n: int, filled: int
  ) -> tuple[DeviceState, Decoded]:
    """Up to n tokens for every live slot, until none is live.

    A slot stops at the stop token (which it keeps), at its budget, and when the
    cache has no room for another token. `filled` must exceed every live slot's
    length by n.
    """
    model = nnx.merge(self._graph, weights)
    rows = jnp.arange(self.slots)

    def more(carry):
      step, live, *_ = carry
      return (step < n) & jnp.any(live)

    def body(carry):
      step, live, length, pending, state, out = carry
      place = jnp.where(live, length, self.length)
      with traced_for(self.mesh):
        x, cache = model.step(pending[:, None], place[:, None], state.cache, None, filled=filled, bucket=self.bucket)
      tokens, logprobs = draw(
        model.unembed(x[:, 0]),
        state.seen,
        controls.key,
        length + 1,
        temperature=controls.temperature,
        top_k=controls.top_k,
        top_p=controls.top_p,
        penalty=controls.penalty,
      )
      seen = state.seen.at[rows, jnp.where(live, tokens, self.config.vocab)].set(True, mode="drop")
      written = live.astype(jnp.int32)
      out = Decoded(
        out.tokens.at[:, step].set(jnp.where(live, tokens, 0)),
        out.logprobs.at[:, step].set(jnp.where(live, logprobs, 0.0)),
        out.count + written,
        step + 1,
      )
      length = length + written
      pending = jnp.where(live, tokens, pending)
      live = live & (tokens != self._stop) & (out.count < controls.budget) & (length + 1 < self.length)
      return step + 1, live, length, pending, DeviceState(cache, seen), out

    nothing = jnp.zeros((self.slots, n))
    out = Decoded(nothing.astype(jnp.int32), nothing, jnp.zeros(self.slots, jnp.int32), jnp.int32(0))
    start = (jnp.int32(0), controls.live, controls.length, controls.pending, state, out)
    *_, state, out = jax.lax.while_loop(more, body, start)
    return state, out
