"""A chat model as the judge of two steps that execution alone cannot tell apart (paper, RL: an LLM judge).

As in tasks/judge.py, the steps go into the prompt as JSON on one line, so that no text in them can go on as
instruction, and a reply counts only if it is the one object that was asked for: no verdict is read out of prose.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jinja2

from score_jax.chat.exchange import Ask, Chat, Message, Reply
from score_jax.tasks.judge import ASKS, verdict
from score_jax.trajectory import Ledger, Step

VERDICTS = {"same": True, "different": False, "unsure": None}
SCHEMA = {
  "type": "object",
  "properties": {"verdict": {"enum": [*VERDICTS]}, "reason": {"type": "string"}},
  "required": ["verdict", "reason"],
  "additionalProperties": False,
}


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two steps from the state after one prefix."""

  question: str
  prefix: tuple[Step, ...]
  first: Step
  second: Step

  def data(self) -> dict[str, Any]:
    """What is shown of it."""
    fields = {"question": self.question, "before": [_shown(step) for step in self.prefix]}
    return fields | {"first": _shown(self.first), "second": _shown(self.second)}

  @cached_property
  def digest(self) -> str:
    """Names what is shown of it."""
    return hashlib.sha256(json.dumps(self.data()).encode()).hexdigest()[:24]


@dataclasses.dataclass(frozen=True)
class Opinion:
  """What a judge says of a pair, and what it cost."""

  same: bool | None  # None: unsure, or no reply of the form asked for
  reason: str
  ledger: Ledger = Ledger()


#: judges many pairs at once
StepJudge = Callable[[Sequence[Pair]], Sequence[Opinion]]


class ChatStepJudge:
  """Judges by asking a chat model; a reply that is not of the form asked for is asked again, ASKS times in all."""

  def __init__(self, chat: Chat, prompt: Callable[..., str], *, temperature: float, tokens: int):
    """
    Args:
      prompt: the text of what is asked, given the fields of `Pair.data`.
      tokens: the most that a reply may have.
    """
    self._chat, self._prompt, self._temperature, self._tokens = chat, prompt, temperature, tokens

  def __call__(self, pairs: Sequence[Pair]) -> list[Opinion]:
    opinions = [Opinion(None, f"the judge did not reply in the form that was asked for, {ASKS} times")] * len(pairs)
    open_ = [*range(len(pairs))]
    for attempt in range(ASKS):
      replies = self._chat.ask([self._ask(pairs[i], attempt) for i in open_])
      read = [_read(reply) for reply in replies]
      for i, reply, found in zip(open_, replies, read, strict=True):
        ledger = opinions[i].ledger + Ledger({self._chat.model: reply.usage})
        opinions[i] = dataclasses.replace(found or opinions[i], ledger=ledger)
      open_ = [i for i, found in zip(open_, read, strict=True) if found is None]
      if not open_:
        break
    return opinions

  def _ask(self, pair: Pair, attempt: int) -> Ask:
    """Named by what is shown, so that it finds its record again whatever else was asked with it."""
    messages = (Message("user", self._prompt(**pair.data())),)
    return Ask(f"judge_step/{pair.digest}/{attempt}", messages, self._temperature, self._tokens, SCHEMA)


def prompt(**fields: Any) -> str:
  """The prompt that comes with the package; a field stands in it as JSON on one line, which holds no special token."""
  text = importlib.resources.files("score_jax.mentor").joinpath("prompts/judge_step.jinja").read_text()
  environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
  environment.filters["json"] = lambda value: json.dumps(value).replace("<", "\\u003c")
  return environment.from_string(text).render(**fields)


def _read(reply: Reply) -> Opinion | None:
  """What a reply comes to; None: it is not of the form asked for."""
  if reply.failed:
    return Opinion(None, f"the judge cannot be reached ({reply.failed})")
  found = verdict(reply.text, VERDICTS)
  return found and Opinion(VERDICTS[found[0]], found[1])


def _shown(step: Step) -> dict[str, str]:
  shown = {"thought": step.thought}
  if step.kind == "act":
    shown |= {"code": step.code, "observation": step.observation}
  return shown if step.answer is None else shown | {"submitted": step.answer}
