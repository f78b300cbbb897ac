"""Evaluates models on benchmarks: rollouts, records, and the rows of results.json (paper, evaluation).

`evaluate_stages` evaluates every model of a run on its test questions. `evaluate_models` is the job of
configs/evaluate.py: models from anywhere on the benchmarks that it names. A model there is a name that
model/pretrained.py knows, RUN:STAGE (what a stage of a run left), or `endpoint`: the agent that the groups `teacher`
and `chat` make of a model that is asked by prompts.

    eval/<model>/<benchmark>.json         identity of the evaluation: weights, questions, tries
    eval/<model>/<benchmark>-NNNNN.jsonl  a part: all tries at some questions, one record a try

A part is written whole when its last try has ended. A killed evaluation goes on after the last part; no try is
repeated. Records of another identity are deleted first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
from score_jax.experiment.results import (
  STAGE_MODEL_NAMES,
  FinishedModel,
  ledger_to_dict,
  load_finished_model,
  load_stage_weights,
  read_stage_result,
  sum_measurement_cost,
  sum_training_cost,
)
from score_jax.experiment.stages import STAGES
from score_jax.experiment.teachers import open_teacher
from score_jax.model import pretrained
from score_jax.model.decoder import Weights
from score_jax.model.sharding import fetch_to_host
from score_jax.runtime import processes
from score_jax.runtime.metrics import Progress
from score_jax.runtime.workdir import Workdir
from score_jax.tasks import exam
from score_jax.tasks.benchmarks import AVERAGES
from score_jax.tasks.exam import EvalSet, TryGroups, TryScores, average_scores, compute_scores, score_tries
from score_jax.tasks.questions import Tasks
from score_jax.teaching.teacher import Teacher
from score_jax.trajectory import Ledger, Question, Trajectory, sum_ledgers, trajectory_from_json, trajectory_to_json

#: (questions, tries) -> the graded tries at each question; what a question's tries give hangs on nothing else
BenchmarkSolver = Callable[[Sequence[Question], int], TryGroups]


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
  """Who is examined."""

  name: str  # of its folder and in its rows
  solve: BenchmarkSolver
  weights_sha256: str | None  # None: its weights are not at hand


def make_rollout_solver(agent: Agent, weights: Weights, *, acts: int) -> BenchmarkSolver:
  """The agent on its own."""

  def solve(questions: Sequence[Question], tries: int) -> TryGroups:
    requests = [RolloutRequest(f"eval/{q.id}", q, empty_trajectory(q), acts, tries) for q in questions]
    with Progress("eval", len(questions) * tries, "rollouts") as progress:
      return agent.rollout(weights, requests, progress=progress)

  return solve


def make_demonstration_solver(teacher: Teacher) -> BenchmarkSolver:
  """A teacher that solves the questions itself."""

  def solve(questions: Sequence[Question], tries: int) -> TryGroups:
    rounds = [teacher.demonstrate(questions, name=f"eval/{number}") for number in range(tries)]
    return list(zip(*rounds, strict=True))

  return solve


def run_benchmark(
  workdir: Workdir, candidate: EvaluatedModel, exam: EvalSet, *, part: int, log: Callable[[str], None]
) -> list[list[Trajectory]]:
  """The tries of a candidate at each question of an exam, in order; those that are not in the workdir yet are made.

  Args:
    part: questions of a part.
    log: told of every part that is begun.

  Raises:
    UserError: `part` is no number of questions, or a part in the workdir is damaged.
  """
  if part < 1:
    raise UserError(f"eval.part = {part}; give the questions of a part, 1 or more")
  stem = f"eval/{candidate.name}/{exam.benchmark}"
  _claim(workdir, stem, _identity(candidate, exam, part))
  groups: list[list[Trajectory]] = []
  for number, start in enumerate(range(0, len(exam.questions), part)):
    name, questions = f"{stem}-{number:05d}.jsonl", exam.questions[start : start + part]
    if not (found := _read(workdir, name, exam.tries)):
      log(f"eval: {candidate.name}, {exam.benchmark}, {start} of {len(exam.questions)} questions done")
      found = _made(workdir, name, candidate, questions, exam.tries)
    groups += found
  return groups


def make_result_row(
  candidate: EvaluatedModel,
  benchmark: str,
  found: dict[str, Any],
  *,
  ledger: Ledger,
  measured: Ledger,
  tries: Sequence[Sequence[Trajectory]],
) -> dict[str, Any]:
  """A row of results.json.

  Args:
    ledger: what making the model took.
    measured: what was spent to measure on the way to it.
    tries: of this evaluation, whose cost is `evaluated`.
  """
  who = {"model": candidate.name, "benchmark": benchmark, "weights_sha256": candidate.weights_sha256}
  evaluated = sum_ledgers(t.ledger for group in tries for t in group)
  costs = {"ledger": ledger, "measured": measured, "evaluated": evaluated}
  return who | found | {name: ledger_to_dict(cost) for name, cost in costs.items()}


def hash_weights(weights: Weights) -> str:
  """SHA-256 over the weights' bytes, in the order of their names."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(fetch_to_host(leaf).tobytes())
  return digest.hexdigest()


def _identity(candidate: EvaluatedModel, exam: EvalSet, part: int) -> str:
  data = [candidate.weights_sha256, [q.id for q in exam.questions], exam.tries, part]
  return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]


def _claim(workdir: Workdir, stem: str, identity: str) -> None:
  """Makes the records under `stem` those of this identity."""
  if workdir.read_json(f"{stem}.json") == {"identity": identity}:
    return
  folder, _, benchmark = stem.rpartition("/")
  for name in workdir.read_all(folder, f"{benchmark}-*.jsonl"):
    workdir.remove(name)
  workdir.write_json(f"{stem}.json", {"identity": identity})


def _made(
  workdir: Workdir, name: str, candidate: EvaluatedModel, questions: Sequence[Question], tries: int
) -> list[list[Trajectory]]:
  groups = [list(group) for group in candidate.solve(questions, tries)]
  records = [
    {"question_steps": q.steps, "reference": q.answer, "trajectory": json.loads(trajectory_to_json(t))}
    for q, group in zip(questions, groups, strict=True)
    for t in group
  ]
  workdir.write(name, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
  return groups


def _read(workdir: Workdir, name: str, tries: int) -> list[list[Trajectory]]:
  """The tries in a part, by question; none where it is not there.

  Raises:
    UserError: the part is damaged.
  """
  path = workdir.root / name
  text = processes.run_on_primary(f"read {name}", lambda: path.read_text(encoding="utf-8") if path.exists() else "")
  if not text:
    return []
  try:
    found = [trajectory_from_json(json.dumps(json.loads(line)["trajectory"])) for line in text.split("\n") if line]
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} is damaged ({error}); delete it and start again") from error
  return [found[start : start + tries] for start in range(0, len(found), tries)]


ENDPOINT_MODEL = "endpoint"


def evaluate_models(config: ConfigDict, workdir: Workdir) -> list[dict[str, Any]]:
  """Every model that `config.model` lists on every benchmark; the rows of results.json.

  Raises:
    UserError: a model or a benchmark cannot be had.
  """
  rows: list[dict[str, Any]] = []
  for folder, name in _folders(config.model).items():
    with BenchmarkRun(name, folder, config, workdir) as run:
      rows += run.rows()
  workdir.write_json("results.json", {"schema": 1, "rows": rows})
  return rows


def _folders(listed: str) -> dict[str, str]:
  """The listed models by what they are called: the last parts of their names where these tell them apart.

  Raises:
    UserError: there is none, or two are called alike.
  """
  names = list(dict.fromkeys(filter(None, (part.strip() for part in listed.split(",")))))
  if not names:
    raise UserError(f"model = {listed!r}; give a model folder, a hub id, RUN:STAGE or {ENDPOINT_MODEL}")
  for called in ([name.rstrip("/").rpartition("/")[2] for name in names], names):
    found = {re.sub(r"[^\w.-]+", "-", short).strip("-."): name for short, name in zip(called, names, strict=True)}
    if len(found) == len(names):
      return found
  raise UserError(f"model = {listed!r}: two of them would be called alike; evaluate these in two workdirs")


class BenchmarkRun(Experiment):
  """A run whose student is the model that is examined, and whose test questions are those of the benchmarks."""

  def __init__(self, name: str, folder: str, config: ConfigDict, workdir: Workdir):
    super().__init__(config, workdir)
    self._name, self._folder = name, folder

  def rows(self) -> list[dict[str, Any]]:
    """A row for each benchmark and, where all of its benchmarks are there, for each average."""
    for note in self.tasks.notes:
      self.log(f"tasks: {note}")
    candidate = self._candidate()
    origin = {"base": self._base, "stage": self._origin[1] if self._origin else "untrained"}
    made = self._finished
    costs = {"ledger": made.ledger if made else Ledger(), "measured": made.measurement_ledger if made else Ledger()}
    rows: list[dict[str, Any]] = []
    marks: dict[str, TryScores] = {}
    for one in self._exams[0]:
      with self.stage_scope(f"eval_{candidate.name}_{one.benchmark}"):
        groups = run_benchmark(self.workdir, candidate, one, part=self.config.eval.part, log=self.log)
      marks[one.benchmark] = score_tries(one, groups)
      rows.append(
        make_result_row(candidate, one.benchmark, compute_scores(one, groups), **costs, tries=groups) | origin
      )
    for average, names in AVERAGES.items():
      if marks.keys() >= set(names):
        rows.append(
          make_result_row(candidate, average, average_scores([marks[name] for name in names]), **costs, tries=())
          | origin
        )
    return rows

  def _candidate(self) -> EvaluatedModel:
    if self._name == ENDPOINT_MODEL:
      return EvaluatedModel(self._folder, make_demonstration_solver(open_teacher(self, self.student.weights)), None)
    weights = self.student.weights
    return EvaluatedModel(
      self._folder, make_rollout_solver(self.student_agent, weights, acts=self.config.agent.acts), hash_weights(weights)
    )

  @cached_property
  def _origin(self) -> tuple[str, str] | None:
    """Run and stage that the model comes from."""
    root, _, stage = self._name.rpartition(":")
    return (root, stage) if root and (stage in STAGE_MODEL_NAMES or epath.Path(root).is_dir()) else None

  @cached_property
  def _finished(self) -> FinishedModel | None:
    return load_finished_model(*self._origin) if self._origin else None

  @cached_property
  def _base(self) -> str:
    """The model that all training began with; that of an endpoint by its own name."""
    if self._name == ENDPOINT_MODEL:
      return self.config.chat.model or self.config.chat.path
    return self._finished.config.student.path if self._finished else self._name

  @cached_property
  def _exams(self) -> tuple[list[EvalSet], Tasks]:
    known = self._finished.seen_question_ids if self._finished else frozenset[str]()
    return exam.load_eval_sets(self.config, without=known, judge=self._answer_judge())

  @cached_property
  def tasks(self) -> Tasks:
    tasks = self._exams[1]
    if isinstance(tasks.grader, contextlib.AbstractContextManager):
      self._open.enter_context(tasks.grader)
    return tasks

  @cached_property
  def student(self) -> pretrained.Model:
    """The model that is examined; for an endpoint the one whose tokenizer writes down what it says."""
    if self._finished:
      return self._finished.model
    path = self.config.student.path if self._name == ENDPOINT_MODEL else self._name
    return self._model(ConfigDict(self.config.student.to_dict() | {"path": path}), self.meshes.train)


def evaluate_stages(run: Experiment) -> list[dict[str, Any]]:
  """Every model that the workdir holds on the test questions; the rows of results.json, in the order of arms.STAGES."""
  models = ["untrained", *(name for name in STAGES if "updates" in (read_stage_result(run, name) or {}))]
  if run.config.teacher.kind == "model":
    models.insert(0, "teacher")
  exam = EvalSet(run.tasks.benchmark, run.tasks.test, run.config.eval.tries, run.tasks.metric)
  rows: list[dict[str, Any]] = []
  for model in models:
    candidate = _candidate(run, model)
    with run.stage_scope(f"eval_{model}"):
      groups = run_benchmark(run.workdir, candidate, exam, part=run.config.eval.part, log=run.log)
    costs = {"ledger": sum_training_cost(run, model), "measured": sum_measurement_cost(run, model)}
    found = make_result_row(candidate, exam.benchmark, compute_scores(exam, groups), **costs, tries=groups)
    rows.append(found | {"from": STAGES[model].init_from if model in STAGES else ""})
    run.free_teacher()
  run.workdir.write_json("results.json", {"schema": 1, "rows": rows})
  return rows


def _candidate(run: Experiment, model: str) -> EvaluatedModel:
  weights = load_stage_weights(run, model)
  agent = run.teacher_agent if model == "teacher" else run.student_agent
  return EvaluatedModel(model, make_rollout_solver(agent, weights, acts=run.config.agent.acts), hash_weights(weights))


def measure_validation_accuracy(run: Experiment, weights: Weights) -> dict[str, float]:
  """`val_accuracy`, the share of the validation questions answered right, one try each.

  What a host or the grader failed is left out; where nothing is left there is no such number.
  """
  requests = [
    RolloutRequest(f"validation/{q.id}", q, empty_trajectory(q), run.config.agent.acts) for q in run.tasks.validation
  ]
  groups = run.student_agent.rollout(weights, requests)
  right = [t.right for (t,) in groups if t.judged]
  return {"val_accuracy": sum(right) / len(right)} if right else {}
