"""A chat model as the judge of answers, and as the part of a grader that it is."""

from __future__ import annotations

from typing import Any

import pytest

from score_jax.chat.interface import ChatReply
from score_jax.grading.graders import make_grader
from score_jax.grading.judge import VERDICT_SCHEMA, Judge
from score_jax.teaching.asking import PromptTemplates
from score_jax.teaching.judges import make_answer_judge
from score_jax.trajectory import Question
from tests.teaching.scripted_chat import ScriptedChat, data_of, in_turn

QUESTION = Question("q", "Who found radium?", "Marie Curie", aliases=("Madame Curie",))
RIGHT = {"verdict": "right", "reason": "the same person"}


def judge(*replies: Any) -> tuple[Judge, ScriptedChat]:
  chat = ScriptedChat(in_turn(*replies))
  return make_answer_judge(lambda: chat, PromptTemplates(search=False), temperature=0.3, tokens=200), chat


def test_it_is_asked_in_the_words_of_the_prompt() -> None:
  asked, chat = judge(RIGHT)
  assert asked(QUESTION, "M. Curie") == (1.0, "the judge says right: the same person")
  [ask] = chat.asked
  assert (ask.temperature, ask.tokens, ask.schema) == (0.3, 200, VERDICT_SCHEMA)
  assert data_of(ask) == {
    "question": "Who found radium?",
    "reference": ["Marie Curie", "Madame Curie"],
    "answer": "M. Curie",
  }


def test_each_attempt_is_an_exchange_of_its_own() -> None:
  asked, chat = judge("hm", "hm", RIGHT)
  assert asked(QUESTION, "M. Curie")[0] == 1.0
  first, second, third = chat.names()
  assert first.endswith("/0")
  assert [second, third] == [first[:-1] + "1", first[:-1] + "2"]


def test_names_tell_answers_apart() -> None:
  asked, chat = judge(RIGHT, RIGHT)
  asked(QUESTION, "a")
  asked(QUESTION, "b")
  assert len(set(chat.names())) == 2


def test_where_nobody_replies_the_grading_fails() -> None:
  """And so a rollout leaves its group: it is no 0."""
  asked, _ = judge(ChatReply("", failed="over budget"))
  grade, reason = asked(QUESTION, "M. Curie")
  assert grade is None
  assert "over budget" in reason


def test_a_grader_asks_only_where_texts_do_not_decide() -> None:
  asked, chat = judge({"verdict": "wrong", "reason": "another"})
  graded = make_grader("webwalkerqa", asked)
  assert graded(QUESTION, "marie curie")[0] == 1.0
  assert chat.asked == []
  assert graded(QUESTION, "Pierre Curie")[0] == 0.0
  assert len(chat.asked) == 1


@pytest.mark.parametrize("benchmark", ["gsm8k", "hotpotqa"])
def test_other_graders_ask_nobody(benchmark: str) -> None:
  asked, chat = judge()
  make_grader(benchmark, asked)(QUESTION, "Pierre Curie")
  assert chat.asked == []
