"""GSM8K: grade-school word problems, most with a worked answer that an agent can play (tasks/annotations.py)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from etils import epath

from score_jax.errors import UserError
from score_jax.tasks.annotations import number, script
from score_jax.tasks.split import normalised
from score_jax.trajectory import Question

Split = Literal["train", "test"]


def read(path: str, split: Split) -> list[Question]:
  """All questions of a split, in the given order.

  Args:
    path: a folder with train.jsonl and test.jsonl, whose lines have `question` and `answer`; "" fetches the
      dataset openai/gsm8k from the Hugging Face Hub.
    split: which part.

  Raises:
    UserError: there is no such file, a row is not of this form, or the Hub cannot be reached.
  """
  rows = _fetched(split) if path == "" else _stored(epath.Path(path) / f"{split}.jsonl")
  return [_question(row, where) for where, row in rows]


def _stored(file: epath.Path) -> Iterator[tuple[str, Any]]:
  if not file.exists():
    raise UserError(f"{file} does not exist; set tasks.path to a folder with train.jsonl and test.jsonl")
  for index, line in enumerate(file.read_text().splitlines(), start=1):
    where = f"{file}:{index}"
    try:
      yield where, json.loads(line)
    except json.JSONDecodeError as error:
      raise UserError(f"{where}: {line[:40]!r} is no JSON ({error}); fetch the file again") from error


def _fetched(split: Split) -> Iterable[tuple[str, Any]]:
  try:
    import datasets
  except ImportError as error:
    raise UserError("tasks.path='' needs the package datasets; install it or set tasks.path to a folder") from error
  try:
    rows = datasets.load_dataset("openai/gsm8k", "main", split=split)
  except OSError as error:  # what datasets raises when it is offline is one
    remedy = "set tasks.path to a folder with train.jsonl and test.jsonl"
    raise UserError(f"dataset openai/gsm8k cannot be fetched ({error}); {remedy}") from error
  return ((f"openai/gsm8k {split} row {i}", row) for i, row in enumerate(rows))


def _question(row: Mapping[str, str], where: str) -> Question:
  try:
    text, (worked, marked, final) = row["question"], row["answer"].rpartition("####")
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(f"{where}: {str(row)[:40]!r} lacks the text fields question and answer; give GSM8K's") from error
  answer = final.strip().replace(",", "").removeprefix("$")
  if not marked or number(answer) is None:
    raise UserError(f"{where}: the answer ends with {final[-40:]!r}, not with '#### ' and a number; give GSM8K's")
  solution = script(text, worked, answer)
  return Question(
    id=hashlib.sha256(normalised(text).encode()).hexdigest()[:12],
    text=text,
    answer=answer,
    steps=max(0, len(solution) - 1),
    solution=solution,
  )
