"""A chat model as judge: of answers that no rule can grade, and of two steps that execution cannot tell apart.

`make_answer_judge` gives the judge that graders call (prompts/judge_answer.jinja). `ChatStepJudge` compares pairs of
steps (prompts/judge_step.jinja; paper, RL). Equal prompts get equal verdicts: the hash of the prompt names the request.
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
  """The judge that graders call. Equal questions and answers get equal verdicts: the prompt's hash names the request.

  Args:
    chat: returns the model, at the first request.
    temperature: of the sampling of a verdict.
    tokens: limit of one verdict.
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


# Its name and docstring are part of the JSON schema that is sent, so of the key of a recorded chat: keep both.
class Said(ReplySchema):
  """What is asked for."""

  verdict: Literal["same", "different", "unsure"]
  reason: str


@dataclasses.dataclass(frozen=True)
class StepPair:
  """Two steps from the same state: after one prefix of a question."""

  question: str
  prefix: tuple[Step, ...]
  first: Step
  second: Step


@dataclasses.dataclass(frozen=True)
class StepOpinion:
  """A judge's verdict on a pair, and its cost."""

  same: bool | None  # None: unsure, or no valid reply
  ledger: Ledger = Ledger()


#: gives an opinion on each of many pairs, in one call
StepJudge = Callable[[Sequence[StepPair]], Sequence[StepOpinion]]


class ChatStepJudge:
  """Compares pairs of steps by prompting a chat model (prompts/judge_step.jinja)."""

  def __init__(self, chat: ChatModel, wording: PromptTemplates, *, temperature: float, tokens: int):
    """`tokens`: the limit of one reply."""
    self._model, self._wording, self._temperature = chat.model, wording, temperature
    self._asking = StructuredChat(chat, tokens=tokens)

  def __call__(self, pairs: Sequence[StepPair]) -> list[StepOpinion]:
    """An opinion on each pair. Pairs with equal prompts are asked about once and get the same opinion."""
    prompts = [self._prompt(pair) for pair in pairs]
    asked = [(_name(prompt), prompt) for prompt in dict.fromkeys(prompts)]
    answers = self._asking.ask_until_valid(
      "judge_step", asked, Said, temperature=self._temperature, take=lambda read: [reply for _, reply in read]
    )
    opinions: dict[str, StepOpinion] = {}
    for (_, prompt), answer in zip(asked, answers, strict=True):
      same = {"same": True, "different": False}.get(answer.value.verdict) if answer.value else None
      opinions[prompt] = StepOpinion(same, Ledger({self._model: answer.usage}))
    return [opinions[prompt] for prompt in prompts]

  def _prompt(self, pair: StepPair) -> str:
    """The prompt for a pair: the steps before, then the first and the second step."""
    count = len(pair.prefix)
    *steps, first = steps_to_prompt_data([*pair.prefix, pair.first])
    second = steps_to_prompt_data([*pair.prefix, pair.second])[count]
    return self._wording.render_prompt("judge_step", question=pair.question, steps=steps, first=first, second=second)


def _name(prompt: str) -> str:
  """The name of a request: a hash of its prompt alone, so that a recorded reply is found in any batch."""
  return f"judge_step/{hashlib.sha256(prompt.encode()).hexdigest()[:24]}"
