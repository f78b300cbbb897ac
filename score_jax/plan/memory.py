"""Chips, and the memory and time that a recipe needs on them.

`CHIPS` has the published figures of each accelerator. `PHASE_ARRAYS` says which arrays are resident in each phase of a
run; the recipe frees the teacher before it trains:

student weights    as loaded, laid out for training
trained weights    those that a stage changes or has changed
moments            of the optimizer
sampling copy      of the weights, where the sampler wants another dtype or layout than the trainer
reference copy     of the weights that RL began with, where it is kept; it waits in host memory
distilling teacher the teacher's weights, where RL learns from its log-probabilities of the student's tokens
caches             of the samplers; one is freed before another is made

The estimate_* functions give the temporary memory of programs that cannot be compiled here.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.experiment import stages as arms
from score_jax.model.config import DecoderConfig

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One accelerator. The figures are the makers' published ones."""

  platform: str  # tpu, gpu
  memory_gib: float  # GiB that programs can have
  flops: float  # bfloat16 (T4: float16), a second
  bandwidth: float  # of the memory, bytes a second


CHIPS = {
  "v5e": Chip("tpu", 15.75, 197e12, 819e9),
  "v5p": Chip("tpu", 95.0, 459e12, 2765e9),
  "v6e": Chip("tpu", 31.25, 918e12, 1640e9),
  "v4": Chip("tpu", 31.75, 275e12, 1228e9),
  "h100": Chip("gpu", 78.0, 989e12, 3350e9),
  "h200": Chip("gpu", 139.0, 989e12, 4800e9),
  "a100": Chip("gpu", 78.0, 312e12, 2039e9),
  "t4": Chip("gpu", 14.5, 65e12, 320e9),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Some chips of one kind: `v5e:8x8`, `v5p:2x4x4`, `h100:8`; `v5e:1` is one chip out of the least host of four."""

  name: str
  chip: Chip
  count: int
  devices: Sequence[Any]  # of jax, for compiling; none where that cannot be done without the hardware

  @property
  def can_compile(self) -> bool:
    """Whether its programs can be compiled here; where not, figures are estimates from shapes."""
    return bool(self.devices)


def parse_topology(name: str) -> Topology:
  """The chips of that name.

  Raises:
    UserError: the kind or the shape is unknown, or libtpu is not installed.
  """
  kind, _, shape = name.partition(":")
  sizes = shape.split("x")
  if kind not in CHIPS or not all(s.isdigit() and int(s) for s in sizes):
    raise UserError(f"--topology={name}: give KIND:SHAPE such as v5e:8x8 or h100:8, with a kind of {', '.join(CHIPS)}")
  chip, count = CHIPS[kind], math.prod(map(int, sizes))
  return Topology(name, chip, count, _tpus(name, count) if chip.platform == "tpu" else ())


def _tpus(name: str, count: int) -> Sequence[Any]:
  """Devices of a TPU topology, which libtpu describes without any."""
  from jax.experimental import topologies

  os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
  kind = name.partition(":")[0]
  asked = f"{kind}:2x2" if count == 1 else name  # hosts are of four chips; a program can be compiled for one of them
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=asked).devices[:count]
  except Exception as error:  # of the plugin, whose kinds are many
    reason = str(error).strip().splitlines()[0][:200]
    raise UserError(f"--topology={name} cannot be described ({reason}); pip install score_jax[tpu]") from error


PHASE_ARRAYS = {
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
  if stage.rl_starts:
    return ("rolling out", "scoring", "reinforcing")
  mentoring = ("exploring", "mentoring") if "mps" in (stage.group, *stage.config_groups) else ()
  demonstrating = ("demonstrating",) if "teacher" in stage.config_groups and not mentoring else ()
  return (*mentoring, *demonstrating, *(("training",) if stage.sft_data else ()))


STAGE_PHASES = {name: _moments(stage) for name, stage in arms.STAGES.items()} | {
  "eval": ("demonstrating", "evaluating")
}
MEMORY_COLUMNS = {
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
  return max((PHASE_ARRAYS[m] for m in moments), key=lambda names: sum(arrays.get(name, 0) for name in names))


def sum_peak_by_column(arrays: Mapping[str, int], moments: tuple[str, ...]) -> dict[str, int]:
  """Bytes by column at the one of some moments at which most is resident."""
  there = _when_most(arrays, moments)
  return {
    column: sum(arrays.get(name, 0) for name in names if name in there) for column, names in MEMORY_COLUMNS.items()
  }


def list_peak_arrays_by_stage(arrays: Mapping[str, int], stages: tuple[str, ...]) -> dict[str, dict[str, int]]:
  """For each stage what is resident when most is, by array."""
  return {
    stage: {name: arrays[name] for name in _when_most(arrays, STAGE_PHASES[stage]) if arrays.get(name)}
    for stage in stages
  }


DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def count_train_flops(model: DecoderConfig, rows: int, length: int, *, remat: str) -> float:
  """Forward and backward over whole rows (6 a weight and token, and attention over half the row), and what `remat` and
  the chunks of the logits make again."""
  tokens = rows * length
  forward = tokens * model.flops_per_token(length // 2)
  unembedding = tokens * 2.0 * model.vocab * model.width
  attention = tokens * 4.0 * model.layers * model.heads * model.head_width * (length // 2)
  again = {"none": 0.0, "dots": attention, "full": forward - unembedding}
  return 3.0 * forward + unembedding + again[remat]


def estimate_train_memory(config: ConfigDict, mesh: Mesh, model: DecoderConfig, rows: int, length: int) -> float:
  """Bytes on a device: what layers keep for the backward pass, one layer at work, a chunk's logits, weights cast."""
  size, tensor = DTYPE_BYTES[config.student.dtype], mesh.shape["tensor"]
  tokens = rows * length / (mesh.shape["data"] * mesh.shape["fsdp"])
  at_work = _at_work(model, tensor) * size
  products = (2 * model.width + (2 * model.mlp + 3 * model.heads * model.head_width) / tensor) * size
  kept = {"none": at_work, "dots": products + model.width * size, "full": model.width * size}[config.train.remat]
  chunk = tokens / length * min(config.train.logit_chunk, length)
  logits = 3 * 4.0 * chunk * model.vocab / tensor
  cast = 0.0 if config.train.weights_dtype == config.student.dtype else size * model.parameters / mesh.size
  return tokens * (model.layers * kept + at_work) + logits + cast


def estimate_scoring_memory(
  config: ConfigDict, mesh: Mesh, role: str, model: DecoderConfig, rows: int, length: int
) -> float:
  """Bytes on a device: one layer at work, a chunk's logits, the student's weights cast."""
  size, tensor = DTYPE_BYTES[config[role].dtype], mesh.shape["tensor"]
  tokens = rows * length / (mesh.shape["data"] * mesh.shape["fsdp"])
  chunk = tokens / length * min(config.train.logit_chunk, length)
  same = role == "teacher" or config.train.weights_dtype == config.student.dtype
  cast = 0.0 if same else size * model.parameters / mesh.size
  return tokens * _at_work(model, tensor) * size + 2 * 4.0 * chunk * model.vocab / tensor + cast


def _at_work(model: DecoderConfig, tensor: int) -> float:
  """Numbers of each token that a layer has at once, on a device of so many along the tensor axis."""
  return 6 * model.width + (3 * model.mlp + 4 * model.heads * model.head_width) / tensor


def estimate_sampling_memory(config: ConfigDict, mesh: Mesh, model: DecoderConfig, rows: int, width: int) -> float:
  """Bytes on a device: logits and their order for each row of a decode step, or the scores of an extend."""
  spread, tensor = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["tensor"]
  if width == 0:
    return 0.0
  if width == 1:
    return 5 * 4.0 * rows / spread * model.vocab / tensor
  return 2 * 4.0 * rows / spread * model.heads / tensor * width * config.sampler.length


def compute_roofline_seconds(flops: float, reads: float, chip: Chip, count: int) -> float:
  """Seconds that a call takes at least: its products at the chips' peak, or its reads at their bandwidth."""
  return max(flops / (chip.flops * count), reads / chip.bandwidth)
