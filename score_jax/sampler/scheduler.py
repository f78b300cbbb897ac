"""Contexts in a sampler's slots: who waits for a slot, who draws, who waits for what comes next.

    sampler.submit([("q/0", key)], prompt, decoding, limit=64)     a group shares one prefill
    sampler.launch()                                               the device draws
    turns = sampler.collect()                                      those that ended, by name
    sampler.append("q/0", observation, limit=64)                   another turn, or …
    sampler.release("q/0")                                         … its slot is free for one that waits

A context keeps its slot, and so its cache, until it is released; slots draw while
others wait for what is to be appended.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Hashable, KeysView, Mapping, Sequence

import numpy as np

from score_jax.errors import UserError
from score_jax.sampler.slots import SamplingParams, Slots

#: a decode call ends early when one in so many slots stands idle while a request waits for it
IDLE_SLOT_DIVISOR = 20


@dataclasses.dataclass(frozen=True)
class DrawnTurn:
  """What a context wrote from one append to its stop."""

  tokens: list[int] = dataclasses.field(default_factory=list)
  logprobs: list[float] = dataclasses.field(default_factory=list)  # under the distribution drawn from
  model_logprobs: list[float] = dataclasses.field(default_factory=list)  # under the model's own at temperature 1
  ends: int = 0  # bytes of the last token up to the end of a stop sequence; 0 without one


@dataclasses.dataclass(frozen=True)
class WaitingGroup:
  """Contexts that begin alike and wait for their slots."""

  keys: Mapping[Hashable, np.ndarray]  # by name
  prompt: Sequence[int]
  decoding: SamplingParams
  limit: int


class Sampler:
  """Contexts by name in the slots of one cache.

  Attributes:
    last_tokens: the tokens that the last collected call drew, by name.
  """

  def __init__(self, slots: Slots):
    self.slots = slots
    self.last_tokens: dict[Hashable, list[int]] = {}
    self._waiting: deque[WaitingGroup] = deque()
    self._free = list(range(slots.count))[::-1]
    self._slot: dict[Hashable, int] = {}
    self._turns: dict[int, DrawnTurn] = {}  # of the slots that draw, or will once what is appended was read
    self._limits: dict[int, int] = {}
    self._appended: dict[int, Sequence[int]] = {}

  @property
  def waiting(self) -> bool:
    """Whether a group waits for slots."""
    return bool(self._waiting)

  @property
  def names(self) -> KeysView[Hashable]:
    """The contexts that have a slot."""
    return self._slot.keys()

  @property
  def drawing(self) -> bool:
    """Whether a context draws or could."""
    return bool(self._turns) or bool(self._waiting and len(self._waiting[0].keys) <= len(self._free))

  def room(self, name: Hashable) -> int:
    """Tokens that a context can still take."""
    return self.slots.capacity - self.slots.context(self._slot[name])

  def partial_turn(self, name: Hashable) -> DrawnTurn | None:
    """What a context has written so far of the turn at hand; None where it has not begun or the turn has ended."""
    return self._turns.get(self._slot.get(name, -1))

  def submit(
    self, keys: Mapping[Hashable, np.ndarray], prompt: Sequence[int], decoding: SamplingParams, limit: int
  ) -> None:
    """Asks for a context for each name, all after one prompt; each draws a turn of at most `limit` tokens.

    Raises:
      UserError: there are fewer slots than names.
      ValueError: the prompt is empty, or leaves no room for a token.
    """
    if len(keys) > self.slots.count:
      raise UserError(f"a group of {len(keys)} rollouts needs as many slots; sampler.slots is {self.slots.count}")
    if not 0 < len(prompt) < self.slots.capacity:
      raise ValueError(f"a prompt of {len(prompt)} tokens; contexts have 1 to {self.slots.capacity}, one of them drawn")
    self._waiting.append(WaitingGroup(keys, prompt, decoding, limit))

  def append(self, name: Hashable, tokens: Sequence[int], limit: int) -> None:
    """Appends at least one token to a context whose turn has ended, and lets it draw another."""
    slot = self._slot[name]
    if not 0 < len(tokens) < self.room(name):
      raise ValueError(f"{name}: {len(tokens)} tokens where 1 to {self.room(name) - 1} can be appended")
    self._appended[slot], self._turns[slot], self._limits[slot] = tokens, DrawnTurn(), limit

  def release(self, name: Hashable) -> None:
    """Ends a context, whatever it is at, or takes back the request for one."""
    if name not in self._slot:
      groups = (dataclasses.replace(g, keys={n: k for n, k in g.keys.items() if n != name}) for g in self._waiting)
      self._waiting = deque(group for group in groups if group.keys)
      return
    slot = self._slot.pop(name)
    for of in (self._turns, self._limits, self._appended):
      of.pop(slot, None)
    self._free.append(slot)

  def launch(self) -> None:
    """Lets contexts that wait into free slots, reads what was appended, and has the device draw.

    Does nothing while the device draws, or where nothing can be drawn.
    """
    if self.slots.in_flight:
      return
    copies = self._admit()
    if self._appended:
      self.slots.extend(self._appended)
      self._appended = {}
    self.slots.fork(copies)
    budgets = {slot: self._limits[slot] - len(turn.tokens) for slot, turn in self._turns.items()}
    if not budgets:
      return
    enough = max(1, self.slots.count // IDLE_SLOT_DIVISOR) if self._waiting else None
    held = len(self._slot) - len(budgets) if self._waiting else None
    self.slots.launch(budgets, enough=enough, held=held)

  def _admit(self) -> list[tuple[int, int]]:
    """Gives free slots to groups in their order; which slots are to be copied to which."""
    copies: list[tuple[int, int]] = []
    while self._waiting and len(self._waiting[0].keys) <= len(self._free):
      group = self._waiting.popleft()
      slots = [self._free.pop() for _ in group.keys]
      for slot, (name, key) in zip(slots, group.keys.items(), strict=True):
        self._slot[name] = slot
        self._turns[slot], self._limits[slot] = DrawnTurn(), group.limit
        self.slots.clear(slot)
        self.slots.assign(slot, key, group.decoding)
      self._appended[slots[0]] = group.prompt
      copies += [(slots[0], slot) for slot in slots[1:]]
    return copies

  def collect(self) -> dict[Hashable, DrawnTurn]:
    """Waits for the device; the turns that have ended, none where nothing was launched."""
    ended: dict[Hashable, DrawnTurn] = {}
    found = self.slots.collect() if self.slots.in_flight else {}
    self.last_tokens = {}
    for name, slot in self._slot.items():  # one that was released while it drew is not among them
      if slot not in found:
        continue
      written, turn = found[slot], self._turns[slot]
      self.last_tokens[name] = written.tokens
      turn.tokens.extend(written.tokens)
      turn.logprobs.extend(written.logprobs)
      turn.model_logprobs.extend(written.model_logprobs)
      if written.stopped:
        ended[name] = dataclasses.replace(self._turns.pop(slot), ends=written.ends)
    return ended
