"""What of the config and of the meshes a run's agents, trainers and scorers are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from score_jax import recipe
from score_jax.agent.rollout import empty_trajectory
from score_jax.experiment.experiment import Experiment
from score_jax.experiment.teachers import open_teacher
from score_jax.model.sharding import MESH_AXES, Meshes
from score_jax.rl.loop import DistillationTeacher, make_scorer, make_trainer
from score_jax.runtime.workdir import Workdir
from score_jax.sampler.slots import ProgramShapes, SamplingParams
from score_jax.sandbox.sandbox import Sandbox
from score_jax.teaching.counterfactual import CounterfactualTeacher
from score_jax.teaching.mentoring import RolloutStart
from score_jax.train.sft import TrainResult
from score_jax.train.step import make_forward_config
from score_jax.training_data import TrainingData
from score_jax.trajectory import Ledger
from tests.configs import smoke_config

pytestmark = pytest.mark.usefixtures("lenient_promotion")


def on(device: int) -> Mesh:
  return Mesh(np.array(jax.devices()[device]).reshape(1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
  """Each use of a model has a device of its own, and no two settings are equal."""
  c = smoke_config()
  c.teacher.kind = "model"
  c.seed = 7
  c.sampler.slots, c.sampler.teacher_slots = 6, 4
  c.student.temperature, c.student.top_k, c.student.top_p, c.student.repetition_penalty = 0.8, 30, 0.95, 1.1
  c.teacher.temperature, c.teacher.top_k, c.teacher.top_p, c.teacher.repetition_penalty = 0.9, 40, 0.85, 1.2
  c.rl.temperature, c.rl.distill, c.rl.kl = 0.6, 0.5, 0.1
  c.rl.length, c.rl.micro_rows, c.train.length, c.train.micro_rows = 320, 3, 256, 5
  c.train.logit_chunk, c.mps.continuations = 64, 16
  c.tools.isolation, c.tools.workers = "process", 1
  c.tools.timeout_s, c.tools.memory_mb, c.tools.files_mb, c.tools.output_chars = 9.0, 400, 48, 3000
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Meshes, "of", lambda _: Meshes(train=on(1), sample=on(2), teacher=on(3)))
    with Experiment(c, Workdir(str(tmp_path_factory.mktemp("run")))) as found:
      yield found


def device(mesh: Mesh) -> int:
  return mesh.devices.flat[0].id


def lies_on(weights: object) -> set[int]:
  return {d.id for leaf in jax.tree.leaves(weights) for d in leaf.sharding.device_set}


def test_the_student_is_trained_on_one_mesh_and_samples_on_another_and_the_teacher_on_its_own(run: Experiment) -> None:
  assert (lies_on(run.student.weights), lies_on(run.teacher_model.weights)) == ({1}, {3})
  agents = {"student": run.student_agent, "teacher": run.teacher_agent, "rl": run.make_rl_agent(0.6)}
  assert {name: device(agent.programs.mesh) for name, agent in agents.items()} == {"student": 2, "teacher": 3, "rl": 2}
  assert device(run.make_single_agent().programs.mesh) == 2


def test_each_agent_has_its_own_model_slots_and_decoding(run: Experiment) -> None:
  student, teacher, rl = run.student_agent, run.teacher_agent, run.make_rl_agent(0.6)
  assert (student.programs.config, teacher.programs.config) == (run.student.config, run.teacher_model.config)
  assert student.programs.config != teacher.programs.config
  assert (student.programs.slots, teacher.programs.slots, rl.programs.slots) == (6, 4, 6)
  assert student.decoding == SamplingParams(0.8, 30, 0.95, 1.1)
  assert teacher.decoding == SamplingParams(0.9, 40, 0.85, 1.2)
  assert rl.decoding == SamplingParams(0.6, 0, 1.0, 1.0), "the whole distribution"
  assert [(a.model, a.author) for a in (student, teacher, rl)] == [
    ("student", "student"),
    ("teacher", "teacher"),
    ("student", "student"),
  ]
  for agent in (student, teacher, rl):
    assert (agent.seed, agent.turn_tokens) == (7, run.config.agent.turn_tokens)
    assert agent.programs.length == run.config.sampler.length
    assert agent.shapes == ProgramShapes(run.config.sampler.piece, (8,), run.config.sampler.decode)
    assert agent.journal is run.journal


def test_the_tool_has_each_limit_in_its_place(run: Experiment) -> None:
  assert isinstance(run.tool, Sandbox)
  found = run.tool._settings
  assert (found.isolation, found.timeout_s, found.memory_mb, found.files_mb) == ("process", 9.0, 400, 48)
  assert (found.output_chars, run.tool._workers) == (3000, 1)


def test_policy_gradient_trains_and_scores_the_student_on_its_mesh_and_the_teacher_on_the_teachers(
  run: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
  starts = [RolloutStart(q, empty_trajectory(q), None, 5) for q in run.tasks.train]
  given: dict[str, Any] = {}

  def spied(stage: str, starts: Sequence[RolloutStart], **more: Any) -> TrainResult:
    given.update(more)
    return TrainResult(run.student.weights, 0, Ledger())

  monkeypatch.setattr(recipe, "train_policy_gradient", spied)
  recipe.rl_stage(run, "rl", TrainingData(starts, {}))
  settings, graph, mesh, frozen = (given[name] for name in ("settings", "graph", "mesh", "frozen"))
  trainer, teacher = make_trainer(settings, graph, mesh, frozen), given["teacher"]
  scorer = make_scorer(settings, "student", graph, mesh, frozen, temperature=0.6)
  assert isinstance(teacher, DistillationTeacher)
  assert [device(x.mesh) for x in (trainer, scorer, teacher.scorer)] == [1, 1, 3]
  assert trainer.passes.temperature == 0.6
  assert trainer.passes == make_forward_config(run.config, 0.6)
  assert (trainer.passes.logit_chunk, make_forward_config(run.config, 1.0).temperature) == (64, 1.0)
  for each in (scorer, teacher.scorer):
    assert (each.length, each.micro) == (320, 3)
  assert teacher.weights is run.teacher_model.weights
  assert given["agent"].decoding.temperature == 0.6


def test_a_supervised_stage_has_its_own_settings_and_those_that_all_share(run: Experiment) -> None:
  c = run.config
  found = {name: run.make_sft_config(c[name]) for name in ("warm_start", "sft", "bc")}
  assert {name: (s.learning_rate, s.epochs) for name, s in found.items()} == {
    name: (c[name].learning_rate, c[name].epochs) for name in found
  }
  assert {(s.length, s.micro_rows, s.rows, s.warmup) for s in found.values()} == {(256, 5, 8, c.train.warmup)}


@pytest.mark.parametrize("by", ["student", "teacher"])
def test_the_teacher_on_the_mesh_judges_by_whom_the_config_names(
  run: Experiment, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  """The student's continuations are by the weights that are mentored."""
  monkeypatch.setitem(run.config.mps, "continue_by", by)
  mentored = jax.tree.map(lambda x: x, run.student.weights)
  teacher = open_teacher(run, mentored)
  assert isinstance(teacher, CounterfactualTeacher)
  agent, weights = teacher._judge
  assert (agent.author, weights is {"student": mentored, "teacher": run.teacher_model.weights}[by]) == (by, True)
  assert (teacher._agent.author, teacher._weights is run.teacher_model.weights) == ("teacher", True)
  c = run.config
  assert (teacher.rule.delta, teacher.rule.alpha) == (c.mps.delta, c.mps.alpha)
  assert (teacher._continuations, teacher._acts) == (16, c.agent.acts)
