"""Questions from rows: which of a row's fields are the question, its answer, its id and other right answers."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from score_jax.errors import UserError
from score_jax.tasks.normal_form import normalised
from score_jax.tasks.rows import Row
from score_jax.trajectory import Question


@dataclasses.dataclass(frozen=True)
class Fields:
  """Names of fields; "a.b" is field b within field a.

  A list for an answer is the answer and further right ones.
  """

  question: str = "question"
  answer: str = "answer"
  id: str = ""  # "": ids are made from the text
  aliases: str = ""  # "": there are none


def questions(
  rows: Iterable[tuple[str, Row]], fields: Callable[[Row], Fields], *, remedy: str, prefix: str = ""
) -> list[Question]:
  """One question a row.

  Args:
    rows: where each stands, and itself.
    fields: the fields of a row.
    remedy: what to do about a field that is not there; "{kind}" in it becomes question, answer, id or aliases.
    prefix: stands before every id.

  Raises:
    UserError: a row lacks a field or has no question, or two questions of different text have the same id.
  """
  found: list[Question] = []
  seen: dict[str, tuple[str, str]] = {}
  for where, row in rows:
    question = _question(where, row, fields(row), remedy, prefix)
    text = normalised(question.text)
    before, there = seen.setdefault(question.id, (text, where))
    if before != text:
      raise UserError(
        f"{where}: the id {question.id!r} has another question at {there}; give each its own, or leave out the field "
        "of ids, then they are made from the text"
      )
    found.append(question)
  return found


def _question(where: str, row: Row, fields: Fields, remedy: str, prefix: str) -> Question:
  def texts(kind: str) -> list[str]:
    name = getattr(fields, kind)
    if not name:
      return []
    value = _value(row, name)
    if value is None:
      there = ", ".join(map(str, row))
      raise UserError(f"{where}: there is no field {name!r}, only {there}; {remedy.format(kind=kind)}")
    return _texts(value, f"{where}: field {name!r}")

  text = " ".join(texts("question"))
  if not normalised(text):
    raise UserError(f"{where}: the question {text[:40]!r} has no words; leave the row out")
  answer, *others = texts("answer") or [""]
  name = "".join(texts("id")) or hashlib.sha256(normalised(text).encode()).hexdigest()[:12]
  aliases = dict.fromkeys([*others, *texts("aliases")])
  return Question(prefix + name, text, answer, aliases=tuple(a for a in aliases if a and a != answer))


def _value(row: Row, name: str) -> Any | None:
  """The value of a field; a dotted name leads into it; None when it is not there, or null."""
  value: Any = row
  for part in [name] if name in row else name.split("."):
    value = value.get(part) if isinstance(value, Mapping) else None
  return value


def _texts(value: Any, where: str) -> list[str]:
  """A text or a number, or each of a list, as text.

  Raises:
    UserError: it is something else.
  """
  if isinstance(value, list | tuple):
    return [text for v in value for text in _texts(v, where)]
  if isinstance(value, bool) or not isinstance(value, str | int | float):
    raise UserError(f"{where} is {str(value)[:40]!r} ({type(value).__name__}); give text, a number or a list of them")
  if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
    return [str(int(value))]
  return [str(value).strip()]
