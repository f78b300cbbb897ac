"""The job of configs/evaluate.py: models from anywhere on the benchmarks.

A model is one that score_jax/model/source.py knows by name, DIR:STAGE (what a stage of a run left), or `endpoint`: the
agent that the groups `teacher` and `chat` make of a model that is asked by prompts.
"""

from __future__ import annotations

import contextlib
import re
from functools import cached_property
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.examine import Candidate, by_demonstration, by_rollout, examine, fingerprint, row
from score_jax.finished import NAMES, Finished, finished
from score_jax.model import source
from score_jax.run import Run
from score_jax.tasks import exam
from score_jax.tasks.benchmarks import AVERAGES
from score_jax.tasks.exam import Exam
from score_jax.tasks.scores import Marks, marked, scores, together
from score_jax.tasks.source import Tasks
from score_jax.teachers import open_teacher
from score_jax.trajectory import Ledger
from score_jax.workdir import Workdir

ENDPOINT = "endpoint"


def evaluate(config: ConfigDict, workdir: Workdir) -> list[dict[str, Any]]:
  """Every model that `config.model` lists on every benchmark; the rows of results.json.

  Raises:
    UserError: a model or a benchmark cannot be had.
  """
  rows: list[dict[str, Any]] = []
  for folder, name in _folders(config.model).items():
    with Examined(name, folder, config, workdir) as run:
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
    raise UserError(f"model = {listed!r}; give a model folder, a hub id, RUN:STAGE or {ENDPOINT}")
  for called in ([name.rstrip("/").rpartition("/")[2] for name in names], names):
    found = {re.sub(r"[^\w.-]+", "-", short).strip("-."): name for short, name in zip(called, names, strict=True)}
    if len(found) == len(names):
      return found
  raise UserError(f"model = {listed!r}: two of them would be called alike; evaluate these in two workdirs")


class Examined(Run):
  """A run whose student is the model that is examined, and whose test questions are those of the benchmarks."""

  def __init__(self, name: str, folder: str, config: ConfigDict, workdir: Workdir):
    super().__init__(config, workdir)
    self._name, self._folder = name, folder

  def rows(self) -> list[dict[str, Any]]:
    """A row for each benchmark and, where all of its benchmarks are there, for each average."""
    for note in self.tasks.notes:
      self.say(f"tasks: {note}")
    candidate = self._candidate()
    origin = {"base": self._base, "stage": self._origin[1] if self._origin else "untrained"}
    made = self._finished
    costs = {"ledger": made.ledger if made else Ledger(), "measured": made.measured if made else Ledger()}
    rows: list[dict[str, Any]] = []
    marks: dict[str, Marks] = {}
    for one in self._exams[0]:
      with self.at(f"eval_{candidate.name}_{one.benchmark}"):
        groups = examine(self.workdir, candidate, one, part=self.config.eval.part, say=self.say)
      marks[one.benchmark] = marked(one, groups)
      rows.append(row(candidate, one.benchmark, scores(one, groups), **costs, tries=groups) | origin)
    for average, names in AVERAGES.items():
      if marks.keys() >= set(names):
        rows.append(row(candidate, average, together([marks[name] for name in names]), **costs, tries=()) | origin)
    return rows

  def _candidate(self) -> Candidate:
    if self._name == ENDPOINT:
      return Candidate(self._folder, by_demonstration(open_teacher(self, self.student.weights)), None)
    weights = self.student.weights
    return Candidate(
      self._folder, by_rollout(self.student_agent, weights, acts=self.config.agent.acts), fingerprint(weights)
    )

  @cached_property
  def _origin(self) -> tuple[str, str] | None:
    """Run and stage that the model comes from."""
    root, _, stage = self._name.rpartition(":")
    return (root, stage) if root and (stage in NAMES or epath.Path(root).is_dir()) else None

  @cached_property
  def _finished(self) -> Finished | None:
    return finished(*self._origin) if self._origin else None

  @cached_property
  def _base(self) -> str:
    """The model that all training began with; that of an endpoint by its own name."""
    if self._name == ENDPOINT:
      return self.config.chat.model or self.config.chat.path
    return self._finished.config.student.path if self._finished else self._name

  @cached_property
  def _exams(self) -> tuple[list[Exam], Tasks]:
    known = self._finished.questions if self._finished else frozenset[str]()
    return exam.read(self.config, without=known, judge=self._answer_judge())

  @cached_property
  def tasks(self) -> Tasks:
    tasks = self._exams[1]
    if isinstance(tasks.grader, contextlib.AbstractContextManager):
      self._open.enter_context(tasks.grader)
    return tasks

  @cached_property
  def student(self) -> source.Model:
    """The model that is examined; for an endpoint the one whose tokenizer writes down what it says."""
    if self._finished:
      return self._finished.model
    path = self.config.student.path if self._name == ENDPOINT else self._name
    return self._model(ConfigDict(self.config.student.to_dict() | {"path": path}), self.meshes.train)
