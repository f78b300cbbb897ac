"""Asking a chat model until its reply can be taken: many questions at once, each asked again at most twice."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from score_jax.chat.exchange import Ask, Chat, Message, Reply
from score_jax.mentor.replies import F, Form, Refused, parse
from score_jax.mentor.wording import harmless
from score_jax.tasks.one_object import spoken
from score_jax.trajectory import Usage

ASKS = 3  # of one question, in all
SHOWN = 2000  # characters of a refused reply that the model is shown again

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Answer(Generic[T]):
  """What asking came to. `failed` says why there is no value: the reason of the last refusal; empty if there is one."""

  value: T | None
  usage: Usage
  failed: str = ""


class Asking:
  """Asks, checks, asks again, and counts.

  Attributes:
    counts: by kind of question: asked, ok, asked_again, failed, each reason of a refusal, and replies whose tokens
      are estimated.
  """

  def __init__(self, chat: Chat, *, tokens: int):
    """`tokens`: the most of one reply."""
    self._chat, self._tokens = chat, tokens
    self.counts: dict[str, Counter[str]] = {}

  def all(
    self,
    kind: str,
    asked: Sequence[tuple[str, str]],
    form: type[F],
    *,
    temperature: float,
    take: Callable[[Sequence[tuple[int, F]]], Sequence[T | Refused]],
  ) -> list[Answer[T]]:
    """What becomes of each (name, prompt), in order.

    Args:
      kind: under which it is counted.
      asked: a name of its own and the prompt.
      form: of the replies.
      take: gets all replies of a round that have the form, each with the index of what was asked, and says what they
        are worth. So that what takes time, such as running code, is done for all at once.
    """
    counts = self.counts.setdefault(kind, Counter())
    counts["asked"] += len(asked)
    cases = [_Case(name, [Message("user", prompt)]) for name, prompt in asked]
    for attempt in range(ASKS):
      open_ = [index for index, case in enumerate(cases) if not case.ended]
      counts["asked_again"] += len(open_) if attempt else 0
      replies = (
        self._chat.ask([self._ask(cases[index], attempt, temperature, form) for index in open_]) if open_ else []
      )
      if estimated := sum(reply.estimated for reply in replies):
        counts["tokens_estimated"] += estimated
      read: list[tuple[int, F]] = []
      for index, reply in zip(open_, replies, strict=True):
        cases[index].usage = cases[index].usage + reply.usage
        made = _read(reply, form)
        if isinstance(made, Refused):
          cases[index].refuse(made, reply, last=attempt == ASKS - 1)
        else:
          read.append((index, made))
      said = dict(zip(open_, replies, strict=True))
      for (index, _), taken in zip(read, take(read) if read else (), strict=True):
        if isinstance(taken, Refused):
          cases[index].refuse(taken, said[index], last=attempt == ASKS - 1)
        else:
          cases[index].value, cases[index].ended = taken, True
    for case in cases:
      counts["ok" if case.value is not None else "failed"] += 1
      counts.update(f"refused: {reason}" for reason in case.refusals)
    return [Answer(c.value, c.usage, "" if c.value is not None else c.refusals[-1]) for c in cases]

  def _ask(self, case: _Case, attempt: int, temperature: float, form: type[Form]) -> Ask:
    name = f"{case.name}/again/{attempt}" if attempt else case.name
    return Ask(name, tuple(case.said), temperature, self._tokens, form.model_json_schema())


@dataclasses.dataclass
class _Case:
  """One question on its way through the rounds."""

  name: str
  said: list[Message]
  usage: Usage = Usage()
  value: Any = None
  ended: bool = False
  refusals: list[str] = dataclasses.field(default_factory=list)

  def refuse(self, refused: Refused, reply: Reply, *, last: bool) -> None:
    """Notes why, and what is said before the next try, if there is one."""
    self.refusals.append(refused.reason)
    if last or not refused.told:
      self.value, self.ended = refused.instead, True
      return
    again = f"That reply cannot be used: {refused.told}. Reply again, with the one JSON object that was asked for."
    said = harmless(spoken(reply.text)[:SHOWN]) or "(nothing)"  # some endpoints refuse a message without text
    self.said += [Message("assistant", said), Message("user", harmless(again))]


def _read(reply: Reply, form: type[F]) -> F | Refused:
  if reply.failed:
    return Refused("no_reply", "")
  try:
    return parse(reply.text, form)
  except Refused as refused:
    return Refused("cut", "it was too long and broke off; be brief") if reply.cut else refused
