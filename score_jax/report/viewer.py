"""The data of the trajectory browser: some trajectories of every stage, as JSON inside the page.

viewer.js shows them. Token ids and log-probabilities stay in the workdir; of
tokens only the counts, and whether they carry loss, come along.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from typing import Any

import markupsafe
from etils import epath

from score_jax.experiment.stages import STAGES
from score_jax.report import reader, table
from score_jax.trajectory import Correction, Step, Trajectory

MAX_TRAJECTORIES = 60  # trajectories of each stage or model
ROLLOUT_STAGES = tuple(name for name, stage in STAGES.items() if stage.rl_starts)


def collect_groups(root: epath.Path) -> list[dict[str, Any]]:
  """The stages and evaluated models that have trajectories, each with at most LIMIT of them.

  Raises:
    Missing: there are none.
  """
  found = [_stage(root, stage) for stage in STAGES]
  found += [_model(root, model) for model in sorted(reader.list_evaluated_models(root), key=table.model_sort_key)]
  found = [group for group in found if group["trajectories"]]
  if not found:
    raise reader.MissingData("There are no trajectories yet.")
  return found


def embed_json(data: Any) -> markupsafe.Markup:
  """JSON that ends no <script> element and opens no comment in it, whatever the texts hold."""
  return markupsafe.Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def step_carries_loss(stage: str, trajectory: Trajectory, step: int) -> bool:
  """Whether the tokens that a policy wrote in this step are trained on.

  A rollout's given prefix is not, nor what fine-tuning leaves out: a trajectory that is not right.
  """
  if stage in ROLLOUT_STAGES:
    return step >= trajectory.prefix_steps
  return stage in STAGES and trajectory.right


def _stage(root: epath.Path, stage: str) -> dict[str, Any]:
  parts = reader.list_parts(root / "trajectories" / stage)
  chosen = _corrected_first(parts) if stage == "mps" else _spread(parts)
  return {"label": _label(stage), "trajectories": [_encode(trajectory, stage=stage) for trajectory in chosen]}


def _label(stage: str) -> str:
  suffix = ": rollouts" if stage in ROLLOUT_STAGES else ": what it learns from" if STAGES[stage].init_from else ""
  return STAGES[stage].label + suffix


def _model(root: epath.Path, model: str) -> dict[str, Any]:
  parts = reader.pick_evenly(reader.list_parts(root / "eval" / model), MAX_TRAJECTORIES)
  tries = (itertools.islice(reader.read_evaluations(part, least_steps=0), _share(parts)) for part in parts)
  chosen = itertools.islice(itertools.chain.from_iterable(tries), MAX_TRAJECTORIES)
  encoded = [
    {**_encode(x.trajectory, stage="eval"), "benchmark": x.benchmark, "reference": x.reference} for x in chosen
  ]
  return {"label": f"evaluation: {table.format_model_label(model)}", "trajectories": encoded}


def _spread(parts: list[epath.Path]) -> Iterable[Trajectory]:
  """The first few of parts that lie evenly over all parts."""
  parts = reader.pick_evenly(parts, MAX_TRAJECTORIES)
  read = (itertools.islice(reader.read_trajectories(part), _share(parts)) for part in parts)
  return itertools.islice(itertools.chain.from_iterable(read), MAX_TRAJECTORIES)


def _share(parts: list[epath.Path]) -> int:
  return math.ceil(MAX_TRAJECTORIES / len(parts))


def _corrected_first(parts: list[epath.Path]) -> list[Trajectory]:
  """The first LIMIT with corrections; where there are fewer, the first others after them."""
  corrected: list[Trajectory] = []
  others: list[Trajectory] = []
  for trajectory in itertools.chain.from_iterable(map(reader.read_trajectories, parts)):
    kept = corrected if trajectory.corrections else others
    if len(kept) < MAX_TRAJECTORIES:
      kept.append(trajectory)
    if len(corrected) == MAX_TRAJECTORIES:
      break
  return (corrected + others)[:MAX_TRAJECTORIES]


def _encode(trajectory: Trajectory, *, stage: str) -> dict[str, Any]:
  steps = [
    {**_step(step), "given": i < trajectory.prefix_steps, "loss": step_carries_loss(stage, trajectory, i)}
    for i, step in enumerate(trajectory.steps)
  ]
  return {
    "id": trajectory.question_id,
    "question": trajectory.question,
    "tokens": len(trajectory.prompt_tokens),
    "status": trajectory.status,
    "answer": trajectory.answer,
    "right": trajectory.right,
    "grade": trajectory.grade if reader.is_finite_number(trajectory.grade) else None,
    "grade_reason": trajectory.grade_reason,
    "steps": steps,
    "corrections": [_correction(correction) for correction in trajectory.corrections],
  }


def _step(step: Step) -> dict[str, Any]:
  return {
    "kind": step.kind,
    "thought": step.thought,
    "code": step.code,
    "observation": step.observation,
    "reason": step.reason,
    "author": step.author,
    "tokens": len(step.tokens),
    "observation_tokens": len(step.observation_tokens),
  }


def _correction(correction: Correction) -> dict[str, Any]:
  return {
    "step": correction.step,
    "mistakes": [_step(step) for step in correction.mistakes],
    "replacement": _step(correction.replacement),
    "diagnosis": correction.diagnosis,
    "verified": correction.verified,
    "values": {name: value for name, value in correction.values.items() if reader.is_finite_number(value)},
  }
