"""The host's side of a live cache: which slot holds what, and the calls of the device programs.

`Slots` belongs to the weights that it was made with; new weights mean new slots,
so an old cache can never be read with them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from score_jax.errors import UserError
from score_jax.model.decoder import Weights
from score_jax.sampler.programs import Controls, Programs


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How tokens are drawn."""

  temperature: float  # 0: the likeliest token
  top_k: int  # 0: all
  top_p: float  # 1: all
  repetition_penalty: float  # 1: none


@dataclasses.dataclass(frozen=True)
class Shapes:
  """The few shapes that programs are compiled for.

  Attributes:
    rows: how many slots one extend call serves.
    chunks: numbers of tokens that an extend call takes a row, ascending.
    decode: greatest number of tokens that a decode call draws a slot.
  """

  rows: int
  chunks: tuple[int, ...]
  decode: int


def request_key(seed: int, request: str) -> np.ndarray:
  """The key of a request's draws, uint32 [2]; a draw's own is this folded with its position."""
  return np.frombuffer(hashlib.sha256(f"{seed}/{request}".encode()).digest()[:8], np.uint32)


class Slots:
  """Contexts in the slots of one cache.

  Counters: `read` tokens prefilled, `drawn` tokens decoded, `steps` decode steps
  taken (each over all slots).
  """

  def __init__(self, programs: Programs, weights: Weights, shapes: Shapes):
    if programs.slots % (programs.mesh.shape["data"] * programs.mesh.shape["fsdp"]):
      raise UserError(
        f"sampler.slots = {programs.slots} cannot be split over the mesh's data and fsdp axes "
        f"({programs.mesh.shape['data']} x {programs.mesh.shape['fsdp']}); choose a multiple"
      )
    self._programs, self._weights, self._shapes = programs, programs.take(weights), shapes
    self._state = programs.empty(self._weights)
    n = programs.slots
    self.length = np.zeros(n, np.int32)
    self._pending = np.zeros(n, np.int32)
    self._key = np.zeros((n, 2), np.uint32)
    self._draws = np.zeros(n, [("temperature", "f4"), ("top_k", "i4"), ("top_p", "f4"), ("penalty", "f4")])
    self._draws[:] = (1.0, 0, 1.0, 1.0)
    self.read = self.drawn = self.steps = 0

  @property
  def count(self) -> int:
    return self._programs.slots

  @property
  def capacity(self) -> int:
    """Tokens that a context can have."""
    return self._programs.length

  def context(self, slot: int) -> int:
    """Tokens that the slot's context has."""
    return int(self.length[slot]) + 1

  def assign(self, slot: int, key: np.ndarray, decoding: Decoding) -> None:
    """Sets how the slot draws."""
    self._key[slot] = key
    self._draws[slot] = (decoding.temperature, decoding.top_k, decoding.top_p, decoding.repetition_penalty)

  def clear(self, slot: int) -> None:
    """Empties the slot; the next `extend` starts a new context in it."""
    self.length[slot] = 0

  def extend(self, parts: Mapping[int, Sequence[int]]) -> None:
    """Appends tokens to the contexts of some slots: at least one each, two where the slot is empty.

    Raises:
      ValueError: a context would outgrow the cache, or too little is appended; nothing is done then.
    """
    for slot, tokens in parts.items():
      size = len(tokens) + (self.context(slot) if self.length[slot] else 0)
      if not tokens or size < 2:
        raise ValueError(f"slot {slot}: {len(tokens)} tokens are too few; a context begins with two")
      if size > self.capacity:
        raise ValueError(f"slot {slot}: {len(tokens)} more tokens do not fit a context of {self.capacity}")
    queue: dict[int, tuple[int, np.ndarray]] = {}
    for slot, tokens in parts.items():
      fed = [*([int(self._pending[slot])] if self.length[slot] else []), *tokens]
      self._pending[slot] = fed[-1]
      queue[slot] = (int(self.length[slot]), np.array(fed[:-1], np.int32))
      self.length[slot] += len(fed) - 1
      self.read += len(fed) - 1
    while queue:
      self._extend_once(queue)

  def _extend_once(self, queue: dict[int, tuple[int, np.ndarray]]) -> None:
    """One piece of every queued row, grouped by the shape that its own length asks for."""
    groups: dict[tuple[int, int], list[int]] = {}
    for slot, (start, tokens) in queue.items():
      chunk = next((c for c in self._shapes.chunks if c >= len(tokens)), self._shapes.chunks[-1])
      end = start + min(chunk, len(tokens))
      groups.setdefault((chunk, self._filled(end)), []).append(slot)
    for (chunk, filled), slots in sorted(groups.items()):
      for i in range(0, len(slots), self._shapes.rows):
        self._extend_rows(queue, slots[i : i + self._shapes.rows], chunk, filled)

  def _extend_rows(
    self, queue: dict[int, tuple[int, np.ndarray]], slots: Sequence[int], chunk: int, filled: int
  ) -> None:
    r = self._shapes.rows
    tokens = np.zeros((r, chunk), np.int32)
    start, count, pending = (np.zeros(r, np.int32) for _ in range(3))
    where = np.full(r, self.count, np.int32)
    for row, slot in enumerate(slots):
      begin, rest = queue.pop(slot)
      piece = rest[:chunk]
      tokens[row, : len(piece)] = piece
      where[row], start[row], count[row] = slot, begin, len(piece)
      pending[row] = self._pending[slot]
      if len(rest) > chunk:
        queue[slot] = (begin + chunk, rest[chunk:])
    self._state = self._programs.extend(self._state, self._weights, where, tokens, start, count, pending, filled=filled)

  def _filled(self, end: int) -> int:
    """The least multiple of the bucket that holds `end` tokens."""
    bucket = self._programs.bucket
    return min(-(-end // bucket) * bucket, self.capacity)

  def fork(self, copies: Iterable[tuple[int, int]]) -> None:
    """Copies contexts, (source, target) each."""
    pairs = list(copies)
    r = self._shapes.rows
    for i in range(0, len(pairs), r):
      part = pairs[i : i + r]
      source, target = np.zeros(r, np.int32), np.full(r, self.count, np.int32)
      source[: len(part)], target[: len(part)] = zip(*part, strict=True)
      self._state = self._programs.fork(self._state, source, target)
      self.length[target[: len(part)]] = self.length[source[: len(part)]]
      self._pending[target[: len(part)]] = self._pending[source[: len(part)]]

  def decode(self, budgets: Mapping[int, int]) -> dict[int, tuple[list[int], list[float]]]:
    """Draws for the given slots, each at most its budget (1 or more): their tokens and log-probabilities."""
    live = np.zeros(self.count, bool)
    budget = np.zeros(self.count, np.int32)
    for slot, left in budgets.items():
      live[slot], budget[slot] = True, left
    n = self._shapes.decode
    filled = self._filled(int(self.length[live].max()) + n)
    drawing = {name: self._draws[name] for name in ("temperature", "top_k", "top_p", "penalty")}
    controls = Controls(live, self.length, self._pending, budget, self._key, **drawing)
    self._state, decoded = self._programs.decode(self._state, self._weights, controls, n=n, filled=filled)
    tokens, logprobs, count, steps = jax.device_get((decoded.tokens, decoded.logprobs, decoded.count, decoded.steps))
    self.steps += int(steps)
    self.drawn += int(count.sum())
    result: dict[int, tuple[list[int], list[float]]] = {}
    for slot in budgets:
      size = int(count[slot])
      result[slot] = (tokens[slot, :size].tolist(), logprobs[slot, :size].tolist())
      self.length[slot] += size
      self._pending[slot] = result[slot][0][-1]
    return result
