"""A chat model for several processes: the first one asks, and all of them get its replies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from score_jax.chat.exchange import Ask, Chat, Reply
from score_jax.mesh import hosts
from score_jax.trajectory import Usage


class SharedChat:
  """A chat model whose every process asks the same in the same order; the first has it, the others None."""

  def __init__(self, model: str, chat: Chat | None):
    self.model = model
    self._chat = chat

  def ask(self, asks: Sequence[Ask]) -> list[Reply]:
    def asked() -> list[dict[str, object]]:
      assert self._chat is not None
      return [dataclasses.asdict(reply) for reply in self._chat.ask(asks)]

    told = hosts.from_first("chat", asked)
    return [Reply(**{**reply, "usage": Usage(**reply["usage"])}) for reply in told]

  def free(self) -> None:
    """Nothing of it lies on the devices."""
