"""The reference release's records: hand-made ones, and its own where they are at hand."""

from __future__ import annotations

import json
import os
import pathlib
from collections import Counter

import pytest

from score_jax.agent.protocol import AgentProtocol
from score_jax.agent.scripted import tokenize_trajectory
from score_jax.errors import UserError
from score_jax.sandbox.interface import Outcome
from score_jax.sandbox.sandbox import Sandbox
from score_jax.teaching.release import describe_difference, parse_release_record, read_release, rerun_acts
from score_jax.trajectory import Step, trajectory_from_json, trajectory_to_json

DATA = os.environ.get("SCORE_JAX_DATA", "")
RELEASE = pathlib.Path(DATA) / "score_release"
needs_release = pytest.mark.skipif(not DATA or not RELEASE.exists(), reason="SCORE_JAX_DATA has no score_release")

RECORD = {
  "original_task_info": {"id": "q1", "question": "What is 3 and 4?", "true_answer": " \\boxed{7} "},
  "steps": [
    {"thought": "First Thought: add them", "code": "", "observation": "No Code Executed.", "is_finished": False},
    {"thought": "Thought: add", "code": "x = 3 + 4\nprint(x)", "observation": "7\n", "is_finished": False},
    {"thought": "done", "code": "final_answer_print(x)", "observation": "7\n", "is_finished": True},
  ],
  "evaluation_result": {"is_correct": True},
  "repair_steps": [
    {
      "teacher_guided_step": {"thought": "Thought: add", "code": "x = 3 + 4\nprint(x)", "observation": "7\n"},
      "student_mistake": [{"thought": "take", "code": "x = 3 - 4\nprint(x)", "observation": "-1\n"}],
      "mistake_step_index": 1,
      "correction_suggestion": "The two are to be added.",
      "is_valid": True,
    }
  ],
}


def test_a_record_is_a_corrected_trajectory() -> None:
  question, trajectory = parse_release_record(RECORD)
  assert (question.id, question.answer) == ("q1", "\\boxed{7}")
  assert (trajectory.status, trajectory.answer, trajectory.grade) == ("answered", "7", 1.0)
  assert [(s.kind, s.thought, s.observation, s.answer, s.author) for s in trajectory.steps] == [
    ("first_thought", "add them", "", None, "student"),
    ("act", "add", "7", None, "teacher"),
    ("act", "done", "", "7", "student"),
  ]
  [correction] = trajectory.corrections
  assert (correction.step, correction.verified) == (1, "recorded")
  assert correction.replacement == trajectory.steps[1]
  assert [(m.code, m.observation, m.author) for m in correction.mistakes] == [("x = 3 - 4\nprint(x)", "-1", "student")]
  assert trajectory_from_json(trajectory_to_json(trajectory)) == trajectory


@pytest.mark.parametrize("gold", [None, float("nan"), " "])
def test_a_verdict_without_a_gold_answer_is_none(gold: object) -> None:
  question, trajectory = parse_release_record(
    RECORD | {"original_task_info": {"id": "q1", "question": "?", "true_answer": gold}}
  )
  assert (question.answer, trajectory.grade, trajectory.grade_reason) == ("", None, "no answer to grade by")


def test_an_error_of_its_server_is_nobodys_fault() -> None:
  broken = {"error": "Internal Server Error", "node": "reasoning_node", "task_id": "q1", "timestamp": ""}
  cut = {**RECORD, "steps": [*RECORD["steps"][:2], broken], "evaluation_result": {"is_correct": False}}
  _, trajectory = parse_release_record(cut)
  assert (trajectory.status, trajectory.grade, len(trajectory.steps)) == ("tool_failure", None, 2)


def test_what_is_no_record_is_told_by_its_line(tmp_path: pathlib.Path) -> None:
  file = tmp_path / "x.jsonl"
  file.write_text(json.dumps(RECORD) + "\n{}\n")
  with pytest.raises(UserError, match=r"x\.jsonl:2: no record of mentored problem solving \(KeyError"):
    list(read_release(str(file)))
  with pytest.raises(UserError, match="does not exist"):
    list(read_release(str(tmp_path / "none")))


@pytest.mark.parametrize(
  ("noted", "outcome", "expected"),
  [
    ("7", Outcome("ok", "7"), ""),
    ("None", Outcome("ok", ""), ""),
    ("7", Outcome("ok", "8"), "another observation"),
    ("7", Outcome("timeout", ""), "timeout here"),
    ("Error: name 'i' is not defined", Outcome("exception", "NameError: name 'i' is not defined"), ""),
    (
      "Error: invalid syntax (<string>, line 3)",
      Outcome("exception", "SyntaxError: invalid syntax"),
      "",
    ),
    (
      "Error: name 'i' is not defined",
      Outcome("exception", "NameError: name 'j' is not defined"),
      "another error: exception",
    ),
    ("Error: name 'i' is not defined", Outcome("ok", "1"), "an error there, none here"),
  ],
)
def test_how_a_step_differs(noted: str, outcome: Outcome, expected: str) -> None:
  assert describe_difference(Step("act", "", "", noted), outcome) == expected


def test_how_an_answer_differs() -> None:
  step = Step("act", "", "", answer="so\n7")
  assert describe_difference(step, Outcome("ok", "so", "7")) == ""
  assert describe_difference(step, Outcome("ok", "", "8")) == "another answer"
  assert describe_difference(step, Outcome("exception", "NameError")) == "no answer: exception"


@needs_release
def test_all_of_its_records_are_read(protocol: AgentProtocol) -> None:
  found = [
    pair for kind in ("math", "search") for pair in read_release(str(RELEASE / f"{kind}_mps_trajectories.jsonl"))
  ]
  assert len(found) == 260
  trajectories = [t for _, t in found]
  assert sum(bool(t.corrections) for t in trajectories) == 61
  assert sum(len(c.mistakes) for t in trajectories for c in t.corrections) == 73
  assert Counter(t.status for t in trajectories) == {"answered": 243, "step_limit": 16, "tool_failure": 1}
  assert sum(t.right for t in trajectories) == 236
  for trajectory in trajectories:
    assert not any(s.thought.startswith(("Thought:", "First Thought:")) for s in trajectory.steps)
    for correction in trajectory.corrections:
      assert correction.replacement.code == trajectory.steps[correction.step].code
    with_tokens = tokenize_trajectory(protocol, trajectory)
    assert protocol.parse_turn(with_tokens.steps[0].tokens, "first_thought") is not None
    assert trajectory_from_json(trajectory_to_json(with_tokens)) == with_tokens


@needs_release
@pytest.mark.slow
def test_its_python_gives_here_what_it_gave_there() -> None:
  """All but 6 of 243 steps of its mathematics (docs/method.md says which)."""
  trajectories = [t for _, t in read_release(str(RELEASE / "math_mps_trajectories.jsonl"))]
  limits = {"timeout_s": 20.0, "memory_mb": 1024, "files_mb": 16, "output_chars": 20_000}
  with Sandbox(isolation="bubblewrap", workers=2, sessions=64, search=None, **limits) as sandbox:
    kinds = Counter(
      describe_difference(trajectories[i].steps[k], outcome) for i, k, outcome in rerun_acts(trajectories, sandbox)
    )
  assert kinds[""] >= 236, kinds
  assert sum(kinds.values()) == 243
