"""Which starts a step takes, and a stage in which every other weights have their say."""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from collections.abc import Iterator

import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_jax.agent.rollout import at_question
from score_jax.errors import UserError
from score_jax.evaluate import fingerprint
from score_jax.mentor.starts import Start
from score_jax.mesh.sharding import Meshes
from score_jax.reinforce import order, reinforce
from score_jax.run import Run
from score_jax.train.policy_gradient import SERIES
from score_jax.train.supervised import Trained
from score_jax.workdir import Workdir
from tests.configs import module


@pytest.mark.parametrize(("count", "prompts", "steps"), [(10, 5, 6), (7, 3, 7), (3, 8, 4), (1, 1, 3)])
def test_each_start_is_taken_once_a_pass(count: int, prompts: int, steps: int) -> None:
  taken = list(order(count, prompts=prompts, steps=steps, seed=1))
  assert [len(indices) for indices in taken] == [prompts] * steps
  flat = [index for indices in taken for index in indices]
  for begin in range(0, len(flat) - count + 1, count):
    assert sorted(flat[begin : begin + count]) == list(range(count))
  assert max(Counter(flat).values()) - min(Counter(flat).values()) <= 1


def test_the_seed_alone_decides_the_order() -> None:
  def taken(steps: int, seed: int) -> list[list[int]]:
    return list(order(50, prompts=8, steps=steps, seed=seed))

  assert taken(20, 1) == taken(20, 1)
  assert taken(20, 1)[:5] == taken(5, 1), "a longer run begins as a shorter one"
  assert taken(20, 1) != taken(20, 2)
  flat = [index for indices in taken(25, 1) for index in indices]
  passes = [flat[i : i + 50] for i in (0, 50, 100)]
  assert passes[0] != passes[1] != passes[2]


def smoke() -> ConfigDict:
  """Two steps of two updates from questions, in which trainer, reference and teacher score."""
  config = module("quickstart").get_config("smoke")
  config.tasks.train, config.tasks.validation, config.tasks.test = 4, 2, 2
  config.agent.acts, config.sampler.slots = 3, 16
  config.rl.steps, config.rl.prompts, config.rl.minibatch, config.rl.group_size, config.rl.micro_rows = 2, 4, 2, 4, 4
  config.rl.truncate, config.rl.kl, config.rl.distill, config.rl.checkpoint_every = 2.0, 0.1, 0.5, 1
  config.rl.learning_rate = 1e-3
  return config


def reinforced(config: ConfigDict, folder: pathlib.Path) -> tuple[Trained, list[dict[str, float]]]:
  with Run(config, Workdir(str(folder))) as run:
    starts = [Start(q, at_question(q), None, config.agent.acts) for q in run.tasks.train]
    trained = reinforce(run, "rl", starts, "untrained", token_budget=None)
  lines = (folder / "metrics" / "rl.jsonl").read_text().splitlines()
  return trained, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def on_one_device(one_device: Mesh) -> Iterator[None]:
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Meshes, "of", lambda _: Meshes(one_device, one_device, one_device))
    yield


@pytest.fixture(scope="module")
def both_steps(tmp_path_factory: pytest.TempPathFactory, on_one_device: None) -> tuple[Trained, list[dict[str, float]]]:
  return reinforced(smoke(), tmp_path_factory.mktemp("rl"))


@pytest.mark.usefixtures("lenient_promotion")
def test_other_weights_have_their_say(both_steps: tuple[Trained, list[dict[str, float]]]) -> None:
  """At first trainer, sampler and reference agree; after two updates by what the teacher says they do not."""
  trained, (first, second) = both_steps
  assert trained.updates == 4
  for line in (first, second):
    assert line["logprob_gap"] < 1e-3 and line["kl_sampler/0"] < 1e-5, "the weights that drew"
    assert line["ess/0"] == pytest.approx(1.0, abs=1e-4) and line["truncated_share"] == 0.0
    assert line["ess/1"] < line["ess/0"] and line["kl_sampler/1"] > 1e-4, "an update later"
    assert all(f"{name}/{i}" in line for name in SERIES for i in (0, 1))
  assert first["kl_reference"] > 1e-3 and second["kl_reference"] > 1e-3, "away from the weights of the beginning"


@pytest.mark.usefixtures("lenient_promotion")
def test_what_scores_is_booked(both_steps: tuple[Trained, list[dict[str, float]]]) -> None:
  """A rollout's tokens once for training, once for what was old, once for the reference; once for the teacher."""
  cost = both_steps[0].cost
  assert cost.of("student").scored == 3 * cost.of("teacher").scored > 0
  assert cost.of("teacher").flops > 0
  assert cost.of("teacher").generated == 0


@pytest.mark.slow
@pytest.mark.usefixtures("lenient_promotion")
def test_stopped_between_steps_it_ends_the_same(
  both_steps: tuple[Trained, list[dict[str, float]]], tmp_path: pathlib.Path, on_one_device: None
) -> None:
  """The reference is still that of the beginning."""
  config = smoke()
  config.rl.steps = 1
  reinforced(config, tmp_path)
  trained, lines = reinforced(smoke(), tmp_path)
  assert fingerprint(trained.weights) == fingerprint(both_steps[0].weights)
  assert lines[-1]["kl_reference"] == both_steps[1][-1]["kl_reference"]
  assert trained.cost == both_steps[0].cost


def test_distilling_needs_a_teacher_with_weights(tmp_path: pathlib.Path) -> None:
  config = smoke()
  config.teacher.kind = "reference"
  message = r"rl\.distill = 0\.5 needs a teacher's weights and teacher\.kind = 'reference' has none; choose model"
  with Run(config, Workdir(str(tmp_path))) as run, pytest.raises(UserError, match=message):
    run.distilling_teacher()
