"""The questions of a run by the name of their kind: train, validation and test, disjoint by normalised text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.tasks import gsm8k, word_problems
from score_jax.tasks.grade import Grader, grader
from score_jax.tasks.split import normalised, share
from score_jax.tools.search import Document
from score_jax.trajectory import Question


@dataclasses.dataclass(frozen=True)
class Tasks:
  """What a run works on."""

  benchmark: str
  train: list[Question]
  validation: list[Question]
  test: list[Question]
  documents: list[Document]  # what web_search answers from; none: no search
  grader: Grader


def difficulty(config: ConfigDict) -> word_problems.Difficulty:
  """The difficulty that a config asks for."""
  return word_problems.Difficulty(tuple(config.acts), tuple(config.operations), config.distractors)


def load(config: ConfigDict, *, seed: int) -> Tasks:
  """The questions that `config.tasks` asks for.

  Raises:
    UserError: the kind is unknown, a file is missing, or there are too few questions.
  """
  counts = (config.train, config.validation, config.test)
  if config.kind == "word_problems":
    world = word_problems.World.generate(seed)
    pool = word_problems.questions(world, difficulty(config), seed=seed, count=sum(counts))
    train, known = counts[0], counts[0] + counts[1]
    return Tasks(
      "word_problems", pool[:train], pool[train:known], pool[known:], world.documents(), grader("word_problems")
    )
  if config.kind == "gsm8k":
    pool = sorted(gsm8k.read(config.path, "train"), key=lambda q: share(q, f"{seed}/order"))
    solved = [q for q in pool if q.solution]
    others = sorted(gsm8k.read(config.path, "test"), key=lambda q: share(q, f"{seed}/order"))
    train, validation = solved[: counts[0]], solved[counts[0] : counts[0] + counts[1]]
    test = _without(others, solved)[: counts[2]]
    for name, wanted, part in zip(("train", "validation", "test"), counts, (train, validation, test), strict=True):
      if len(part) < wanted:
        raise UserError(
          f"tasks.{name} = {wanted}, but {config.path or 'gsm8k'} has {len(part)} such questions; ask for fewer"
        )
    return Tasks("gsm8k", train, validation, test, [], grader("gsm8k"))
  raise UserError(f"tasks.kind = {config.kind!r}; choose word_problems or gsm8k")


def _without(questions: Iterable[Question], others: Iterable[Question]) -> list[Question]:
  """The questions whose normalised text stands in none of the others."""
  seen = {normalised(q.text) for q in others}
  return [q for q in questions if normalised(q.text) not in seen]
