"""Benchmarks as they are put to models: which of their questions, how often each, and graded how.

A benchmark's questions lie where tasks/benchmarks.py and tasks/gsm8k.py say, or in a file of the same form. Of more
than are asked for a seeded hash of their text chooses, so a file gives the same ones in any order. Generated word
problems are of a world that no recipe of the same seed trains on.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.tasks import benchmarks, gsm8k, word_problems
from score_jax.tasks.benchmarks import BENCHMARKS
from score_jax.tasks.grade import Metric, grader, metric
from score_jax.tasks.judge import Judge
from score_jax.tasks.overlap import distinct, reasons
from score_jax.tasks.source import EachItsOwn, Tasks, difficulty, in_order
from score_jax.tools.search import Document
from score_jax.trajectory import Question

NAMES = (*BENCHMARKS, "gsm8k", "word_problems")
#: of what is no benchmark of tasks/benchmarks.py
ASKED = {"gsm8k": 1319, "word_problems": 300}
TRIES = 4


@dataclasses.dataclass(frozen=True)
class Exam:
  """Questions that models are examined on."""

  benchmark: str
  questions: Sequence[Question]
  tries: int  # of each question
  metric: Metric = "accuracy"


def read(
  config: ConfigDict, *, without: AbstractSet[str] = frozenset(), judge: Judge | None = None
) -> tuple[list[Exam], Tasks]:
  """The benchmarks that `config.benchmarks` names; and their questions as a run's test questions, with the graders.

  Args:
    config: of an evaluation (configs/evaluate.py).
    without: ids of questions that the model was trained on, which are not asked.
    judge: says of answers what a grader alone cannot.

  Raises:
    UserError: a name is none, a benchmark cannot be read, or two questions have the same id.
  """
  exams: list[Exam] = []
  documents: list[Document] = []
  notes: list[str] = []
  for name in _names(config.benchmarks):
    found = _questions(name, config, without, documents, notes)
    tries = config.tries or (BENCHMARKS[name].tries if name in BENCHMARKS else TRIES)
    exams.append(Exam(name, found, tries, metric(name)))
  graders = {exam.benchmark: grader(exam.benchmark, judge) for exam in exams}
  by_id = {q.id: graders[exam.benchmark] for exam in exams for q in exam.questions}
  questions = [q for exam in exams for q in exam.questions]
  if len(by_id) < len(questions):
    raise UserError("benchmarks: one question stands in two of them; evaluate these in two workdirs")
  graded = EachItsOwn(next(iter(graders.values())), by_id)
  return exams, Tasks(config.benchmarks, [], [], questions, documents, graded, notes=tuple(notes))


def _names(listed: str) -> list[str]:
  """The benchmarks of a list with commas, each once.

  Raises:
    UserError: one is none, or there is none.
  """
  names = list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
  for name in names or [""]:
    if name not in NAMES:
      nearest = difflib.get_close_matches(name, NAMES, n=1)
      meant = f"did you mean {nearest[0]}? " if nearest else ""
      raise UserError(f"benchmarks = {listed!r}: {name!r} is none; {meant}choose from {', '.join(NAMES)}")
  return names


def _questions(
  name: str, config: ConfigDict, without: AbstractSet[str], documents: list[Document], notes: list[str]
) -> list[Question]:
  """The questions of a benchmark that are asked; `documents` and `notes` get what belongs to them."""
  asked = config.limit or (BENCHMARKS[name].asked if name in BENCHMARKS else ASKED[name])
  knob = f"paths.{name}"
  if name == "word_problems":
    found = _generated(config, max(asked, ASKED[name]), documents)
  elif name == "gsm8k":
    found = gsm8k.read(config.paths[name], "test", knob=knob)
  else:
    found = benchmarks.read(name, config.paths[name], knob=knob)
  kept, dropped = distinct(found)
  if dropped:
    notes.append(f"{name}: {len(dropped)} of {len(found)} questions are left out: {reasons(dropped)}")
  if known := [q.id for q in kept if q.id in without]:
    notes.append(f"{name}: {len(known)} of {len(found)} questions are such as the model was trained on; left out")
    kept = [q for q in kept if q.id not in without]
  chosen = in_order(kept, seed=config.seed)[:asked]
  if name in BENCHMARKS:
    notes += benchmarks.notes(name, config.paths[name], len(found), len(chosen))
  if not chosen:
    raise UserError(f"benchmarks: {name} has no question that could be asked; set {knob} to another file")
  return chosen


def _generated(config: ConfigDict, count: int, documents: list[Document]) -> list[Question]:
  """Word problems, and into `documents` the passages that they need."""
  seed = int.from_bytes(hashlib.sha256(f"{config.seed}/evaluation".encode()).digest()[:6])
  world = word_problems.World.generate(seed)
  documents += world.documents()
  return word_problems.questions(world, difficulty(config.word_problems), seed=seed, count=count)
