"""The resources of one run: config, workdir, meshes, models, tool, chat model, questions and agents.

`Experiment` creates each resource when it is first used and closes all of them at the end. With several processes one
of them grades, and all of them get its grades (`broadcast_grader`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Self

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_jax.agent.journal import Journal
from score_jax.agent.protocol import AgentProtocol, add_tags
from score_jax.agent.rollout import Agent
from score_jax.agent.shared_tool import ReplicatedTool
from score_jax.chat.local import BroadcastChat, LocalChat
from score_jax.chat.record import RecordedChat, open_chat, parse_template_kwargs
from score_jax.chat.template import ChatTemplate
from score_jax.config import config_to_dict, identity_config
from score_jax.errors import UserError
from score_jax.experiment.stages import STAGES
from score_jax.grading.graders import Grader
from score_jax.grading.judge import Judge
from score_jax.model import lora, pretrained
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import abstract_decoder
from score_jax.model.sharding import Meshes
from score_jax.runtime import metrics as trackers
from score_jax.runtime import processes, profiler
from score_jax.runtime.metrics import MetricsWriter, TrackerSet
from score_jax.runtime.workdir import Workdir
from score_jax.sampler.programs import SamplerPrograms
from score_jax.sampler.slots import ProgramShapes, SamplingParams
from score_jax.sampler.stops import Stops
from score_jax.sandbox.interface import Tool, UserFunctions
from score_jax.sandbox.interface import load_functions as read_functions
from score_jax.sandbox.sandbox import Sandbox
from score_jax.search.backends import open_search
from score_jax.tasks.questions import Tasks, load_tasks
from score_jax.teaching.asking import PromptTemplates
from score_jax.teaching.judges import make_answer_judge
from score_jax.train import sft
from score_jax.trajectory import Author, Question


def load_tagged_model(
  name: str, *, dtype: str, mesh: Mesh | None = None, multiple: int = 1, stacked: bool = False
) -> pretrained.Model:
  """The model of that name with the method's tags in its vocabulary, whose size is made a multiple.

  Raises:
    UserError: there is none, or it cannot be read.
  """
  found = pretrained.open_pretrained(name)
  spelled = add_tags(found.tokenizer)
  return found.load_model(dtype=dtype, mesh=mesh, multiple=multiple, stacked=stacked, spelled=spelled)


def make_sampler_programs(
  c: ConfigDict, model: DecoderConfig, mesh: Mesh, *, slots: int, stops: Stops, dtype: str
) -> SamplerPrograms:
  """The sampler's programs for a model, with the shapes of the group `sampler`."""
  graph, _ = abstract_decoder(model)
  return SamplerPrograms(graph, model, mesh, slots=slots, length=c.length, block=c.block, stops=stops, dtype=dtype)


class Experiment:
  """One run in one workdir. A context manager: it holds the tool's and the grader's processes."""

  def __init__(self, config: ConfigDict, workdir: Workdir):
    self.config, self.workdir = config, workdir
    self.stage_seconds: dict[str, float] = {}
    self._open = contextlib.ExitStack()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: Any) -> None:
    if error[0] is not None and "trackers" in self.__dict__:
      self.trackers.failed = True
    self._open.close()

  def log(self, text: str) -> None:
    print(text, flush=True)

  @contextlib.contextmanager
  def stage_scope(self, stage: str) -> Iterator[None]:
    """Within it the run is at that stage, which may be an evaluation.

    What it draws is kept, it is traced if the config says so, and how long it took is booked.
    """
    processes.report_progress(stage)
    traced = profiler.profile_stage(self.config.profile, self.workdir.root, stage, self.log, stages=STAGES)
    start, devices = time.monotonic(), jax.device_count()
    try:
      with traced, self.journal.stage(stage):  # in its grace time a run keeps what it has drawn before a trace
        yield
    except BaseException:
      with contextlib.suppress(Exception):  # what ends the run may be that nothing can be written
        self._book(stage, time.monotonic() - start, devices, done=False)
      raise
    self._book(stage, time.monotonic() - start, devices, done=True)

  def _book(self, stage: str, seconds: float, devices: int, *, done: bool) -> None:
    took = {"stage": stage, "seconds": round(seconds, 3), "devices": devices, "done": done}
    self.workdir.append_json_line("metrics/stages.jsonl", took)

  @contextlib.contextmanager
  def timed_stage_scope(self, stage: str) -> Iterator[None]:
    """The same, for the summary at the end too."""
    start = time.monotonic()
    with self.stage_scope(stage):
      yield
    self.stage_seconds[stage] = time.monotonic() - start

  @cached_property
  def trackers(self) -> TrackerSet:
    """The services that are told of the metrics."""
    of_run = config_to_dict(self.config)
    return self._open.enter_context(trackers.open_trackers(self.config.trackers, self.workdir, of_run))

  def open_metrics(self, stage: str) -> MetricsWriter:
    """Where a stage's numbers go."""
    return MetricsWriter(self.workdir, stage, tell=self.trackers.log_metrics)

  @cached_property
  def meshes(self) -> Meshes:
    return Meshes.of(self.config.mesh)

  @cached_property
  def tasks(self) -> Tasks:
    tasks = load_tasks(self.config.tasks, seed=self.config.seed, judge=self._answer_judge())
    grader = held = tasks.grader
    if isinstance(held, contextlib.AbstractContextManager):
      self._open.enter_context(held)
      tasks = dataclasses.replace(tasks, grader=broadcast_grader(grader))
    processes.require_same_on_all("questions (tasks)", (tasks.train, tasks.validation, tasks.test, tasks.documents))
    return tasks

  def grade(self, question: Question, answer: str) -> tuple[float | None, str]:
    """By the tasks' grader; questions are read when there is the first answer to one."""
    return self.tasks.grader(question, answer)

  def _answer_judge(self) -> Judge | None:
    """The chat model as the judge of answers, where there is one."""
    c = self.config.teacher
    if not self.config.chat.kind:
      return None
    wording = PromptTemplates(c.prompts, search=False)
    return make_answer_judge(lambda: self.chat, wording, temperature=c.judge_temperature, tokens=c.reply_tokens)

  @cached_property
  def tool(self) -> Tool:
    c = self.config.tools
    functions = read_functions(c.functions)
    self._require_the_same(functions)
    documents = self.tasks.documents if c.search.kind == "tasks" else []
    search = self._open.enter_context(open_search(c.search, documents, self.workdir.root))
    tool = Sandbox(
      isolation=c.isolation,
      workers=c.workers,
      sessions=c.sessions,
      timeout_s=c.timeout_s,
      memory_mb=c.memory_mb,
      files_mb=c.files_mb,
      output_chars=c.output_chars,
      search=search,
      functions=functions,
    )
    self.log(tool.describe())
    tool = self._open.enter_context(tool)
    return tool if processes.process_count() == 1 else ReplicatedTool(tool)

  def _require_the_same(self, functions: UserFunctions) -> None:
    """
    Raises:
      UserError: a process has another file, or the run was begun with another one.
    """
    processes.require_same_on_all("functions (tools.functions)", functions.source)
    if functions.source:
      now = {"sha256": hashlib.sha256(functions.source.encode()).hexdigest()}
      begun = self.workdir.read_json("functions.json")
      if begun is None:
        self.workdir.write_json("functions.json", now)
      elif begun != now:
        raise UserError(
          f"tools.functions = {functions.path!r} has changed since this run began; put it back, or give another "
          "--workdir"
        )

  @cached_property
  def student(self) -> pretrained.Model:
    """The untrained student, with the method's tags in its vocabulary, as it lies when it is trained."""
    return self._model(self.config.student, self.meshes.train)

  @cached_property
  def teacher_model(self) -> pretrained.Model:
    return self._model(self.config.teacher, self.meshes.teacher)

  def _model(self, config: ConfigDict, mesh: Mesh) -> pretrained.Model:
    multiple = self.meshes.vocabulary_multiple
    model = load_tagged_model(config.path, dtype=config.dtype, mesh=mesh, multiple=multiple, stacked=config.layer_scan)
    if not config.get("lora_rank"):
      return model
    added = lora.add_lora(model.config, model.weights, rank=config.lora_rank, seed=self.config.seed, mesh=mesh)
    return pretrained.Model(*added, model.tokenizer)

  @cached_property
  def chat(self) -> RecordedChat | BroadcastChat:
    """The chat model that the config names, with the record of what it said; of several processes the first one asks.

    Raises:
      UserError: it names none, or the settings make no sense.
    """
    c = self.config
    if processes.process_count() > 1 and c.chat.kind == "mesh":
      raise UserError("chat.kind = 'mesh' on several processes is not there; serve the model, and set it to endpoint")
    if not processes.is_primary():
      return BroadcastChat(c.chat.model, None)
    opened = open_chat(c.chat, self.workdir.root, seed=c.seed, on_mesh=self._chat_on_mesh, log=self.log)
    chat = self._open.enter_context(opened)
    return chat if processes.process_count() == 1 else BroadcastChat(chat.model, chat)

  def _chat_on_mesh(self) -> LocalChat:
    """The model of the group `chat`, its vocabulary as it came."""
    c, mesh = self.config.chat, self.meshes.teacher
    found = pretrained.open_pretrained(c.path)
    template = ChatTemplate(found.tokenizer, generation=found.generation_config, switches=parse_template_kwargs(c))
    model = found.load_model(dtype=c.dtype, mesh=mesh, multiple=mesh.shape["tensor"], stacked=c.layer_scan)
    size, stops = {"slots": c.slots, "length": c.length, "block": c.block}, Stops(template.stops)
    made = SamplerPrograms(model.graph, model.config, mesh, **size, stops=stops, dtype=c.dtype)
    sampler = self.config.sampler
    shapes = ProgramShapes(sampler.piece, tuple(sampler.rows), sampler.decode)
    return LocalChat(c.path, template, made, model.weights, shapes, top_p=c.top_p, seed=self.config.seed)

  def free_teacher(self) -> None:
    """Takes the teacher's weights and the chat model's off the devices; what is needed again is loaded again."""
    self.__dict__.pop("teacher_model", None)
    if "chat" in self.__dict__:
      self.chat.free()

  @cached_property
  def protocol(self) -> AgentProtocol:
    return AgentProtocol(self.student.tokenizer)

  def _agent(self, name: Author, model: pretrained.Model, mesh: Mesh, config: ConfigDict, slots: int) -> Agent:
    c = self.config
    return Agent(
      model=name,
      author=name,
      programs=make_sampler_programs(
        c.sampler, model.config, mesh, slots=slots, stops=Stops((self.protocol.stop_token,)), dtype=config.dtype
      ),
      shapes=ProgramShapes(c.sampler.piece, tuple(c.sampler.rows), c.sampler.decode),
      protocol=self.protocol,
      tool=self.tool,
      grader=self.grade,
      decoding=SamplingParams(config.temperature, config.top_k, config.top_p, config.repetition_penalty),
      turn_tokens=c.agent.turn_tokens,
      seed=c.seed,
      journal=self.journal,
    )

  @cached_property
  def journal(self) -> Journal:
    """What the stage at work has drawn; how the run is to survive has no influence on that."""
    config = json.dumps(identity_config(config_to_dict(self.config)), sort_keys=True)
    return Journal(self.workdir, config=config, every_s=self.config.survival.journal_s)

  @cached_property
  def student_agent(self) -> Agent:
    """The student as it explores and is evaluated."""
    return self._agent("student", self.student, self.meshes.sample, self.config.student, self.config.sampler.slots)

  def make_single_agent(self) -> Agent:
    """The student on one question at a time, whose answer nobody grades."""
    mesh = self.meshes.sample
    slots = mesh.shape["data"] * mesh.shape["fsdp"]
    alone = self._agent("student", self.student, mesh, self.config.student, slots)
    return dataclasses.replace(alone, grader=lambda question, answer: (None, "nobody grades it"))

  @cached_property
  def teacher_agent(self) -> Agent:
    return self._agent(
      "teacher", self.teacher_model, self.meshes.teacher, self.config.teacher, self.config.sampler.teacher_slots
    )

  def make_rl_agent(self, temperature: float) -> Agent:
    """The student as RL samples it: from the whole distribution, and no further than a training row holds.

    A rollout that reaches rl.length ends there and has failed: left out of training instead, it would go unpunished.
    """
    decoding, length = SamplingParams(temperature, 0, 1.0, 1.0), self.config.rl.length
    return dataclasses.replace(self.student_agent, decoding=decoding, length=length)

  def make_sft_config(self, stage: ConfigDict) -> sft.SftConfig:
    """The settings of a supervised stage."""
    names = [f.name for f in dataclasses.fields(sft.SftConfig)]
    shared = self.config.train
    return sft.SftConfig(**{n: stage[n] if n in stage else shared[n] for n in names})


def broadcast_grader(grader: Grader) -> Grader:
  """For a grader that has processes of its own and a limit of time, whose verdicts could differ from host to host."""

  def graded(question: Question, answer: str) -> tuple[float | None, str]:
    grade, reason = processes.run_on_primary("grade", lambda: grader(question, answer))
    return grade, reason

  return graded
