"""Worked solutions and detours, run in the real tool with the real search."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from score_jax.agent.protocol import Turn
from score_jax.agent.scripted import Script, run_scripts
from score_jax.grading.numbers import grade_number
from score_jax.sandbox.sandbox import Sandbox
from score_jax.search.passages import BM25Search
from score_jax.tasks.word_problems import ACTS_PER_OPERATION, Difficulty, World, generate_questions
from score_jax.teaching.demonstrations import (
  build_script_with_detours,
  build_script_with_slips,
  build_worked_script,
  make_slip,
)
from score_jax.trajectory import Question, Trajectory
from tests.agent.scripted import python_tool

WORLD = World.generate(11)
ASKED = generate_questions(WORLD, Difficulty((3, 9)), seed=5, count=200)


@pytest.fixture(scope="module")
def shop() -> Iterator[Sandbox]:
  """A tool that can look up the facts of the world."""
  search = BM25Search.from_documents(WORLD.documents(), top_k=2, passage_chars=1000)
  with python_tool(search) as tool:
    yield tool


def right(question: Question, trajectory: Trajectory) -> bool:
  return trajectory.answer is not None and grade_number(question, trajectory.answer)[0] == 1.0


def test_every_worked_solution_gives_the_answer(shop: Sandbox) -> None:
  played = run_scripts([(q, build_worked_script(q)) for q in ASKED], shop)
  assert all(right(q, t) for q, t in zip(ASKED, played, strict=True))
  assert all(s.reason == "ok" for t in played for s in t.steps[1:])
  assert [t.acts for t in played] == [q.steps for q in ASKED]
  assert {s.author for t in played for s in t.steps} == {"teacher"}


@pytest.mark.parametrize("kind", ACTS_PER_OPERATION)
def test_each_operation_by_itself_gives_the_answer(shop: Sandbox, kind: str) -> None:
  some = generate_questions(
    WORLD, Difficulty((1 + ACTS_PER_OPERATION[kind], 1 + 3 * ACTS_PER_OPERATION[kind]), (kind,)), seed=6, count=20
  )
  played = run_scripts([(q, build_worked_script(q)) for q in some], shop)
  assert [right(q, t) for q, t in zip(some, played, strict=True)] == [True] * 20


def test_what_is_looked_up_is_found_in_the_tools_answer(shop: Sandbox) -> None:
  """A worked solution uses no number that neither the question nor an observation before it has."""
  some = generate_questions(WORLD, Difficulty((4, 9), ("box", "shop")), seed=7, count=40)
  for question, trajectory in zip(some, run_scripts([(q, build_worked_script(q)) for q in some], shop), strict=True):
    known = question.text
    for step in trajectory.steps[1:]:
      numbers = [w for w in step.code.replace("(", " ").replace(")", " ").split() if w.isdigit()]
      assert all(n in known.replace(".", " ").replace(",", " ").split() for n in numbers), (step, known)
      known += f" {step.observation}"


def detoured(share: float) -> list[Script]:
  draw = random.Random(3)
  return [build_script_with_detours(q, share=share, draw=draw) for q in ASKED]


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_detours_do_no_harm(shop: Sandbox, share: float) -> None:
  played = run_scripts(list(zip(ASKED, detoured(share), strict=True)), shop)
  assert all(right(q, t) for q, t in zip(ASKED, played, strict=True))
  reasons = {s.reason for t in played for s in t.steps[1:] if s.author == "student"}
  assert reasons == {"ok", "exception"}
  assert all(s.reason == "ok" for t in played for s in t.steps[1:] if s.author == "teacher")


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_detours_are_the_students_and_come_before_the_right_step(share: float) -> None:
  for question, script in zip(ASKED, detoured(share), strict=True):
    solution = build_worked_script(question)
    teachers = [turn for turn, author in script if author == "teacher"]
    assert teachers[-len(solution) + 1 :] == [turn for turn, _ in solution[1:]]
    assert script[-1] == solution[-1]
    assert [turn.kind for turn, _ in script] == ["first_thought"] + ["act"] * (len(script) - 1)
    students = [turn for turn, author in script if author == "student"]
    assert all("final_answer" not in turn.code for turn in students)
    assert len(script) - len(solution) == sum(turn.kind == "act" for turn in students)


def test_how_many_detours_there_are() -> None:
  acts = sum(q.steps for q in ASKED)

  def taken(share: float) -> tuple[int, int]:
    students = [turn for script in detoured(share) for turn, author in script if author == "student"]
    plans = sum(turn.kind == "first_thought" for turn in students)
    return plans, len(students) - plans

  assert taken(0.0) == (0, 0)
  assert taken(1.0) == (len(ASKED), acts)
  plans, others = taken(0.25)
  assert 0.15 * len(ASKED) < plans < 0.35 * len(ASKED)
  assert 0.2 * acts < others < 0.3 * acts


def test_the_same_draws_give_the_same_detours() -> None:
  assert detoured(0.5) == detoured(0.5)


@pytest.mark.parametrize(
  ("code", "wrong"),
  [
    ("x = 4 + 3", {"x = 4 - 3"}),
    ("x = x - 3", {"x = x + 3"}),
    ("x = x * 2", {"x = x + 2"}),
    ("x = x + 3 * 8", {"x = x - 3 * 8", "x = x + 3"}),
  ],
)
def test_what_a_slip_is(code: str, wrong: set[str]) -> None:
  draw = random.Random(1)
  turns = [make_slip(Turn("act", "a thought", f"{code}\nprint(x)"), draw) for _ in range(20)]
  assert {turn.code for turn in turns} == {f"{w}\nprint(x)" for w in wrong}
  assert {turn.thought for turn in turns} == {"a thought"}


def test_slips_are_computing_steps_alone_and_as_many_as_asked_for() -> None:
  draw = random.Random(4)
  pairs = [
    (a, b)
    for q in ASKED
    for (a, _), (b, _) in zip(build_worked_script(q), build_script_with_slips(q, share=0.3, draw=draw), strict=True)
  ]
  computing = [(a, b) for a, b in pairs if a.code.startswith("x = ")]
  assert all(a == b for a, b in pairs if not a.code.startswith("x = "))
  assert 0.25 < sum(a != b for a, b in computing) / len(computing) < 0.35
  assert all(
    a != b
    for q in ASKED
    for (a, _), (b, _) in zip(build_worked_script(q), build_script_with_slips(q, share=1.0, draw=draw), strict=True)
    if "x = " in a.code
  )
