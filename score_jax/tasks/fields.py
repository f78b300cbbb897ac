"""Questions from rows: which of a row's fields are the question, its answer, its id and other right answers."""

from __future__ import annotations

import dataclasses
import hashlib
import math
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

  A row without a question or an answer (null, NaN, infinite, blank) gives one with an empty text or answer, which
  tasks/overlap.py drops and lists.

  Raises:
    UserError: a row lacks a field, or two questions of different text have the same id.
  """
  found: list[Question] = []
  seen: dict[str, tuple[str, str]] = {}
  for where, row in rows:
    question = _question(where, row, fields(row), remedy, prefix)
    text = normalised(question.text)
    before, there = seen.setdefault(question.id, (text, where)) if text else (text, where)
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
    found, value = _value(row, name)
    if not found:
      there = ", ".join(map(str, row))
      raise UserError(f"{where}: there is no field {name!r}, only {there}; {remedy.format(kind=kind)}")
    return _texts(value, f"{where}: field {name!r}")

  text = " ".join(texts("question"))
  made = id_of(text) if normalised(text) else where
  answer, *others = texts("answer") or [""]
  name = "".join(texts("id")) or made
  aliases = dict.fromkeys([*others, *texts("aliases")])
  return Question(prefix + name, text, answer, aliases=tuple(a for a in aliases if a and a != answer))


def id_of(text: str) -> str:
  """The id of a question that brings none: texts of one normal form have the same."""
  return hashlib.sha256(normalised(text).encode()).hexdigest()[:12]


def blank(value: Any) -> bool:
  """Whether a row says nothing here: null, NaN or an infinity, as tables write what is missing, or blank text."""
  if isinstance(value, float):
    return not math.isfinite(value)
  return value is None or (isinstance(value, str) and not value.strip())


def _value(row: Row, name: str) -> tuple[bool, Any]:
  """Whether there is such a field, and its value; a dotted name leads into it."""
  value: Any = row
  for part in [name] if name in row else name.split("."):
    if blank(value):  # what would hold the field is null
      return True, None
    if not isinstance(value, Mapping) or part not in value:
      return False, None
    value = value[part]
  return True, value


def _texts(value: Any, where: str) -> list[str]:
  """A text or a number, or each of a list, as text; nothing for what is blank.

  Raises:
    UserError: it is something else.
  """
  if isinstance(value, list | tuple):
    return [text for v in value for text in _texts(v, where)]
  if blank(value):
    return []
  if isinstance(value, bool) or not isinstance(value, str | int | float):
    raise UserError(f"{where} is {str(value)[:40]!r} ({type(value).__name__}); give text, a number or a list of them")
  if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
    return [str(int(value))]
  return [str(value).strip()]
