"""What stages take, against sums worked out by hand from seconds a token that are powers of ten."""

from __future__ import annotations

from typing import Any

import pytest

from score_jax.plan.cost import ASSUMED_FAILURE_RATE, MEAN_REMAINING_FRACTION, StageCosts
from tests.configs import module

PER_TOKEN = {
  ("student", "decode"): 1e-3,
  ("student", "extend"): 1e-4,
  ("teacher", "decode"): 1e-1,
  ("teacher", "extend"): 1e-2,
  ("student", "sft_step"): 1e-6,
  ("student", "policy_gradient_step"): 1e-5,
  ("student", "score"): 1e-7,
  ("teacher", "score"): 1e-8,
}
STUDENT, TEACHER = 1500 * 1.1e-3, 1500 * 1.1e-1  # a rollout draws 1,500 tokens and reads 1,500
LEARNT = 3000e-6  # a trajectory that is fine-tuned on


def costs(**changed: Any) -> StageCosts:
  """Of 1,000 training questions: 200 demonstrated, 800 mentored of which 400 are failed at first."""
  config = module("quickstart").get_config()
  config.tasks.train, config.tasks.test, config.eval.tries = 1000, 50, 4
  config.rl.steps, config.rl.prompts, config.rl.group_size = 3, 5, 7
  config.warm_start.epochs = config.bc.epochs = config.sft.epochs = 2
  config.mps.continuations, config.mps.tries = 8, 1
  config.update_from_flattened_dict(changed)
  return StageCosts(config, PER_TOKEN)


def test_of_five_steps_three_are_left_on_average() -> None:
  assert (ASSUMED_FAILURE_RATE, MEAN_REMAINING_FRACTION) == (0.5, 3 / 5)


@pytest.mark.parametrize(
  ("stage", "changed", "seconds"),
  [
    ("warm_start", {}, 200 * TEACHER + 200 * 2 * LEARNT),
    ("mps", {}, 800 * STUDENT + 400 * 3 / 5 * STUDENT + 400 * 8 * 3 * TEACHER),
    ("mps", {"mps.tries": 2}, 800 * STUDENT + 400 * 3 / 5 * 4 * STUDENT + 400 * 8 * 3 * TEACHER),
    (
      "mps",
      {"mps.continue_by": "student"},
      800 * STUDENT + 400 * 3 / 5 * STUDENT + 400 * 8 * 3 * STUDENT + 400 / 5 * TEACHER,
    ),
    ("mps", {"teacher.kind": "reference"}, 800 * STUDENT + 400 * 3 / 5 * STUDENT),
    ("mps", {"teacher.kind": "prompted"}, 800 * STUDENT + 400 * 3 / 5 * STUDENT),
    (
      "mps",
      {"teacher.kind": "prompted", "teacher.locate": "both", "mps.continue_by": "student"},
      800 * STUDENT + 400 * 3 / 5 * STUDENT + 400 * 8 * 3 * STUDENT,
    ),
    ("sft", {}, 400 * 2 * LEARNT),
    ("rl", {}, 105 * (STUDENT + 3000e-5 + 3000e-8)),
    ("rl", {"rl.kl": 0.1, "rl.truncate": 2.0}, 105 * (STUDENT + 3000e-5 + 2 * 3000e-7 + 3000e-8)),
    ("rl_from_question", {}, 105 * (STUDENT + 3000e-5 + 3000e-8)),
    ("rl_from_all_questions", {}, 105 * (STUDENT + 3000e-5 + 3000e-8)),
    ("bc", {}, (200 + 9600) * (TEACHER + 2 * LEARNT)),
    ("bc", {"mps.continue_by": "student"}, (200 + 80) * (TEACHER + 2 * LEARNT)),
    ("bc", {"teacher.kind": "reference"}, 1000 * (TEACHER + 2 * LEARNT)),
    ("sft_redraw", {}, None),
  ],
)
def test_a_stage_takes_what_it_draws_reads_and_learns(stage: str, changed: dict[str, Any], seconds: float) -> None:
  found = costs(**changed).stage_seconds(stage)
  assert found == (seconds if seconds is None else pytest.approx(seconds))


def test_every_model_of_the_recipe_is_evaluated() -> None:
  """The untrained student, five stages that train, and a teacher on the chips."""
  assert costs().evaluation_seconds() == pytest.approx(200 * (6 * STUDENT + TEACHER))
  assert costs(**{"teacher.kind": "prompted"}).evaluation_seconds() == pytest.approx(200 * 6 * STUDENT)
  assert costs(**{"stages": ("warm_start", "mps", "sft")}).evaluation_seconds() == pytest.approx(
    200 * (3 * STUDENT + TEACHER)
  )


def test_a_program_that_is_not_there_costs_nothing() -> None:
  config = costs()._config
  assert StageCosts(config, {("student", "decode"): 1e-3}).stage_seconds("warm_start") == 0.0
