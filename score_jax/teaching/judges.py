"""A chat model as the judge of answers: what grading/judge.py asks, in the words of prompts/judge_answer.jinja.

MERGED A chat model as the judge of two steps that execution alone cannot tell apart (paper, RL: an LLM judge).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

from score_jax.chat.interface import ChatMessage, ChatModel, ChatRequest
from score_jax.grading.judge import VERDICT_SCHEMA, Judge
from score_jax.teaching.asking import PromptTemplates, ReplySchema, StructuredChat
from score_jax.teaching.prompted import steps_to_prompt_data
from score_jax.trajectory import Ledger, Question, Step


def make_answer_judge(
  chat: Callable[[], ChatModel], wording: PromptTemplates, *, temperature: float, tokens: int
) -> Judge:
  """The judge that graders ask. Equal questions and answers get equal verdicts: the prompt's hash names the draws.

  Args:
    chat: gives the model, when it is first asked.
    temperature, tokens: of a verdict.
  """

  def prompt(question: Question, answer: str) -> str:
    references = [question.answer, *question.aliases]
    return wording.render_prompt("judge_answer", question=question.text, reference=references, answer=answer)

  def ask(text: str, attempt: int) -> str:
    name = f"judge_answer/{hashlib.sha256(text.encode()).hexdigest()[:16]}/{attempt}"
    [reply] = chat().ask([ChatRequest(name, (ChatMessage("user", text),), temperature, tokens, VERDICT_SCHEMA)])
    if reply.failed:
      raise OSError(reply.failed)
    return reply.text

  return Judge(ask, prompt)


class Said(ReplySchema):
  """What is asked for."""

  verdict: Literal["same", "different", "unsure"]
  reason: str


@dataclasses.dataclass(frozen=True)
class StepPair:
  """Two steps from the state after one prefix of a question."""

  question: str
  prefix: tuple[Step, ...]
  first: Step
  second: Step


@dataclasses.dataclass(frozen=True)
class StepOpinion:
  """What a judge says of a pair, and what it cost."""

  same: bool | None  # None: unsure, or no reply that could be taken
  ledger: Ledger = Ledger()


#: judges many pairs at once
StepJudge = Callable[[Sequence[StepPair]], Sequence[StepOpinion]]


class ChatStepJudge:
  """Judges by asking a chat model, in the words of prompts/judge_step.jinja."""

  def __init__(self, chat: ChatModel, wording: PromptTemplates, *, temperature: float, tokens: int):
    """`tokens`: the most of one reply."""
    self._model, self._wording, self._temperature = chat.model, wording, temperature
    self._asking = StructuredChat(chat, tokens=tokens)

  def __call__(self, pairs: Sequence[StepPair]) -> list[StepOpinion]:
    """An opinion on each. Pairs of which the same is shown get the same one, and are asked about once."""
    prompts = [self._prompt(pair) for pair in pairs]
    asked = [(_name(prompt), prompt) for prompt in dict.fromkeys(prompts)]
    answers = self._asking.ask_until_valid(
      "judge_step", asked, Said, temperature=self._temperature, take=lambda read: [said for _, said in read]
    )
    opinions: dict[str, StepOpinion] = {}
    for (_, prompt), answer in zip(asked, answers, strict=True):
      same = {"same": True, "different": False}.get(answer.value.verdict) if answer.value else None
      opinions[prompt] = StepOpinion(same, Ledger({self._model: answer.usage}))
    return [opinions[prompt] for prompt in prompts]

  def _prompt(self, pair: StepPair) -> str:
    count = len(pair.prefix)
    *steps, first = steps_to_prompt_data([*pair.prefix, pair.first])
    second = steps_to_prompt_data([*pair.prefix, pair.second])[count]
    return self._wording.render_prompt("judge_step", question=pair.question, steps=steps, first=first, second=second)


def _name(prompt: str) -> str:
  """Of what is asked alone: it finds its record again whatever else is asked with it."""
  return f"judge_step/{hashlib.sha256(prompt.encode()).hexdigest()[:24]}"
