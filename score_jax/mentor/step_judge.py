"""A chat model as the judge of two steps that execution alone cannot tell apart (paper, RL: an LLM judge)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

from score_jax.chat.exchange import Chat
from score_jax.mentor.asking import Asking
from score_jax.mentor.replies import Form
from score_jax.mentor.solving import shown
from score_jax.mentor.wording import Wording
from score_jax.trajectory import Ledger, Step


class Said(Form):
  """What is asked for."""

  verdict: Literal["same", "different", "unsure"]
  reason: str


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two steps from the state after one prefix of a question."""

  question: str
  prefix: tuple[Step, ...]
  first: Step
  second: Step


@dataclasses.dataclass(frozen=True)
class Opinion:
  """What a judge says of a pair, and what it cost."""

  same: bool | None  # None: unsure, or no reply that could be taken
  ledger: Ledger = Ledger()


#: judges many pairs at once
StepJudge = Callable[[Sequence[Pair]], Sequence[Opinion]]


class ChatStepJudge:
  """Judges by asking a chat model, in the words of prompts/judge_step.jinja."""

  def __init__(self, chat: Chat, wording: Wording, *, temperature: float, tokens: int):
    """`tokens`: the most of one reply."""
    self._model, self._wording, self._temperature = chat.model, wording, temperature
    self._asking = Asking(chat, tokens=tokens)

  def __call__(self, pairs: Sequence[Pair]) -> list[Opinion]:
    """An opinion on each. Pairs of which the same is shown get the same one, and are asked about once."""
    prompts = [self._prompt(pair) for pair in pairs]
    asked = [(_name(prompt), prompt) for prompt in dict.fromkeys(prompts)]
    answers = self._asking.all(
      "judge_step", asked, Said, temperature=self._temperature, take=lambda read: [said for _, said in read]
    )
    opinions: dict[str, Opinion] = {}
    for (_, prompt), answer in zip(asked, answers, strict=True):
      same = {"same": True, "different": False}.get(answer.value.verdict) if answer.value else None
      opinions[prompt] = Opinion(same, Ledger({self._model: answer.usage}))
    return [opinions[prompt] for prompt in prompts]

  def _prompt(self, pair: Pair) -> str:
    count = len(pair.prefix)
    *steps, first = shown([*pair.prefix, pair.first])
    second = shown([*pair.prefix, pair.second])[count]
    return self._wording.prompt("judge_step", question=pair.question, steps=steps, first=first, second=second)


def _name(prompt: str) -> str:
  """Of what is asked alone: it finds its record again whatever else is asked with it."""
  return f"judge_step/{hashlib.sha256(prompt.encode()).hexdigest()[:24]}"
