"""GSM8K: grade-school word problems, most with a worked answer that an agent can play (tasks/annotations.py)."""

from __future__ import annotations

from typing import Literal

from score_jax.errors import UserError
from score_jax.tasks import rows
from score_jax.tasks.annotations import number, script
from score_jax.tasks.fields import blank, id_of
from score_jax.tasks.rows import Row
from score_jax.trajectory import Question

Split = Literal["train", "test"]

HUB = "openai/gsm8k:main"


def read(path: str, split: Split, *, knob: str = "tasks.path") -> list[Question]:
  """All questions of a split, in the given order.

  Args:
    path: a folder with train.jsonl and test.jsonl, or what else tasks/rows.py reads, whose rows have `question` and
      `answer`; "" fetches the dataset openai/gsm8k from the Hugging Face Hub.
    split: which part.
    knob: the config's key that holds the path.

  Raises:
    UserError: there is no such file, a row is not of this form, or the Hub cannot be reached.
  """
  return [_question(row, where) for where, row in rows.read(path or HUB, split=split, knob=knob)]


def _question(row: Row, where: str) -> Question:
  if {"question", "answer"} <= row.keys() and (blank(row["question"]) or blank(row["answer"])):
    return Question(where, "" if blank(row["question"]) else str(row["question"]), "")  # dropped by tasks/overlap.py
  try:
    text, (worked, marked, final) = row["question"], row["answer"].rpartition("####")
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(f"{where}: {str(row)[:40]!r} lacks the text fields question and answer; give GSM8K's") from error
  answer = final.strip().replace(",", "").removeprefix("$")
  if not marked or number(answer) is None:
    raise UserError(f"{where}: the answer ends with {final[-40:]!r}, not with '#### ' and a number; give GSM8K's")
  solution = script(text, worked, answer)
  return Question(
    id=id_of(text),
    text=text,
    answer=answer,
    steps=max(0, len(solution) - 1),
    solution=solution,
  )
