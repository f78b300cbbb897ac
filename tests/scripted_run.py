"""A whole run whose models say what a script says, with a record of what each stage took.

Questions, files, ledgers, budgets, batches, checkpoints, tool and grader are the real ones. Only what devices compute
is not: a script stands in the place of the sampler's slots, so that a test knows what becomes of each question, and an
update changes the weights by a factor that its batch decides. So a whole run takes seconds, and the same on any
processor. The kind of a question is the first letter of its id, a key of KINDS.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import json
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_jax import export, main
from score_jax.agent import rollout
from score_jax.agent.protocol import AgentProtocol, Turn
from score_jax.agent.rollout import Agent, RolloutRequest
from score_jax.evaluate import hash_weights
from score_jax.experiment.experiment import Experiment
from score_jax.experiment.stages import STAGES
from score_jax.model import pretrained
from score_jax.model.decoder import Decoder, Weights
from score_jax.sampler.programs import SamplerPrograms
from score_jax.sampler.slots import ProgramShapes, SamplerMeter, SamplingParams
from score_jax.tasks.splits import hash_fraction
from score_jax.train.batch import Batch, Example
from score_jax.train.step import ForwardConfig, MetricArrays, Scorer, Trainer, TrainState
from score_jax.trajectory import Question, Trajectory, parse_trajectories
from tests.agent.scripted import Scripted, ScriptedSlots, act, plan, said, submit
from tests.configs import module

#: kind -> (how many there are, the steps at which the student goes wrong)
KINDS: dict[str, tuple[int, tuple[int, ...]]] = {
  "u": (26, ()),  # unaided
  "e": (10, (1,)),  # solved by a correction of step 1
  "l": (10, (3,)),  # solved by one of step 3
  "t": (10, (1, 3)),  # solved by two
  "h": (8, (1,)),  # hard: the teacher is wrong as well
  "k": (8, (1,)),  # not_kept: the student ends wrong whatever stands before
  "q": (8, ()),  # quarantined: the grader fails
}
OUTCOMES = {"u": "unaided", **dict.fromkeys("elt", "solved"), "h": "hard", "k": "not_kept", "q": "quarantined"}
UNGRADED = "99999"  # an answer that the grader fails on
OOPS, MENDED = "# oops", "# mended"
REINFORCED = tuple(name for name, stage in STAGES.items() if stage.rl_starts)
ACTS = 6
SHARE, KEEP = 0.25, 0.5  # of the warm start; of the unaided


def config(folder: pathlib.Path) -> ConfigDict:
  """quickstart:smoke on scripted questions; two settings of one sort have different values, and none is neutral."""
  c = module("quickstart").get_config("smoke")
  c.student.path, c.teacher.path = (_first_layers(folder / name, n) for name, n in (("student", 1), ("teacher", 2)))
  c.tasks.kind, c.tasks.path, c.tasks.grader, c.tasks.fields.id = "questions", _written(folder), "gsm8k", "id"
  c.tasks.train, c.tasks.validation, c.tasks.test = 54, 3, 5
  c.seed = _covering_seed(c.tasks.train, c.tasks.test)
  c.tools.isolation, c.tools.search.kind = "process", "none"
  c.agent.acts = ACTS
  c.student.temperature, c.teacher.temperature, c.rl.temperature = 0.8, 0.9, 0.6
  c.warm_start.share, c.sft.keep_unaided, c.rl.keep_unaided, c.rl.keep_hard = SHARE, KEEP, KEEP, 1.0
  c.mps.corrections, c.mps.continuations, c.mps.tries, c.mps.depth_probe = 2, 4, 3, 2
  c.train.rows, c.train.micro_rows, c.train.length, c.train.warmup = 6, 4, 320, 0.0
  c.train.weight_decay, c.rl.weight_decay, c.train.max_norm = 0.03, 0.07, 0.9
  c.rl.steps, c.rl.prompts, c.rl.minibatch, c.rl.group_size, c.rl.micro_rows = 4, 7, 4, 4, 3
  c.rl.length, c.rl.checkpoint_every, c.alarms.probe = 384, 2, 2
  c.warm_start.learning_rate, c.sft.learning_rate, c.bc.learning_rate, c.rl.learning_rate = 4e-4, 3e-4, 2e-4, 1e-4
  c.sft.epochs = 2
  c.eval.tries, c.eval.part = 2, 2
  c.survival.grace_s, c.survival.journal_s = 1e6, 1e6
  return c


def _questions() -> list[Question]:
  return [
    Question(f"{kind}{i}", f"Ana has {i + 3} figs and finds {7 * i + 2}. How many, {kind}?", str(8 * i + 5))
    for kind, (count, _) in KINDS.items()
    for i in range(count)
  ]


def _written(folder: pathlib.Path) -> str:
  path = folder / "questions.jsonl"
  rows = [{"id": q.id, "question": q.text, "answer": q.answer} for q in _questions()]
  path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
  return str(path)


def _covering_seed(train: int, test: int) -> int:
  """The first seed that puts questions of every kind into each part."""

  def covers(seed: int) -> bool:
    ordered = sorted(_questions(), key=lambda q: (hash_fraction(q, f"{seed}/order"), q.id))
    mentored = [q for q in ordered[:-test][:train] if hash_fraction(q, f"{seed}/warm_start") >= SHARE]
    halves = [[q for q in mentored if (hash_fraction(q, f"{seed}/half") < 0.5) == first] for first in (True, False)]
    kept = [
      {hash_fraction(q, f"{seed}/{salt}") < KEEP for q in half if q.id[0] == "u"}
      for half, salt in zip(halves, ("keep_unaided", "rl"), strict=True)
    ]
    return all({q.id[0] for q in half} == set(KINDS) for half in halves) and kept == [{True, False}] * 2

  return next(seed for seed in itertools.count(1) if covers(seed))


def _first_layers(folder: pathlib.Path, count: int) -> str:
  """The shipped student without all but its first layers."""
  model = export.load_named_model("shipped:student", "float32")
  weights = jax.tree.map(lambda x: x, model.weights)
  for layer in range(count, model.config.layers):
    del weights["blocks"][layer]
  small = pretrained.Model(dataclasses.replace(model.config, layers=count), weights, model.tokenizer)
  export.export_model(small, folder, dtype="float32", shard_gb=1.0, decoding={})
  return str(folder)


# What the models say


def answer_of(text: str) -> int:
  """What is right of the question that stands in a text."""
  first, second = re.findall(r"has (\d+) figs and finds (\d+)\.", text)[0]
  return int(first) + int(second)


def kind_of(text: str) -> str:
  return re.findall(r"How many, (\w)\?", text)[0]


def student(name: str, text: str) -> Turn:
  """The next turn of the student in the request of that name. In RL every other copy goes on until its acts are out."""
  kind, turns, stage, copy = kind_of(text), said(text), name.split("/")[0], int(name.rsplit("/", 1)[1])
  if turns == 0:
    return plan("see")
  if kind == "q":
    return submit(UNGRADED if copy == 0 else "0")
  if stage in REINFORCED and kind != "u" and not copy % 2:
    return act(f"print({turns})", "long " * (turns + answer_of(text) % 7))
  if stage in REINFORCED:
    return submit(str(answer_of(text)))
  errors = KINDS[kind][1][text.count(MENDED) :]
  if stage in ("sft_rejection", "sft_redraw") and copy == 1 and kind in "et":
    errors = ()
    if stage == "sft_redraw" and turns == 1:
      return act("print(1)", "again")
  if errors and turns < errors[0]:
    return act(f"print({turns})", "fine")
  if errors and turns == errors[0]:
    return act(f"print(0)  {OOPS}", "hm")
  return submit("0" if errors or kind in "hk" else str(answer_of(text)))


def teacher(name: str, text: str) -> Turn:
  """The next turn of the teacher: it is wrong after a mistake, and on what is hard."""
  kind, turns = kind_of(text), said(text)
  if turns == 0:
    return plan("look " * (answer_of(text) % 5 + 1))
  if kind == "h" or OOPS in text:
    return submit("0")
  if MENDED in text[text.rfind("<code>") :] and (kind != "k" or text.count(MENDED) > 1):
    return submit(str(answer_of(text)))
  return act(f"print({turns})  {MENDED}", "so")


SAYS = {"student": student, "teacher": teacher}

# What is recorded


@dataclasses.dataclass(frozen=True)
class Rolled:
  """A call of `Agent.rollout`: what it took, and what it gave."""

  stage: str
  model: str
  decoding: SamplingParams
  weights: str  # their fingerprint
  requests: list[RolloutRequest]
  groups: list[list[Trajectory]]

  def named(self, prefix: str) -> bool:
    return bool(self.requests) and all(r.name.startswith(prefix) for r in self.requests)


@dataclasses.dataclass(frozen=True)
class Updated:
  """An update of some weights: what it took."""

  stage: str
  temperature: float
  number: int  # updates before it
  weights: str  # fingerprint of those before the first update; "" later
  batch: Batch

  def learnt(self) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray, np.ndarray]]:
    """Tokens, mask, advantages and shares of each packed sequence."""
    b = self.batch
    for place in np.ndindex(b.tokens.shape[:2]):
      for number in range(1, int(b.segments[place].max()) + 1):
        here = b.segments[place] == number
        yield (
          tuple(b.tokens[place][here].tolist()),
          b.loss_mask[place][here],
          b.advantages[place][here],
          b.loss_weight[place][here],
        )


@dataclasses.dataclass(frozen=True)
class ScoredBy:
  """A call of a scorer: what it took."""

  stage: str
  temperature: float
  weights: str  # fingerprint of those that score


@dataclasses.dataclass
class Record:
  """What the stages of a run took, in order."""

  folder: pathlib.Path
  config: ConfigDict = dataclasses.field(default_factory=ConfigDict)
  rollouts: list[Rolled] = dataclasses.field(default_factory=list)
  updates: list[Updated] = dataclasses.field(default_factory=list)
  scores: list[ScoredBy] = dataclasses.field(default_factory=list)
  keys: list[tuple[str, int, str]] = dataclasses.field(default_factory=list)  # (stage, seed, name) of all draws
  rules: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)  # stage -> settings of its optimiser
  stage: str = ""  # at work
  author: str = ""  # of the turns that are drawn now
  protocol: AgentProtocol = cast(AgentProtocol, None)

  def named(self, stage: str, prefix: str | None = None) -> list[Rolled]:
    """The rollouts of a stage that are named after it, or otherwise."""
    return [r for r in self.rollouts if r.stage == stage and r.named(f"{prefix or stage}/")]

  def of(self, stage: str) -> list[Updated]:
    return [u for u in self.updates if u.stage == stage]

  def read(self, name: str) -> Any:
    return json.loads((self.folder / name).read_text())

  def trajectories(self, stage: str) -> list[Trajectory]:
    return [t for part in self.parts(stage) for t in part]

  def parts(self, stage: str) -> list[list[Trajectory]]:
    paths = sorted((self.folder / "trajectories" / stage).glob("part-*.jsonl"))
    return [list(parse_trajectories(path.read_text().splitlines(keepends=True))) for path in paths]

  def metrics(self, stage: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (self.folder / f"metrics/{stage}.jsonl").read_text().splitlines()]


@contextlib.contextmanager
def recorded(folder: pathlib.Path) -> Iterator[Record]:
  """Within it runs are scripted, and what they take is recorded."""
  record = Record(folder)
  with pytest.MonkeyPatch.context() as patch:
    _script(patch, record)
    _spy_on_models(patch, record)
    _spy_on_training(patch, record)
    yield record


def ran(folder: pathlib.Path, c: ConfigDict) -> Record:
  """A run to its end."""
  with recorded(folder) as record:
    record.config = c
    main.run_job(c, str(folder))
  return record


def _script(patch: pytest.MonkeyPatch, record: Record) -> None:
  class RunSlots(ScriptedSlots):
    def __init__(self, programs: SamplerPrograms, weights: Weights, shapes: ProgramShapes, meter: SamplerMeter):
      says = Scripted(record.protocol, SAYS[record.author])
      super().__init__(cast(Any, programs), says, shapes, meter)

  def name_of(seed: int, name: str) -> Any:
    record.keys.append((record.stage, seed, name))
    return name

  grade = Experiment.grade

  def graded(self: Experiment, question: Question, answer: str) -> tuple[float | None, str]:
    return (None, "abstained") if answer == UNGRADED else grade(self, question, answer)

  patch.setattr(rollout, "Slots", RunSlots)
  patch.setattr(rollout, "request_key", name_of)
  patch.setattr(Experiment, "grade", graded)


def _spy_on_models(patch: pytest.MonkeyPatch, record: Record) -> None:
  roll_out, at = Agent.rollout, Experiment.stage_scope

  def spied_rollout(
    self: Agent, weights: Weights, requests: Iterable[RolloutRequest], **more: Any
  ) -> list[list[Trajectory]]:
    asked = list(requests)
    record.author, record.protocol = self.author, self.protocol
    groups = roll_out(self, weights, asked, **more)
    record.rollouts.append(Rolled(record.stage, self.model, self.decoding, hash_weights(weights), asked, groups))
    return groups

  @contextlib.contextmanager
  def spied_at(self: Experiment, stage: str) -> Iterator[None]:
    record.stage = stage
    with at(self, stage):
      yield
    record.stage = ""

  patch.setattr(Agent, "rollout", spied_rollout)
  patch.setattr(Experiment, "stage_scope", spied_at)


def _spy_on_training(patch: pytest.MonkeyPatch, record: Record) -> None:
  make = Scorer.__init__
  temperatures: dict[int, float] = {}

  def spied_update(self: Trainer, state: TrainState, batch: Batch) -> tuple[TrainState, MetricArrays]:
    number = int(state.step)
    before = "" if number else hash_weights(self.full_weights(state))
    record.updates.append(Updated(record.stage, self.passes.temperature, number, before, batch))
    return _updated(state, batch)

  def spied_make(
    self: Scorer, graph: nnx.GraphDef[Decoder], mesh: Mesh, passes: ForwardConfig, *args: Any, **more: Any
  ) -> None:
    temperatures[id(self)] = passes.temperature
    make(self, graph, mesh, passes, *args, **more)

  def spied_score(self: Scorer, weights: Weights, samples: Sequence[Example]) -> list[np.ndarray]:
    record.scores.append(ScoredBy(record.stage, temperatures[id(self)], hash_weights(weights)))
    return [np.zeros(len(one.tokens), np.float32) for one in samples]

  def spied_rule(where: str) -> None:
    rule = importlib.import_module(where).make_optimizer

    def spied(name: str, rate: Any, **settings: float) -> Any:
      record.rules[record.stage] = settings | {"name": name, "rate": float(rate(0))}
      return rule(name, rate, **settings)

    patch.setattr(f"{where}.make_optimizer", spied)

  patch.setattr(Trainer, "__call__", spied_update)
  patch.setattr(Scorer, "__init__", spied_make)
  patch.setattr(Scorer, "__call__", spied_score)
  for where in ("score_jax.rl.loop", "score_jax.train.sft"):
    spied_rule(where)


def _updated(state: TrainState, batch: Batch) -> tuple[TrainState, MetricArrays]:
  """The next state, by a factor that all of the batch decides, and what an update says of itself."""
  digest = zlib.crc32(b"".join(np.ascontiguousarray(x).tobytes() for x in jax.tree.leaves(batch)))
  by = jnp.float32(1.0 + 1e-4 * (1 + digest % 997))
  weights: Any = jax.tree.map(lambda x: x * by, state.weights)
  names = ("loss", "grad_norm", "entropy", "kl_sampler", "clip_share_low", "clip_share_high", "logprob_gap_max")
  numbers = {name: jnp.float32(0.1) for name in names} | {
    name: jnp.float32(1.0) for name in ("weight", "weight_square")
  }
  return TrainState(state.step + 1, weights, state.optimizer), numbers
