"""The teachers that a config can name, and a run with one that is asked."""

from __future__ import annotations

import json
import pathlib
import types
from collections.abc import Iterator
from typing import Any

import pytest
from ml_collections import ConfigDict

from score_jax.chat.interface import ChatRequest
from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
from score_jax.experiment.teachers import open_teacher
from score_jax.grading.short_answers import JudgeFallback
from score_jax.recipe import run_recipe
from score_jax.runtime.workdir import Workdir
from score_jax.teaching.prompted import PromptedTeacher
from score_jax.teaching.recorded import RecordedTeacher
from score_jax.teaching.worked_solution import ReferenceTeacher
from score_jax.trajectory import Question
from tests.configs import module, smoke_config
from tests.teaching.scripted_chat import ScriptedChat, data_of

pytestmark = pytest.mark.usefixtures("lenient_promotion", "on_one_device")  # of the optimiser and its schedules


def prompted(**changed: Any) -> ConfigDict:
  config = smoke_config()
  config.teacher.kind = "prompted"
  config.chat.kind, config.chat.url, config.chat.model = "endpoint", "http://127.0.0.1:9/v1", "nobody"
  config.update_from_flattened_dict(changed)
  return config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
  """A run whose chat model is never asked; its config is changed by the tests."""
  with Experiment(prompted(), Workdir(str(tmp_path_factory.mktemp("run")))) as made:
    made.__dict__["chat"] = ScriptedChat(lambda ask: "hm")
    yield made


def test_the_teachers_that_there_are(run: Experiment, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  record = tmp_path / "recorded.jsonl"
  record.write_text('{"question_id": "q", "step": 0, "thought": "a", "code": ""}\n')
  weights = run.student.weights
  for changed, kind in (
    ({}, PromptedTeacher),
    ({"teacher.locate": "both", "mps.continue_by": "student"}, PromptedTeacher),
    ({"teacher.kind": "recorded", "teacher.path": str(record)}, RecordedTeacher),
    ({"teacher.kind": "reference"}, ReferenceTeacher),
  ):
    monkeypatch.setattr(run, "config", prompted(**changed))
    assert isinstance(open_teacher(run, weights), kind)


def test_method_3_teacher_decoding_is_the_configured_default() -> None:
  c = module("quickstart").get_config().teacher
  paper = {"first_thought": 0.5, "step": 0.7, "judge": 0.3, "locate": 0.9}
  assert {name: c[f"{name}_temperature"] for name in paper} == paper
  smoke = module("smollm2_prompted").get_config("smoke")
  assert (smoke.teacher.kind, smoke.teacher.locate, smoke.chat.kind) == ("prompted", "prompted", "endpoint")


@pytest.mark.parametrize(
  ("changed", "says"),
  [
    ({"teacher.kind": "oracle"}, "teacher.kind = 'oracle'; choose model, reference, prompted or recorded"),
    ({"teacher.locate": "guess"}, "teacher.locate = 'guess'; choose from prompted, counterfactual, both"),
    ({"teacher.locate": "both"}, "mps.continue_by = 'teacher'; .*set mps.continue_by = 'student'"),
    (
      {"teacher.locate": "counterfactual", "mps.continue_by": "student", "mps.continuations": 3},
      r"mps.continuations = 3: among 6 steps .* \(mps.alpha = 0.05\); give 4 or more, 16 where",
    ),
    (
      {"teacher.locate": "both", "mps.continue_by": "student", "mps.continuations": 2},
      "mps.continuations = 2: among 1 steps .* give 3 or more",
    ),
    (
      {"teacher.locate": "both", "mps.continue_by": "student", "mps.search": "bisect"},
      "mps.search = 'bisect'; choose from every, halving",
    ),
    ({"teacher.locate": "both", "mps.continue_by": "student", "mps.alpha": 0.0}, "mps.alpha = 0.0; both are shares"),
    ({"teacher.prompts": "nowhere"}, "nowhere/.*jinja cannot be read .*copy the folder"),
    ({"teacher.kind": "recorded", "teacher.path": "nowhere.jsonl"}, "teacher.path = 'nowhere.jsonl'"),
  ],
)
def test_what_is_wrong_with_a_teacher_is_told(
  run: Experiment, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], says: str
) -> None:
  weights = run.student.weights
  monkeypatch.setattr(run, "config", prompted(**changed))
  with pytest.raises(UserError, match=says):
    open_teacher(run, weights)


@pytest.mark.parametrize(("kind", "grade"), [("endpoint", 1.0), ("", None)])
def test_the_chat_model_judges_where_a_grader_wants_a_judge(tmp_path: pathlib.Path, kind: str, grade: Any) -> None:
  """Without a chat model the grader abstains."""
  rows = tmp_path / "rows.jsonl"
  rows.write_text("".join(json.dumps({"question": f"Who is {n}?", "answer": f"It is {n}."}) + "\n" for n in "abcdef"))
  config = prompted(**{"chat.kind": kind, "tasks.kind": "questions", "tasks.path": str(rows), "tasks.grader": "xbench"})
  config.tasks.train, config.tasks.validation, config.tasks.test = 2, 1, 1
  run = Experiment(config, Workdir(str(tmp_path / "run")))
  chat = run.__dict__["chat"] = ScriptedChat(lambda ask: {"verdict": "right", "reason": "so it is"})
  assert isinstance(run.tasks.grader, JudgeFallback)
  assert run.tasks.grader(run.tasks.test[0], "somebody else")[0] == grade
  assert len(chat.asked) == (1 if kind else 0)


def solves(questions: list[Question]) -> Any:
  """A teacher that knows the worked solutions: it shows them, names the first act, and writes the worked one."""
  by_text = {q.text: q.solution for q in questions}

  def says(ask: ChatRequest) -> dict[str, Any]:
    data = data_of(ask)
    first, *acts = by_text[data["question"]]
    if "locate" in ask.name:
      return {"step": min(1, len(data["steps"]) - 1), "diagnosis": "look at what the question gives"}
    if "steps" not in data:
      return {"thought": first[0]}
    thought, code = acts[len(data["steps"]) - 1]
    return {"thought": thought, "code": code}

  return says


@pytest.mark.slow
def test_a_run_with_a_teacher_that_is_asked(tmp_path: pathlib.Path) -> None:
  config = prompted()
  config.stages = ("warm_start", "mps")
  config.mps.corrections = 1
  workdir = Workdir(str(tmp_path / "run"))
  with Experiment(config, workdir) as run:
    chat = run.__dict__["chat"] = ScriptedChat(solves(run.tasks.train))
    chat.free = types.MethodType(lambda self: None, chat)  # what a run's own chat has
    run_recipe(run)
    shown = list(workdir.read_parts("warm_start"))
    mentored = list(workdir.read_parts("mps"))
  assert shown
  assert all(s.author == "teacher" for t in shown for s in t.steps)
  corrections = [c for t in mentored for c in t.corrections]
  assert corrections
  assert {c.located for c in corrections} == {"prompted"}
  assert all(c.verified == "student_success" for t in mentored if t.right for c in t.corrections)
  summary = workdir.read_json("trajectories/mps/summary.json")
  assert summary is not None
  replies = summary["teacher_replies"]
  assert replies["locate"]["ok"] == summary["located"]["prompted"] >= len(corrections)
  stage = workdir.read_json("stages/mps.json")
  assert stage is not None
  assert stage["ledger"]["models"]["teacher"]["generated"] > 0


@pytest.mark.slow
def test_a_run_whose_teacher_never_replies_well_goes_through(tmp_path: pathlib.Path) -> None:
  """Nothing is demonstrated, located or corrected; what has nothing to learn from keeps its weights."""
  config = prompted()
  config.stages = ("warm_start", "mps", "bc")
  config.teacher.reply_tokens = 16
  workdir = Workdir(str(tmp_path / "run"))
  with Experiment(config, workdir) as run:
    chat = run.__dict__["chat"] = ScriptedChat(lambda ask: "I am not sure.")
    chat.free = types.MethodType(lambda self: None, chat)
    run_recipe(run)
    run_recipe(run)  # finds all of it done
  for stage in ("warm_start", "bc"):
    found = workdir.read_json(f"stages/{stage}.json")
    assert found is not None
    assert (found["updates"], found["right"]) == (0, 0)
  summary = workdir.read_json("trajectories/mps/summary.json")
  assert summary is not None
  assert summary["teacher_replies"]["locate"]["failed"] == summary["unlocated"] > 0
