"""At which temperature, and for how many tokens, a chat model is asked for each thing that a run wants of it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from score_jax.chat.interface import ChatRequest
from score_jax.experiment.experiment import Experiment
from score_jax.experiment.teachers import open_step_judge, open_teacher
from score_jax.grading.short_answers import JudgeFallback
from score_jax.runtime.workdir import Workdir
from score_jax.teaching.judges import StepPair
from score_jax.trajectory import Step, Trajectory
from tests.configs import smoke_config
from tests.teaching.scripted_chat import ScriptedChat

pytestmark = pytest.mark.usefixtures("on_one_device")


def says(ask: ChatRequest) -> dict[str, Any]:
  if "/locate/" in ask.name:
    return {"step": int(ask.name.endswith("act")), "diagnosis": "look again"}
  if ask.name.endswith("/first_thought"):
    return {"thought": "see"}
  if ask.name.startswith("correct/"):
    return {"thought": "see again"} if ask.name.endswith("/0") else {"thought": "so", "code": "print(2)"}
  if "/step/" in ask.name:
    return {"thought": "so", "code": "final_answer_print(-1)"}
  return {"verdict": "right", "reason": "so it is", "same": True}


def test_each_is_asked_at_its_own_temperature(tmp_path: pathlib.Path) -> None:
  c = smoke_config()
  rows = tmp_path / "rows.jsonl"
  rows.write_text("".join(json.dumps({"question": f"Who is {n}?", "answer": f"It is {n}."}) + "\n" for n in "abcdef"))
  c.tasks.kind, c.tasks.path, c.tasks.grader = "questions", str(rows), "xbench"
  c.tasks.train, c.tasks.validation, c.tasks.test = 2, 1, 1
  c.tools.isolation, c.tools.search.kind = "process", "none"
  c.teacher.kind, c.chat.kind, c.chat.url, c.chat.model = "prompted", "endpoint", "http://127.0.0.1:9/v1", "nobody"
  c.teacher.first_thought_temperature, c.teacher.step_temperature = 0.11, 0.22
  c.teacher.locate_temperature, c.teacher.correct_temperature, c.teacher.judge_temperature = 0.33, 0.44, 0.55
  c.teacher.reply_tokens = 777
  with Experiment(c, Workdir(str(tmp_path / "run"))) as run:
    chat = run.__dict__["chat"] = ScriptedChat(says)
    teacher = open_teacher(run, run.student.weights)
    one, other = run.tasks.train
    plan, act = Step("first_thought", "see"), Step("act", "so", "print(1)", "1")
    failed = [
      (q, Trajectory(q.id, q.text, (1,), (plan, act), "answered", "1", 0.0, name=name))
      for q, name in ((one, "plan"), (other, "act"))
    ]

    def asked_by(what: Any) -> set[tuple[float, int]]:
      before = len(chat.asked)
      what()
      return {(ask.temperature, ask.tokens) for ask in chat.asked[before:]}

    assert asked_by(lambda: teacher.demonstrate([one], name="warm_start")) >= {(0.11, 777), (0.22, 777)}
    findings = []
    assert asked_by(lambda: findings.extend(teacher.locate(failed, name="mps/1"))) == {(0.33, 777)}
    located = [(q, t, f) for (q, t), f in zip(failed, findings, strict=True)]
    assert asked_by(lambda: teacher.correct(located)) == {(0.44, 777)}
    assert isinstance(run.tasks.grader, JudgeFallback)
    assert asked_by(lambda: run.grade(run.tasks.test[0], "somebody else")) == {(0.55, 777)}
    judge = open_step_judge(run)
    assert asked_by(lambda: judge([StepPair(one.text, (plan,), act, Step("act", "so", "print(2)", "2"))])) == {
      (0.55, 777)
    }
