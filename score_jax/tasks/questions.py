"""The questions of a run: train, validation and test, disjoint, without what overlaps the test questions.

`tasks.kind` names where training and validation questions come from, `tasks.test_kind` where the test questions do:

    word_problems   generated (tasks/word_problems.py); test questions of this kind come with training ones of it
    gsm8k           with worked solutions; it has training and test questions of its own
    questions       the user's own: tasks.path, tasks.fields, and tasks.grader, a benchmark graded like them
    BENCHMARK       a key of tasks/benchmarks.py

Without a test kind, test questions are of the kind of the others: GSM8K's own,
or else a part of what there is. Which questions fall into which part is
decided by a seeded hash of their text, so their order in a file, or the format
that it has, does not matter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.grading.graders import Grader, Metric, get_metric, make_grader
from score_jax.grading.judge import Judge
from score_jax.search.passages import Document
from score_jax.tasks import benchmarks, datasets, gsm8k, word_problems
from score_jax.tasks.benchmarks import BENCHMARKS
from score_jax.tasks.datasets import QuestionFields
from score_jax.tasks.datasets import build_questions as asked
from score_jax.tasks.splits import (
  OVERLAP_WORDS,
  DroppedQuestion,
  decontaminate_questions,
  deduplicate_questions,
  describe_dropped,
  hash_fraction,
)
from score_jax.trajectory import Question

#: what is read from somewhere, beside the benchmarks
DATASET_KINDS = ("gsm8k", "questions")


@dataclasses.dataclass(frozen=True)
class Tasks:
  """What a run works on."""

  benchmark: str  # where the test questions come from
  train: list[Question]
  validation: list[Question]
  test: list[Question]
  documents: list[Document]  # what web_search answers from; none: no search
  grader: Grader
  metric: Metric = "accuracy"  # what the mean grade of the test questions is
  dropped: tuple[DroppedQuestion, ...] = ()  # questions that are not used, and why
  words: int = OVERLAP_WORDS  # how many words in a row make an overlap; 0: only equal texts were looked for
  notes: tuple[str, ...] = ()  # what a user should know of them


def build_difficulty(config: ConfigDict) -> word_problems.Difficulty:
  """The difficulty that a config asks for."""
  return word_problems.Difficulty(tuple(config.acts), tuple(config.operations), config.distractors)


def load_tasks(config: ConfigDict, *, seed: int, judge: Judge | None = None) -> Tasks:
  """The questions that `config.tasks` asks for; `judge` says of answers what their grader alone cannot.

  Raises:
    UserError: a kind is unknown, a file is missing or damaged, or there are too few questions.
  """
  _check_names(config)
  notes: list[str] = []
  if config.kind == "word_problems":
    pool, documents = _generated(config, seed)
  else:
    pool, documents = _read(config, "train", seed, notes), []
  pool, dropped = deduplicate_questions(pool)
  if config.test_kind or config.kind == "gsm8k":
    test, repeated = deduplicate_questions(_read(config, "test", seed, notes))
    dropped += repeated
  else:
    cut = max(0, len(pool) - config.test)
    pool, test = pool[:cut], pool[cut:]
  test = test[: config.test]
  # Generated questions share runs of words by their templates: of 380, one or two with some of 300 others.
  words = 0 if config.kind == "word_problems" and not config.test_kind else OVERLAP_WORDS
  pool, overlapping = decontaminate_questions(pool, test, words=words)
  train, validation = pool[: config.train], pool[config.train : config.train + config.validation]
  _check_parts(config, train, validation, test, (*dropped, *overlapping))
  name = config.test_kind or config.kind
  return Tasks(
    benchmark=name,
    train=train,
    validation=validation,
    test=test,
    documents=documents,
    grader=_grader(config, test, judge),
    metric=get_metric(_graded_as(config)[-1]),
    dropped=(*dropped, *overlapping),
    words=words,
    notes=tuple(notes),
  )


def _generated(config: ConfigDict, seed: int) -> tuple[list[Question], list[Document]]:
  """Word problems: to train on, to validate on and, where they are asked for, to test on; and their documents."""
  world = word_problems.World.generate(seed)
  count = config.train + config.validation + (0 if config.test_kind else config.test)
  return word_problems.generate_questions(world, build_difficulty(config), seed=seed, count=count), world.documents()


def _read(config: ConfigDict, part: Literal["train", "test"], seed: int, notes: list[str]) -> list[Question]:
  """What lies where the training or the test questions come from, in the order in which they are taken.

  `notes` gets what a user should know of it.
  """
  kind, path, split, knob = config.kind, config.path, config.split, "tasks.path"
  if part == "test" and config.test_kind:
    kind, path, split, knob = config.test_kind, config.test_path, config.test_split, "tasks.test_path"
  if kind == "gsm8k":
    found = gsm8k.load_gsm8k(path, part, knob=knob)
    if part == "train":
      found = _playable(found, notes)
  elif kind == "questions":
    if path == "":
      raise UserError(f"{knob} = ''; give the file, folder, ORG/NAME of the hub or tfds:NAME of your questions")
    fields = QuestionFields(**config.fields.to_dict())
    found = asked(
      datasets.read_rows(path, split=split, knob=knob),
      lambda _: fields,
      remedy="set tasks.fields.{kind} to one of them",
    )
  else:
    found = benchmarks.load_benchmark(kind, path, knob=knob)
    if part == "test" or not config.test_kind:
      notes += benchmarks.describe_question_counts(kind, path, len(found), config.test)
  return order_by_hash(found, seed=seed)


def _playable(found: list[Question], notes: list[str]) -> list[Question]:
  """The questions whose worked solution can be played, and those without an answer, which are dropped and listed."""
  kept = [q for q in found if q.solution or not q.answer]
  if len(kept) < len(found):
    notes.append(f"{len(found) - len(kept)} of {len(found)} questions have no worked solution that plays; left out")
  return kept


def order_by_hash(questions: Iterable[Question], *, seed: int) -> list[Question]:
  """The questions as a seeded hash of their text puts them, whatever their order in a file."""
  return sorted(questions, key=lambda q: (hash_fraction(q, f"{seed}/order"), q.id))


def _check_names(config: ConfigDict) -> None:
  """
  Raises:
    UserError: a kind is none, no grader is named for questions of the user's own, or a path is of no kind.
  """
  kinds = {"kind": ("word_problems", *DATASET_KINDS, *BENCHMARKS), "test_kind": (*DATASET_KINDS, *BENCHMARKS, "")}
  if "questions" in (config.kind, config.test_kind):
    kinds["grader"] = ("gsm8k", "word_problems", *BENCHMARKS)
  for name, known in kinds.items():
    if config[name] not in known:
      nearest = difflib.get_close_matches(config[name], known, n=1)
      meant = f"did you mean {nearest[0]}? " if nearest else ""
      raise UserError(f"tasks.{name} = {config[name]!r}; {meant}choose from {', '.join(filter(None, known))}")
  if config.test_path and not config.test_kind:
    raise UserError(
      f"tasks.test_path = {config.test_path!r} without tasks.test_kind; name the kind, such as 'questions'"
    )


def _check_parts(
  config: ConfigDict,
  train: list[Question],
  validation: list[Question],
  test: list[Question],
  dropped: Sequence[DroppedQuestion],
) -> None:
  """
  Raises:
    UserError: there are too few questions, or a training and a test question have the same id.
  """
  for name, part in (("train", train), ("validation", validation), ("test", test)):
    if len(part) < config[name]:
      place = (config.test_path or config.test_kind if name == "test" else "") or config.path or config.kind
      raise UserError(
        f"tasks.{name} = {config[name]}, but {place} has {len(part)} such questions"
        + (f" (dropped: {describe_dropped(dropped)})" if dropped else "")
        + "; ask for fewer"
      )
  ids = {q.id for q in test}
  for question in (*train, *validation):
    if question.id in ids:
      raise UserError(
        f"the id {question.id!r} is of a training and of another test question; set tasks.fields.id = '', then ids "
        "are made from the text"
      )


def _grader(config: ConfigDict, test: list[Question], judge: Judge | None) -> Grader:
  """The grader of the training questions, and of the test questions where they have another one."""
  graders = [make_grader(name, judge) for name in dict.fromkeys(_graded_as(config))]
  return graders[0] if len(graders) == 1 else PerQuestionGrader(graders[0], {q.id: graders[1] for q in test})


def _graded_as(config: ConfigDict) -> list[str]:
  """The benchmarks as which training and test questions are graded."""
  return [config.grader if kind == "questions" else kind for kind in (config.kind, config.test_kind or config.kind)]


class PerQuestionGrader(contextlib.ExitStack):
  """Grades each question by a grader of its own, or by one for all others; left, it leaves those that are context
  managers."""

  def __init__(self, others: Grader, by_id: Mapping[str, Grader]):
    super().__init__()
    self._others, self._by_id = others, by_id
    for one in {id(g): g for g in (others, *by_id.values())}.values():
      if isinstance(one, contextlib.AbstractContextManager):
        self.push(one)

  def __call__(self, question: Question, answer: str) -> tuple[float | None, str]:
    return self._by_id.get(question.id, self._others)(question, answer)
