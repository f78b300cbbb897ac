"""A chat model as the judge of answers: what tasks/judge.py asks, in the words of prompts/judge_answer.jinja."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from score_jax.chat.exchange import Ask, Chat, Message
from score_jax.mentor.wording import Wording
from score_jax.tasks.judge import SCHEMA, Judge
from score_jax.trajectory import Question


def answer_judge(chat: Callable[[], Chat], wording: Wording, *, temperature: float, tokens: int) -> Judge:
  """The judge that graders ask. Equal questions and answers get equal verdicts: the prompt's hash names the draws.

  Args:
    chat: gives the model, when it is first asked.
    temperature, tokens: of a verdict.
  """

  def prompt(question: Question, answer: str) -> str:
    references = [question.answer, *question.aliases]
    return wording.prompt("judge_answer", question=question.text, reference=references, answer=answer)

  def ask(text: str, attempt: int) -> str:
    name = f"judge_answer/{hashlib.sha256(text.encode()).hexdigest()[:16]}/{attempt}"
    [reply] = chat().ask([Ask(name, (Message("user", text),), temperature, tokens, SCHEMA)])
    if reply.failed:
      raise OSError(reply.failed)
    return reply.text

  return Judge(ask, prompt)
