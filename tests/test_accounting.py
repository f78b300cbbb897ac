"""What mentoring books as teaching and what as measuring, counted apart by what each request drew."""

from __future__ import annotations

import pathlib
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from score_jax import recipe
from score_jax.agent.protocol import Turn
from score_jax.experiment import results
from score_jax.runtime.workdir import Workdir
from score_jax.teaching.counterfactual import CounterfactualTeacher
from score_jax.teaching.falls import FallTest
from score_jax.training_data import compute_token_budget
from score_jax.trajectory import Ledger, Usage
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
    def counting(name: str, text: str) -> Turn:
      turn = says(name, text)
      drawn[name] += len(stage.protocol.encode_turn(turn))
      return turn

    return counting

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
  opened = CounterfactualTeacher(*taught, judge=taught, continuations=4, rule=FallTest(0.5, 0.05), acts=4)
  monkeypatch.setattr(recipe, "open_teacher", lambda run, student: opened)
  monkeypatch.setattr(recipe, "load_stage_weights", lambda run, name: stage.weights(counted(student)))
  monkeypatch.setattr(recipe, "select_mentored_questions", lambda run: [question(name=name) for name in "abc"])
  workdir = Workdir(str(tmp_path))
  return SimpleNamespace(config=config, workdir=workdir, student_agent=stage.agent(), log=lambda line: None)


def tokens(drawn: Counter[str], wanted: Callable[[str], bool]) -> int:
  return sum(count for name, count in drawn.items() if wanted(name))


def test_probes_and_lift_are_measured_and_all_else_is_teaching(run: Any, drawn: Counter[str]) -> None:
  found = recipe.mentoring_stage(run)
  taught, measured = results.ledger_from_dict(found["ledger"]), results.ledger_from_dict(found["measured"])
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
  warm = {"ledger": results.ledger_to_dict(Ledger({"teacher": Usage(1000)}))}
  results.write_stage_result(run, "warm_start", warm)
  found = recipe.mentoring_stage(run)
  results.write_stage_result(run, "mps", found)
  results.write_stage_result(run, "rl", {"ledger": results.ledger_to_dict(Ledger({"student": Usage(70)}))})
  taught = found["ledger"]["models"]
  assert compute_token_budget(run, "bc", "teacher") == 1000 + taught["teacher"]["generated"]
  assert compute_token_budget(run, "grpo", "student") == 70 + taught["student"]["generated"]
  assert results.sum_measurement_cost(run, "mps") == results.ledger_from_dict(found["measured"])
  assert results.sum_training_cost(run, "mps") == results.ledger_from_dict(found["ledger"]) + results.ledger_from_dict(
    warm["ledger"]
  )
