"""The sampler's three device programs: extend, decode and fork, for one model on one mesh.

A slot's context is `length` tokens whose keys and values are in the cache, and one more, `pending`, which the next
decode step feeds. Every token goes through the model once, and every draw comes from a decode step over all slots.
So a request's bits depend neither on its slot nor on its neighbours:

  the same bits   in any slot, beside any others, at any time, with any number of
                  blocks looked at, after a fork, after a restart
  to rounding     another number of slots, another shape of extend, mesh or backend

`MonitoredJit` warns when a program is compiled again for shapes that it already has.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, KVCache, Weights
from score_jax.model.sharding import (
  AXIS_RULES,
  add_shardings,
  named_sharding,
  partition_spec,
  trace_under_mesh,
  weight_shardings,
)
from score_jax.sampler.sampling import SlotSamplingParams, sample_tokens
from score_jax.sampler.stops import Stops

Array = Any  # of numpy where the host calls, of jax inside the programs
SLOT_AXES: Any = AXIS_RULES["rows"]  # mesh axes that slots are split over


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeviceState:
  """What lives on the device between calls; every program takes it and gives it back, donated."""

  cache: KVCache  # a layer's keys and values, blocks of [B, K, s, H]
  seen: jax.Array  # bool [B, V], tokens that the slot has fed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeControls:
  """What the host says of each slot in a decode call; arrays of length B."""

  live: Array  # bool, whether the slot decodes
  length: Array  # int32, tokens in the cache
  pending: Array  # int32, the context's last token
  budget: Array  # int32, how many tokens it may still write
  matched: Array  # int32, how far it has come in a stop sequence (Stops.move)
  key: Array  # uint32 [B, 2]
  settings: SlotSamplingParams
  enough: Array  # int32 scalar, the call ends once so many slots have stopped in it


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeOutput:
  """What a decode call wrote; beyond `count` the arrays hold nothing of meaning."""

  tokens: jax.Array  # int32 [B, n]
  logprobs: jax.Array  # float32 [B, n], under the distribution drawn from
  model_logprobs: jax.Array  # float32 [B, n], under the model's own at temperature 1
  count: jax.Array  # int32 [B]
  live: jax.Array  # bool [B], whether the slot could go on
  matched: jax.Array  # int32 [B]
  ends: jax.Array  # int32 [B], bytes of the last token up to the end of a stop sequence; 0 without one
  steps: jax.Array  # int32, how many steps the call took


class SamplerPrograms:
  """empty, extend, decode, fork, jitted; weights are arguments, so one instance serves all checkpoints of a shape.

  Attributes:
    slots, length: the cache's.
    block: places of an array of the cache. Programs look at the first `blocks` (static) of them.
  """

  def __init__(
    self,
    graph: nnx.GraphDef[Decoder],
    config: DecoderConfig,
    mesh: Mesh,
    *,
    slots: int,
    length: int,
    block: int,
    stops: Stops,
    dtype: str = "float32",
  ):
    self.mesh, self.config, self.slots, self.length, self.block = mesh, config, slots, length, block
    self._dtype, self._graph, self._stops = dtype, graph, stops
    # Made once for each set of places, so that what it compiles serves all weights that come from there.
    self._move = functools.cache(
      lambda places: jax.jit(lambda leaves: [x.astype(dtype) for x in leaves], out_shardings=list(places))
    )
    heads = "heads" if config.kv_heads % mesh.shape["tensor"] == 0 else None
    layers, pairs = ((None,), 1) if config.stacked else ((), config.layers)
    blocks = (named_sharding(mesh, *layers, "rows", heads, None, None),) * -(-length // block)
    self._places: Any = DeviceState(((blocks, blocks),) * pairs, named_sharding(mesh, "rows", None))  # pyright: ignore[reportArgumentType]
    self.empty_state = jax.jit(self._empty, out_shardings=self._places)
    jit = functools.partial(jax.jit, donate_argnums=0)
    extend = jit(self._extend, static_argnames="blocks", out_shardings=self._places)
    fork = jit(self._fork, static_argnames="blocks", out_shardings=self._places)
    decode = jit(self._decode, static_argnames=("n", "blocks"), out_shardings=(self._places, named_sharding(mesh)))
    self.extend, self.fork, self.decode = map(MonitoredJit, ("extend", "fork", "decode"), (extend, fork, decode))

  def place_weights(self, weights: Weights) -> Weights:
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
    return add_shardings(jax.eval_shape(self._empty, weights), self._places)

  def _empty(self, weights: Weights) -> DeviceState:
    """A state of empty slots, the cache in the weights' dtype."""
    cache = nnx.merge(self._graph, weights).empty_cache(self.slots, self.length, block=self.block)
    return DeviceState(cache, jnp.zeros((self.slots, self.config.vocab), bool))

  def _extend(
    self,
    state: DeviceState,
    weights: Weights,
    slots_R: jax.Array,
    tokens_RxC: jax.Array,
    start_R: jax.Array,
    count_R: jax.Array,
    *,
    blocks: int,
  ) -> DeviceState:
    """Puts `count` tokens of each row into its slot's cache from place `start` on; start 0 empties the slot.

    Rows may follow one another in one slot. A row whose slot is `slots` (one beyond the last) is padding.
    """
    place = jnp.arange(tokens_RxC.shape[1])[None]
    counts = place < count_R[:, None]
    positions = jnp.where(counts, start_R[:, None] + place, self.length)
    with trace_under_mesh(self.mesh):
      model = nnx.merge(self._graph, weights)
      _, cache = model.step(tokens_RxC, positions, state.cache, slots_R, blocks=blocks)
    emptied = jnp.where(start_R == 0, slots_R, self.slots)
    seen = state.seen.at[emptied].set(False, mode="drop")
    fed = jnp.where(counts, tokens_RxC, self.config.vocab)
    return DeviceState(cache, seen.at[slots_R[:, None], fed].set(True, mode="drop"))

  def _fork(self, state: DeviceState, source_R: jax.Array, target_R: jax.Array, *, blocks: int) -> DeviceState:
    """Copies the first blocks of slots, one slot after the other; a target of `slots` is padding.

    Each device copies within its own slots, and what comes from another's is summed up over all, of which one has it.
    (Left to itself, XLA gathers the whole cache.)
    """

    def used(of: DeviceState) -> list[Any]:
      return [of.seen, *(part for pair in of.cache for parts in pair for part in parts[:blocks])]

    def local(parts: list[jax.Array], source_R: jax.Array, target_R: jax.Array) -> list[jax.Array]:
      def one(row: jax.Array, parts: list[jax.Array]) -> list[jax.Array]:
        axes = [0, *[int(self.config.stacked)] * (len(parts) - 1)]
        return [_copied(x, source_R[row], target_R[row], axis) for x, axis in zip(parts, axes, strict=True)]

      return jax.lax.fori_loop(0, len(source_R), one, parts)

    specs = [place.spec for place in used(self._places)]
    copying = jax.shard_map(
      local, mesh=self.mesh, in_specs=(specs, partition_spec(), partition_spec()), out_specs=specs, check_vma=False
    )
    seen, *parts = copying(used(state), source_R, target_R)
    new = iter(parts)
    cache = tuple(tuple((*(next(new) for _ in part[:blocks]), *part[blocks:]) for part in pair) for pair in state.cache)
    return DeviceState(cache, seen)  # pyright: ignore[reportArgumentType]

  def _decode(
    self, state: DeviceState, weights: Weights, controls: DecodeControls, *, n: int, blocks: int
  ) -> tuple[DeviceState, DecodeOutput]:
    """Up to n tokens for every live slot, until none is live or `enough` have stopped.

    A slot stops at a stop token or the token in which a stop sequence ends (both are kept), at its budget, and when
    the cache has no room for another token. `blocks` must reach n places beyond every live slot's length.
    """
    model, c = nnx.merge(self._graph, weights), controls
    rows = jnp.arange(self.slots)
    begun = jnp.sum(c.live)

    def more(carry: Any) -> jax.Array:
      live, _, _, out = carry
      return (out.steps < n) & jnp.any(live) & (begun - jnp.sum(live) < c.enough)

    def body(carry: Any) -> Any:
      live, pending, state, out = carry
      length = c.length + out.count
      place = jnp.where(live, length, self.length)
      with trace_under_mesh(self.mesh):
        x, cache = model.step(pending[:, None], place[:, None], state.cache, None, blocks=blocks)
      seen = state.seen.at[rows, jnp.where(live, pending, self.config.vocab)].set(True, mode="drop")
      one = sample_tokens(model.unembed(x[:, 0]), seen, c.key, length + 1, c.settings)
      matched, ends = self._follow(out.matched, one.tokens)
      count = out.count + live.astype(jnp.int32)
      written = DecodeOutput(
        out.tokens.at[:, out.steps].set(jnp.where(live, one.tokens, 0)),
        out.logprobs.at[:, out.steps].set(jnp.where(live, one.logprobs, 0.0)),
        out.model_logprobs.at[:, out.steps].set(jnp.where(live, one.model_logprobs, 0.0)),
        count,
        out.live,
        jnp.where(live, matched, out.matched),
        jnp.where(live, ends, out.ends),
        out.steps + 1,
      )
      stopped = jnp.isin(one.tokens, jnp.array(self._stops.tokens, jnp.int32)) | (ends > 0)
      going = live & ~stopped & (count < c.budget) & (c.length + count + 1 < self.length)
      return going, jnp.where(live, one.tokens, pending), DeviceState(cache, seen), written

    first = jnp.where(c.live & (c.length == 0), rows, self.slots)
    state = DeviceState(state.cache, state.seen.at[first].set(False, mode="drop"))
    zeros = jnp.zeros(self.slots, jnp.int32)
    floats = jnp.zeros((self.slots, n))
    out = DecodeOutput(floats.astype(jnp.int32), floats, floats, zeros, c.live, c.matched, zeros, jnp.int32(0))
    live, _, state, out = jax.lax.while_loop(more, body, (c.live, c.pending, state, out))
    return state, dataclasses.replace(out, live=live)

  def _follow(self, matched_B: jax.Array, tokens_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How far the slots have come in a stop sequence after a token, and where in the token one ends."""
    if self._stops.move is None or self._stops.ends is None:
      return matched_B, jnp.zeros_like(matched_B)
    return jnp.array(self._stops.move)[matched_B, tokens_B], jnp.array(self._stops.ends)[matched_B, tokens_B]


def _copied(x: jax.Array, source: jax.Array, target: jax.Array, axis: int) -> jax.Array:
  """One device's slots, `axis` of x, with slot `source` of all devices at `target` where that is one of them."""
  mine, size = jax.lax.axis_index(SLOT_AXES), x.shape[axis]

  def at(slot: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, slot % size, axis)

  summed = at(source).astype(jnp.int8 if x.dtype == bool else x.dtype)
  found = jax.lax.psum(jnp.where(source // size == mine, summed, jnp.zeros_like(summed)), SLOT_AXES).astype(x.dtype)
  kept = jnp.where(target // size == mine, found, at(target))
  return jax.lax.dynamic_update_index_in_dim(x, kept, target % size, axis)


class MonitoredJit:
  """Calls a jitted program, and warns when it is compiled again for shapes that it was compiled for before.

  That happens when arrays come with another dtype or lie elsewhere than they did, and takes minutes for a large model.
  """

  def __init__(self, name: str, jitted: Any):
    self.name, self.jitted = name, jitted
    self._shapes: set[str] = set()

  def __call__(self, *args: Any, **static: int) -> Any:
    before = self.count
    result = self.jitted(*args, **static)
    if self.count > before:
      self._note(args, static)
    return result

  @property
  def count(self) -> int:
    """How often it was compiled."""
    return self.jitted._cache_size()

  def lower(self, *args: Any, **static: int) -> Any:
    return self.jitted.lower(*args, **static)

  def _note(self, args: Any, static: dict[str, int]) -> None:
    sizes = [jax.numpy.shape(x) for x in jax.tree.leaves(args[2:])]  # after the state and the weights
    shapes = f"{static}, {sizes}"
    if shapes in self._shapes:
      warnings.warn(f"sampler: {self.name} was compiled again for {shapes}", stacklevel=3)
    self._shapes.add(shapes)
