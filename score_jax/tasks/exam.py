"""Benchmarks as evaluation sets, and the scores of a model on them.

`load_eval_sets` returns the questions of each benchmark, the number of tries and the metric. If a benchmark has more
questions than are asked, a seeded hash of the text chooses, so a file gives the same ones in any order. Generated word
problems come from a world that no training run of the same seed uses.

`compute_scores` returns the fields of a row of results.json. A try whose grading or tool failed (grade None) is neither
right nor wrong: the metric is the mean over the others, and its interval reaches from the lower bound with all ungraded
tries wrong to the upper bound with all of them right.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.grading import short_answers
from score_jax.grading.graders import Metric, get_metric, make_grader
from score_jax.grading.judge import Judge
from score_jax.search.passages import Document
from score_jax.tasks import benchmarks, gsm8k, word_problems
from score_jax.tasks.benchmarks import BENCHMARKS
from score_jax.tasks.questions import PerQuestionGrader, Tasks, build_difficulty, order_by_hash
from score_jax.tasks.splits import deduplicate_questions, describe_dropped
from score_jax.tasks.statistics import average_interval, pass_at_k
from score_jax.trajectory import Question, Trajectory

TryGroups = Sequence[Sequence[Trajectory]]  # the tries at each question, in the order of the exam's questions
TryScores = list[list[float | None]]  # of each question those of its tries, in [0, 1]; None: not graded


def compute_scores(exam: EvalSet, groups: TryGroups) -> dict[str, Any]:
  """The fields of a row of results.json that tell how a model did.

  `accuracy` is the mean of the exam's metric (of the token F1 where that is it), None where nothing was graded, with
  `low` and `high` and the number `n` of questions; `exact` is the share that is right; `pass_at` tells pass@k for
  k = 1, 2, 4, … to the number of tries, each over the questions that have so many graded ones.
  """
  marks = score_tries(exam, groups)
  right = [
    [_exact(exam, q, t) for t in group if t.grade is not None] for q, group in zip(exam.questions, groups, strict=True)
  ]
  return average_scores([marks]) | {
    "metric": exam.metric,
    "exact": _mean(map(_mean, right)),
    "tries": exam.tries,
    "pass_at": {str(k): _pass_at(k, right) for k in _powers_of_two(exam.tries)},
    "ungraded": sum(mark is None for tries in marks for mark in tries),
  }


def score_tries(exam: EvalSet, groups: TryGroups) -> TryScores:
  """The metric of every try."""

  def mark(t: Trajectory) -> float | None:
    return t.grade if t.grade is None or exam.metric == "f1" else float(t.right)

  return [[mark(t) for t in group] for group in groups]


def average_scores(benchmarks: Sequence[TryScores]) -> dict[str, Any]:
  """accuracy, n, low and high of the mean over some benchmarks (or one), which weigh the same."""

  def filled(value: float) -> list[list[list[float]]]:
    return [[[value if m is None else m for m in tries] for tries in marks] for marks in benchmarks]

  graded = [[known for tries in marks if (known := [m for m in tries if m is not None])] for marks in benchmarks]
  return {
    "accuracy": average_interval(graded).mean if all(graded) else None,
    "n": sum(map(len, benchmarks)),
    "low": average_interval(filled(0.0)).low,
    "high": average_interval(filled(1.0)).high,
  }


def _exact(exam: EvalSet, question: Question, trajectory: Trajectory) -> bool:
  """An F1 of 1 is not enough: it does not see in which order the words stand."""
  return trajectory.right and (exam.metric != "f1" or short_answers.matches_any_gold(question, trajectory.answer or ""))


def _pass_at(k: int, right: Sequence[Sequence[bool]]) -> float | None:
  return _mean(pass_at_k(k, tries=len(tries), right=sum(tries)) for tries in right if len(tries) >= k)


def _powers_of_two(limit: int) -> list[int]:
  return [2**i for i in range(limit.bit_length())]


def _mean(values: Iterable[float | None]) -> float | None:
  """Of those that are there; None where none is."""
  found = [value for value in values if value is not None]
  return float(np.mean(found)) if found else None


BENCHMARK_NAMES = (*BENCHMARKS, "gsm8k", "word_problems")
#: of what is no benchmark of tasks/benchmarks.py
DEFAULT_QUESTION_COUNTS = {"gsm8k": 1319, "word_problems": 300}
DEFAULT_TRIES = 4


@dataclasses.dataclass(frozen=True)
class EvalSet:
  """Questions that models are examined on."""

  benchmark: str
  questions: Sequence[Question]
  tries: int  # of each question
  metric: Metric = "accuracy"


def load_eval_sets(
  config: ConfigDict, *, without: AbstractSet[str] = frozenset(), judge: Judge | None = None
) -> tuple[list[EvalSet], Tasks]:
  """The benchmarks that `config.benchmarks` names; and their questions as a run's test questions, with the graders.

  Args:
    config: of an evaluation (configs/evaluate.py).
    without: ids of questions that the model was trained on, which are not asked.
    judge: says of answers what a grader alone cannot.

  Raises:
    UserError: a name is none, a benchmark cannot be read, or two questions have the same id.
  """
  exams: list[EvalSet] = []
  documents: list[Document] = []
  notes: list[str] = []
  for name in _names(config.benchmarks):
    found = _questions(name, config, without, documents, notes)
    tries = config.tries or (BENCHMARKS[name].tries if name in BENCHMARKS else DEFAULT_TRIES)
    exams.append(EvalSet(name, found, tries, get_metric(name)))
  graders = {exam.benchmark: make_grader(exam.benchmark, judge) for exam in exams}
  by_id = {q.id: graders[exam.benchmark] for exam in exams for q in exam.questions}
  questions = [q for exam in exams for q in exam.questions]
  if len(by_id) < len(questions):
    raise UserError("benchmarks: one question stands in two of them; evaluate these in two workdirs")
  graded = PerQuestionGrader(next(iter(graders.values())), by_id)
  return exams, Tasks(config.benchmarks, [], [], questions, documents, graded, notes=tuple(notes))


def _names(listed: str) -> list[str]:
  """The benchmarks of a list with commas, each once.

  Raises:
    UserError: one is none, or there is none.
  """
  names = list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
  for name in names or [""]:
    if name not in BENCHMARK_NAMES:
      nearest = difflib.get_close_matches(name, BENCHMARK_NAMES, n=1)
      meant = f"did you mean {nearest[0]}? " if nearest else ""
      raise UserError(f"benchmarks = {listed!r}: {name!r} is none; {meant}choose from {', '.join(BENCHMARK_NAMES)}")
  return names


def _questions(
  name: str, config: ConfigDict, without: AbstractSet[str], documents: list[Document], notes: list[str]
) -> list[Question]:
  """The questions of a benchmark that are asked; `documents` and `notes` get what belongs to them."""
  asked = config.limit or (BENCHMARKS[name].paper_count if name in BENCHMARKS else DEFAULT_QUESTION_COUNTS[name])
  knob = f"paths.{name}"
  if name == "word_problems":
    found = _generated(config, max(asked, DEFAULT_QUESTION_COUNTS[name]), documents)
  elif name == "gsm8k":
    found = gsm8k.load_gsm8k(config.paths[name], "test", knob=knob)
  else:
    found = benchmarks.load_benchmark(name, config.paths[name], knob=knob)
  kept, dropped = deduplicate_questions(found)
  if dropped:
    notes.append(f"{name}: {len(dropped)} of {len(found)} questions are left out: {describe_dropped(dropped)}")
  if known := [q.id for q in kept if q.id in without]:
    notes.append(f"{name}: {len(known)} of {len(found)} questions are such as the model was trained on; left out")
    kept = [q for q in kept if q.id not in without]
  chosen = order_by_hash(kept, seed=config.seed)[:asked]
  if name in BENCHMARKS:
    notes += benchmarks.describe_question_counts(name, config.paths[name], len(found), len(chosen))
  if not chosen:
    raise UserError(f"benchmarks: {name} has no question that could be asked; set {knob} to another file")
  return chosen


def _generated(config: ConfigDict, count: int, documents: list[Document]) -> list[Question]:
  """Word problems, and into `documents` the passages that they need."""
  seed = int.from_bytes(hashlib.sha256(f"{config.seed}/evaluation".encode()).digest()[:6])
  world = word_problems.World.generate(seed)
  documents += world.documents()
  return word_problems.generate_questions(world, build_difficulty(config.word_problems), seed=seed, count=count)
