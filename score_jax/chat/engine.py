"""One sampler for the requests of any number of threads, which come and go as they like; for serving."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import queue
import threading
from collections.abc import Generator, Hashable, Sequence

import numpy as np

from score_jax.sampler.sampler import DrawnTurn, Sampler
from score_jax.sampler.slots import Decoding


class Closed(Exception):
  """The engine was closed, or has failed; no more is drawn."""


@dataclasses.dataclass(frozen=True)
class Part:
  """What was drawn of a reply since the part before."""

  tokens: Sequence[int]
  logprobs: Sequence[float]  # under the model's own distribution at temperature 1
  last: bool


@dataclasses.dataclass
class _Flight:
  prompt: Sequence[int]
  key: np.ndarray
  decoding: Decoding
  limit: int
  parts: queue.SimpleQueue[Part | None] = dataclasses.field(default_factory=queue.SimpleQueue)
  sent: int = 0  # tokens

  def send(self, turn: DrawnTurn, *, last: bool) -> None:
    if last or len(turn.tokens) > self.sent:
      start, self.sent = self.sent, len(turn.tokens)
      self.parts.put(Part(turn.tokens[start:], turn.plain[start:], last))


class Engine:
  """Owns the sampler: a thread of its own lets requests into free slots and draws for all that are there."""

  def __init__(self, sampler: Sampler):
    self._sampler = sampler
    self._flights: dict[Hashable, _Flight] = {}  # of the thread's
    self._inbox: queue.SimpleQueue[tuple[int, _Flight | None] | None] = queue.SimpleQueue()
    self._numbers = itertools.count()
    self._failed = "the server is closing"
    self._lock = threading.Lock()
    self._open = True
    self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
    self._thread.start()

  @property
  def capacity(self) -> int:
    """Tokens of a prompt and its reply."""
    return self._sampler.slots.capacity

  def close(self) -> None:
    """Ends all that is drawn."""
    self._inbox.put(None)
    self._thread.join()

  def draw(self, prompt: Sequence[int], key: np.ndarray, decoding: Decoding, limit: int) -> Generator[Part]:
    """The reply to a prompt, as it is drawn; who stops listening (closes the iterator) ends it.

    Args:
      limit: tokens, at least 1; prompt and limit fit `capacity`.

    Raises:
      Closed: no more is drawn.
    """
    name, flight = next(self._numbers), _Flight(prompt, key, decoding, limit)
    with self._lock:
      if not self._open:
        raise Closed(self._failed)
      self._inbox.put((name, flight))
    try:
      while True:
        part = flight.parts.get()
        if part is None:
          raise Closed(self._failed)
        yield part
        if part.last:
          return
    finally:
      self._inbox.put((name, None))

  def _run(self) -> None:
    try:
      while self._take():
        self._sampler.launch()
        turns = self._sampler.collect()
        for name, flight in list(self._flights.items()):
          turn = turns.get(name) or self._sampler.written(name)
          if turn is not None:
            flight.send(turn, last=name in turns)
          if name in turns:
            self._end(name)
    except Exception as error:  # told to all who wait; nobody else would ever hear of it
      self._failed = f"drawing has failed: {type(error).__name__}: {error}"
      raise
    finally:
      self._shut()

  def _take(self) -> bool:
    """Lets in what has come, and waits for it where nothing is to be drawn; whether to go on."""
    with contextlib.suppress(queue.Empty):
      while True:
        message = self._inbox.get(block=not self._flights)
        if message is None:
          return False
        name, flight = message
        if flight is None:
          self._end(name)
        else:
          self._flights[name] = flight
          self._sampler.submit({name: flight.key}, flight.prompt, flight.decoding, flight.limit)
    return True

  def _end(self, name: Hashable) -> None:
    if self._flights.pop(name, None) is not None:
      self._sampler.release(name)

  def _shut(self) -> None:
    """Tells all who wait that nothing comes any more, those too whose requests were not let in."""
    with self._lock:
      self._open = False
    with contextlib.suppress(queue.Empty):
      while True:
        message = self._inbox.get_nowait()
        if message is not None and message[1] is not None:
          self._flights[message[0]] = message[1]
    for flight in self._flights.values():
      flight.parts.put(None)
