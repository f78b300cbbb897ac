"""The device programs of a run's recipe and the arrays that they work on, from its config alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_jax import reinforce
from score_jax.mesh.sharding import Meshes, abstract, sharding, weight_shardings
from score_jax.model import adapters
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights, structure
from score_jax.planning import estimate
from score_jax.run import passes, programs
from score_jax.sampler.draw import Settings
from score_jax.sampler.programs import Controls, DeviceState, Programs
from score_jax.sampler.stops import Stops
from score_jax.train.batch import Batch, fill, update_of
from score_jax.train.optimizer import optimizer
from score_jax.train.policy_gradient import PolicyGradient
from score_jax.train.steps import Trainer, TrainState, likelihood
from score_jax.train.steps import placed as batch_place


@dataclasses.dataclass(frozen=True)
class Program:
  """One device program.

  Attributes:
    moments: at which it runs (resident.py).
    lower: gives what is to be compiled.
    flops: of one call over all devices, by the analytic count; of an update, with all its micro-batches filled.
    tokens: that one call works on.
    reads: bytes that a device reads at least in one call; with `flops` the roofline.
    temporary: estimate of the bytes that it needs on a device beside what is resident, for where it cannot be compiled.
    advice: what to change when it does not fit.
  """

  name: str
  model: str
  moments: tuple[str, ...]
  lower: Callable[[], Any]
  flops: float
  tokens: int
  reads: float
  temporary: float
  advice: str


def on_device(tree: Any) -> int:
  """Bytes of one device's part of some abstract arrays."""
  leaves = jax.tree.leaves(tree)
  return sum(math.prod(x.sharding.shard_shape(x.shape)) * jnp.dtype(x.dtype).itemsize for x in leaves)


def placed(tree: Any, mesh: Mesh, dtype: str) -> Any:
  """Abstract weights of a dtype where the table puts them."""
  cast = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)
  return abstract(cast, weight_shardings(mesh, cast))


def batch_of(mesh: Mesh, batch: Batch) -> Batch:
  """A batch's shapes where they lie on a mesh."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_place(mesh, x.ndim)), batch)


def scoring(
  config: ConfigDict, mesh: Mesh, role: str, model: DecoderConfig, weights: Weights, frozen: Weights
) -> Program:
  """The pass of RL in which the student or the teacher scores a micro-batch of the student's tokens."""
  rows, length = config.rl.micro_rows, config.rl.length
  scorer = reinforce.scorer(config, role, structure(model)[0], mesh, frozen, temperature=config.rl.temperature)
  batch = batch_of(mesh, fill([], length=length, count=rows, denominator=1.0))
  return Program(
    "score",
    role,
    ("scoring",),
    lambda: scorer.program.lower(weights, frozen, batch),
    rows * length * model.flops_per_token(length // 2),
    rows * length,
    on_device(weights) + on_device(frozen),
    estimate.scoring_temporary(config, mesh, role, model, rows, length),
    f"lower rl.micro_rows, rl.length or train.logit_chunk, or raise the fsdp axis of mesh.{MESH[role]}",
  )


#: use of the mesh on which a model scores
MESH = {"student": "train", "teacher": "teacher"}


class Training:
  """The student's train programs, an update of SFT and one of the policy gradient."""

  def __init__(self, config: ConfigDict, mesh: Mesh, student: DecoderConfig):
    self.config, self.mesh, self.student = config, mesh, student
    self.trained, frozen = adapters.parts(structure(student)[1])
    self.gradient = placed(self.trained, mesh, "float32")
    self.frozen = placed(frozen, mesh, config.student.dtype)
    self.state: TrainState = self._trainer("sft").abstract(student)

  def _trainer(self, name: str) -> Trainer:
    c, graph = self.config, structure(self.student)[0]
    if name == "policy_gradient":
      return reinforce.trainer(c, graph, self.mesh, self.frozen)
    rule = optimizer(c.train.optimizer, lambda _: 1e-5, weight_decay=c.train.weight_decay, max_norm=c.train.max_norm)
    return Trainer(graph, rule, likelihood(), self.mesh, passes(c, 1.0), self.frozen)

  def programs(self) -> list[Program]:
    train, rl = self.config.train, self.config.rl
    sft = self._update("sft", train.rows, train.micro_rows, train.length, "train", "training")
    most = rl.minibatch * rl.group_size
    found = [sft, self._update("policy_gradient", most, rl.micro_rows, rl.length, "rl", "reinforcing")]
    if PolicyGradient.of(rl).student_scores:
      found.append(scoring(self.config, self.mesh, "student", self.student, self.state.weights, self.frozen))
    return found

  def _update(self, name: str, most: int, rows: int, length: int, group: str, moment: str) -> Program:
    parts = -(-most // rows)
    batch = batch_of(self.mesh, update_of([], length=length, micro=rows, most=most))

    def lower() -> Any:
      return self._trainer(name).program(self.state).lower(self.state, self.frozen, batch)

    gradient, weights = on_device(self.gradient), on_device(self.state.weights) + on_device(self.frozen)
    return Program(
      f"{name}_step",
      "student",
      (moment,),
      lower,
      parts * estimate.train_flops(self.student, rows, length, remat=self.config.train.remat),
      parts * rows * length,
      parts * (3.0 * weights + 2.0 * gradient) + 2.0 * on_device(self.state.optimizer) + gradient,
      estimate.train_temporary(self.config, self.mesh, self.student, rows, length) + gradient,
      f"lower {group}.micro_rows or {group}.length, set train.remat to full, lower train.logit_chunk, or raise "
      "the fsdp axis of mesh.train",
    )


class Sampling:
  """One model's sampler over the whole length of its cache, which is the most that it can need."""

  def __init__(self, config: ConfigDict, mesh: Mesh, role: str, model: DecoderConfig):
    c = self.config = config
    self.role, self.model = role, model
    self.weights: Weights = placed(structure(model)[1], mesh, c[role].dtype)
    slots = c.sampler.slots if role == "student" else c.sampler.teacher_slots
    self.sampler: Programs = programs(c.sampler, model, mesh, slots=slots, stops=Stops((0,)), dtype=c[role].dtype)
    self.state: DeviceState = self.sampler.abstract(self.weights)

  def programs(self) -> list[Program]:
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

  def _program(self, name: str, lower: Callable[[], Any], tokens: int, rows: int, width: int, *, calls: int) -> Program:
    """`calls` is how often the weights are read."""
    role, c = self.role, self.config.sampler
    names = ("slots", "sample") if role == "student" else ("teacher_slots", "teacher")
    return Program(
      name,
      role,
      ("exploring", "rolling out", "evaluating") if role == "student" else ("demonstrating", "mentoring"),
      lower,
      tokens * self.model.flops_per_token(c.length // 2),
      tokens,
      calls
      * (on_device(self.weights) + on_device(self.state.cache) / (1 if width == 1 else self.sampler.slots / rows)),
      estimate.sampling_temporary(self.config, self.sampler.mesh, self.model, rows, width),
      f"lower sampler.{names[0]}, sampler.length or sampler.rows, or raise the tensor axis of mesh.{names[1]}",
    )

  def _array(self, shape: Sequence[int], kind: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), kind, sharding=sharding(self.sampler.mesh))

  def _controls(self, n: int) -> Controls:
    ints, floats = self._array([n]), self._array([n], jnp.float32)
    return Controls(
      live=self._array([n], bool),
      length=ints,
      pending=ints,
      budget=ints,
      matched=ints,
      key=self._array([n, 2], jnp.uint32),
      settings=Settings(floats, ints, floats, floats),
      enough=self._array([]),
    )


class Recipe:
  """All programs and arrays of a config on some meshes; `teacher` is None where no model teaches."""

  def __init__(self, config: ConfigDict, meshes: Meshes, student: DecoderConfig, teacher: DecoderConfig | None):
    self.config, self.meshes, self.student = config, meshes, student
    self.training = Training(config, meshes.train, student)
    self.exploring = Sampling(config, meshes.sample, "student", student)
    self.teaching = Sampling(config, meshes.teacher, "teacher", teacher) if teacher is not None else None
    self.distilling = self.teaching if config.rl.distill else None

  def programs(self) -> list[Program]:
    samplers = [self.exploring, *([self.teaching] if self.teaching else [])]
    scored = []
    if t := self.distilling:
      scored = [scoring(self.config, self.meshes.teacher, "teacher", t.model, t.weights, adapters.NOTHING)]
    return [*self.training.programs(), *scored, *(p for sampler in samplers for p in sampler.programs())]

  def arrays(self) -> dict[str, int]:
    """Bytes of each array of resident.py on a device."""
    t, s = self.training, self.exploring
    found = {
      "student weights": on_device(placed(structure(self.student)[1], self.meshes.train, self.config.student.dtype)),
      "trained weights": on_device(t.state.weights),
      "moments": on_device(t.state.optimizer),
      "sampling copy": self._copied(),
      "student cache": on_device(s.state),
    }
    if self.teaching:
      found |= {"teacher weights": on_device(self.teaching.weights), "teacher cache": on_device(self.teaching.state)}
    if self.distilling:
      found["distilling teacher"] = found["teacher weights"]
    if self.config.rl.kl:
      found["reference copy"] = found["trained weights"]
    return found

  def _copied(self) -> int:
    """What the sampler does not share with the trainer."""
    c, meshes = self.config, self.meshes
    if meshes.train.shape != meshes.sample.shape:
      return on_device(self.exploring.weights)
    if c.train.weights_dtype == c.student.dtype:
      return 0
    return on_device(placed(self.training.trained, meshes.sample, c.student.dtype))
