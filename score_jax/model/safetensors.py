"""Tensors in the safetensors files of a Hugging Face folder: one file, or shards and their index."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from score_jax.errors import UserError
from score_jax.model.names import Shape
from score_jax.model.weights import Named

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")


class Safetensors:
  """The tensors of a folder; the files are mapped, so what is not read takes no memory."""

  def __init__(self, folder: pathlib.Path):
    """
    Raises:
      UserError: a file is missing, damaged, or holds what is no plain tensor; names file and tensor.
    """
    self.source = str(folder)
    self.shapes: dict[str, Shape] = {}
    self._files: dict[str, pathlib.Path] = {}
    index = folder / INDEX
    promised = _weight_map(index) if index.exists() else {}
    self._open = {
      path: _open(path) for path in sorted({folder / file for file in promised.values()} or {folder / WHOLE})
    }
    for path, file in self._open.items():
      for name in file.keys():  # noqa: SIM118, it is no dictionary
        self._add(name, path, file.get_slice(name))
    for name, file in promised.items():
      if self._files.get(name) != folder / file:
        raise UserError(f"{folder / file}: tensor {name} is missing, which {INDEX} says is there; fetch it again")

  def _add(self, name: str, path: pathlib.Path, found: Any) -> None:
    if found.get_dtype() not in FLOATS:
      raise UserError(f"{path}: tensor {name} is of {found.get_dtype()}; use weights in one of {', '.join(FLOATS)}")
    self.shapes[name], self._files[name] = tuple(found.get_shape()), path

  def file(self, name: str) -> str:
    return str(self._files[name])

  def read(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
    rows, *columns = part
    whole = slice(rows.start, min(rows.stop, self.shapes[name][0]))
    return self._open[self._files[name]].get_slice(name)[(whole, *columns)]


def _weight_map(index: pathlib.Path) -> dict[str, str]:
  try:
    return json.loads(index.read_text(encoding="utf-8"))["weight_map"]
  except (ValueError, KeyError) as error:
    raise UserError(f"{index} cannot be read ({error!r}); fetch it again") from error


def _open(path: pathlib.Path) -> Any:
  if not path.exists():
    raise UserError(f"{path} does not exist; give a folder with config.json and {WHOLE}, or all that {INDEX} names")
  try:
    return safe_open(path, framework="numpy")
  except (SafetensorError, OSError) as error:
    raise UserError(f"{path} cannot be read ({error}); fetch it again") from error


def save(folder: pathlib.Path, tensors: Sequence[Named], *, dtype: str, shard_bytes: int) -> None:
  """Writes tensors into as many files as none is greater than `shard_bytes`; one of them is on the host at a time."""
  width = np.dtype(dtype).itemsize
  shards: list[list[Named]] = [[]]
  for tensor in tensors:
    if shards[-1] and width * sum(t.size for t in (*shards[-1], tensor)) > shard_bytes:
      shards.append([])
    shards[-1].append(tensor)
  count = len(shards)
  files = [WHOLE] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
  for file, shard in zip(files, shards, strict=True):
    draft = folder / f".{file}.draft"
    save_file({t.name: t.fetch(dtype) for t in shard}, draft, metadata={"format": "pt"})
    draft.chmod(0o644)  # which safetensors leaves to its owner alone
    draft.replace(folder / file)
  if count > 1:
    weight_map = {t.name: file for file, shard in zip(files, shards, strict=True) for t in shard}
    total = {"total_size": width * sum(t.size for t in tensors)}
    (folder / INDEX).write_text(
      json.dumps({"metadata": total, "weight_map": weight_map}, indent=2) + "\n", encoding="utf-8"
    )
