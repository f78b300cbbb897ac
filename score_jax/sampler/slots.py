"""The host side of the cache: what each slot holds, the calls of the device programs, and their timings.

`Slots` belongs to the weights that it was made with. New weights need new `Slots`, so a cache is never read with other
weights. `SamplerMeter` sums tokens, seconds and slot occupancy over rollouts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from score_jax.errors import UserError
from score_jax.model.decoder import Weights
from score_jax.sampler.programs import DecodeControls, DecodeOutput, SamplerPrograms
from score_jax.sampler.sampling import SlotSamplingParams

_compilations: list[float] = []  # seconds of each, since this module was imported


def _book(event: str, duration_secs: float, **_: str | int) -> None:
  if event == "/jax/core/compile/backend_compile_duration":
    _compilations.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(_book)


def compile_seconds() -> float:
  """Seconds that this process has compiled so far."""
  return sum(_compilations)


@dataclasses.dataclass
class SamplerMeter:
  """Sums over some rollouts; seconds are of the wall clock, as the host sees them."""

  read: int = 0  # tokens prefilled
  drawn: int = 0  # tokens decoded
  calls: int = 0  # of decode
  steps: int = 0  # of decode, each over all slots
  busy: int = 0  # steps, for each slot that drew or held a context which waits for its tool, while requests waited
  places: int = 0  # the same for all slots
  extend_s: float = 0.0
  decode_s: float = 0.0
  host_s: float = 0.0  # the device had nothing to do, and no tool was waited for
  tool_wait_s: float = 0.0  # for tools, while the device had nothing to do or others were about to answer
  sync_s: float = 0.0  # weights to where and what the sampler wants
  compile_s: float = 0.0

  @contextlib.contextmanager
  def timed(self, name: str) -> Iterator[None]:
    """Adds the seconds of what is done within to a field."""
    start = time.perf_counter()
    yield
    setattr(self, name, getattr(self, name) + time.perf_counter() - start)

  def pop_metrics(self) -> dict[str, float]:
    """The numbers so far; the sums begin again."""
    numbers = self.metrics()
    vars(self).update(vars(SamplerMeter()))
    return numbers

  def metrics(self) -> dict[str, float]:
    """For a stage's metrics."""
    return {
      "sampler/extend_tokens_per_s": self.read / self.extend_s if self.extend_s else 0.0,
      "sampler/decode_tokens_per_s": self.drawn / self.decode_s if self.decode_s else 0.0,
      "sampler/occupancy": self.busy / self.places if self.places else 1.0,
      "sampler/host_ms_per_call": 1e3 * self.host_s / max(self.calls, 1),
      **{f"sampler/{name}": getattr(self, name) for name in ("tool_wait_s", "sync_s", "compile_s")},
    }

  def __str__(self) -> str:
    n = self.metrics()
    return (
      f"decode {n['sampler/decode_tokens_per_s']:.0f} tokens/s, extend {n['sampler/extend_tokens_per_s']:.0f}, "
      f"slots {n['sampler/occupancy']:.0%}, host {n['sampler/host_ms_per_call']:.1f} ms a call, "
      f"tools waited for {self.tool_wait_s:.1f} s, sync {self.sync_s:.1f} s, compiling {self.compile_s:.1f} s"
    )


@dataclasses.dataclass(frozen=True)
class SamplingParams:
  """How tokens are drawn."""

  temperature: float  # 0: the likeliest token
  top_k: int  # 0: all
  top_p: float  # 1: all
  repetition_penalty: float  # 1: none


@dataclasses.dataclass(frozen=True)
class ProgramShapes:
  """The few shapes that programs are compiled for.

  Attributes:
    piece: tokens of a row of an extend call; what is appended to a context is cut into such pieces.
    rows: rows of an extend call, ascending; one with so many pieces or fewer goes by calls of the least that hold it.
    decode: greatest number of tokens that a decode call draws a slot.
  """

  piece: int
  rows: tuple[int, ...]
  decode: int


class SlotOutput(NamedTuple):
  """What a decode call wrote in a slot."""

  tokens: list[int]
  logprobs: list[float]  # under the distribution drawn from
  model_logprobs: list[float]  # under the model's own at temperature 1
  stopped: bool  # by a stop token, a stop sequence, its budget or the end of the cache
  ends: int  # bytes of the last token up to the end of a stop sequence; 0 without one


class ExtendRow(NamedTuple):
  """A row of an extend call."""

  slot: int
  tokens: np.ndarray
  start: int


def request_key(seed: int, request: str) -> np.ndarray:
  """The key of a request's draws, uint32 [2]; a draw's own is this folded with its position."""
  return np.frombuffer(hashlib.sha256(f"{seed}/{request}".encode()).digest()[:8], np.uint32)


class Slots:
  """Contexts in the slots of one cache. `meter` books what is done; its `read`, `drawn` and `steps` count tokens."""

  def __init__(
    self, programs: SamplerPrograms, weights: Weights, shapes: ProgramShapes, meter: SamplerMeter | None = None
  ):
    """
    Raises:
      UserError: the slots cannot be split over the mesh.
    """
    if programs.slots % (programs.mesh.shape["data"] * programs.mesh.shape["fsdp"]):
      raise UserError(
        f"sampler.slots = {programs.slots} cannot be split over the mesh's data and fsdp axes "
        f"({programs.mesh.shape['data']} x {programs.mesh.shape['fsdp']}); choose a multiple"
      )
    self.meter = meter or SamplerMeter()
    self._programs, self._shapes = programs, shapes
    self._compiled = compile_seconds()
    with self.meter.timed("sync_s"):
      self._weights = jax.block_until_ready(programs.place_weights(weights))
    self._state = programs.empty_state(self._weights)
    n = programs.slots
    self.length = np.zeros(n, np.int32)
    self._pending = np.full(n, NO_PENDING, np.int32)
    self._matched = np.zeros(n, np.int32)
    self._key = np.zeros((n, 2), np.uint32)
    self._settings = SlotSamplingParams(
      *(np.full(n, x, t) for x, t in ((1.0, "f4"), (0, "i4"), (1.0, "f4"), (1.0, "f4")))
    )
    self._flying: DecodeOutput | None = None
    self._budgets: Mapping[int, int] = {}
    self._held: int | None = None
    self._idle_since: tuple[float, float] | None = None  # when the device was done, and seconds booked until then

  @property
  def count(self) -> int:
    return self._programs.slots

  @property
  def in_flight(self) -> bool:
    """Whether a call was launched and not collected."""
    return self._flying is not None

  @property
  def capacity(self) -> int:
    """Tokens that a context can have."""
    return self._programs.length

  def context(self, slot: int) -> int:
    """Tokens that the slot's context has."""
    return int(self.length[slot]) + int(self._pending[slot] != NO_PENDING)

  def assign(self, slot: int, key: np.ndarray, decoding: SamplingParams) -> None:
    """Sets how the slot draws."""
    self._key[slot] = key
    s, d = self._settings, decoding
    s.temperature[slot], s.top_k[slot], s.top_p[slot] = d.temperature, d.top_k, d.top_p
    s.penalty[slot] = d.repetition_penalty

  def clear(self, slot: int) -> None:
    """Empties the slot; the next `extend` starts a new context in it."""
    self.length[slot], self._pending[slot] = 0, NO_PENDING

  def extend(self, parts: Mapping[int, Sequence[int]]) -> None:
    """Appends tokens, at least one each, to the contexts of some slots.

    Raises:
      UserError: a token has no row in the embedding; no context is changed then.
      ValueError: a context would outgrow the cache, or nothing is appended; no context is changed then.
    """
    for slot, tokens in parts.items():
      if not tokens:
        raise ValueError(f"slot {slot}: no tokens to append")
      if self.context(slot) + len(tokens) > self.capacity:
        raise ValueError(f"slot {slot}: {len(tokens)} more tokens do not fit a context of {self.capacity}")
      if not 0 <= min(tokens) <= max(tokens) < self._programs.config.vocab:  # a lookup would clamp it, without a word
        wrong = next(token for token in tokens if not 0 <= token < self._programs.config.vocab)
        raise UserError(
          f"token {wrong} is to be read, and the model's tokens are 0 to {self._programs.config.vocab - 1}; it comes "
          "from another model: use trajectories, tokenizer and weights that belong together"
        )
    queues: dict[int, list[ExtendRow]] = {rows: [] for rows in self._shapes.rows}
    size = self._shapes.piece
    for slot, tokens in parts.items():
      fed = np.array([*([self._pending[slot]] if self._pending[slot] != NO_PENDING else []), *tokens[:-1]], np.int32)
      pieces = [ExtendRow(slot, fed[i : i + size], int(self.length[slot]) + i) for i in range(0, len(fed), size)]
      rows = next((r for r in self._shapes.rows if len(pieces) <= r), self._shapes.rows[-1])
      queues[rows].extend(pieces)
      self._pending[slot], self._matched[slot] = tokens[-1], 0
      self.length[slot] += len(fed)
      self.meter.read += len(fed)
    with self.meter.timed("extend_s"):
      for rows, queue in queues.items():
        queue.sort(key=lambda piece: piece.start + len(piece.tokens))  # a call looks as far as its longest context
        for i in range(0, len(queue), rows):
          self._extend_once(queue[i : i + rows], rows)
      jax.block_until_ready(self._state.seen)

  def _extend_once(self, pieces: Sequence[ExtendRow], rows: int) -> None:
    tokens = np.zeros((rows, self._shapes.piece), np.int32)
    start, count = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    where = np.full(rows, self.count, np.int32)
    start[:] = 1  # of padding: no slot begins
    for row, piece in enumerate(pieces):
      tokens[row, : len(piece.tokens)] = piece.tokens
      where[row], start[row], count[row] = piece.slot, piece.start, len(piece.tokens)
    blocks = self._blocks(max(piece.start + len(piece.tokens) for piece in pieces))
    self._state = self._programs.extend(self._state, self._weights, where, tokens, start, count, blocks=blocks)

  def _blocks(self, end: int) -> int:
    """How many blocks of the cache hold `end` tokens."""
    return -(-min(end, self.capacity) // self._programs.block)

  def fork(self, copies: Iterable[tuple[int, int]]) -> None:
    """Copies contexts, (source, target) each."""
    pairs = list(copies)
    size = self._shapes.rows[-1]
    with self.meter.timed("extend_s"):
      for i in range(0, len(pairs), size):
        part = pairs[i : i + size]
        source, target = np.zeros(size, np.int32), np.full(size, self.count, np.int32)
        source[: len(part)], target[: len(part)] = zip(*part, strict=True)
        blocks = self._blocks(max(int(self.length[s]) for s, _ in part))
        self._state = self._programs.fork(self._state, source, target, blocks=max(blocks, 1))
        for of in (self.length, self._pending, self._matched):
          of[target[: len(part)]] = of[source[: len(part)]]
      jax.block_until_ready(self._state.seen)

  def launch(self, budgets: Mapping[int, int], *, enough: int | None = None, held: int | None = None) -> None:
    """Has the device draw for the given slots, each at most its budget (1 or more), and does not wait for it.

    Args:
      enough: the call may end before its time once so many slots have stopped.
      held: how many other slots hold a context that will go on; given while requests wait for a slot, when an empty
        one counts against the occupancy.
    """
    live, budget = np.zeros(self.count, bool), np.zeros(self.count, np.int32)
    for slot, left in budgets.items():
      live[slot], budget[slot] = True, left
    n = self._shapes.decode
    blocks = self._blocks(int(self.length[live].max()) + n)
    of_slots = (live, self.length, self._pending, budget, self._matched, self._key, self._settings)
    controls = DecodeControls(
      *jax.tree.map(np.copy, of_slots), enough=np.int32(self.count if enough is None else enough)
    )
    self._state, self._flying = self._programs.decode(self._state, self._weights, controls, n=n, blocks=blocks)
    self._budgets, self._held = budgets, held
    self._book_host()

  def collect(self) -> dict[int, SlotOutput]:
    """Waits for what was launched: what each of its slots wrote."""
    assert self._flying is not None, "nothing was launched"
    with self.meter.timed("decode_s"):
      found: DecodeOutput = jax.device_get(self._flying)
    self._flying = None
    result: dict[int, SlotOutput] = {}
    for slot in self._budgets:
      size = int(found.count[slot])
      tokens, logprobs, plain = (x[slot, :size].tolist() for x in (found.tokens, found.logprobs, found.model_logprobs))
      result[slot] = SlotOutput(tokens, logprobs, plain, not found.live[slot], int(found.ends[slot]))
      self.length[slot] += size
      self._pending[slot] = result[slot].tokens[-1]
      self._matched[slot] = found.matched[slot]
    self._book(found)
    self._idle_since = time.perf_counter(), self.meter.extend_s + self.meter.tool_wait_s
    return result

  def _book(self, found: DecodeOutput) -> None:
    meter, drawn, steps = self.meter, int(found.count.sum()), int(found.steps)
    meter.drawn += drawn
    meter.steps += steps
    meter.calls += 1
    if self._held is not None:
      meter.busy += drawn + steps * self._held
      meter.places += steps * self.count
    now = compile_seconds()
    meter.compile_s += now - self._compiled
    self._compiled = now

  def _book_host(self) -> None:
    """What has passed since the device was done, less the calls and waits that are booked by themselves."""
    if self._idle_since is not None:
      since, booked = self._idle_since
      self.meter.host_s += time.perf_counter() - since - (self.meter.extend_s + self.meter.tool_wait_s - booked)
      self._idle_since = None

  def decode(self, budgets: Mapping[int, int]) -> dict[int, SlotOutput]:
    """Draws for the given slots and waits for it."""
    self.launch(budgets)
    return self.collect()


#: the pending token of a slot that has no context
NO_PENDING = -1
