"""Results of stages: whether a stage is done, its identity, its weights, its cost.

A stage is done when stages/<stage>.json exists; it is written last. The identity of a stage is the hash of the config
groups that it reads and of the identities of the stages that it builds on. So runs that differ elsewhere agree on it.
`load_finished_model` opens the model of a stage from outside the run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from ml_collections import ConfigDict

from score_jax.config import config_to_dict, identity_config
from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
from score_jax.experiment.stages import STAGES, TEACHER_CONFIG_GROUPS
from score_jax.model import lora, pretrained
from score_jax.model.decoder import Weights
from score_jax.runtime.workdir import Workdir, read_run_config
from score_jax.train.checkpoints import Checkpoints
from score_jax.trajectory import Ledger, Usage, sum_ledgers

#: groups of the config that every stage reads, beside those that its entry in stages.py names
SHARED_CONFIG_GROUPS = ("seed", "mesh", "tasks", "tools", "sampler", "agent", "student")


def compute_stage_identity(config: ConfigDict, stage: str) -> str:
  """Two runs whose stages have equal identities compute the same there."""
  data = identity_config(config_to_dict(config))
  known = STAGES[stage]
  settings = data[known.group] | known.overrides
  asks = TEACHER_CONFIG_GROUPS if settings.get("judge") or settings.get("distill") else ()
  own = {name: data[name] for name in (*SHARED_CONFIG_GROUPS, *known.config_groups, *asks)} | {known.group: settings}
  inputs: list[Any] = [compute_stage_identity(config, s) for s in known.dependencies]
  inputs += [known.revision] if known.revision else []
  return hashlib.sha256(json.dumps([stage, own, inputs], sort_keys=True).encode()).hexdigest()[:16]


def make_stage_config(config: ConfigDict, stage: str) -> ConfigDict:
  """The config as a stage reads it: with its changes."""
  found = config.copy_and_resolve_references()
  found[STAGES[stage].group].update(STAGES[stage].overrides)
  return found


def read_stage_result(run: Experiment, stage: str) -> dict[str, Any] | None:
  """What a stage wrote when it was done; None when it is not, or was for another config."""
  found = run.workdir.read_json(f"stages/{stage}.json")
  return found if found is not None and found["identity"] == compute_stage_identity(run.config, stage) else None


def require_same_identity(run: Experiment, stage: str) -> None:
  """
  Raises:
    UserError: the workdir has the stage as another config or version of the package did it. Its checkpoints and parts
      would be taken for this one's.
  """
  if run.workdir.read_json(f"stages/{stage}.json") is not None and read_stage_result(run, stage) is None:
    raise UserError(
      f"stage {stage} in {run.workdir.root} was done by another version of score_jax or for another config; give "
      f"another --workdir, or delete stages/{stage}.json, metrics/{stage}.jsonl and the folders checkpoints/{stage}, "
      f"trajectories/{stage} and eval/{stage} there"
    )


def write_stage_result(run: Experiment, stage: str, findings: dict[str, Any]) -> None:
  """Marks a stage as done."""
  run.workdir.write_json(f"stages/{stage}.json", {"identity": compute_stage_identity(run.config, stage)} | findings)


def require_stage_result(run: Experiment, stage: str) -> dict[str, Any]:
  """The result of a stage that has to be done.

  Raises:
    UserError: it is not.
  """
  found = read_stage_result(run, stage)
  if found is None:
    raise UserError(f"stage {stage} is not done in {run.workdir.root}; put it before what needs it in config.stages")
  return found


def load_newest_weights(run: Experiment, stage: str) -> tuple[int, Weights] | None:
  """Step and weights of the newest checkpoint of a stage that can be read."""
  trained, frozen = lora.split_trainable(run.student.weights)
  with Checkpoints(run.workdir.checkpoint_folder(stage), keep=0) as checkpoints:
    found = checkpoints.restore_newest_weights(trained, dtype=run.config.train.weights_dtype)
  return None if found is None else (found[0], lora.merge_params(found[1], frozen))


def load_stage_weights(run: Experiment, stage: str) -> Weights:
  """The weights that a stage ended with; `untrained` and `teacher` are the models as they came.

  Raises:
    UserError: there are none.
  """
  if stage == "untrained":
    return run.student.weights
  if stage == "teacher":
    return run.teacher_model.weights
  found = load_newest_weights(run, stage)
  if found is None:
    raise UserError(
      f"{run.workdir.checkpoint_folder(stage)}: no checkpoint can be read; put {stage} into config.stages"
    )
  return found[1]


def is_stage_complete(run: Experiment, stage: str) -> bool:
  """Whether a stage is done and, where it trained, its last checkpoint can be read."""
  found = read_stage_result(run, stage)
  if found is None or "updates" not in found:
    return found is not None
  newest = load_newest_weights(run, stage)
  return newest is not None and newest[0] == found["updates"]


def ledger_to_dict(ledger: Ledger) -> dict[str, Any]:
  """A ledger as JSON data."""
  return dataclasses.asdict(ledger)


def ledger_from_dict(data: dict[str, Any]) -> Ledger:
  """What `encoded` gave."""
  models = {name: Usage(**usage) for name, usage in data["models"].items()}
  return Ledger(models, data["grader_calls"], data["tool_calls"])


def sum_training_cost(run: Experiment, stage: str) -> Ledger:
  """What a stage and all that it is made from have cost, each once; what was spent to measure is left out."""
  return sum_ledgers(ledger_from_dict(found["ledger"]) for found in _makers(run, stage))


def sum_measurement_cost(run: Experiment, stage: str) -> Ledger:
  """What was spent to measure in a stage and in all that it is made from."""
  return sum_ledgers(ledger_from_dict(found["measured"]) for found in _makers(run, stage) if "measured" in found)


def _makers(run: Experiment, stage: str) -> list[dict[str, Any]]:
  """The results of a stage and of all that it is made from, each once."""
  wanted: set[str] = set()

  def add(name: str) -> None:
    if name in STAGES and name not in wanted:
      wanted.add(name)
      for other in (STAGES[name].init_from, *STAGES[name].inputs):
        add(other)

  add(stage)
  return [require_stage_result(run, name) for name in STAGES if name in wanted]


STAGE_MODEL_NAMES = (*STAGES, "untrained")


@dataclasses.dataclass(frozen=True)
class FinishedModel:
  """A model of a run.

  Attributes:
    model: its adapters merged, its tokenizer with the tags.
    config: the run's.
    ledger: what making the model took; nothing is booked of a stage that is not done.
    seen_question_ids: ids of those that the run trained and chose checkpoints on.
  """

  model: pretrained.Model
  config: ConfigDict
  ledger: Ledger  # of making it
  measurement_ledger: Ledger  # of measuring on the way to it
  seen_question_ids: frozenset[str]


def load_finished_model(root: str, stage: str) -> FinishedModel:
  """The model of a stage's newest checkpoint; of the stage `untrained` the student as it came.

  Raises:
    UserError: there is no such run or stage, or no checkpoint of it can be read.
  """
  if stage not in STAGE_MODEL_NAMES:
    raise UserError(f"stage {stage!r} of {root}: there is none; choose from {', '.join(STAGE_MODEL_NAMES)}")
  config, workdir = read_run_config(root), Workdir(root)
  with Experiment(config, workdir) as run:
    shape, weights = lora.merge_lora(run.student.config, load_stage_weights(run, stage))
    done = stage in STAGES and read_stage_result(run, stage) is not None
    ledger, measured = (cost(run, stage) if done else Ledger() for cost in (sum_training_cost, sum_measurement_cost))
    split = workdir.read_json("split.json") or {}
    seen = frozenset(name for part, names in split.items() if part != "test" for name in names)
    return FinishedModel(pretrained.Model(shape, weights, run.student.tokenizer), config, ledger, measured, seen)
