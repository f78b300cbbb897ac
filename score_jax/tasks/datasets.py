"""Rows of data sets, and questions made from rows. TensorFlow is not needed.

`read_rows` reads these:

FILE.jsonl               a JSON object a line
FILE.json                a list of objects, or {"examples": [...]}
FILE.parquet
DIR                      SPLIT.jsonl, .json or .parquet in it; what Hugging Face's `save_to_disk` wrote; a tree of
                         parquet files; or what tensorflow_datasets prepared as array_record
ORG/NAME, ORG/NAME:CONFIG   a data set on the Hugging Face hub
tfds:NAME                a data set of tensorflow_datasets, which prepares it as array_record if it has to

Every row comes with its location, for error messages. `build_questions` turns rows into questions; `QuestionFields`
names the fields of question, answer, id and aliases.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from score_jax.errors import UserError
from score_jax.tasks.splits import normalise_question
from score_jax.text import parse_json
from score_jax.trajectory import Question


@dataclasses.dataclass(frozen=True)
class QuestionFields:
  """Names of fields; "a.b" is field b within field a.

  A list for an answer is the answer and further right ones.
  """

  question: str = "question"
  answer: str = "answer"
  id: str = ""  # "": ids are made from the text
  aliases: str = ""  # "": there are none


def build_questions(
  rows: Iterable[tuple[str, Row]], fields: Callable[[Row], QuestionFields], *, remedy: str, prefix: str = ""
) -> list[Question]:
  """One question a row.

  Args:
    rows: where each stands, and itself.
    fields: the fields of a row.
    remedy: what to do about a field that is not there; "{kind}" in it becomes question, answer, id or aliases.
    prefix: stands before every id.

  A row without a question or an answer (null, NaN, infinite, blank) gives one with an empty text or answer, which
  tasks/splits.py drops and lists.

  Raises:
    UserError: a row lacks a field, or two questions of different text have the same id.
  """
  found: list[Question] = []
  seen: dict[str, tuple[str, str]] = {}
  for where, row in rows:
    question = _question(where, row, fields(row), remedy, prefix)
    text = normalise_question(question.text)
    before, there = seen.setdefault(question.id, (text, where)) if text else (text, where)
    if before != text:
      raise UserError(
        f"{where}: the id {question.id!r} has another question at {there}; give each its own, or leave out the field "
        "of ids, then they are made from the text"
      )
    found.append(question)
  return found


def _question(where: str, row: Row, fields: QuestionFields, remedy: str, prefix: str) -> Question:
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
  made = make_question_id(text) if normalise_question(text) else where
  answer, *others = texts("answer") or [""]
  name = "".join(texts("id")) or made
  aliases = dict.fromkeys([*others, *texts("aliases")])
  return Question(prefix + name, text, answer, aliases=tuple(a for a in aliases if a and a != answer))


def make_question_id(text: str) -> str:
  """The id of a question that brings none: texts of one normal form have the same."""
  return hashlib.sha256(normalise_question(text).encode()).hexdigest()[:12]


def is_blank(value: Any) -> bool:
  """Whether a row says nothing here: null, NaN or an infinity, as tables write what is missing, or blank text."""
  if isinstance(value, float):
    return not math.isfinite(value)
  return value is None or (isinstance(value, str) and not value.strip())


def _value(row: Row, name: str) -> tuple[bool, Any]:
  """Whether there is such a field, and its value; a dotted name leads into it."""
  value: Any = row
  for part in [name] if name in row else name.split("."):
    if is_blank(value):  # what would hold the field is null
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
  if is_blank(value):
    return []
  if isinstance(value, bool) or not isinstance(value, str | int | float):
    raise UserError(f"{where} is {str(value)[:40]!r} ({type(value).__name__}); give text, a number or a list of them")
  if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
    return [str(int(value))]
  return [str(value).strip()]


Row = Mapping[str, Any]
LocatedRows = Iterator[tuple[str, Row]]

FILE_SUFFIXES = (".jsonl", ".json", ".parquet")
HUB_PATTERN = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def read_rows(path: str, *, split: str, knob: str) -> LocatedRows:
  """The rows that lie at a path, in their order.

  Args:
    path: see above.
    split: which part, of what has parts.
    knob: the key of the config that holds the path.

  Raises:
    UserError: while it is read, when nothing is there, it cannot be fetched or has no such part, or a row is no object.
  """
  place = epath.Path(path)
  if path.startswith("tfds:"):
    return _tfds(path, split, knob)
  if place.is_dir():
    return _folder(place, split, knob)
  if place.exists():
    return _file(place, knob)
  if HUB_PATTERN.fullmatch(path) and not path.endswith(FILE_SUFFIXES):
    repository, _, part = path.partition(":")
    return _loaded(repository, part or None, split, knob, "cannot be fetched")
  raise UserError(
    f"{knob} = {path!r}: there is no such file or folder; give one, or ORG/NAME of the Hugging Face hub, or tfds:NAME"
  )


def _folder(folder: epath.Path, split: str, knob: str) -> LocatedRows:
  for suffix in FILE_SUFFIXES:
    if (folder / f"{split}{suffix}").exists():
      return _file(folder / f"{split}{suffix}", knob)
  if (folder / "features.json").exists():
    return _tfds(folder, split, knob)
  if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
    return _saved(folder, split, knob)
  if any(folder.glob("*.parquet")) or any(folder.glob("*/*.parquet")):
    return _loaded(str(folder), None, split, knob, "cannot be read")
  raise UserError(
    f"{folder / f'{split}.jsonl'} does not exist; set {knob} to a folder with that file, or of Hugging Face datasets "
    "(save_to_disk, parquet), or of one version of a set of tensorflow_datasets"
  )


def _file(file: epath.Path, knob: str) -> LocatedRows:
  if file.suffix == ".jsonl":
    return _lines(file)
  if file.suffix == ".json":
    return _listed(file)
  if file.suffix == ".parquet":
    return _parquet(file)
  raise UserError(
    f"{knob} = {str(file)!r} ends with {file.suffix!r}; give a file that ends with {', '.join(FILE_SUFFIXES)}"
  )


# JSON


def read_utf8(file: epath.Path) -> str:
  """The text of a file, without a byte order mark."""
  try:
    return file.read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{file} is not in UTF-8 ({error}); save it so") from error


def _lines(file: epath.Path) -> LocatedRows:
  for number, line in enumerate(read_utf8(file).split("\n"), start=1):
    if line.strip():  # other marks than \n may stand within JSON text, so splitlines will not do
      yield _checked(f"{file}:{number}", _parsed(line, f"{file}:{number}"))


def _parsed(text: str, where: str) -> Any:
  try:
    return parse_json(text)
  except json.JSONDecodeError as error:
    raise UserError(f"{where}: {text[:40]!r} is no JSON ({error}); mend the file or fetch it again") from error


def _listed(file: epath.Path) -> LocatedRows:
  data = _parsed(read_utf8(file), str(file))
  rows = data.get("examples") if isinstance(data, dict) else data
  if not isinstance(rows, list):
    raise UserError(f'{file} holds neither a list nor {{"examples": [...]}}; give one of them, or a .jsonl file')
  for number, row in enumerate(rows, start=1):
    yield _checked(f"{file} row {number}", row)


def _checked(where: str, row: Any) -> tuple[str, Row]:
  if not isinstance(row, dict):
    raise UserError(f"{where}: {str(row)[:40]!r} is no JSON object; give one with fields such as question and answer")
  return where, row


# Hugging Face datasets


def _parquet(file: epath.Path) -> LocatedRows:
  import datasets
  from datasets.exceptions import DatasetsError

  try:
    found = datasets.Dataset.from_parquet(str(file))
  except (OSError, ValueError, DatasetsError) as error:
    raise UserError(f"{file} is no parquet file ({_line(error)}); write it again") from error
  yield from _numbered(found, str(file))


def _saved(folder: epath.Path, split: str, knob: str) -> LocatedRows:
  """What `save_to_disk` wrote: the split of a set that has some, else all of it."""
  import datasets

  try:
    found = datasets.load_from_disk(str(folder))
  except (OSError, ValueError) as error:
    raise UserError(f"{folder} cannot be read ({_line(error)}); save the data set again") from error
  if isinstance(found, datasets.DatasetDict):
    if split not in found:
      raise UserError(f"{folder} has no split {split!r}; it has {', '.join(map(str, found))}: {_other_split(knob)}")
    found = found[split]
  yield from _numbered(found, f"{folder} {split}")


def _loaded(repository: str, part: str | None, split: str, knob: str, failed: str) -> LocatedRows:
  """A data set on the hub, or a folder of parquet files, which is laid out like one."""
  import datasets
  from datasets.exceptions import DatasetsError

  try:
    found = datasets.load_dataset(repository, part, split=split)
  except (OSError, ValueError, DatasetsError) as error:  # being offline is an OSError
    if "gated" in str(error).lower():
      raise UserError(f"{repository} is gated: {explain_gated_access(repository)}, or set {knob} to a file") from error
    remedy = f"set {knob} to a file or folder, or {_other_split(knob)}"
    raise UserError(f"data set {repository} {failed} ({_line(error)}); {remedy}") from error
  yield from _numbered(found, f"{repository} {part or ''} {split}".replace("  ", " "))


def explain_gated_access(repository: str) -> str:
  """How a user comes to read a gated data set."""
  return (
    f"(1) sign in at https://huggingface.co/datasets/{repository} and accept its terms, (2) make a token with read "
    "access at https://huggingface.co/settings/tokens, (3) run `hf auth login` or set HF_TOKEN to it, and start again"
  )


def _numbered(rows: Any, where: str) -> LocatedRows:
  """Rows of a `datasets.Dataset`, without columns that would have to be decoded, such as pictures."""
  media = [name for name, feature in rows.features.items() if hasattr(feature, "decode_example")]
  for number, row in enumerate(rows.remove_columns(media)):
    yield f"{where} row {number}", row


# tensorflow_datasets


def _tfds(place: str | epath.Path, split: str, knob: str) -> LocatedRows:
  """A folder of one version of a set, or tfds: and a name."""
  import tensorflow_datasets

  tfds: Any = tensorflow_datasets  # its names come late, and unknown to type checkers
  try:
    if isinstance(place, str):
      rows = tfds.data_source(place.removeprefix("tfds:"), split=split)
    else:
      rows = tfds.builder_from_directory(place).as_data_source(split)
  except (OSError, ValueError, NotImplementedError, ImportError) as error:
    raise UserError(
      f"{place}: tensorflow_datasets cannot read it ({_line(error)}); set {knob} to the folder of one version, "
      f"prepared with file_format='array_record', or {_other_split(knob)}"
    ) from error
  yield from _decoded(rows, f"{place} {split}")


def _decoded(rows: Iterable[Any], where: str) -> LocatedRows:
  for number, row in enumerate(rows):
    yield f"{where} row {number}", _plain(row)


def _plain(value: Any) -> Any:
  """Text for bytes, lists for arrays, Python's numbers for numpy's."""
  if isinstance(value, bytes):
    return value.decode("utf-8", errors="replace")
  if isinstance(value, np.ndarray):
    return [_plain(v) for v in value.tolist()] if value.ndim else _plain(value.item())
  if isinstance(value, np.generic):
    return _plain(value.item())
  if isinstance(value, Mapping):
    return {name: _plain(v) for name, v in value.items()}
  return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _other_split(knob: str) -> str:
  return f"choose another {knob.replace('path', 'split')}"


def _line(error: Exception) -> str:
  """The first line of what a library said, cut."""
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
