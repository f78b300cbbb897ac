"""A chat model that says what a test tells it to: a function of what it is asked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from score_jax.chat.interface import ChatReply, ChatRequest
from score_jax.trajectory import Usage

COST = Usage(generated=10, read=100)  # of every reply


@dataclasses.dataclass
class ScriptedChat:
  """Replies with what `says` makes of an ask: an object as JSON, a text as it is, or a reply."""

  says: Callable[[ChatRequest], Any]
  asked: list[ChatRequest] = dataclasses.field(default_factory=list)
  rounds: list[int] = dataclasses.field(default_factory=list)

  @property
  def model(self) -> str:
    return "scripted"

  def ask(self, asks: Sequence[ChatRequest]) -> list[ChatReply]:
    names = [a.name for a in (*self.asked, *asks)]
    assert len(set(names)) == len(names), "two asks have one name: their draws would be the same"
    self.asked += asks
    self.rounds.append(len(asks))
    return [self._reply(ask) for ask in asks]

  def _reply(self, ask: ChatRequest) -> ChatReply:
    said = self.says(ask)
    if isinstance(said, ChatReply):
      return said
    return ChatReply(said if isinstance(said, str) else json.dumps(said), COST)

  def names(self) -> list[str]:
    return [ask.name for ask in self.asked]


def data_of(ask: ChatRequest) -> dict[str, Any]:
  """The data that the first message of an ask ends with."""
  return json.loads(ask.messages[0].content.rstrip("\n").rpartition("\n")[2])


def in_turn(*replies: Any) -> Callable[[ChatRequest], Any]:
  """Says these one after the other."""
  left = list(replies)
  return lambda ask: left.pop(0)
