"""What limits leave out of training is nothing, or is counted: long rollouts, and settings that leave no signal."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from score_jax.agent.protocol import Turn
from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.experiment.results import make_stage_config
from score_jax.experiment.stages import STAGES
from score_jax.rl.loop import require_signal
from score_jax.rl.reward import TierRewards, measure_groups, score_groups
from score_jax.teaching.mentoring import RolloutStart
from score_jax.train.batch import pack_examples
from score_jax.trajectory import Trajectory
from tests.agent.scripted import Stage, act, plan, protocol, question, said, stage, submit, tokenizer, tool
from tests.configs import module

__all__ = ["protocol", "stage", "tokenizer", "tool"]


def says(name: str, text: str) -> Turn:
  """The first copy answers at once; the second adds until something ends it."""
  turn = said(text)
  if turn == 0:
    return plan()
  return submit("12") if name.endswith("/0") else act("x = 5 + 7\nprint(x)")


def rolled(stage: Stage, agent: Agent) -> list[Trajectory]:
  request = RolloutRequest("rl/0/q", question(), empty_trajectory(question()), 50, 2)
  [group] = agent.rollout(stage.weights(says), [request])
  return group


def test_a_rollout_ends_where_a_training_row_does(stage: Stage) -> None:
  """At every length it has failed, is learnt from, and fits; one that a slot cannot hold ends there all the same."""
  short, long = rolled(stage, stage.agent(length=200))
  sizes = [len(t.context()) for t in (short, long)]
  assert (short.status, long.status) == ("answered", "context_full") and sizes[1] > 150
  for length in range(sizes[0], 150, 7):
    agent = dataclasses.replace(stage.agent(length=200), length=length)
    answered, cut = rolled(stage, agent)
    assert answered.steps == short.steps, "one that fits is the same"
    assert (cut.status, cut.grade) == ("context_full", 0.0)
    start = RolloutStart(question(), empty_trajectory(question()), None, 50)
    groups = score_groups([start], [[answered, cut]], TierRewards(1.0, 0.5, 0.1), lambda _: unasked, scale="group_std")
    samples = [s.to_example() for s in groups[0]]
    assert max(len(s.tokens) for s in samples) <= length
    assert [float(s.advantage) for s in groups[0]] == [1.0, -1.0]
    assert sum(len(row) for row in pack_examples(samples, length=length)) == 2
    assert sum(s.loss_mask.sum() for s in samples) == sum(len(s.tokens) for t in (answered, cut) for s in t.steps)
    found = measure_groups([[answered, cut]], groups)
    assert (found["rollouts"], found["context_full"]) == (2, 0.5)
  assert rolled(stage, dataclasses.replace(stage.agent(length=200), length=500))[1].context() == long.context()


def unasked(*_: Any) -> Any:
  raise AssertionError("a start without a correction compares nothing")


def test_a_turn_that_the_row_cuts_stays_on_record(stage: Stage) -> None:
  """One token before the end of the second act: malformed, but no bad format, which is the limit of a turn."""
  whole = rolled(stage, stage.agent(length=200))[1]
  upto = len(dataclasses.replace(whole, steps=whole.steps[:2]).context())
  cut = rolled(stage, dataclasses.replace(stage.agent(length=200), length=upto + len(whole.steps[2].tokens) - 1))[1]
  assert (cut.status, [s.kind for s in cut.steps]) == ("context_full", ["first_thought", "act", "malformed"])
  assert cut.steps[2].tokens == whole.steps[2].tokens[:-1]


# Settings without signal


def settings(**changed: float) -> Any:
  config = module("quickstart").get_config()
  config.rl.update(changed)
  return config


def warning(config: Any, stage_name: str) -> str:
  """What is said of the settings of a stage."""
  before_corrections = STAGES[stage_name].rl_starts == "prefixes"
  return require_signal(make_stage_config(config, stage_name).rl, stage_name, rewards_steps=before_corrections)


@pytest.mark.parametrize(
  ("stage_name", "changed", "message"),
  [
    ("rl", {"group_size": 1}, r"rl would learn nothing\. rl\.group_size = 1: .* give 2 or more, or set rl\.distill"),
    ("grpo", {"group_size": 1}, r"grpo would learn nothing\. rl\.group_size = 1"),
    ("rl", {"final": 0.0, "key": 0.0, "avoid": 0.0}, r"rl\.final, rl\.key and rl\.avoid = 0: .* pay one of them"),
    ("rl_no_key", {"final": 0.0}, r"rl_no_key would learn nothing\. rl\.final, rl\.key and rl\.avoid = 0"),
    ("rl_from_question", {"final": 0.0}, "rl_from_question would learn nothing"),
  ],
)
def test_settings_under_which_nothing_is_learnt_are_refused(
  stage_name: str, changed: dict[str, float], message: str
) -> None:
  with pytest.raises(UserError, match=message):
    warning(settings(**changed), stage_name)
  assert warning(settings(**changed, distill=0.5), stage_name) == ""
  assert "rl.kl only holds the weights where they are" in warning(settings(**changed, kl=0.1), stage_name)


@pytest.mark.parametrize("stage_name", ["rl", "rl_no_key", "rl_from_question", "grpo", "distill"])
def test_settings_with_a_signal_are_not(stage_name: str) -> None:
  assert warning(settings(), stage_name) == ""
  assert warning(settings(group_size=2), stage_name) == ""


def test_a_tier_below_the_answers_is_enough_before_a_corrected_step() -> None:
  assert warning(settings(final=0.0), "rl") == ""
