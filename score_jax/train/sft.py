"""Supervised fine-tuning on trajectories: warm start, SFT, BC and pretraining."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from score_jax.errors import UserError
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, Weights
from score_jax.runtime import profiler
from score_jax.runtime.metrics import MetricsWriter, Progress
from score_jax.runtime.workdir import Workdir
from score_jax.train.batch import Batch, Example, count_updates, iter_updates, split_by_length
from score_jax.train.checkpoints import Checkpoints
from score_jax.train.optimizer import make_optimizer, make_schedule
from score_jax.train.step import ForwardConfig, Trainer, make_sft_loss
from score_jax.trajectory import Ledger, Usage, sum_ledgers


@dataclasses.dataclass(frozen=True)
class SftConfig:
  """Settings of a supervised stage; configs/defaults.py explains each."""

  optimizer: str
  learning_rate: float
  epochs: int
  warmup: float
  weight_decay: float
  max_norm: float
  rows: int
  micro_rows: int
  length: int
  checkpoint_every: int
  checkpoint_minutes: float
  keep_checkpoints: int


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """The result of a training stage; its newest checkpoint has the weights too."""

  weights: Weights
  updates: int
  cost: Ledger
  left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)  # counts of what was left out of training


def fine_tune(
  stage: str,
  lessons: Sequence[Sequence[Example]],
  *,
  config: DecoderConfig,
  graph: nnx.GraphDef[Decoder],
  begin: Callable[[], Weights],
  frozen: Weights,
  mesh: Mesh,
  settings: SftConfig,
  passes: ForwardConfig,
  seed: int,
  workdir: Workdir,
  metrics: MetricsWriter,
  log: Callable[[str], None],
  validate: Callable[[Weights], dict[str, float]] | None,
) -> TrainResult:
  """Trains on one lesson (a list of examples) after the other; resumes at the stage's newest checkpoint.

  Without any example, such as after a teacher that never succeeds, the weights stay as they are.

  Args:
    begin: returns the trained weights at the start; called only without a checkpoint.
    frozen: all other weights.
    metrics: of the stage; closed at the end.
    validate: returns `val_accuracy` for the last line of metrics, or {} where it is not known.

  Raises:
    RunInterrupted: the run was interrupted; the newest state is saved.
  """
  require_known_tokens(itertools.chain.from_iterable(lessons), config.vocab, stage)
  parts = [split_by_length(lesson, length=settings.length) for lesson in lessons]
  kept, long = [lesson for lesson, _ in parts], [example for _, lesson in parts for example in lesson]
  samples, tokens = sum(map(len, lessons)), sum(len(example.tokens) for lesson in lessons for example in lesson)
  left_out = {"too_long": len(long), "too_long_tokens": sum(len(example.tokens) for example in long)}
  if not samples:
    log(f"{stage}: there is nothing to train on; the weights stay those that it begins with")
  elif not all(kept):
    raise UserError(f"{stage}: none of {samples} trajectories fits {settings.length} tokens; nothing to train on")
  if long:
    log(
      f"{stage}: {len(long)} of {samples} trajectories ({left_out['too_long_tokens']} of {tokens} tokens) are longer "
      f"than {settings.length} tokens and left out; raise train.length to learn from them"
    )
  order = {"rows": settings.rows, "length": settings.length, "epochs": settings.epochs, "seed": seed}
  steps = sum(count_updates(lesson, **order) for lesson in kept)
  batches_of = (iter_updates(lesson, micro=settings.micro_rows, **order) for lesson in kept)
  rate = make_schedule(peak=settings.learning_rate, steps=steps, warmup=settings.warmup, kind="cosine")
  rule = make_optimizer(settings.optimizer, rate, weight_decay=settings.weight_decay, max_norm=settings.max_norm)
  trainer = Trainer(graph, rule, make_sft_loss(), mesh, passes, frozen)
  checkpoints = Checkpoints(
    workdir.checkpoint_folder(stage),
    keep=settings.keep_checkpoints,
    minutes=settings.checkpoint_minutes,
    before=metrics.flush,
  )
  with contextlib.closing(metrics), checkpoints, Progress(stage, steps, "steps") as progress:
    state = checkpoints.restore_newest(trainer.abstract_state(config)) or trainer.init_state(begin())
    done = int(state.step)
    progress(done)
    for number, batch in enumerate(itertools.chain.from_iterable(batches_of), start=1):
      if number <= done:
        continue
      start = time.perf_counter()
      with profiler.profile_step("updates"):
        state, numbers = trainer(state, batch)
        values = check_finite(jax.device_get(numbers), stage, number, batch, workdir)
      values["tokens_per_s"] = int((batch.segments > 0).sum()) / (time.perf_counter() - start)
      values["learning_rate"] = float(jax.device_get(rate(number - 1)))
      if validate is not None and number == steps:
        values |= validate(trainer.full_weights(state))
      metrics.write(number, values | left_out)
      progress(1, f"loss {values['loss']:.3f}")
      keep = number % settings.checkpoint_every == 0 or number == steps
      checkpoints.maybe_save(state, keep=keep, accuracy=values.get("val_accuracy"))
    if not steps:
      checkpoints.save(state)
  cost = sum_ledgers(training_cost(config, lesson, settings.epochs) for lesson in kept)
  return TrainResult(trainer.full_weights(state), steps, cost, left_out)


def require_known_tokens(samples: Iterable[Example], vocab: int, stage: str) -> None:
  """Refuses examples with a token beyond the vocabulary: XLA clamps the index and returns another token's row."""
  for example in samples:
    if len(example.tokens) and not 0 <= example.tokens.min() <= example.tokens.max() < vocab:
      wrong = next(int(token) for token in example.tokens if not 0 <= token < vocab)
      raise UserError(
        f"{stage}: a trajectory has token {wrong}, and the student's tokens are 0 to {vocab - 1}; it was made with "
        "another model: run in a new --workdir"
      )


def check_finite(numbers: dict[str, float], stage: str, step: int, batch: Batch, workdir: Workdir) -> dict[str, float]:
  """The metrics of an update as floats; an error if one is not finite, after saving the batch under failed/."""
  values = {k: float(v) for k, v in numbers.items()}
  for name, value in values.items():
    if not abs(value) < float("inf"):
      path = f"failed/{stage}-{step}.npz"
      arrays = io.BytesIO()
      np.savez_compressed(arrays, **dataclasses.asdict(batch))
      workdir.write_bytes(path, arrays.getvalue())
      raise UserError(
        f"{stage}: {name} is {value} at step {step}; lower {stage}.learning_rate or look at its data: "
        f"numpy.load({str(workdir.root / path)!r}) has the arrays of train/batch.py's Batch"
      )
  return values


def training_cost(config: DecoderConfig, samples: Sequence[Example], passes: float) -> Ledger:
  """Tokens that the student trained on in `passes` epochs, and their FLOPs: forward and backward, 3 x forward."""
  tokens = sum(len(s.tokens) for s in samples)
  flops = sum(len(s.tokens) * config.flops_per_token(len(s.tokens) // 2) for s in samples)
  return Ledger({"student": Usage(scored=int(tokens * passes), flops=3.0 * flops * passes)})
