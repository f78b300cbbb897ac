"""Policy gradient from the untrained student, wired as the recipe wires a stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from score_jax import recipe
from score_jax.experiment.experiment import Experiment
from score_jax.rl.loop import train_policy_gradient
from score_jax.teaching.mentoring import RolloutStart
from score_jax.train.sft import TrainResult
from score_jax.training_data import TrainingData


def train_untrained(
  run: Experiment, stage: str, starts: Sequence[RolloutStart], *, token_budget: int | None = None
) -> TrainResult:
  """Trains from these starts, within a budget of student tokens if there is one."""
  results: list[TrainResult] = []

  def spied(*args: Any, **more: Any) -> TrainResult:
    results.append(train_policy_gradient(*args, **more | {"token_budget": token_budget}))
    return results[0]

  entry = dataclasses.replace(recipe.STAGES[stage], init_from="untrained", budget_from=())
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(recipe, "STAGES", {**recipe.STAGES, stage: entry})
    patch.setattr(recipe, "train_policy_gradient", spied)
    recipe.rl_stage(run, stage, TrainingData(starts, {}))
  return results[0]
