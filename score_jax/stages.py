"""What became of the stages: whether each is done, what it left and what it cost.

A stage is done when stages/<stage>.json stands, which is written last. Its
identity is the hash of the config that it reads and of the identities of the
stages that it builds on, so runs that differ elsewhere agree on it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from ml_collections import ConfigDict

from score_jax.arms import STAGES, TEACHING
from score_jax.errors import UserError
from score_jax.means import essential, resolved
from score_jax.model import adapters
from score_jax.model.decoder import Weights
from score_jax.run import Run
from score_jax.train.checkpoints import Checkpoints
from score_jax.trajectory import Ledger, Usage, total

#: groups of the config that every stage reads, beside those that its entry in arms.py names
SHARED = ("seed", "mesh", "tasks", "tools", "sampler", "agent", "student")


def identity(config: ConfigDict, stage: str) -> str:
  """Two runs whose stages have equal identities compute the same there."""
  data = essential(resolved(config))
  known = STAGES[stage]
  settings = data[known.group] | known.changes
  asks = TEACHING if settings.get("judge") or settings.get("distill") else ()
  own = {name: data[name] for name in (*SHARED, *known.reads, *asks)} | {known.group: settings}
  inputs: list[Any] = [identity(config, s) for s in known.builds_on]
  inputs += [known.revision] if known.revision else []
  return hashlib.sha256(json.dumps([stage, own, inputs], sort_keys=True).encode()).hexdigest()[:16]


def configured(config: ConfigDict, stage: str) -> ConfigDict:
  """The config as a stage reads it: with its changes."""
  found = config.copy_and_resolve_references()
  found[STAGES[stage].group].update(STAGES[stage].changes)
  return found


def result(run: Run, stage: str) -> dict[str, Any] | None:
  """What a stage wrote when it was done; None when it is not, or was for another config."""
  found = run.workdir.read_json(f"stages/{stage}.json")
  return found if found is not None and found["identity"] == identity(run.config, stage) else None


def require_none_of_another(run: Run, stage: str) -> None:
  """
  Raises:
    UserError: the workdir has the stage as another config or version of the package did it. Its checkpoints and parts
      would be taken for this one's.
  """
  if run.workdir.read_json(f"stages/{stage}.json") is not None and result(run, stage) is None:
    raise UserError(
      f"stage {stage} in {run.workdir.root} was done by another version of score_jax or for another config; give "
      f"another --workdir, or delete stages/{stage}.json, metrics/{stage}.jsonl and the folders checkpoints/{stage}, "
      f"trajectories/{stage} and eval/{stage} there"
    )


def finish(run: Run, stage: str, findings: dict[str, Any]) -> None:
  """Marks a stage as done."""
  run.workdir.write_json(f"stages/{stage}.json", {"identity": identity(run.config, stage)} | findings)


def needed(run: Run, stage: str) -> dict[str, Any]:
  """The result of a stage that has to be done.

  Raises:
    UserError: it is not.
  """
  found = result(run, stage)
  if found is None:
    raise UserError(f"stage {stage} is not done in {run.workdir.root}; put it before what needs it in config.stages")
  return found


def newest_weights(run: Run, stage: str) -> tuple[int, Weights] | None:
  """Step and weights of the newest checkpoint of a stage that can be read."""
  trained, frozen = adapters.parts(run.student.weights)
  with Checkpoints(run.workdir.checkpoints(stage), keep=0) as checkpoints:
    found = checkpoints.newest_weights(trained, dtype=run.config.train.weights_dtype)
  return None if found is None else (found[0], adapters.together(found[1], frozen))


def weights_of(run: Run, stage: str) -> Weights:
  """The weights that a stage ended with; `untrained` and `teacher` are the models as they came.

  Raises:
    UserError: there are none.
  """
  if stage == "untrained":
    return run.student.weights
  if stage == "teacher":
    return run.teacher_model.weights
  found = newest_weights(run, stage)
  if found is None:
    raise UserError(f"{run.workdir.checkpoints(stage)}: no checkpoint can be read; put {stage} into config.stages")
  return found[1]


def whole(run: Run, stage: str) -> bool:
  """Whether a stage is done and, where it trained, its last checkpoint can be read."""
  found = result(run, stage)
  if found is None or "updates" not in found:
    return found is not None
  newest = newest_weights(run, stage)
  return newest is not None and newest[0] == found["updates"]


def encoded(ledger: Ledger) -> dict[str, Any]:
  """A ledger as JSON data."""
  return dataclasses.asdict(ledger)


def decoded(data: dict[str, Any]) -> Ledger:
  """What `encoded` gave."""
  models = {name: Usage(**usage) for name, usage in data["models"].items()}
  return Ledger(models, data["grader_calls"], data["tool_calls"])


def cost_until(run: Run, stage: str) -> Ledger:
  """What a stage and all that it is made from have cost, each once; what was spent to measure is left out."""
  return total(decoded(found["ledger"]) for found in _makers(run, stage))


def measured_until(run: Run, stage: str) -> Ledger:
  """What was spent to measure in a stage and in all that it is made from."""
  return total(decoded(found["measured"]) for found in _makers(run, stage) if "measured" in found)


def _makers(run: Run, stage: str) -> list[dict[str, Any]]:
  """The results of a stage and of all that it is made from, each once."""
  wanted: set[str] = set()

  def add(name: str) -> None:
    if name in STAGES and name not in wanted:
      wanted.add(name)
      for other in (STAGES[name].begin, *STAGES[name].uses):
        add(other)

  add(stage)
  return [needed(run, name) for name in STAGES if name in wanted]
