"""What a stage is told of its alarms, and when they end it."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from ml_collections import ConfigDict

from score_jax.agent.rollout import RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
from score_jax.model import lora
from score_jax.rl.diagnostics import RLMonitor
from score_jax.rl.loop import make_scorer
from score_jax.runtime.metrics import MetricsWriter
from score_jax.runtime.workdir import Workdir
from score_jax.teaching.mentoring import RolloutStart
from tests.configs import smoke_config


def watching(run: Experiment, earlier: Sequence[Mapping[str, float]] = ()) -> RLMonitor:
  rl = run.config.rl
  made = [
    make_scorer(run.config, "student", run.student.graph, run.meshes.train, lora.NO_PARAMS, temperature=t)
    for t in (rl.temperature, run.config.student.temperature)
  ]
  agent = run.make_rl_agent(rl.temperature)
  return RLMonitor(
    "rl",
    rl,
    run.config.alarms.to_dict(),
    agent=agent,
    scorers=(made[0], made[1]),
    begin=lambda: run.student.weights,
    earlier=earlier,
    probe=run.tasks.validation,
    acts=run.config.agent.acts,
    log=run.log,
  )


def looks(
  run: Experiment, watch: RLMonitor, metrics: MetricsWriter, numbers: Sequence[dict[str, float]], first: int = 0
) -> None:
  """Steps whose rollouts all failed: nothing but the given numbers is there."""
  for number, found in enumerate(numbers, start=first):
    metrics.write(number, found | watch.update(number, found, [], run.student.weights, closely=False))


@pytest.fixture
def config(on_one_device: None) -> ConfigDict:
  return smoke_config()


@pytest.mark.usefixtures("lenient_promotion")
def test_it_is_told_once_and_ends_what_it_is_to_end(
  config: ConfigDict, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """Six steps without signal; the fifth is the first whose mean over five steps can be told."""
  workdir = Workdir(str(tmp_path))
  config.alarms.stop = ("bad_format", "no_signal")
  silent: list[dict[str, float]] = [{"no_signal_groups": 1.0, "ess/0": 1.0, "ess/1": 0.8}] * 6
  silent = [n | {f"clip_share_{side}/{i}": 0.01 for side in ("low", "high") for i in (0, 1)} for n in silent]
  with Experiment(config, workdir) as run:
    metrics, watch = MetricsWriter(workdir, "rl"), watching(run)
    looks(run, watch, metrics, silent[:4])
    assert watch.fatal is None
    watch.raise_if_fatal()
    looks(run, watch, metrics, silent[4:], first=4)
    with pytest.raises(UserError, match=r"rl: alarm no_signal at step 4: .* is 1, over 0\.9\. .* take no_signal out"):
      watch.raise_if_fatal()
    metrics.close()
    assert capsys.readouterr().out.count("alarm no_signal at step 4") == 1
    lines = MetricsWriter(workdir, "rl").lines_before(6)
    told: list[Any] = [[line.get(f"alarm/{name}") for name in ("no_signal", "ess", "kl")] for line in lines]
    assert told == [[None] * 3] * 4 + [[1.0, 0.0, None]] * 2
    assert lines[0]["ess_least"] == 0.8 and lines[0]["clip_share_greatest"] == 0.02

    with pytest.raises(UserError, match="alarm no_signal at step 4"):
      watching(run, lines)
    watching(run, lines[:4]).raise_if_fatal()
    config.alarms.stop = ()
    again = watching(run, lines)
    looks(run, again, metrics, silent[:1], first=6)
    again.raise_if_fatal()
    assert "alarm" not in capsys.readouterr().out, "it has been told"


@pytest.mark.usefixtures("lenient_promotion")
def test_prefixes_are_scored_at_the_temperature_that_they_were_drawn_at(
  config: ConfigDict, tmp_path: pathlib.Path
) -> None:
  """RL draws at another one. By the weights that drew it a prefix is as likely as it was, but for rounding."""
  student = config.student
  student.temperature, config.rl.temperature = 0.7, 1.5
  student.top_k, student.top_p, student.repetition_penalty = 0, 1.0, 1.0
  with Experiment(config, Workdir(str(tmp_path))) as run:
    question, weights = run.tasks.train[0], run.student.weights
    [[drawn]] = run.student_agent.rollout(weights, [RolloutRequest("old", question, empty_trajectory(question), 2)])
    found = watching(run)._staleness([RolloutStart(question, drawn.prefix(len(drawn.steps)), None, 2)], weights)
  assert sum(len(step.logprobs) for step in drawn.steps) > 5
  assert found["prefix_logprob_change"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.usefixtures("lenient_promotion")
def test_where_the_teacher_is_distilled_any_group_teaches(config: ConfigDict, tmp_path: pathlib.Path) -> None:
  config.rl.distill = 0.5
  with Experiment(config, Workdir(str(tmp_path))) as run:
    watch = watching(run)
    looks(run, watch, MetricsWriter(run.workdir, "rl"), [{"no_signal_groups": 1.0}] * 6)
    assert not watch.fired
