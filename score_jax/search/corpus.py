"""Passages that lie in a JSONL file, and the index that is built of it once.

The index stands in a folder named by the file's SHA-256 and the rules by which it is made, so that runs and processes
share one and none takes another's. Beside bm25s' files it holds where each passage begins and ends in the JSONL file,
and the SHA-256 of each of its own files. Passages are read from the JSONL file when they are found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from score_jax.errors import UserError
from score_jax.search import passages
from score_jax.search.passages import BM25Index, Document, build_index_text

_LAYOUT = 1  # of the folder
_BOUNDS, _MANIFEST = "passages.npy", "manifest.json"


@dataclasses.dataclass(frozen=True)
class PassageFields:
  """Which keys of a line hold what."""

  title: str  # empty: the title is the first line of the text
  text: str

  def parse_document(self, row: Any) -> Document:
    """
    Raises:
      ValueError: a line does not have them, as text.
    """
    if not isinstance(row, dict):
      raise ValueError("no JSON object")
    for name in filter(None, (self.title, self.text)):
      if not isinstance(row.get(name), str):
        raise ValueError(f"no text under {name!r}, only {', '.join(map(repr, row)) or 'nothing'}")
    return Document(row[self.title], row[self.text]) if self.title else Document.from_contents(row[self.text])


class Corpus:
  """The passages of one JSONL file, by number. May be read from several threads at once."""

  def __init__(self, path: pathlib.Path, *, fields: PassageFields, sha256: str, indexes: pathlib.Path):
    """Reads the file once, to know it by its SHA-256, and maps its index, which is made where there is none.

    Args:
      path: the file; one JSON object a line.
      fields: where a line has title and text.
      sha256: what the file has to have, in hexadecimal; empty: anything.
      indexes: the folder of all indexes.

    Raises:
      UserError: the file is missing, another one than meant, or none of passages; or its index is damaged.
    """
    self._path, self._fields = path, fields
    try:
      self._file = path.open("rb")
    except OSError as error:
      raise UserError(
        f"tools.search.path={str(path)!r} cannot be read ({error.strerror}); give a JSONL file of passages"
      ) from error
    try:
      self._state = self._stat()
      self.sha256 = hashlib.file_digest(self._file, "sha256").hexdigest()
      if sha256 and sha256.lower() != self.sha256:
        raise UserError(
          f"tools.search.sha256={sha256!r}, but {path} has {self.sha256}: give the file that was meant, or its SHA-256"
        )
      self.folder = indexes / self._name()
      if not self.folder.exists():
        self._make()
      self.index, self._bounds = _load(self.folder)
    except BaseException:
      self.close()
      raise

  def close(self) -> None:
    self._file.close()

  def __len__(self) -> int:
    return len(self._bounds)

  def __getitem__(self, number: int) -> Document:
    """
    Raises:
      OSError: the file cannot be read, or was changed.
    """
    start, end = self._bounds[number]
    line = os.pread(self._file.fileno(), int(end - start), int(start))
    if self._stat() != self._state:
      raise OSError(f"{self._path} was changed while it was in use")
    return self._fields.parse_document(json.loads(line))

  def _stat(self) -> tuple[int, int]:
    found = os.stat(self._file.fileno())
    return found.st_size, found.st_mtime_ns

  def _name(self) -> str:
    what = {
      "layout": _LAYOUT,
      "corpus": self.sha256,
      "fields": dataclasses.astuple(self._fields),
      "rules": passages.INDEX_RULES,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]

  def _make(self) -> None:
    """Builds the index beside its place and moves it there, unless another process was faster."""
    try:
      self.folder.parent.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryDirectory(prefix=".draft-", dir=self.folder.parent) as draft:
        self._write(pathlib.Path(draft) / "index")
        try:
          os.rename(pathlib.Path(draft) / "index", self.folder)
        except OSError:
          if not self.folder.exists():
            raise
    except OSError as error:
      raise UserError(
        f"no index can be written to {self.folder.parent} ({error.strerror or error}); give tools.search.index another"
      ) from error

  def _write(self, folder: pathlib.Path) -> None:
    bounds: list[tuple[int, int]] = []
    BM25Index.build(build_index_text(document) for document in self._scan(bounds)).save(folder)
    np.save(folder / _BOUNDS, np.array(bounds, np.int64))
    (folder / _MANIFEST).write_text(json.dumps(_hashes(folder), indent=1, sort_keys=True) + "\n", encoding="utf-8")

  def _scan(self, bounds: list[tuple[int, int]]) -> Iterator[Document]:
    """All passages in order; `bounds` gets where each begins and ends. Blank lines are none."""
    self._file.seek(0)
    read, end = hashlib.sha256(), 0
    for number, line in enumerate(self._file, 1):
      start, end = end, end + len(line)
      read.update(line)
      if not line.strip():
        continue
      try:
        document = self._fields.parse_document(json.loads(line))
      except (ValueError, RecursionError) as error:
        raise UserError(
          f"{self._path} line {number} is no passage ({error}); "
          "name its keys in tools.search.title and tools.search.text, or mend it"
        ) from error
      bounds.append((start, end))
      yield document
    if read.hexdigest() != self.sha256:
      raise UserError(f"{self._path} was changed while it was read; start again when it is complete")


def _load(folder: pathlib.Path) -> tuple[BM25Index, np.ndarray]:
  try:
    if _hashes(folder) != json.loads((folder / _MANIFEST).read_text(encoding="utf-8")):
      raise ValueError("its files are not those that were written")
    return BM25Index.load(folder), np.load(folder / _BOUNDS, mmap_mode="r")
  except (OSError, ValueError, KeyError) as error:
    raise UserError(f"the search index {folder} is damaged ({error}); delete it, and it is made again") from error


def _hashes(folder: pathlib.Path) -> dict[str, str]:
  found: dict[str, str] = {}
  for path in sorted(folder.iterdir()):
    if path.name != _MANIFEST:
      with path.open("rb") as file:
        found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
  return found
