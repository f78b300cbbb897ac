"""Mentoring, fine-tuning and the RL loop take explicit arguments: each is called here without an experiment."""

from __future__ import annotations

import json
import pathlib

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerFast

from score_jax.agent.protocol import Turn
from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.model.decoder import Weights
from score_jax.model.lora import NO_PARAMS
from score_jax.rl.loop import train_policy_gradient
from score_jax.runtime.metrics import MetricsWriter
from score_jax.runtime.workdir import Workdir
from score_jax.teaching.counterfactual import CounterfactualTeacher
from score_jax.teaching.falls import FallTest
from score_jax.teaching.mentoring import (
  RolloutStart,
  build_rollout_starts,
  cases_from_json,
  cases_to_json,
  mentor_questions,
)
from score_jax.train.batch import every_step, make_example
from score_jax.train.sft import SftConfig, fine_tune
from score_jax.train.step import ForwardConfig
from tests.agent.bigram import bigram
from tests.agent.real import real
from tests.agent.scripted import Stage, act, plan, protocol, question, said, stage, submit, tokenizer, tool
from tests.configs import smoke_config

__all__ = ["protocol", "real", "stage", "tokenizer", "tool"]

pytestmark = pytest.mark.usefixtures("lenient_promotion")

SETTINGS = SftConfig(
  optimizer="adamw",
  learning_rate=1e-2,
  epochs=1,
  warmup=0.0,
  weight_decay=0.0,
  max_norm=1.0,
  rows=2,
  micro_rows=2,
  length=128,
  checkpoint_every=1,
  checkpoint_minutes=5.0,
  keep_checkpoints=1,
)
ADD, TAKE = act("x = 5 + 7\nprint(x)", "add 7"), act("x = 5 - 7\nprint(x)", "take 7")


def student(name: str, text: str) -> Turn:
  """Of question a it gets there alone; of the others it takes away where it should add."""
  if "Observation: 12" in text:
    return submit()
  return [plan(), ADD if name == "mps/a/0" else TAKE, submit()][said(text)]


def teacher(name: str, text: str) -> Turn:
  """Adds, but after a subtraction it submits what is there."""
  return submit() if "Observation: " in text.replace("Observation: None", "") else [plan("plan: add"), ADD][said(text)]


def test_mentoring(stage: Stage) -> None:
  """Agents, a teacher, questions; the results are RL starts, and can be written and read back."""
  by_continuations = stage.agent("teacher"), stage.weights(teacher)
  teaches = CounterfactualTeacher(
    *by_continuations, judge=by_continuations, continuations=4, rule=FallTest(0.5, 0.05), acts=4
  )
  questions = [question(name=name) for name in "abc"]

  cases = mentor_questions(
    questions,
    student=stage.agent(),
    weights=stage.weights(student),
    teacher=teaches,
    acts=4,
    corrections=2,
    tries=1,
    report=print,
  )

  assert [(case.outcome, case.first_error) for case in cases] == [("unaided", None), ("solved", 1), ("solved", 1)]
  records = json.loads(json.dumps(cases_to_json(cases)))
  attempts = [case.failed_attempt for case in cases if case.failed_attempt]
  again = cases_from_json(records, questions, [case.trajectory for case in cases], attempts)
  kept = ("question", "trajectory", "outcome", "first_error", "failed_attempt")
  assert [[getattr(c, k) for k in kept] for c in again] == [[getattr(c, k) for k in kept] for c in cases]
  starts, beyond = build_rollout_starts(
    again, acts=4, prefix="last", fresh_horizon=False, keep_unaided=1.0, keep_hard=1.0, salt="rl"
  )
  assert [(len(s.prefix.steps), s.horizon) for s in starts] == [(0, 4), (1, 4), (1, 4)] and beyond == 0


def test_fine_tuning(
  stage: Stage, tokenizer: PreTrainedTokenizerFast, one_device: Mesh, tmp_path: pathlib.Path
) -> None:
  """A model, examples, settings."""
  (config, graph, weights), workdir = bigram(tokenizer), Workdir(str(tmp_path))
  requests = [RolloutRequest("x", question(), empty_trajectory(question()), 4, 2)]
  [rollouts] = stage.agent().rollout(stage.weights(teacher), requests)

  trained = fine_tune(
    "sft",
    [[make_example(t, carries_loss=every_step) for t in rollouts]],
    config=config,
    graph=graph,
    begin=lambda: weights,
    frozen=NO_PARAMS,
    mesh=one_device,
    settings=SETTINGS,
    passes=ForwardConfig(1.0, 128, "auto", "none", "float32", "float32"),
    seed=0,
    workdir=workdir,
    metrics=MetricsWriter(workdir, "sft"),
    log=print,
    validate=None,
  )

  assert trained.updates > 0 and moved(trained.weights, weights)
  assert len((tmp_path / "metrics/sft.jsonl").read_text().splitlines()) == trained.updates


def test_policy_gradient(
  tokenizer: PreTrainedTokenizerFast, real: tuple[Agent, Weights], one_device: Mesh, tmp_path: pathlib.Path
) -> None:
  """A model, an agent, starts, the groups of a config: one step of two updates."""
  (config, graph, _), (agent, weights), workdir = bigram(tokenizer), real, Workdir(str(tmp_path))
  starts = [RolloutStart(q, empty_trajectory(q), None, 2) for q in map(question, ("12", "34"))]
  settings = smoke_config()
  settings.rl.update(steps=1, prompts=2, minibatch=1, group_size=2, micro_rows=2, length=72, kl=0.1, learning_rate=1e-2)
  settings.alarms.update(probe=0, kl=0.0, stale_prefix=0.0)
  validated: list[Weights] = []

  trained = train_policy_gradient(
    "rl",
    starts,
    agent=agent,
    config=config,
    graph=graph,
    begin=lambda: weights,
    frozen=NO_PARAMS,
    mesh=one_device,
    settings=settings,
    workdir=workdir,
    metrics=MetricsWriter(workdir, "rl"),
    log=print,
    validate=lambda w: validated.append(w) or {"val_accuracy": 0.25},
  )

  assert trained.updates == 2 and len(validated) == 1
  assert trained.cost.of("student").generated == sum(t.ledger.of("student").generated for t in workdir.read_parts("rl"))
  [line] = map(json.loads, (tmp_path / "metrics/rl.jsonl").read_text().splitlines())
  assert line["val_accuracy"] == 0.25 and line["rollouts"] == 4


def moved(ours: Weights, theirs: Weights) -> bool:
  pairs = zip(*map(jax.tree.leaves, (ours, theirs)), strict=True)
  return any(np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs)
