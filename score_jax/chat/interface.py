"""What is asked of a chat model and what it replies; the interface that every backend has."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from score_jax.errors import UserError
from score_jax.trajectory import Usage

Role = Literal["system", "user", "assistant"]


@dataclasses.dataclass(frozen=True)
class ChatMessage:
  """One turn of a conversation."""

  role: Role
  content: str


@dataclasses.dataclass(frozen=True)
class ChatRequest:
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
  messages: tuple[ChatMessage, ...]
  temperature: float
  tokens: int
  schema: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class ChatReply:
  """What came back. `failed` says in a line why nothing did (refused, too long, malformed); text is empty then."""

  text: str
  usage: Usage = Usage()
  failed: str = ""
  cut: bool = False  # the reply ended at Ask.tokens, or where the model's context was full
  tries: int = 1  # what it took
  estimated: bool = False  # the endpoint did not say how many tokens it took
  hopeless: bool = False  # it failed for a reason that holds for every ask: over budget, unreachable, key refused


class ChatModel(Protocol):
  """A model that can be asked; many at once, since that is how devices and endpoints are kept busy."""

  @property
  def model(self) -> str:
    """The name under which the ledger books its tokens."""
    ...

  def ask(self, asks: Sequence[ChatRequest]) -> list[ChatReply]:
    """A reply to each, in order; one that fails is data, not an exception.

    Raises:
      UserError: no ask can be answered any more. What was answered is kept where exchanges are recorded, so the same
        run, started again when that is mended, goes on where it was.
    """
    ...


class ChatBackend(abc.ABC):
  """Base of the chat models that yield replies as they arrive; `RecordedChat` wraps one and stores the replies."""

  model: str

  @abc.abstractmethod
  def iter_replies(self, asks: Sequence[ChatRequest]) -> Iterator[tuple[int, ChatReply]]:
    """The place of an ask and the reply to it, in the order in which they come."""

  def ask(self, asks: Sequence[ChatRequest]) -> list[ChatReply]:
    """As `Chat.ask`."""
    found = dict(self.iter_replies(asks))
    return order_replies(found)


def order_replies(found: Mapping[int, ChatReply]) -> list[ChatReply]:
  """Replies by the place of their asks.

  Raises:
    UserError: one of them is hopeless.
  """
  if hopeless := next((reply for reply in found.values() if reply.hopeless), None):
    raise UserError(hopeless.failed)
  return [found[i] for i in range(len(found))]
