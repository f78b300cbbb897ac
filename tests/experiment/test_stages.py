"""The table of stages and arms: each is whole, names where it starts, and shares what it has in common with others."""

from __future__ import annotations

from typing import get_args

import pytest
from ml_collections import ConfigDict

from score_jax import recipe
from score_jax.errors import UserError
from score_jax.experiment import stages
from score_jax.experiment.results import compute_stage_identity, make_stage_config
from score_jax.experiment.stages import STAGES, Stage, resolve_stages
from tests.configs import module

METHOD = ("warm_start", "mps", "sft", "rl")
#: policy gradient from questions
OUTCOME = {"rl_from_question", "rl_from_all_questions", "grpo", "bc_grpo", "distill"}


def config() -> ConfigDict:
  return module("quickstart").get_config()


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_an_entry_is_whole(stage: Stage) -> None:
  c = config()
  assert len(stage.label) <= 20 or not stage.init_from, "a label stands in a column of the table"
  assert bool(stage.init_from) == bool(stage.sft_data or stage.rl_starts)
  assert not (stage.sft_data and stage.rl_starts)
  assert {stage.group, *stage.config_groups} <= set(c)
  assert stage.overrides.keys() <= set(c[stage.group])
  assert {stage.init_from, *stage.inputs, *stage.budget_from} <= {"", "untrained", *STAGES}
  assert ("train" in stage.config_groups) == bool(stage.init_from)


def test_every_policy_gradient_arm_names_the_checkpoint_it_starts_from() -> None:
  begun = {name: stage.init_from for name, stage in STAGES.items() if stage.rl_starts}
  assert begun == {
    "bc_grpo": "bc_all",
    "grpo": "warm_start",
    "distill": "warm_start",
    "rl": "sft",
    "rl_no_key": "sft",
    "rl_from_question": "sft",
    "rl_from_all_questions": "sft",
  }


def test_the_recipe_has_what_the_entries_name() -> None:
  assert (
    recipe.SFT_DATA.keys() == {s.sft_data for s in STAGES.values() if s.sft_data} == set(get_args(stages.SftDataName))
  )
  assert (
    recipe.RL_STARTS.keys()
    == {s.rl_starts for s in STAGES.values() if s.rl_starts}
    == set(get_args(stages.RlStartsName))
  )


def test_what_an_arm_needs_comes_before_it() -> None:
  assert resolve_stages((), ("grpo",)) == ["warm_start", "mps", "sft", "rl", "grpo"]
  assert resolve_stages((), ("bc_all",)) == ["bc_all"]
  assert resolve_stages((), ("bc_grpo",)) == ["bc_all", "warm_start", "mps", "sft", "rl", "bc_grpo"]
  assert resolve_stages(("warm_start", "mps"), ("sft_redraw", "mps")) == ["warm_start", "mps", "sft_redraw"]
  assert resolve_stages(METHOD, ("rl_no_key",)) == [*METHOD, "rl_no_key"]


def test_stages_are_walked_as_they_are_listed() -> None:
  """What one needs is not added: `--config.stages` says exactly what is done."""
  assert resolve_stages(("mps", "warm_start"), ()) == ["mps", "warm_start"]


def test_all_arms_can_be_asked_for_at_once() -> None:
  everything = resolve_stages(config().stages, ("all",))
  assert sorted(everything) == sorted(STAGES)
  for name in everything:
    assert all(everything.index(other) < everything.index(name) for other in STAGES[name].dependencies)


def test_what_is_none_is_refused() -> None:
  with pytest.raises(UserError, match="stages: 'magic' is none; choose from warm_start, mps"):
    resolve_stages(("magic",), ())
  with pytest.raises(UserError, match="arms: 'magic' is none; choose from warm_start, mps"):
    resolve_stages((), ("grpo", "magic"))


def identities(c: ConfigDict) -> dict[str, str]:
  return {name: compute_stage_identity(c, name) for name in STAGES}


def test_no_two_stages_have_one_identity() -> None:
  assert len(set(identities(config()).values())) == len(STAGES)


def test_arms_share_what_they_have_in_common() -> None:
  """What an arm changes is its own; what the config changes reaches what reads it, and what builds on that."""
  c = config()
  before = identities(c)

  def touched() -> set[str]:
    after = identities(c)
    return {name for name in STAGES if after[name] != before[name]}

  c.arms, c.stages = ("all",), ()
  assert not touched()
  c.rl.key = 0.25
  assert touched() == OUTCOME | {"rl"}, "rl_no_key has a key of its own"
  c = config()
  c.sft.loss = "teacher_steps"
  of_sft = {name for name, stage in STAGES.items() if stage.group == "sft"} - {"sft_corrected_only"}
  assert touched() == of_sft | OUTCOME | {"rl", "rl_no_key"}
  c = config()
  c.bc.learning_rate = 1.0
  assert touched() == {"bc", "bc_first_thought", "bc_all", "bc_grpo"}
  c = config()
  c.mps.corrections = 1
  assert touched() == set(STAGES) - {"warm_start", "bc_all"}


def test_an_arm_changes_its_own_settings_alone() -> None:
  c = config()
  changed = make_stage_config(c, "rl_no_key")
  assert (changed.rl.key, changed.rl.avoid, changed.rl.final) == (0.0, 0.0, 1.0)
  assert (c.rl.key, c.rl.avoid) == (0.5, 0.1)
  assert make_stage_config(c, "rl").to_dict() == c.to_dict()
  assert make_stage_config(c, "sft_corrected_only").sft.loss == "teacher_steps"
