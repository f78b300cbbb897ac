"""A teacher that plays recorded corrections again."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from score_jax.agent.rollout import RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.grading.numbers import grade_number
from score_jax.teaching.mentoring import mentor_questions
from score_jax.teaching.recorded import RecordedTeacher
from score_jax.teaching.teacher import Finding
from score_jax.trajectory import Ledger, Question, Trajectory, trajectory_to_json
from tests.agent.scripted import Stage, act, plan, question, said, submit

ADD = act("x = 5 + 7\nprint(x)", "add 7")
TAKE = act("x = 5 - 7\nprint(x)", "take 7")
RECORD = {"question_id": "q", "step": 1, "thought": "add 7", "code": ADD.code, "diagnosis": "it takes away"}


def teacher(stage: Stage, folder: pathlib.Path, *lines: Any) -> RecordedTeacher:
  file = folder / "recorded.jsonl"
  file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
  return RecordedTeacher(str(file), stage.protocol, stage.tool, grade_number)


def failed(stage: Stage, *turns: Any, name: str = "q") -> tuple[Question, Trajectory]:
  asked = question(name=name)
  [[trajectory]] = stage.agent().rollout(
    stage.in_turn(*turns), [RolloutRequest("failed", asked, empty_trajectory(asked), 4)]
  )
  return asked, trajectory


def test_a_step_that_somebody_else_named_has_no_record(stage: Stage, tmp_path: pathlib.Path) -> None:
  made = teacher(stage, tmp_path, RECORD)
  asked, trajectory = failed(stage, plan(), TAKE, submit())
  here, elsewhere = (Finding("located", step) for step in (1, 2))
  first, second = made.correct([(asked, trajectory, elsewhere), (asked, trajectory, here)])
  assert first.step is None and second.step is not None and second.step.observation == "12"


@pytest.mark.parametrize(
  "record",
  [
    RECORD,
    {k: v for k, v in RECORD.items() if k != "question_id"} | {"question": question().text},
    RECORD | {"prefix": [["plan: add", ""]]},
  ],
)
def test_a_recorded_correction_is_found_and_really_runs(
  stage: Stage, tmp_path: pathlib.Path, record: dict[str, Any]
) -> None:
  made = teacher(stage, tmp_path, record)
  asked, trajectory = failed(stage, plan(), TAKE, submit())
  [finding] = made.locate([(asked, trajectory)], name="mps/1")
  assert (finding.verdict, finding.step, finding.diagnosis, finding.located) == (
    "located",
    1,
    "it takes away",
    "recorded",
  )
  [proposal] = made.correct([(asked, trajectory, finding)])
  assert proposal.step is not None
  assert (proposal.step.author, proposal.step.observation) == ("teacher", "12")
  assert proposal.step.tokens == stage.protocol.encode_turn(ADD)
  assert proposal.ledger == Ledger(tool_calls=1)
  assert made.counts() == {"recorded": {"corrected": 1, "located": 1}}


@pytest.mark.parametrize(
  ("record", "count"),
  [
    (RECORD | {"question_id": "other"}, "no record"),
    (RECORD | {"prefix": [["plan: take", ""]]}, "another prefix"),
    (RECORD | {"step": 7}, "another prefix"),
    (RECORD | {"thought": "take 7", "code": TAKE.code}, "another prefix"),
  ],
)
def test_what_does_not_fit_is_unlocated_and_counted(
  stage: Stage, tmp_path: pathlib.Path, record: dict[str, Any], count: str
) -> None:
  made = teacher(stage, tmp_path, record)
  [finding] = made.locate([failed(stage, plan(), TAKE, submit())], name="mps/1")
  assert (finding.verdict, made.counts()) == ("unlocated", {"recorded": {count: 1}})


@pytest.mark.parametrize(
  ("code", "count"),
  [("print(undefined)", "did not run"), ("final_answer_print(12)", "leaks"), ("print(1", "did not run")],
)
def test_what_does_not_run_or_leaks_is_not_used(stage: Stage, tmp_path: pathlib.Path, code: str, count: str) -> None:
  made = teacher(stage, tmp_path, RECORD | {"code": code})
  asked, trajectory = failed(stage, plan(), TAKE, submit())
  [finding] = made.locate([(asked, trajectory)], name="mps/1")
  [proposal] = made.correct([(asked, trajectory, finding)])
  assert proposal.step is None
  assert made.counts()["recorded"][count] == 1


def test_the_earliest_that_fits_is_taken(stage: Stage, tmp_path: pathlib.Path) -> None:
  later = RECORD | {"step": 2, "code": "final_answer_print(x)"}
  made = teacher(stage, tmp_path, later, "", RECORD | {"step": 0, "thought": "plan: take", "code": ""})
  [finding] = made.locate([failed(stage, plan(), TAKE, submit())], name="mps/1")
  assert finding.step == 0


def solved(stage: Stage, made: RecordedTeacher) -> Trajectory:
  """What a student that takes away comes to with this teacher."""

  def takes(name: str, text: str) -> Any:
    return [plan(), TAKE, submit()][said(text)]

  [case] = mentor_questions(
    [question()],
    student=stage.agent(),
    weights=stage.weights(takes),
    teacher=made,
    acts=4,
    corrections=3,
    tries=1,
    report=lambda line: None,
  )
  assert case.outcome == "solved"
  assert case.ledger.of("teacher").generated == 0
  return case.trajectory


def test_a_runs_trajectories_are_records(stage: Stage, tmp_path: pathlib.Path) -> None:
  """Mentoring again by what mentoring left gives the same, and its teacher's demonstrations are shown again."""
  first = solved(stage, teacher(stage, tmp_path, RECORD))
  asked, right = failed(stage, plan(), ADD, submit(), name="w")
  shown = dataclasses.replace(right, steps=tuple(dataclasses.replace(s, author="teacher") for s in right.steps))
  folder = tmp_path / "trajectories"
  for stage_name, trajectory in (("mps", first), ("warm_start", shown)):
    (folder / stage_name).mkdir(parents=True)
    (folder / stage_name / "part-00000.jsonl").write_text(trajectory_to_json(trajectory) + "\n")
  again = RecordedTeacher(str(folder), stage.protocol, stage.tool, grade_number)
  assert solved(stage, again).steps == first.steps
  [demonstrated, missing] = again.demonstrate([asked, question(name="unknown")], name="warm")
  assert (demonstrated.right, [s.author for s in demonstrated.steps]) == (True, ["teacher"] * 3)
  assert demonstrated.context() == right.context()
  assert (missing.right, missing.steps) == (False, ())
  [ended] = again.finish([(asked, right.prefix(2))], name="finish")
  assert (ended.right, ended.prefix_steps, [s.author for s in ended.steps]) == (True, 2, ["student"] * 2 + ["teacher"])
  other = failed(stage, plan(), TAKE, submit(), name="w")[1]
  [lost] = again.finish([(asked, other.prefix(2))], name="finish")
  assert (lost.grade, lost.status, lost.steps) == (0.0, "step_limit", other.steps[:2])


@pytest.mark.parametrize(
  ("line", "says"),
  [
    ("{", r"recorded\.jsonl:1: no recorded correction \(JSONDecodeError"),
    ("[]", "no recorded correction"),
    ({**RECORD, "step": "1"}, "step is a number from 0 on"),
    ({**RECORD, "step": -1}, "step is a number from 0 on"),
    ({**RECORD, "step": True}, "step is a number from 0 on"),
    ({**RECORD, "code": None}, "thought, code, diagnosis and prefix are texts"),
    ({**RECORD, "question_id": None}, "question, thought"),
    ({**RECORD, "diagnosis": 3}, "diagnosis and prefix are texts"),
    ({**RECORD, "prefix": [[None, ""]]}, "diagnosis and prefix are texts"),
    ({**RECORD, "cod": "x"}, "the key 'cod' is unknown"),
    ({**RECORD, "prefix": []}, "a prefix of 0 steps before step 1"),
    ({"step": 1, "thought": "a", "code": "b"}, "KeyError: 'question'"),
    ({"schema": 99}, "schema 99"),
  ],
)
def test_what_is_no_record_is_told_by_its_line(stage: Stage, tmp_path: pathlib.Path, line: Any, says: str) -> None:
  with pytest.raises(UserError, match=says):
    teacher(stage, tmp_path, line)


def test_a_file_that_is_not_there(stage: Stage, tmp_path: pathlib.Path) -> None:
  for path in ("", str(tmp_path / "none.jsonl"), str(tmp_path)):
    with pytest.raises(UserError, match=r"teacher\.path = .*: no file of recorded corrections"):
      RecordedTeacher(path, stage.protocol, stage.tool, grade_number)
