from __future__ import annotations

import json

import pytest

from score_jax.grading.judge import GRADE_OF_VERDICT, MAX_ASKS, VERDICT_SCHEMA, Judge, parse_verdict
from score_jax.trajectory import Question

QUESTION = Question("q", "Who found radium?", "Marie Curie", aliases=("Madame Curie",))


def prompt(question: Question, answer: str) -> str:
  return f"{question.answer} or {answer}?"


def replying(*replies: str) -> tuple[Judge, list[str]]:
  asked: list[str] = []

  def ask(text: str, attempt: int) -> str:
    assert attempt == len(asked)
    asked.append(text)
    return replies[min(len(asked), len(replies)) - 1]

  return Judge(ask, prompt), asked


@pytest.mark.parametrize(("word", "grade"), [("right", 1.0), ("wrong", 0.0), ("abstain", None)])
def test_each_verdict_has_its_grade(word: str, grade: float | None) -> None:
  judge, asked = replying(json.dumps({"verdict": word, "reason": "so\n it is"}))
  assert judge(QUESTION, "M. Curie") == (grade, f"the judge says {word}: so it is")
  assert asked == ["Marie Curie or M. Curie?"]


@pytest.mark.parametrize(
  "reply",
  [
    "",
    "right",
    '"right"',
    "null",
    "[]",
    '{"verdict": "right"}',
    '{"verdict": "Right", "reason": ""}',
    '{"verdict": true, "reason": ""}',
    '{"verdict": ["right"], "reason": ""}',
    '{"verdict": "right", "reason": 1}',
    '{"verdict": "right", "reason": "", "grade": 1}',
    '{"verdict": "wrong", "reason": "", "verdict": "right"}',
    'I say {"verdict": "right", "reason": ""}',
    '<think>{"verdict": "right", "reason": ""}',
    '<think>hm</think>right {"verdict": "right", "reason": ""}',
    '<think>{"verdict": "right", "reason": ""}</think>',
    '{"verdict": "right", "reason": ""} {"verdict": "wrong", "reason": ""}',
    "[" * 100_000,
  ],
)
def test_nothing_but_the_object_asked_for_is_a_verdict(reply: str) -> None:
  assert parse_verdict(reply) is None
  judge, asked = replying(reply)
  grade, reason = judge(QUESTION, "M. Curie")
  assert grade is None
  assert "form" in reason
  assert len(asked) == MAX_ASKS == 3


@pytest.mark.parametrize(
  "reply",
  [
    '<think>{"verdict": "wrong", "reason": ""}</think>{"verdict": "right", "reason": "so"}',
    'It says </think>{"verdict": "wrong", "reason": ""} and more.\n</think>\n\n{"verdict": "right", "reason": "so"}',
    '```json\n{"verdict": "right", "reason": "so"}\n```',
    '\ufeff{"verdict": "right", "reason": "so"}',
  ],
)
def test_a_verdict_behind_thinking_or_in_a_fence_counts(reply: str) -> None:
  assert parse_verdict(reply) == ("right", "so")


def test_it_is_asked_again_and_the_first_verdict_counts() -> None:
  judge, asked = replying("hm", '{"verdict": "wrong", "reason": "no"}', '{"verdict": "right", "reason": ""}')
  assert judge(QUESTION, "Pierre Curie")[0] == 0.0
  assert len(asked) == 2


def test_a_judge_that_cannot_be_reached_is_the_graders_failure() -> None:
  def ask(text: str, attempt: int) -> str:
    raise ConnectionError("no route\nto host")

  grade, reason = Judge(ask, prompt)(QUESTION, "x")
  assert grade is None
  assert "no route to host" in reason


def test_the_schema_is_of_the_verdicts() -> None:
  assert VERDICT_SCHEMA["properties"]["verdict"]["enum"] == list(GRADE_OF_VERDICT)
  assert set(VERDICT_SCHEMA["required"]) == {"verdict", "reason"}
