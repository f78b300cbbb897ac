"""What is asked of a chat model and what it replies; the interface that every backend has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from score_jax.trajectory import Usage

Role = Literal["system", "user", "assistant"]


@dataclasses.dataclass(frozen=True)
class Message:
  """One turn of a conversation."""

  role: Role
  content: str


@dataclasses.dataclass(frozen=True)
class Ask:
  """One request for a reply.

  Attributes:
    name: names the exchange: with the run's seed the key of its draws, with the rest of it the key of its record.
    messages: the conversation, the last of them the user's.
    temperature: 0: the likeliest reply.
    tokens: the most that the reply may have.
    schema: JSON schema that the reply should follow; a hint for backends that can hold a model to it, since replies are
      checked by who asked; None: prose.
  """

  name: str
  messages: tuple[Message, ...]
  temperature: float
  tokens: int
  schema: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Reply:
  """What came back. `failed` says in a line why nothing did (unreachable, over budget, refused); text is empty then."""

  text: str
  usage: Usage = Usage()
  failed: str = ""
  cut: bool = False  # the reply ended at Ask.tokens


class Chat(Protocol):
  """A model that can be asked; many at once, since that is how devices and endpoints are kept busy."""

  @property
  def model(self) -> str:
    """The name under which the ledger books its tokens."""
    ...

  def ask(self, asks: Sequence[Ask]) -> list[Reply]:
    """A reply to each, in order; one that fails is data, not an exception."""
    ...
