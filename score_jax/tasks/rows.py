"""Rows of data sets, wherever they lie; TensorFlow is not needed.

FILE.jsonl               a JSON object a line
FILE.json                a list of objects, or {"examples": [...]}
FILE.parquet
DIR                      SPLIT.jsonl, .json or .parquet in it; what Hugging Face's `save_to_disk` wrote; a tree of
                         parquet files; or what tensorflow_datasets prepared as array_record
ORG/NAME, ORG/NAME:CONFIG   on the Hugging Face hub
tfds:NAME                of tensorflow_datasets, which prepares it as array_record if it has to

Every row comes with where it stands, for what is said of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from score_jax.errors import UserError
from score_jax.text import from_json, read_utf8

Row = Mapping[str, Any]
Rows = Iterator[tuple[str, Row]]

SUFFIXES = (".jsonl", ".json", ".parquet")
HUB = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def read(path: str, *, split: str, knob: str) -> Rows:
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
  if HUB.fullmatch(path) and not path.endswith(SUFFIXES):
    repository, _, part = path.partition(":")
    return _loaded(repository, part or None, split, knob, "cannot be fetched")
  raise UserError(
    f"{knob} = {path!r}: there is no such file or folder; give one, or ORG/NAME of the Hugging Face hub, or tfds:NAME"
  )


def _folder(folder: epath.Path, split: str, knob: str) -> Rows:
  for suffix in SUFFIXES:
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


def _file(file: epath.Path, knob: str) -> Rows:
  if file.suffix == ".jsonl":
    return _lines(file)
  if file.suffix == ".json":
    return _listed(file)
  if file.suffix == ".parquet":
    return _parquet(file)
  raise UserError(f"{knob} = {str(file)!r} ends with {file.suffix!r}; give a file that ends with {', '.join(SUFFIXES)}")


# JSON


def _lines(file: epath.Path) -> Rows:
  for number, line in enumerate(read_utf8(file).split("\n"), start=1):
    if line.strip():  # other marks than \n may stand within JSON text, so splitlines will not do
      yield _checked(f"{file}:{number}", _parsed(line, f"{file}:{number}"))


def _parsed(text: str, where: str) -> Any:
  try:
    return from_json(text)
  except json.JSONDecodeError as error:
    raise UserError(f"{where}: {text[:40]!r} is no JSON ({error}); mend the file or fetch it again") from error


def _listed(file: epath.Path) -> Rows:
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


def _parquet(file: epath.Path) -> Rows:
  import datasets
  from datasets.exceptions import DatasetsError

  try:
    found = datasets.Dataset.from_parquet(str(file))
  except (OSError, ValueError, DatasetsError) as error:
    raise UserError(f"{file} is no parquet file ({_line(error)}); write it again") from error
  yield from _numbered(found, str(file))


def _saved(folder: epath.Path, split: str, knob: str) -> Rows:
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


def _loaded(repository: str, part: str | None, split: str, knob: str, failed: str) -> Rows:
  """A data set on the hub, or a folder of parquet files, which is laid out like one."""
  import datasets
  from datasets.exceptions import DatasetsError

  try:
    found = datasets.load_dataset(repository, part, split=split)
  except (OSError, ValueError, DatasetsError) as error:  # being offline is an OSError
    if "gated" in str(error).lower():
      raise UserError(f"{repository} is gated: {steps_to_access(repository)}, or set {knob} to a file") from error
    remedy = f"set {knob} to a file or folder, or {_other_split(knob)}"
    raise UserError(f"data set {repository} {failed} ({_line(error)}); {remedy}") from error
  yield from _numbered(found, f"{repository} {part or ''} {split}".replace("  ", " "))


def steps_to_access(repository: str) -> str:
  """How a user comes to read a gated data set."""
  return (
    f"(1) sign in at https://huggingface.co/datasets/{repository} and accept its terms, (2) make a token with read "
    "access at https://huggingface.co/settings/tokens, (3) run `hf auth login` or set HF_TOKEN to it, and start again"
  )


def _numbered(rows: Any, where: str) -> Rows:
  """Rows of a `datasets.Dataset`, without columns that would have to be decoded, such as pictures."""
  media = [name for name, feature in rows.features.items() if hasattr(feature, "decode_example")]
  for number, row in enumerate(rows.remove_columns(media)):
    yield f"{where} row {number}", row


# tensorflow_datasets


def _tfds(place: str | epath.Path, split: str, knob: str) -> Rows:
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


def _decoded(rows: Iterable[Any], where: str) -> Rows:
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
