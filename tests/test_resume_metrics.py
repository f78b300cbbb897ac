"""Policy gradient that is killed and goes on: each step is done once, counts once, and its last numbers are taken."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable
from typing import Any

import pytest
from ml_collections import ConfigDict

from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.experiment.experiment import Experiment
from score_jax.model.decoder import Weights
from score_jax.rl import loop
from score_jax.rl.diagnostics import RLMonitor
from score_jax.runtime.metrics import MetricsWriter, parse_metric_lines
from score_jax.runtime.workdir import Workdir
from score_jax.teaching.mentoring import RolloutStart
from score_jax.train.sft import TrainResult
from score_jax.trajectory import Trajectory
from tests.scripted_run import ACTS, Record, config, recorded
from tests.untrained_rl import train_untrained

pytestmark = pytest.mark.usefixtures("lenient_promotion", "on_one_device")

STEPS, UPDATES = 4, 2  # updates of each step


class Killed(BaseException):
  """Nothing is saved for it."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ConfigDict:
  c = config(tmp_path_factory.mktemp("questions"))
  c.rl.steps, c.rl.prompts, c.rl.minibatch, c.rl.checkpoint_every = STEPS, 3, 2, 2
  c.tasks.train, c.alarms.probe, c.alarms.kl, c.alarms.stale_prefix = 8, 0, 0.0, 0.0
  return c


def trained(c: ConfigDict, folder: pathlib.Path, *, budget: int | None = None) -> tuple[TrainResult, Record]:
  with recorded(folder) as record, Experiment(c, Workdir(str(folder))) as run, run.stage_scope("grpo"):
    starts = [RolloutStart(q, empty_trajectory(q), None, ACTS) for q in run.tasks.train]
    return train_untrained(run, "grpo", starts, token_budget=budget), record


def told(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of the metrics but for what a clock tells."""
  lines = map(json.loads, (folder / "metrics/grpo.jsonl").read_text().splitlines())
  return [{k: v for k, v in line.items() if k != "time" and "_s" not in k and "sampler/" not in k} for line in lines]


def drawn(part: str) -> int:
  """Tokens that the rollouts in a part generated."""
  return sum(json.loads(line)["ledger"]["models"]["student"]["generated"] for line in part.splitlines())


def parts(folder: pathlib.Path) -> list[str]:
  return [path.read_text() for path in sorted((folder / "trajectories/grpo").glob("*.jsonl"))]


@pytest.fixture(scope="module")
def undisturbed(
  tmp_path_factory: pytest.TempPathFactory, settings: ConfigDict, lenient_promotion: None, on_one_device: None
) -> tuple[pathlib.Path, TrainResult, Record]:
  folder = tmp_path_factory.mktemp("undisturbed")
  return folder, *trained(settings, folder)


def test_killed_in_a_step_that_no_checkpoint_holds_it_does_it_again_and_counts_it_once(
  undisturbed: tuple[pathlib.Path, TrainResult, Record],
  settings: ConfigDict,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """Steps 0 and 1 are in a checkpoint, 2 is not, and it is killed in 3."""
  whole, expected, _ = undisturbed
  watches: list[RLMonitor] = []

  class Kept(RLMonitor):
    def __init__(self, *args: Any, **more: Any) -> None:
      super().__init__(*args, **more)
      watches.append(self)

  rollout = Agent.rollout

  def deadly(self: Agent, weights: Weights, requests: Iterable[RolloutRequest], **more: Any) -> list[list[Trajectory]]:
    asked = list(requests)
    if asked[0].name.startswith("grpo/3/"):
      raise Killed
    return rollout(self, weights, asked, **more)

  monkeypatch.setattr(loop, "RLMonitor", Kept)
  with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
    patch.setattr(Agent, "rollout", deadly)
    trained(settings, tmp_path)
  assert [line["step"] for line in told(tmp_path)] == [0, 1, 2]
  assert [p.name for p in (tmp_path / "checkpoints/grpo").iterdir() if p.name.isdigit()] == [str(2 * UPDATES)]
  again, record = trained(settings, tmp_path)
  assert [update.number for update in record.updates] == [4, 5, 6, 7], "steps 2 and 3"
  assert (again.updates, again.cost) == (expected.updates, expected.cost)
  assert parts(tmp_path) == parts(whole)
  assert [line["step"] for line in told(tmp_path)] == [0, 1, 2, 2, 3]
  counted = parse_metric_lines((tmp_path / "metrics/grpo.jsonl").read_text())
  tokens = [line["generated_tokens"] for line in told(whole)]
  assert [line["generated_tokens"] for line in counted] == tokens
  assert [line["generated_tokens"] for line in watches[-1].lines] == tokens, "the alarms count each step once"


def test_a_budget_of_tokens_ends_with_the_step_that_spends_it_to_the_last_one(
  undisturbed: tuple[pathlib.Path, TrainResult, Record], settings: ConfigDict, tmp_path: pathlib.Path
) -> None:
  """Those that are generated, those drawn before a restart too; one token more is one step more."""
  steps = [drawn(part) for part in parts(undisturbed[0])]
  _, record = trained(settings, tmp_path, budget=steps[0] + steps[1])
  assert parts(tmp_path) == parts(undisturbed[0])[:2]
  assert len(record.updates) == 2 * UPDATES
  trained(settings, tmp_path, budget=steps[0] + steps[1] + 1)
  assert parts(tmp_path) == parts(undisturbed[0])[:3]


def test_of_a_step_done_twice_the_last_line_counts_wherever_lines_are_read(tmp_path: pathlib.Path) -> None:
  workdir = Workdir(str(tmp_path))
  for values in ((1.0, 2.0, 3.0), (20.0, 30.0)):  # the second start does the steps 1 and 2 again
    metrics = MetricsWriter(workdir, "rl")
    for step, value in enumerate(values, start=3 - len(values)):
      metrics.write(step, {"loss": value})
    metrics.close()
  lines = parse_metric_lines((tmp_path / "metrics/rl.jsonl").read_text())
  assert [(line["step"], line["loss"]) for line in lines] == [(0, 1.0), (1, 20.0), (2, 30.0)]
  again = MetricsWriter(workdir, "rl")
  assert [(line["step"], line["loss"]) for line in again.lines_before(2)] == [(0, 1.0), (1, 20.0)]
