"""What the stages share: configuration, workdir, mesh, models, tools and questions of one run."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import jax
from ml_collections import ConfigDict

from score_jax.agent.protocol import Protocol
from score_jax.agent.rollout import Agent
from score_jax.agent.tokenizer import add_tags
from score_jax.errors import UserError
from score_jax.mentor.counterfactual import CounterfactualTeacher, require_same_tokens
from score_jax.mentor.reference import ReferenceTeacher
from score_jax.mentor.teacher import Teacher
from score_jax.mesh.sharding import make_mesh
from score_jax.model import source
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights
from score_jax.model.resize import with_room, with_tokens
from score_jax.sampler.programs import Programs
from score_jax.sampler.slots import Decoding, Shapes
from score_jax.tasks.source import Tasks, load
from score_jax.tools.python import PythonTool
from score_jax.tools.search import Search
from score_jax.train import supervised
from score_jax.trajectory import Author
from score_jax.workdir import Workdir


class Run:
  """One run in one workdir. A context manager: it holds the tool's worker processes."""

  def __init__(self, config: ConfigDict, workdir: Workdir):
    self.config, self.workdir = config, workdir
    self.seconds: dict[str, float] = {}
    self._open = contextlib.ExitStack()

  def __enter__(self) -> Run:
    return self

  def __exit__(self, *error: Any) -> None:
    self._open.close()

  def say(self, text: str) -> None:
    print(text, flush=True)

  @contextlib.contextmanager
  def timed(self, stage: str) -> Iterator[None]:
    """Books the seconds of a stage."""
    start = time.monotonic()
    yield
    self.seconds[stage] = time.monotonic() - start

  @cached_property
  def mesh(self) -> jax.sharding.Mesh:
    return make_mesh(self.config.mesh.shape)

  @cached_property
  def tasks(self) -> Tasks:
    return load(self.config.tasks, seed=self.config.seed)

  @cached_property
  def tool(self) -> PythonTool:
    c, documents = self.config.tools, self.tasks.documents
    search = Search(documents, top_k=c.search_results) if documents else None
    tool = PythonTool(
      isolation=c.isolation,
      workers=c.workers,
      timeout_s=c.timeout_s,
      memory_mb=c.memory_mb,
      output_chars=c.output_chars,
      search=search,
    )
    self.say(tool.describe())
    return self._open.enter_context(tool)

  @cached_property
  def student(self) -> source.Model:
    """The untrained student, with the method's tags in its vocabulary, on the mesh."""
    return self._model(self.config.student)

  @cached_property
  def teacher_model(self) -> source.Model:
    return self._model(self.config.teacher)

  def _model(self, config: ConfigDict) -> source.Model:
    found = source.open(config.path)
    spelled = add_tags(found.tokenizer)
    shape = with_room(found.config, len(found.tokenizer), multiple=self.mesh.shape["tensor"])
    weights = found.weights(shape, dtype=config.dtype, mesh=self.mesh)
    return source.Model(shape, with_tokens(weights, known=found.config.vocab, spelled=spelled), found.tokenizer)

  @cached_property
  def protocol(self) -> Protocol:
    return Protocol(self.student.tokenizer)

  def agent(self, name: str, author: Author, model: DecoderConfig, programs: Programs, decoding: ConfigDict) -> Agent:
    c = self.config
    return Agent(
      model=name,
      author=author,
      programs=programs,
      shapes=Shapes(c.sampler.rows, tuple(c.sampler.chunks), c.sampler.decode),
      protocol=self.protocol,
      tool=self.tool,
      grader=self.tasks.grader,
      decoding=Decoding(decoding.temperature, decoding.top_k, decoding.top_p, decoding.repetition_penalty),
      turn_tokens=c.agent.turn_tokens,
      seed=c.seed,
    )

  def _programs(self, model: source.Model) -> Programs:
    c = self.config.sampler
    return Programs(
      model.graph,
      model.config,
      self.mesh,
      slots=c.slots,
      length=c.length,
      bucket=c.bucket,
      stop=self.protocol.stop,
    )

  @cached_property
  def student_agent(self) -> Agent:
    """The student as it explores and is evaluated."""
    return self.agent("student", "student", self.student.config, self._programs(self.student), self.config.student)

  @cached_property
  def teacher_agent(self) -> Agent:
    return self.agent(
      "teacher", "teacher", self.teacher_model.config, self._programs(self.teacher_model), self.config.teacher
    )

  def rl_agent(self, temperature: float) -> Agent:
    """The student as RL samples it: from the whole distribution."""
    return dataclasses.replace(self.student_agent, decoding=Decoding(temperature, 0, 1.0, 1.0))

  def teacher(self, student_weights: Weights) -> Teacher:
    """The teacher that the config names.

    Raises:
      UserError: its kind is unknown or it does not fit the student.
    """
    c = self.config
    if c.teacher.kind == "reference":
      return ReferenceTeacher(self.protocol, self.tool, self.tasks.grader)
    if c.teacher.kind != "model":
      raise UserError(f"teacher.kind = {c.teacher.kind!r}; choose model or reference")
    vocabularies = (
      m.tokenizer.convert_ids_to_tokens(list(range(len(m.tokenizer)))) for m in (self.student, self.teacher_model)
    )
    require_same_tokens(*vocabularies)
    judges = {
      "teacher": (self.teacher_agent, self.teacher_model.weights),
      "student": (self.student_agent, student_weights),
    }
    if c.mps.continue_by not in judges:
      raise UserError(f"mps.continue_by = {c.mps.continue_by!r}; choose teacher or student")
    return CounterfactualTeacher(
      self.teacher_agent,
      self.teacher_model.weights,
      judge=judges[c.mps.continue_by],
      continuations=c.mps.continuations,
      delta=c.mps.delta,
      acts=c.agent.acts,
    )

  def settings(self, stage: ConfigDict) -> supervised.Settings:
    """The settings of a supervised stage."""
    names = [f.name for f in dataclasses.fields(supervised.Settings)]
    shared = self.config.train
    return supervised.Settings(**{n: stage[n] if n in stage else shared[n] for n in names})
