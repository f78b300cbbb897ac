"""The controls of mentoring, with a student and a teacher that do as they are told; the environment is real."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from score_jax import training_data
from score_jax.agent.protocol import Turn
from score_jax.agent.rollout import RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.runtime.workdir import Workdir
from score_jax.teaching.counterfactual import CounterfactualTeacher
from score_jax.teaching.falls import FallTest
from score_jax.teaching.mentoring import MentoredQuestion
from score_jax.training_data import select_by_hash, select_first_correct
from score_jax.trajectory import Ledger, Question, Trajectory
from tests.agent.scripted import Stage, act, plan, protocol, question, said, stage, submit, tokenizer, tool
from tests.configs import module

__all__ = ["protocol", "stage", "tokenizer", "tool"]

ADD = act("x = 5 + 7\nprint(x)", "add 7")
TAKE = act("x = 5 - 7\nprint(x)", "take 7")

Says = Callable[[str, str], Turn | Sequence[int]]


def takes(name: str, text: str) -> Turn:
  """Takes away where it should add, in each first try; in later ones it adds."""
  late = name[-1] != "0"
  return [plan(), ADD if late else TAKE, submit()][said(text)] if "Observation: 12" not in text else submit()


def adds(name: str, text: str) -> Turn:
  return [plan("plan: add"), ADD, submit()][said(text)] if "Observation: 12" not in text else submit()


@dataclasses.dataclass
class Setting:
  """A run whose mentoring is over: question a was solved unaided, b, c and d failed at their first act."""

  run: Any
  cases: list[MentoredQuestion]


@pytest.fixture
def setting(stage: Stage, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
  config = module("quickstart").get_config("smoke")
  config.mps.corrections, config.agent.acts, config.sft.keep_unaided = 3, 4, 1.0
  weights, student, teacher = stage.weights(takes), stage.agent(), stage.agent("teacher")
  monkeypatch.setattr(training_data, "load_stage_weights", lambda run, name: weights)
  questions = [dataclasses.replace(question(), id=name, text=f"{name}: what is 5 + 7?") for name in "abcd"]
  teaches = (teacher, stage.weights(adds))
  counterfactual = CounterfactualTeacher(*teaches, judge=teaches, continuations=4, rule=FallTest(0.5, 0.05), acts=4)
  monkeypatch.setattr(training_data, "open_teacher", lambda run, student: counterfactual)
  run = SimpleNamespace(
    config=config,
    workdir=Workdir(str(tmp_path)),
    student_agent=student,
    log=lambda line: None,
  )
  tried = student.rollout(weights, [RolloutRequest(f"mps/{q.id}", q, empty_trajectory(q), 4, 2) for q in questions])
  wrong, right = ([group[copy] for group in tried] for copy in (0, 1))
  cases = [MentoredQuestion(questions[0], right[0], "unaided", None, Ledger())]
  cases += [MentoredQuestion(q, t, "not_kept", 1, Ledger(), t) for q, t in zip(questions[1:3], wrong[1:3], strict=True)]
  cases.append(MentoredQuestion(questions[3], right[3], "solved", 1, Ledger(), wrong[3]))
  found = Setting(run, cases)
  monkeypatch.setattr(training_data, "sft_and_rl_halves", lambda run: (found.cases, []))
  return found


def authors(trajectory: Trajectory) -> list[str]:
  return [step.author for step in trajectory.steps]


def all_mended(setting: Setting) -> None:
  """As many were solved as failed, so that nothing is left out."""
  setting.cases[1:3] = [dataclasses.replace(case, outcome="solved") for case in setting.cases[1:3]]


def test_rejection_sampling_keeps_the_first_right_try_from_the_question(setting: Setting) -> None:
  all_mended(setting)
  lesson = training_data.rejection_samples(setting.run, "sft_rejection")
  assert [t.name for t in lesson.entries] == ["mps/a/1", *(f"sft_rejection/{q}/1" for q in "bcd")]
  assert all(t.right and t.prefix_steps == 0 for t in lesson.entries)
  assert lesson.findings == {"trajectories": 4, "mended": 3, "right": 3}
  assert set(lesson.cost.models) == {"student"}
  turns = setting.run.student_agent.protocol.encode_turn
  one = sum(len(turns(turn)) for turn in (plan(), ADD, submit()))
  first = sum(len(turns(turn)) for turn in (plan(), TAKE, submit()))
  assert lesson.cost.of("student").generated == one + 3 * first + 3 * (first + 2 * one), "attempts, then three tries"


def test_a_step_is_drawn_again_where_the_teacher_located_it(setting: Setting) -> None:
  all_mended(setting)
  setting.cases[3] = dataclasses.replace(setting.cases[3], first_error=None)
  lesson = training_data.redrawn_steps(setting.run, "sft_redraw")
  redrawn = [t for t in lesson.entries if t.name.startswith("sft_redraw")]
  assert [t.name for t in redrawn] == ["sft_redraw/b/1", "sft_redraw/c/1"], "of d no error was located"
  for trajectory, case in zip(redrawn, setting.cases[1:3], strict=True):
    assert case.failed_attempt
    assert (trajectory.prefix_steps, trajectory.steps[:1]) == (1, case.failed_attempt.steps[:1])
    assert (trajectory.steps[1].code, set(authors(trajectory))) == (ADD.code, {"student"})
  assert set(lesson.cost.models) == {"student"}


def test_the_teacher_ends_what_the_student_began(setting: Setting) -> None:
  all_mended(setting)
  lesson = training_data.teacher_completions(setting.run, "sft_teacher_finishes")
  assert [authors(t) for t in lesson.entries] == [["student"] * 3, *[["student", "teacher", "teacher"]] * 3]
  assert all(t.right for t in lesson.entries)
  assert set(lesson.cost.models) == {"teacher"}


def test_a_step_named_by_lot_is_corrected_and_the_student_goes_on(setting: Setting) -> None:
  all_mended(setting)
  lesson = training_data.random_step_corrections(setting.run, "sft_random_k")
  mended = [t for t in lesson.entries if t.corrections]
  assert mended
  for trajectory in mended:
    last = trajectory.corrections[-1]
    assert trajectory.right and last.verified == "student_success"
    assert trajectory.name.startswith("sft_random_k/")
    assert authors(trajectory)[last.step + 1 :] == ["student"] * (len(trajectory.steps) - last.step - 1)
  attempts = sum(t.ledger.of("student").generated for c in setting.cases if (t := c.failed_attempt or c.trajectory))
  assert lesson.cost.of("student").generated > attempts, "it books the attempts that it starts from"
  assert lesson.cost.of("teacher").generated > 0


def test_no_arm_learns_from_more_than_sft(setting: Setting) -> None:
  """Mentoring solved one of the three; the hash says which of the mended three is kept, the same one in every arm."""
  kept = []
  for name, control in (
    ("sft_rejection", training_data.rejection_samples),
    ("sft_redraw", training_data.redrawn_steps),
  ):
    lesson = control(setting.run, name)
    assert lesson.findings == {"trajectories": 2, "mended": 1, "right": 3}
    assert lesson.entries == list(setting.run.workdir.read_parts(name))
    kept.append([t.question_id for t in lesson.entries])
  assert kept[0] == kept[1]


def test_without_corrections_nothing_is_tried(setting: Setting) -> None:
  setting.run.config.mps.corrections = 0
  lesson = training_data.redrawn_steps(setting.run, "sft_redraw")
  assert (lesson.findings["mended"], lesson.cost) == (0, Ledger())


def test_attempts_that_are_missing_are_asked_for(setting: Setting) -> None:
  setting.cases[1] = dataclasses.replace(setting.cases[1], failed_attempt=None)
  with pytest.raises(UserError, match="first attempts are missing"):
    training_data.rejection_samples(setting.run, "sft_rejection")


def test_first_right() -> None:
  def tried(name: str, right: bool) -> Trajectory:
    return Trajectory(name[0], "?", (), status="answered", grade=float(right), name=name)

  groups = [[tried("a0", False), tried("a1", True), tried("a2", True)], [tried("b0", False)], [tried("c0", True)]]
  assert {q: t.name for q, t in select_first_correct(groups).items()} == {"a": "a1", "c": "c0"}


def test_at_most() -> None:
  questions = [Question(str(i), f"question {i}", "1") for i in range(20)]
  few = select_by_hash(5, questions, "salt")
  assert len(few) == 5 and few == select_by_hash(5, questions[::-1], "salt") != select_by_hash(5, questions, "other")
  assert select_by_hash(3, questions, "salt") < few < select_by_hash(99, questions, "salt") == {q.id for q in questions}
