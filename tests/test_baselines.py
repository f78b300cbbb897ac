"""What cloning learns from, on demonstrations made by hand."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from score_jax import training_data
from score_jax.runtime.workdir import Workdir
from score_jax.training_data import take_within_budget
from score_jax.trajectory import Ledger, Question, Step, Trajectory, Usage

QUESTIONS = [Question(name, f"Question {name}?", "4") for name in "abc"]


def shown(question: Question, name: str, *, right: bool, cost: int = 10) -> Trajectory:
  """A plan that tells which call wrote it, and an act that submits."""
  steps = (Step("first_thought", f"plan of {name}"), Step("act", "submit", "final_answer_print(4)", answer="4"))
  ledger = Ledger({"teacher": Usage(generated=cost)})
  return Trajectory(
    question.id, question.text, (1,), steps, "answered", "4", float(right), name=f"{name}/{question.id}", ledger=ledger
  )


class Teacher:
  """Is right on `a` from the start, on `b` once it has tried again, on `c` never."""

  def __init__(self) -> None:
    self.demonstrated: list[str] = []
    self.begun: dict[str, list[str]] = {}

  def demonstrate(self, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    self.demonstrated.append(name)
    return [shown(q, name, right=q.id == "a") for q in questions]

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    self.begun[name] = [prefix.steps[0].thought if prefix.steps else "" for _, prefix in begun]
    return [shown(q, name, right=q.id in "ab") for q, _ in begun]


@pytest.fixture
def run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
  teacher = Teacher()
  monkeypatch.setattr(training_data, "open_teacher", lambda run, student: teacher)
  return SimpleNamespace(
    tasks=SimpleNamespace(train=QUESTIONS),
    workdir=Workdir(str(tmp_path)),
    student=SimpleNamespace(weights=None),
    known=teacher,
    log=lambda line: None,
  )


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> Any:
  def set_to(tokens: int) -> None:
    monkeypatch.setattr(training_data, "compute_token_budget", lambda *_: tokens)

  return set_to


def names(run: Any, stage: str) -> list[str]:
  return [t.name for t in run.workdir.read_parts(stage)]


def test_a_budget_buys_whole_trajectories() -> None:
  demos = [shown(QUESTIONS[0], str(i), right=True, cost=c) for i, c in enumerate((3, 4, 5))]
  assert [len(take_within_budget(tokens, demos, idle=3)) for tokens in (2, 3, 6, 7, 11, 12, 99)] == [
    0,
    1,
    1,
    2,
    2,
    3,
    3,
  ]


def test_a_teacher_that_costs_nothing_is_not_asked_for_ever() -> None:
  free = (shown(QUESTIONS[0], str(i), right=False, cost=0) for i in itertools.count())
  assert len(take_within_budget(10, free, idle=3)) == 3


def test_bc_goes_round_after_round_until_the_budget_is_spent(run: Any, budget: Any) -> None:
  budget(45)
  lesson = training_data.budgeted_demonstrations(run, "bc")
  assert [t.name for t in lesson.entries] == names(run, "bc") == ["bc/0/a", "bc/1/a"]
  assert lesson.findings == {"demonstrations": 4, "right": 2, "token_budget": 45}
  assert lesson.cost.of("teacher").generated == 40, "what is wrong is paid for too"


def test_where_teaching_costs_no_tokens_bc_has_one_of_each_question(run: Any, budget: Any) -> None:
  budget(0)
  assert training_data.budgeted_demonstrations(run, "bc").findings["demonstrations"] == 3
  assert run.known.demonstrated == ["bc/0"]


def test_bc_on_all_has_one_of_each_question_whatever_it_costs_and_shares_it_with_bc(run: Any, budget: Any) -> None:
  lesson = training_data.all_demonstrations(run, "bc_all")
  assert lesson.findings == {"demonstrations": 3, "right": 1}
  assert lesson.cost.of("teacher").generated == 30
  budget(20)
  assert training_data.budgeted_demonstrations(run, "bc").findings["demonstrations"] == 2
  assert run.known.demonstrated == ["bc/0"], "the round lies in the workdir"


def test_a_right_first_thought_is_gone_on_from(run: Any, budget: Any) -> None:
  budget(90)
  lesson = training_data.first_thought_demonstrations(run, "bc_first_thought")
  assert run.known.begun == {
    "bc_first_thought/1": ["plan of bc/0", "", ""],
    "bc_first_thought/2": ["plan of bc/0", "plan of bc_first_thought/1", ""],
    "bc_first_thought/3": ["plan of bc/0", "plan of bc_first_thought/1", ""],
  }
  assert lesson.findings == {"demonstrations": 9, "right": 5, "token_budget": 90}


def test_a_first_round_of_first_thoughts_is_bcs_own(run: Any, budget: Any) -> None:
  budget(30)
  first = training_data.first_thought_demonstrations(run, "bc_first_thought").entries
  assert list(first) == list(training_data.budgeted_demonstrations(run, "bc").entries)


def test_rounds_have_draws_of_their_own(run: Any) -> None:
  taken = itertools.islice(training_data._demonstrations(run), 7)
  assert [t.name for t in taken] == [f"bc/{i // 3}/{'abc'[i % 3]}" for i in range(7)]
