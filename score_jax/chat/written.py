"""A reply as a client sees it while it is drawn: whole characters, and nothing from a stop sequence on.

Stop sequences are found here, on the host, since each request has its own and the sampler's stops are those of its
programs: the tokens that the device drew beyond one are dropped, at most as many as one decode call draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from score_jax.chat.engine import Part
from score_jax.chat.template import Template


@dataclasses.dataclass(frozen=True)
class Fresh:
  """What is new since the time before."""

  text: str
  tokens: Sequence[int]
  logprobs: Sequence[float]


class Written:
  """One reply at work.

  Attributes:
    text: that may be shown so far.
    tokens: so far, up to the one in which a stop sequence ends, and the stop token at the end.
    finish: "stop" or "length" once it has ended, else empty.
  """

  def __init__(self, template: Template, stops: Sequence[str]):
    self._template, self._stops = template, tuple(stops)
    self.text, self.finish = "", ""
    self.tokens: list[int] = []

  def add(self, part: Part) -> Fresh:
    """Takes in what was drawn."""
    before = len(self.tokens)
    self.tokens += part.tokens
    whole = self._template.text(self.tokens)
    end = self._stop_in(whole)
    if end is not None:
      self._cut(before)
      self.finish = "stop"
    elif part.last:
      self.finish = "stop" if self.tokens[-1] in self._template.stops else "length"
      end = len(whole)
    else:
      end = len(whole) - self._held(whole)
    shown = len(self.text)
    self.text = whole[: max(end, shown)]
    size = len(self.tokens) - before
    return Fresh(self.text[shown:], part.tokens[:size], part.logprobs[:size])

  def _stop_in(self, text: str) -> int | None:
    """Where the first stop sequence begins."""
    return min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=None)

  def _cut(self, before: int) -> None:
    """Drops the tokens after the first with which a stop sequence is there."""
    size = before + 1
    while self._stop_in(self._template.text(self.tokens[:size])) is None:
      size += 1
    del self.tokens[size:]

  def _held(self, text: str) -> int:
    """How much of the end is not shown yet: half a character, or what could begin a stop sequence."""
    half = len(text) - len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    begun = (n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n]))
    return max(half, max(begun, default=0))
