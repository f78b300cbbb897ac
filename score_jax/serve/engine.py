"""Continuous batching for threads: one sampler serves requests that come and go, and replies are streamed.

`Engine` owns the sampler and draws in a thread of its own. `StreamedReply` turns tokens into text: whole characters
only, and nothing from a stop sequence on. Each request has its own stop sequences, so the host looks for them; tokens
that the device drew beyond one are dropped, at most as many as one decode call draws.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import queue
import threading
from collections.abc import Generator, Hashable, Sequence

import numpy as np

from score_jax.chat.template import ChatTemplate
from score_jax.sampler.scheduler import DrawnTurn, Sampler
from score_jax.sampler.slots import SamplingParams


@dataclasses.dataclass(frozen=True)
class Delta:
  """What is new since the time before."""

  text: str
  tokens: Sequence[int]
  logprobs: Sequence[float]


class StreamedReply:
  """One reply at work.

  Attributes:
    text: that may be shown so far.
    tokens: so far, up to the one in which a stop sequence ends, and the stop token at the end.
    finish_reason: "stop" or "length" once it has ended, else empty.
  """

  def __init__(self, template: ChatTemplate, stops: Sequence[str]):
    self._template, self._stops = template, tuple(stops)
    self.text, self.finish_reason = "", ""
    self.tokens: list[int] = []

  def add(self, part: TokenChunk) -> Delta:
    """Takes in what was drawn."""
    before = len(self.tokens)
    self.tokens += part.tokens
    whole = self._template.decode_reply(self.tokens)
    end = self._stop_in(whole)
    if end is not None:
      self._cut(before)
      self.finish_reason = "stop"
    elif part.last:
      self.finish_reason = "stop" if self.tokens[-1] in self._template.stops else "length"
      end = len(whole)
    else:
      end = len(whole) - self._held(whole)
    shown = len(self.text)
    self.text = whole[: max(end, shown)]
    size = len(self.tokens) - before
    return Delta(self.text[shown:], part.tokens[:size], part.logprobs[:size])

  def _stop_in(self, text: str) -> int | None:
    """Where the first stop sequence begins."""
    return min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=None)

  def _cut(self, before: int) -> None:
    """Drops the tokens after the first with which a stop sequence is there."""
    size = before + 1
    while self._stop_in(self._template.decode_reply(self.tokens[:size])) is None:
      size += 1
    del self.tokens[size:]

  def _held(self, text: str) -> int:
    """How much of the end is not shown yet: half a character, or what could begin a stop sequence."""
    half = len(text) - len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    begun = (n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n]))
    return max(half, max(begun, default=0))


class EngineClosed(Exception):
  """The engine was closed, or has failed; no more is drawn."""


@dataclasses.dataclass(frozen=True)
class TokenChunk:
  """What was drawn of a reply since the part before."""

  tokens: Sequence[int]
  logprobs: Sequence[float]  # under the model's own distribution at temperature 1
  last: bool


@dataclasses.dataclass
class _Flight:
  prompt: Sequence[int]
  key: np.ndarray
  decoding: SamplingParams
  limit: int
  parts: queue.SimpleQueue[TokenChunk | None] = dataclasses.field(default_factory=queue.SimpleQueue)
  sent: int = 0  # tokens

  def send(self, turn: DrawnTurn, *, last: bool) -> None:
    if last or len(turn.tokens) > self.sent:
      start, self.sent = self.sent, len(turn.tokens)
      self.parts.put(TokenChunk(turn.tokens[start:], turn.model_logprobs[start:], last))


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

  def draw(self, prompt: Sequence[int], key: np.ndarray, decoding: SamplingParams, limit: int) -> Generator[TokenChunk]:
    """The reply to a prompt, as it is drawn; who stops listening (closes the iterator) ends it.

    Args:
      limit: tokens, at least 1; prompt and limit fit `capacity`.

    Raises:
      Closed: no more is drawn.
    """
    name, flight = next(self._numbers), _Flight(prompt, key, decoding, limit)
    with self._lock:
      if not self._open:
        raise EngineClosed(self._failed)
      self._inbox.put((name, flight))
    try:
      while True:
        part = flight.parts.get()
        if part is None:
          raise EngineClosed(self._failed)
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
          turn = turns.get(name) or self._sampler.partial_turn(name)
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
