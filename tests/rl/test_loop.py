"""Which starts a step takes, and a stage in which every other weights have their say."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from ml_collections import ConfigDict

from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.config import config_to_dict, identity_config
from score_jax.errors import UserError
from score_jax.evaluate import hash_weights
from score_jax.experiment.experiment import Experiment
from score_jax.experiment.results import compute_stage_identity
from score_jax.experiment.teachers import open_distillation_teacher
from score_jax.model.decoder import Weights
from score_jax.rl.loop import order_starts
from score_jax.runtime.workdir import Workdir
from score_jax.teaching.mentoring import RolloutStart
from score_jax.train.policy_gradient import PER_UPDATE_METRICS
from score_jax.train.sft import TrainResult
from score_jax.trajectory import Step, Trajectory
from tests.configs import module
from tests.untrained_rl import train_untrained


@pytest.mark.parametrize(("count", "prompts", "steps"), [(10, 5, 6), (7, 3, 7), (3, 8, 4), (1, 1, 3)])
def test_each_start_is_taken_once_a_pass(count: int, prompts: int, steps: int) -> None:
  taken = list(order_starts(count, prompts=prompts, steps=steps, seed=1))
  assert [len(indices) for indices in taken] == [prompts] * steps
  flat = [index for indices in taken for index in indices]
  for begin in range(0, len(flat) - count + 1, count):
    assert sorted(flat[begin : begin + count]) == list(range(count))
  assert max(Counter(flat).values()) - min(Counter(flat).values()) <= 1


def test_the_seed_alone_decides_the_order() -> None:
  def taken(steps: int, seed: int) -> list[list[int]]:
    return list(order_starts(50, prompts=8, steps=steps, seed=seed))

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


def reinforced(config: ConfigDict, folder: pathlib.Path) -> tuple[TrainResult, list[dict[str, float]]]:
  with Experiment(config, Workdir(str(folder))) as run:
    starts = [RolloutStart(q, empty_trajectory(q), None, config.agent.acts) for q in run.tasks.train]
    trained = train_untrained(run, "rl", starts)
  lines = (folder / "metrics" / "rl.jsonl").read_text().splitlines()
  return trained, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def both_steps(
  tmp_path_factory: pytest.TempPathFactory, on_one_device: None
) -> tuple[TrainResult, list[dict[str, float]]]:
  return reinforced(smoke(), tmp_path_factory.mktemp("rl"))


@pytest.mark.usefixtures("lenient_promotion")
def test_other_weights_have_their_say(both_steps: tuple[TrainResult, list[dict[str, float]]]) -> None:
  """At first trainer, sampler and reference agree; after two updates by what the teacher says they do not."""
  trained, (first, second) = both_steps
  assert trained.updates == 4
  for line in (first, second):
    assert line["logprob_gap"] < 1e-3 and line["kl_sampler/0"] < 1e-5, "the weights that drew"
    assert line["ess/0"] == pytest.approx(1.0, abs=1e-4) and line["truncated_share"] == 0.0
    assert line["ess/1"] < line["ess/0"] and line["kl_sampler/1"] > 1e-4, "an update later"
    assert all(f"{name}/{i}" in line for name in PER_UPDATE_METRICS for i in (0, 1))
  assert first["kl_reference"] > 1e-3 and second["kl_reference"] > 1e-3, "away from the weights of the beginning"


@pytest.mark.usefixtures("lenient_promotion")
def test_what_scores_is_booked(both_steps: tuple[TrainResult, list[dict[str, float]]]) -> None:
  """A rollout's tokens once for training, once for what was old, once for the reference; once for the teacher."""
  cost = both_steps[0].cost
  assert cost.of("student").scored == 3 * cost.of("teacher").scored > 0
  assert cost.of("teacher").flops > 0
  assert cost.of("teacher").generated == 0


@pytest.mark.slow
@pytest.mark.usefixtures("lenient_promotion")
def test_stopped_between_steps_it_ends_the_same(
  both_steps: tuple[TrainResult, list[dict[str, float]]], tmp_path: pathlib.Path, on_one_device: None
) -> None:
  """The reference is still that of the beginning."""
  config = smoke()
  config.rl.steps = 1
  reinforced(config, tmp_path)
  trained, lines = reinforced(smoke(), tmp_path)
  assert hash_weights(trained.weights) == hash_weights(both_steps[0].weights)
  assert lines[-1]["kl_reference"] == both_steps[1][-1]["kl_reference"]
  assert trained.cost == both_steps[0].cost


def test_distilling_needs_a_teacher_with_weights(tmp_path: pathlib.Path) -> None:
  config = smoke()
  config.teacher.kind = "reference"
  message = r"rl\.distill = 0\.5 needs a teacher's weights and teacher\.kind = 'reference' has none; choose model"
  with Experiment(config, Workdir(str(tmp_path))) as run, pytest.raises(UserError, match=message):
    open_distillation_teacher(run)


@pytest.mark.usefixtures("lenient_promotion")
def test_the_first_weights_are_measured_against_without_a_coefficient(
  both_steps: tuple[TrainResult, list[dict[str, float]]],
) -> None:
  """What drew the first step are they; what drew the second is two updates away."""
  first, second = both_steps[1]
  assert 0.0 <= first["kl_from_start"] < 1e-5 < 1e-4 < second["kl_from_start"]
  assert all("probe_pass" in line and "probe_mean" in line for line in (first, second))
  assert second["ess_least"] == min(second["ess/0"], second["ess/1"])
  assert "prefix_logprob_change" not in first, "questions have no prefix"


@pytest.mark.slow
@pytest.mark.usefixtures("lenient_promotion")
def test_an_alarm_ends_the_run_where_it_is_to_and_what_is_done_stays(
  tmp_path: pathlib.Path, on_one_device: None, capsys: pytest.CaptureFixture[str]
) -> None:
  """Prefixes of the student's own, whose probabilities when drawn are planted e^2 times too great: 2 nats a token.

  That no more than that is found says that they are scored as they were drawn, at another temperature than RL's.
  """
  config = smoke()
  config.student.path, config.rl.steps = "shipped:teacher", 1
  config.rl.truncate = config.rl.kl = config.rl.distill = 0.0
  config.rl.learning_rate = 1e-9
  config.alarms.stop = ("stale_prefix",)
  workdir = Workdir(str(tmp_path))

  def attempt() -> TrainResult:
    with Experiment(config, workdir) as run:
      requests = [RolloutRequest(f"x/{q.id}", q, empty_trajectory(q), config.agent.acts) for q in run.tasks.train]
      drawn = [t for (t,) in run.student_agent.rollout(run.student.weights, requests)]
      plans = [dataclasses.replace(s, logprobs=tuple(x + 2.0 for x in s.logprobs)) for t in drawn for s in t.steps[:1]]
      starts = [
        RolloutStart(q, dataclasses.replace(t.prefix(1), steps=(plan,)), None, config.agent.acts)
        for q, t, plan in zip(run.tasks.train, drawn, plans, strict=True)
      ]
      return train_untrained(run, "rl", starts)

  told = r"rl: alarm stale_prefix at step 0: prefix_logprob_change is -2, under -1\. .* take stale_prefix out of alarms"
  with pytest.raises(UserError, match=told):
    attempt()
  assert capsys.readouterr().out.count("alarm stale_prefix") == 1
  (line,) = map(json.loads, (tmp_path / "metrics/rl.jsonl").read_text().splitlines())
  assert line["prefix_logprob_change"] == pytest.approx(-2.0, abs=1e-3)
  assert line["alarm/stale_prefix"] == 1.0 and line["alarm/kl"] == 0.0
  with pytest.raises(UserError, match="alarm stale_prefix at step 0"):
    attempt()
  config.alarms.stop = ()
  assert attempt().updates == 2
  assert "alarm" not in capsys.readouterr().out, "it has been told"
  assert len((tmp_path / "metrics/rl.jsonl").read_text().splitlines()) == 1, "nothing is done again"


def test_thresholds_may_change_between_the_starts_of_a_run() -> None:
  one, other = smoke(), smoke()
  other.alarms.kl, other.alarms.probe, other.alarms.stop = 3.0, 2, ("kl",)
  assert compute_stage_identity(one, "rl") == compute_stage_identity(other, "rl")
  assert identity_config(config_to_dict(one)) == identity_config(config_to_dict(other))


@pytest.mark.usefixtures("lenient_promotion")
def test_the_gap_is_measured_in_a_step_without_signal(
  tmp_path: pathlib.Path, on_one_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
  """No rollout has an advantage. What the sampler says of one group is planted 0.5 nats off: the last minibatch's."""
  config = smoke()
  config.rl.truncate = config.rl.kl = config.rl.distill = 0.0
  config.rl.final = config.rl.key = config.rl.avoid = 0.0
  config.rl.length = 96  # of a context: most rollouts end there
  rollout = Agent.rollout

  def spoilt(self: Agent, weights: Weights, requests: Iterable[RolloutRequest], **more: Any) -> list[list[Trajectory]]:
    groups = rollout(self, weights, requests, **more)
    if groups and groups[-1][0].name.startswith("rl/1/"):
      groups[-1] = [
        dataclasses.replace(
          t, steps=tuple(dataclasses.replace(s, logprobs=[x + 0.5 for x in s.logprobs]) for s in t.steps)
        )
        for t in groups[-1]
      ]
    return groups

  monkeypatch.setattr(Agent, "rollout", spoilt)
  _, (first, second) = reinforced(config, tmp_path)
  for line in (first, second):
    assert line["no_signal_groups"] == 1.0 and "ess" not in line
    assert (line["learnt_rollouts"], line["learnt_tokens"]) == (0, 0)
  assert first["logprob_gap"] < 1e-3
  assert second["logprob_gap"] == pytest.approx(0.5, abs=1e-3)
  workdir = Workdir(str(tmp_path))
  for number, line in enumerate((first, second)):
    drawn = [t for t in workdir.read_part("rl", number) or [] if t.grade is not None]
    contexts = [
      len(t.prompt_tokens) + sum(map(context_of, t.steps)) - len(t.steps[-1].observation_tokens) for t in drawn
    ]
    assert max(contexts) <= 96, "they fit a row"
    assert line["rollouts"] == len(drawn)
    assert line["context_full"] == sum(t.status == "context_full" for t in drawn) / len(drawn) > 0


def context_of(step: Step) -> int:
  return len(step.tokens) + len(step.observation_tokens)


@pytest.mark.usefixtures("lenient_promotion")
def test_what_is_learnt_from_is_counted(both_steps: tuple[TrainResult, list[dict[str, float]]]) -> None:
  """With a teacher that distils, all of it."""
  for line in both_steps[1]:
    assert line["learnt_rollouts"] == line["rollouts"] > 0
    assert line["learnt_tokens"] == line["generated_tokens"] > 0
