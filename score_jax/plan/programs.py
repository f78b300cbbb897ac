"""The device programs of a recipe, and the arrays that they work on.

`RecipePrograms` lists the programs and arrays of a config on its meshes, without weights. `count_collectives` reads the
collectives of a compiled program from its HLO.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_jax.experiment.experiment import make_sampler_programs
from score_jax.model import lora
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights, abstract_decoder
from score_jax.model.sharding import Meshes, add_shardings, named_sharding, weight_shardings
from score_jax.plan import memory
from score_jax.rl import loop
from score_jax.sampler.programs import DecodeControls, DeviceState, SamplerPrograms
from score_jax.sampler.sampling import SlotSamplingParams
from score_jax.sampler.stops import Stops
from score_jax.train.batch import Batch, fill_batch, make_update
from score_jax.train.optimizer import make_optimizer
from score_jax.train.policy_gradient import PolicyGradientConfig
from score_jax.train.step import Trainer, TrainState, make_forward_config, make_sft_loss
from score_jax.train.step import batch_sharding as batch_place

COLLECTIVE_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
HLO_DTYPE_BYTES = {
  "pred": 1,
  "s8": 1,
  "u8": 1,
  "bf16": 2,
  "f16": 2,
  "s16": 2,
  "u16": 2,
  "f32": 4,
  "s32": 4,
  "u32": 4,
  "f64": 8,
}

#: result type and name of an instruction that is a collective or begins one
COLLECTIVE_PATTERN = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(COLLECTIVE_KINDS)})(-start)?\(")
ARRAY_PATTERN = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class CollectiveTotal:
  """All collectives of one kind in a program."""

  kind: str
  count: int
  bytes: int  # of what one device has afterwards, summed


def count_collectives(text: str) -> list[CollectiveTotal]:
  """What stands in a program's optimised HLO, each instruction once: one in a loop runs as often as that goes round."""
  found: dict[str, tuple[int, int]] = {}
  for result, kind, start in COLLECTIVE_PATTERN.findall(text):
    sizes = [_size(*array) for array in ARRAY_PATTERN.findall(result)]
    size = max(sizes, default=0) if start else sum(sizes)  # what is started carries its operand along
    count, total = found.get(kind, (0, 0))
    found[kind] = count + 1, total + size
  return [CollectiveTotal(kind, *found[kind]) for kind in COLLECTIVE_KINDS if kind in found]


def _size(dtype: str, shape: str) -> int:
  elements = 1
  for size in shape.split(","):
    elements *= int(size) if size else 1
  return HLO_DTYPE_BYTES.get(dtype, 0) * elements


@dataclasses.dataclass(frozen=True)
class DeviceProgram:
  """One device program.

  Attributes:
    phases: in which it runs (memory.py).
    lower: gives what is to be compiled.
    flops: of one call over all devices, by the analytic count; of an update, with all its micro-batches filled.
    tokens: that one call works on.
    bytes_read: bytes that a device reads at least in one call; with `flops` the roofline.
    temporary_bytes: estimate of what it needs on a device beside what is resident, where it cannot be compiled.
    advice: what to change when it does not fit.
  """

  name: str
  model: str
  phases: tuple[str, ...]
  lower: Callable[[], Any]
  flops: float
  tokens: int
  bytes_read: float
  temporary_bytes: float
  advice: str


def count_device_bytes(tree: Any) -> int:
  """Bytes of one device's part of some abstract arrays."""
  leaves = jax.tree.leaves(tree)
  return sum(math.prod(x.sharding.shard_shape(x.shape)) * jnp.dtype(x.dtype).itemsize for x in leaves)


def place_abstract_weights(tree: Any, mesh: Mesh, dtype: str) -> Any:
  """Abstract weights of a dtype where the table puts them."""
  cast = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)
  return add_shardings(cast, weight_shardings(mesh, cast))


def place_abstract_batch(mesh: Mesh, batch: Batch) -> Batch:
  """A batch's shapes where they lie on a mesh."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_place(mesh, x.ndim)), batch)


def make_scoring_program(
  config: ConfigDict, mesh: Mesh, role: str, model: DecoderConfig, weights: Weights, frozen: Weights
) -> DeviceProgram:
  """The pass of RL in which the student or the teacher scores a micro-batch of the student's tokens."""
  rows, length = config.rl.micro_rows, config.rl.length
  scorer = loop.make_scorer(config, role, abstract_decoder(model)[0], mesh, frozen, temperature=config.rl.temperature)
  batch = place_abstract_batch(mesh, fill_batch([], length=length, count=rows, denominator=1.0))
  return DeviceProgram(
    "score",
    role,
    ("scoring",),
    lambda: scorer.program.lower(weights, frozen, batch),
    rows * length * model.flops_per_token(length // 2),
    rows * length,
    count_device_bytes(weights) + count_device_bytes(frozen),
    memory.estimate_scoring_memory(config, mesh, role, model, rows, length),
    f"lower rl.micro_rows, rl.length or train.logit_chunk, or raise the fsdp axis of mesh.{SCORING_MESH[role]}",
  )


#: use of the mesh on which a model scores
SCORING_MESH = {"student": "train", "teacher": "teacher"}


class TrainingPrograms:
  """The student's train programs, an update of SFT and one of the policy gradient."""

  def __init__(self, config: ConfigDict, mesh: Mesh, student: DecoderConfig):
    self.config, self.mesh, self.student = config, mesh, student
    self.trained, frozen = lora.split_trainable(abstract_decoder(student)[1])
    self.gradient = place_abstract_weights(self.trained, mesh, "float32")
    self.frozen = place_abstract_weights(frozen, mesh, config.student.dtype)
    self.state: TrainState = self._trainer("sft").abstract_state(student)

  def _trainer(self, name: str) -> Trainer:
    c, graph = self.config, abstract_decoder(self.student)[0]
    if name == "policy_gradient":
      return loop.make_trainer(c, graph, self.mesh, self.frozen)
    rule = make_optimizer(
      c.train.optimizer, lambda _: 1e-5, weight_decay=c.train.weight_decay, max_norm=c.train.max_norm
    )
    return Trainer(graph, rule, make_sft_loss(), self.mesh, make_forward_config(c, 1.0), self.frozen)

  def programs(self) -> list[DeviceProgram]:
    train, rl = self.config.train, self.config.rl
    sft = self._update("sft", train.rows, train.micro_rows, train.length, "train", "training")
    most = rl.minibatch * rl.group_size
    found = [sft, self._update("policy_gradient", most, rl.micro_rows, rl.length, "rl", "reinforcing")]
    if PolicyGradientConfig.from_config(rl).student_scoring_passes:
      found.append(
        make_scoring_program(self.config, self.mesh, "student", self.student, self.state.weights, self.frozen)
      )
    return found

  def _update(self, name: str, most: int, rows: int, length: int, group: str, moment: str) -> DeviceProgram:
    parts = -(-most // rows)
    batch = place_abstract_batch(self.mesh, make_update([], length=length, micro=rows, most=most))

    def lower() -> Any:
      return self._trainer(name).jit_update(self.state).lower(self.state, self.frozen, batch)

    gradient, weights = (
      count_device_bytes(self.gradient),
      count_device_bytes(self.state.weights) + count_device_bytes(self.frozen),
    )
    return DeviceProgram(
      f"{name}_step",
      "student",
      (moment,),
      lower,
      parts * memory.count_train_flops(self.student, rows, length, remat=self.config.train.remat),
      parts * rows * length,
      parts * (3.0 * weights + 2.0 * gradient) + 2.0 * count_device_bytes(self.state.optimizer) + gradient,
      memory.estimate_train_memory(self.config, self.mesh, self.student, rows, length) + gradient,
      f"lower {group}.micro_rows or {group}.length, set train.remat to full, lower train.logit_chunk, or raise "
      "the fsdp axis of mesh.train",
    )


class SamplingPrograms:
  """One model's sampler over the whole length of its cache, which is the most that it can need."""

  def __init__(self, config: ConfigDict, mesh: Mesh, role: str, model: DecoderConfig):
    c = self.config = config
    self.role, self.model = role, model
    self.weights: Weights = place_abstract_weights(abstract_decoder(model)[1], mesh, c[role].dtype)
    slots = c.sampler.slots if role == "student" else c.sampler.teacher_slots
    self.sampler: SamplerPrograms = make_sampler_programs(
      c.sampler, model, mesh, slots=slots, stops=Stops((0,)), dtype=c[role].dtype
    )
    self.state: DeviceState = self.sampler.abstract(self.weights)

  def programs(self) -> list[DeviceProgram]:
    c, sampler = self.config.sampler, self.sampler
    n, piece, rows = sampler.slots, c.piece, max(c.rows)
    ints = [self._array([rows]) for _ in range(3)]
    extend = (self.state, self.weights, ints[0], self._array([rows, piece]), *ints[1:])
    look = {"blocks": -(-c.length // c.block)}
    return [
      self._program("extend", lambda: sampler.extend.lower(*extend, **look), rows * piece, rows, piece, calls=1),
      self._program(
        "decode",
        lambda: sampler.decode.lower(self.state, self.weights, self._controls(n), n=c.decode, **look),
        n * c.decode,
        n,
        1,
        calls=c.decode,
      ),
      self._program("fork", lambda: sampler.fork.lower(self.state, *ints[:2], **look), 0, rows, 0, calls=0),
    ]

  def _program(
    self, name: str, lower: Callable[[], Any], tokens: int, rows: int, width: int, *, calls: int
  ) -> DeviceProgram:
    """`calls` is how often the weights are read."""
    role, c = self.role, self.config.sampler
    names = ("slots", "sample") if role == "student" else ("teacher_slots", "teacher")
    return DeviceProgram(
      name,
      role,
      ("exploring", "rolling out", "evaluating") if role == "student" else ("demonstrating", "mentoring"),
      lower,
      tokens * self.model.flops_per_token(c.length // 2),
      tokens,
      calls
      * (
        count_device_bytes(self.weights)
        + count_device_bytes(self.state.cache) / (1 if width == 1 else self.sampler.slots / rows)
      ),
      memory.estimate_sampling_memory(self.config, self.sampler.mesh, self.model, rows, width),
      f"lower sampler.{names[0]}, sampler.length or sampler.rows, or raise the tensor axis of mesh.{names[1]}",
    )

  def _array(self, shape: Sequence[int], kind: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), kind, sharding=named_sharding(self.sampler.mesh))

  def _controls(self, n: int) -> DecodeControls:
    ints, floats = self._array([n]), self._array([n], jnp.float32)
    return DecodeControls(
      live=self._array([n], bool),
      length=ints,
      pending=ints,
      budget=ints,
      matched=ints,
      key=self._array([n, 2], jnp.uint32),
      settings=SlotSamplingParams(floats, ints, floats, floats),
      enough=self._array([]),
    )


class RecipePrograms:
  """All programs and arrays of a config on some meshes; `teacher` is None where no model teaches."""

  def __init__(self, config: ConfigDict, meshes: Meshes, student: DecoderConfig, teacher: DecoderConfig | None):
    self.config, self.meshes, self.student = config, meshes, student
    self.training = TrainingPrograms(config, meshes.train, student)
    self.student_sampling = SamplingPrograms(config, meshes.sample, "student", student)
    self.teacher_sampling = (
      SamplingPrograms(config, meshes.teacher, "teacher", teacher) if teacher is not None else None
    )
    self.distillation_sampling = self.teacher_sampling if config.rl.distill else None

  def programs(self) -> list[DeviceProgram]:
    samplers = [self.student_sampling, *([self.teacher_sampling] if self.teacher_sampling else [])]
    scored = []
    if t := self.distillation_sampling:
      scored = [make_scoring_program(self.config, self.meshes.teacher, "teacher", t.model, t.weights, lora.NO_PARAMS)]
    return [*self.training.programs(), *scored, *(p for sampler in samplers for p in sampler.programs())]

  def arrays(self) -> dict[str, int]:
    """Bytes of each array of memory.py's PHASE_ARRAYS on a device."""
    t, s = self.training, self.student_sampling
    found = {
      "student weights": count_device_bytes(
        place_abstract_weights(abstract_decoder(self.student)[1], self.meshes.train, self.config.student.dtype)
      ),
      "trained weights": count_device_bytes(t.state.weights),
      "moments": count_device_bytes(t.state.optimizer),
      "sampling copy": self._copied(),
      "student cache": count_device_bytes(s.state),
    }
    if self.teacher_sampling:
      found |= {
        "teacher weights": count_device_bytes(self.teacher_sampling.weights),
        "teacher cache": count_device_bytes(self.teacher_sampling.state),
      }
    if self.distillation_sampling:
      found["distilling teacher"] = found["teacher weights"]
    if self.config.rl.kl:
      found["reference copy"] = found["trained weights"]
    return found

  def _copied(self) -> int:
    """What the sampler does not share with the trainer."""
    c, meshes = self.config, self.meshes
    if meshes.train.shape != meshes.sample.shape:
      return count_device_bytes(self.student_sampling.weights)
    if c.train.weights_dtype == c.student.dtype:
      return 0
    return count_device_bytes(place_abstract_weights(self.training.trained, meshes.sample, c.student.dtype))
