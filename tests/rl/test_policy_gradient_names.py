"""docs/policy_gradient.md names settings of the literature: each builds and trains, and says what is the default."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Callable

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_jax.model.lora import NO_PARAMS
from score_jax.rl import loop
from score_jax.train.batch import Example, make_update, pack_examples
from score_jax.train.policy_gradient import PolicyGradientConfig, make_loss_weight_fn
from score_jax.train.step import place_batch
from tests.configs import ROOT, module
from tests.conftest import Tiny

pytestmark = pytest.mark.usefixtures("lenient_promotion")  # of the optimiser and its schedules

DOCUMENT = ROOT / "docs" / "policy_gradient.md"
ROW = re.compile(r"^\| ([^|]+) \| ((?:`rl\.\w+=\S+` ?)+)\|", re.MULTILINE)
SETTINGS = {name: dict(re.findall(r"`(rl\.\w+)=(\S+)`", cells)) for name, cells in ROW.findall(DOCUMENT.read_text())}


def config_of(overrides: dict[str, str]) -> ConfigDict:
  """The quickstart with overrides, as the command line would have them."""
  config = module("quickstart").get_config()
  for name, text in overrides.items():
    key = name.removeprefix("rl.")
    kind = type(config.rl[key])
    config.rl[key] = text if kind is str else kind(ast.literal_eval(text))
  return config


def test_the_table_is_read() -> None:
  names = "GRPO GRPO Dr. DAPO GSPO REINFORCE++ truncated on-policy"
  assert [name.split()[0] for name in SETTINGS] == names.split()
  knobs = [(PolicyGradientConfig.from_config(config_of(o).rl), config_of(o).rl.final) for o in SETTINGS.values()]
  assert len(set(knobs)) == len(knobs), "two names for one setting"


def test_the_first_row_is_the_default_and_names_every_knob() -> None:
  first = next(iter(SETTINGS.values()))
  assert {name.removeprefix("rl.") for name in first} == {f.name for f in dataclasses.fields(PolicyGradientConfig)}
  assert config_of(first).to_dict() == config_of({}).to_dict()
  paper = module("paper").get_config()
  assert PolicyGradientConfig.from_config(paper.rl) == PolicyGradientConfig.from_config(config_of({}).rl)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_row_trains(name: str, make_tiny: Callable[..., Tiny], one_device: Mesh) -> None:
  """A step of what the stage would train with: it is finite, moves the weights, and tells what it has to."""
  config = config_of(SETTINGS[name])
  knobs = PolicyGradientConfig.from_config(config.rl)
  tiny = make_tiny(vocab=8, width=8, layers=1, heads=2, kv_heads=1, head_width=4, mlp=16)
  draws = np.random.default_rng(0)
  learnt = np.array([0, 1, 1, 0, 1], np.float32)
  samples = [
    Example(draws.integers(0, 8, 5).astype(np.int32), learnt, -2 * learnt, advantage, -2.1 * learnt, -1.9 * learnt)
    for advantage in (1.0, -1.0)
  ]
  share = make_loss_weight_fn(knobs.normaliser, [3, 3], length=config.rl.length)
  update = make_update(pack_examples(samples, length=10), length=10, micro=1, most=1, share=share)
  trainer = loop.make_trainer(config, tiny.graph, one_device, NO_PARAMS)
  arguments = (trainer.init_state(tiny.weights), NO_PARAMS, place_batch(one_device, update))
  step = trainer.jit_update(arguments[0]).lower(*arguments).compile({"xla_backend_optimization_level": 0})
  state, numbers = step(*arguments)
  assert all(np.isfinite(float(x)) for x in numbers.values())
  assert ("kl_reference" in numbers, "truncated_share" in numbers) == (knobs.kl > 0, knobs.truncate > 0)
  pairs = zip(*map(jax.tree.leaves, (state.weights, tiny.weights)), strict=True)
  assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs)
