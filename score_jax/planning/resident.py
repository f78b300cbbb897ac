"""What lies on the devices at each moment of a run, by name; the recipe frees the teacher before it trains.

student weights    as they came, laid out for training
trained weights    those that a stage changes or has changed
moments            of the optimiser
sampling copy      of the weights, where the sampler wants another dtype or layout than the trainer
reference copy     of the weights that RL began with, where it is kept near them; they wait in the hosts' memory
distilling teacher the teacher's weights, where RL learns from what they say of the student's tokens
caches             of the samplers; one is freed before another is made
"""

from __future__ import annotations

from collections.abc import Mapping

from score_jax import arms

MOMENTS = {
  "demonstrating": ("student weights", "teacher weights", "teacher cache"),
  "training": ("student weights", "trained weights", "moments"),
  "exploring": ("student weights", "trained weights", "sampling copy", "student cache", "teacher weights"),
  "mentoring": ("student weights", "trained weights", "teacher weights", "teacher cache"),
  "rolling out": (
    "student weights",
    "trained weights",
    "moments",
    "sampling copy",
    "student cache",
    "distilling teacher",
  ),
  "scoring": ("student weights", "trained weights", "moments", "reference copy", "distilling teacher"),
  "reinforcing": ("student weights", "trained weights", "moments", "distilling teacher"),
  "evaluating": ("student weights", "trained weights", "sampling copy", "student cache"),
}


def _moments(stage: arms.Stage) -> tuple[str, ...]:
  """What happens in a stage, told from what it learns from."""
  if stage.starts:
    return ("rolling out", "scoring", "reinforcing")
  mentoring = ("exploring", "mentoring") if "mps" in (stage.group, *stage.reads) else ()
  demonstrating = ("demonstrating",) if "teacher" in stage.reads and not mentoring else ()
  return (*mentoring, *demonstrating, *(("training",) if stage.lessons else ()))


STAGES = {name: _moments(stage) for name, stage in arms.STAGES.items()} | {"eval": ("demonstrating", "evaluating")}
COLUMNS = {
  "weights": (
    "student weights",
    "trained weights",
    "sampling copy",
    "reference copy",
    "teacher weights",
    "distilling teacher",
  ),
  "optimizer": ("moments",),
  "cache": ("student cache", "teacher cache"),
}


def _when_most(arrays: Mapping[str, int], moments: tuple[str, ...]) -> tuple[str, ...]:
  """What is resident at the one of some moments at which most is."""
  return max((MOMENTS[m] for m in moments), key=lambda names: sum(arrays.get(name, 0) for name in names))


def fullest(arrays: Mapping[str, int], moments: tuple[str, ...]) -> dict[str, int]:
  """Bytes by column at the one of some moments at which most is resident."""
  there = _when_most(arrays, moments)
  return {column: sum(arrays.get(name, 0) for name in names if name in there) for column, names in COLUMNS.items()}


def by_stage(arrays: Mapping[str, int], stages: tuple[str, ...]) -> dict[str, dict[str, int]]:
  """For each stage what is resident when most is, by array."""
  return {
    stage: {name: arrays[name] for name in _when_most(arrays, STAGES[stage]) if arrays.get(name)} for stage in stages
  }
