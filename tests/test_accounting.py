"""What mentoring books as teaching and what as measuring, counted apart by what each request drew."""

from __future__ import annotations

import pathlib
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from score_jax import recipe, stages
from score_jax.agent.protocol import Turn
from score_jax.lessons import budget
from score_jax.mentor.counterfactual import CounterfactualTeacher
from score_jax.mentor.falls import Rule
from score_jax.trajectory import Ledger, Usage
from score_jax.workdir import Workdir
from tests.agent.scripted import Stage, act, plan, protocol, question, said, stage, submit, tokenizer, tool
from tests.configs import module

__all__ = ["protocol", "stage", "tokenizer", "tool"]

ADD = act("x = 5 + 7\nprint(x)", "add 7")
TAKE = act("x = 5 - 7\nprint(x)", "take 7")


@pytest.fixture
def drawn() -> Counter[str]:
  """Tokens that each request drew, by its name."""
  return Counter()


@pytest.fixture
def run(stage: Stage, drawn: Counter[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
  """A run before its mentoring: of question a the student's first try is right, of b and c it is wrong."""

  def counted(says: Callable[[str, str], Turn]) -> Callable[[str, str], Turn]:
    def say(name: str, text: str) -> Turn:
      turn = says(name, text)
      drawn[name] += len(stage.protocol.turn(turn))
      return turn

    return say

  def student(name: str, text: str) -> Turn:
    if "Observation: 12" in text:
      return submit()
    return [plan(), ADD if name == "mps/a/0" else TAKE, submit()][said(text)]

  def teacher(name: str, text: str) -> Turn:
    if "Observation: -2" in text:
      return submit()
    return submit() if "Observation: 12" in text else [plan("plan: add"), ADD][said(text)]

  config = module("quickstart").get_config("smoke")
  config.mps.tries, config.mps.continuations, config.agent.acts = 3, 4, 4
  taught = stage.agent("teacher"), stage.weights(counted(teacher))
  opened = CounterfactualTeacher(*taught, judge=taught, continuations=4, rule=Rule(0.5, 0.05), acts=4)
  monkeypatch.setattr(recipe, "open_teacher", lambda run, student: opened)
  monkeypatch.setattr(recipe, "weights_of", lambda run, name: stage.weights(counted(student)))
  monkeypatch.setattr(recipe, "mentored_questions", lambda run: [question(name=name) for name in "abc"])
  workdir = Workdir(str(tmp_path))
  return SimpleNamespace(config=config, workdir=workdir, student_agent=stage.agent(), say=lambda line: None)


def tokens(drawn: Counter[str], wanted: Callable[[str], bool]) -> int:
  return sum(count for name, count in drawn.items() if wanted(name))


def test_probes_and_lift_are_measured_and_all_else_is_teaching(run: Any, drawn: Counter[str]) -> None:
  found = recipe.mps(run)
  taught, measured = stages.decoded(found["ledger"]), stages.decoded(found["measured"])
  depth = tokens(drawn, lambda name: name.startswith("depth/"))
  assert measured.of("teacher").generated == depth > 0
  teaching = tokens(drawn, lambda name: name.count("/") > 2 and "before" not in name and "after" not in name)
  assert taught.of("teacher").generated == teaching - depth > 0
  decides = tokens(drawn, lambda name: name.count("/") == 2 or ("/after/" in name and name.endswith("/0")))
  assert taught.of("student").generated == decides > 0
  lift = tokens(drawn, lambda name: "/before/" in name or ("/after/" in name and not name.endswith("/0")))
  assert measured.of("student").generated == lift > 0
  assert taught.of("student").generated + measured.of("student").generated + teaching == drawn.total()


def test_no_budget_reads_what_was_spent_to_measure(run: Any) -> None:
  warm = {"ledger": stages.encoded(Ledger({"teacher": Usage(1000)}))}
  stages.finish(run, "warm_start", warm)
  found = recipe.mps(run)
  stages.finish(run, "mps", found)
  stages.finish(run, "rl", {"ledger": stages.encoded(Ledger({"student": Usage(70)}))})
  taught = found["ledger"]["models"]
  assert budget(run, "bc", "teacher") == 1000 + taught["teacher"]["generated"]
  assert budget(run, "grpo", "student") == 70 + taught["student"]["generated"]
  assert stages.measured_until(run, "mps") == stages.decoded(found["measured"])
  assert stages.cost_until(run, "mps") == stages.decoded(found["ledger"]) + stages.decoded(warm["ledger"])
