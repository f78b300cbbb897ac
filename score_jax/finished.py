"""The models that a run's stages left, for whoever uses them outside it."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from score_jax import stages
from score_jax.arms import STAGES
from score_jax.errors import UserError
from score_jax.model import adapters, source
from score_jax.run import Run
from score_jax.trajectory import Ledger
from score_jax.workdir import Workdir, config_of

NAMES = (*STAGES, "untrained")


@dataclasses.dataclass(frozen=True)
class Finished:
  """A model of a run.

  Attributes:
    model: its adapters merged, its tokenizer with the tags.
    config: the run's.
    ledger: what making the model took; nothing is booked of a stage that is not done.
    questions: ids of those that the run trained and chose checkpoints on.
  """

  model: source.Model
  config: ConfigDict
  ledger: Ledger  # of making it
  measured: Ledger  # of measuring on the way to it
  questions: frozenset[str]


def finished(root: str, stage: str) -> Finished:
  """The model of a stage's newest checkpoint; of the stage `untrained` the student as it came.

  Raises:
    UserError: there is no such run or stage, or no checkpoint of it can be read.
  """
  if stage not in NAMES:
    raise UserError(f"stage {stage!r} of {root}: there is none; choose from {', '.join(NAMES)}")
  config, workdir = config_of(root), Workdir(root)
  with Run(config, workdir) as run:
    shape, weights = adapters.merged(run.student.config, stages.weights_of(run, stage))
    done = stage in STAGES and stages.result(run, stage) is not None
    ledger, measured = (cost(run, stage) if done else Ledger() for cost in (stages.cost_until, stages.measured_until))
    split = workdir.read_json("split.json") or {}
    seen = frozenset(name for part, names in split.items() if part != "test" for name in names)
    return Finished(source.Model(shape, weights, run.student.tokenizer), config, ledger, measured, seen)
