"""The files of a run. A file is written whole or not at all.

Several processes share one workdir. Process 0 writes the files; of checkpoints, each process writes its part.

config.json                      resolved configuration, versions, commit
split.json                       the part of each question
overlap.json                     questions that are left out, and why
stages/<stage>.json              identity, cost, findings; written when the stage is done
trajectories/<stage>/part-*.jsonl
journal/<stage>/part-*.jsonl     finished trajectories of a running stage; removed when it is done
checkpoints/<stage>/<step>/      orbax
metrics/<stage>.jsonl            and TensorBoard files; times of day are only here
metrics/stages.jsonl             seconds and devices of each stage, in each start of the run
eval/<model>/<benchmark>-*.jsonl and <benchmark>.json, the identity of the evaluation
profile/<stage>/                 traces, if any (runtime/profiler.py)
functions.json                   the file of functions that the run uses, if any (sandbox/interface.py)
trackers.json                    name of the run at metrics services (runtime/metrics.py)
failed/<stage>-<step>.npz        the batch of an update that gave a number that is not finite
results.json, report.html
lock                             the process that uses the workdir (runtime/lock.py)
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.runtime import processes
from score_jax.trajectory import Trajectory, parse_trajectories, trajectory_to_json

VISIBLE_TIMEOUT_S = 30.0  # time in which all processes must see a file that one wrote


class Workdir:
  """Paths and files of one run."""

  def __init__(self, root: str):
    """Creates the folder and checks that it can be written."""
    self.root = epath.Path(root)
    self.local = "://" not in os.fspath(self.root)
    try:
      self.root.mkdir(parents=True, exist_ok=True)
      probe = self.root / f".writable-{processes.process_index()}-{os.getpid()}"
      probe.write_text("", encoding="utf-8")
      probe.unlink()
    except OSError as error:
      raise UserError(
        f"workdir {root!r} cannot be written ({error.strerror or error}); give another --workdir"
      ) from error
    except ImportError as error:
      raise UserError(
        f"workdir {root!r} needs a package that is not installed ({error}); pip install score_jax[gcs]"
      ) from error

  def require_shared(self) -> None:
    """Checks that all processes see the same folder; the error names the processes that do not."""
    if processes.process_count() == 1:
      return
    name = processes.run_on_primary("workdir", lambda: f".shared-{secrets.token_hex(8)}")
    self.write(name, "")
    processes.all_gather("workdir written", None)
    seen = processes.all_gather("workdir seen", [_becomes_visible(self.root / name), socket.gethostname()])
    if processes.is_primary():
      (self.root / name).unlink()
    blind = [f"process {i} ({host})" for i, (saw, host) in enumerate(seen) if not saw]
    if blind:
      raise UserError(
        f"workdir {os.fspath(self.root)!r} is another folder for {', '.join(blind)}; give a --workdir that all "
        "processes share: on gs:// or a network file system"
      )

  def write(self, name: str, text: str) -> None:
    """Writes a file whole: to a draft beside it, then renamed. Only process 0 writes.

    If it fails (full disk, lost permission), the old file is still there.
    """
    self.write_bytes(name, text.encode())

  def write_bytes(self, name: str, data: bytes) -> None:
    """As `write`, for bytes."""
    if not processes.is_primary():
      return
    path = self.root / name
    draft = path.parent / f".{path.name}.draft"
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      draft.write_bytes(data)
      draft.replace(path)
    except OSError as error:
      with contextlib.suppress(OSError):  # a half-written draft takes room on a full disk
        draft.unlink(missing_ok=True)
      raise UserError(cannot_write_message(path, error)) from error

  def append(self, name: str, data: bytes, known: int) -> None:
    """Appends `data[known:]` to the file, whose first `known` bytes are there; on gs:// writes all of `data`."""
    if not (self.local and known):
      self.write_bytes(name, data)
      return
    if not processes.is_primary():
      return
    try:
      with (self.root / name).open("ab") as file:
        file.write(data[known:])
    except OSError as error:
      raise UserError(cannot_write_message(self.root / name, error)) from error

  def remove(self, name: str) -> None:
    """Removes a file or folder, if there is one. Only process 0 removes."""
    if not processes.is_primary():
      return
    path = self.root / name
    if path.is_dir():
      path.rmtree()
    else:
      path.unlink(missing_ok=True)

  def read_all(self, folder: str, pattern: str) -> dict[str, str]:
    """Name within the workdir -> text, of the files in a folder; invalid UTF-8 is replaced."""
    found = sorted((self.root / folder).glob(pattern), key=lambda path: path.name)
    return {f"{folder}/{path.name}": path.read_bytes().decode(errors="replace") for path in found}

  def write_json(self, name: str, data: Any) -> None:
    self.write(name, json.dumps(data, indent=1, sort_keys=True) + "\n")

  def append_json_line(self, name: str, data: Any) -> None:
    """Adds a line of JSON to a file, which is written whole again."""
    if not processes.is_primary():
      return
    path = self.root / name
    try:
      before = path.read_bytes() if path.exists() else b""
    except OSError as error:
      raise UserError(cannot_write_message(path, error)) from error
    self.write_bytes(name, before + f"{json.dumps(data)}\n".encode())

  def read_json(self, name: str) -> Any | None:
    """The content of a JSON file; None where there is none. Read by process 0 for all processes."""
    return processes.run_on_primary(f"read {name}", lambda: self._read_json(name))

  def _read_json(self, name: str) -> Any | None:
    path = self.root / name
    if not path.exists():
      return None
    try:
      return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
      raise UserError(f"{path} is damaged ({error}); delete it and start again") from error

  def write_part(self, stage: str, number: int, trajectories: Iterable[Trajectory]) -> None:
    """Writes one part of a stage's trajectories, whole."""
    self.write(
      f"trajectories/{stage}/part-{number:05d}.jsonl", "".join(trajectory_to_json(t) + "\n" for t in trajectories)
    )

  def read_parts(self, stage: str, *, below: int | None = None) -> Iterator[Trajectory]:
    """All trajectories of a stage in order; with `below` those of the parts 0 to below - 1, which must be there."""
    folder = self.root / "trajectories" / stage
    names = processes.run_on_primary(f"parts of {stage}", lambda: sorted(p.name for p in folder.glob("part-*.jsonl")))
    paths = {int(name.removeprefix("part-").removesuffix(".jsonl")): folder / name for name in names}
    if missing := sorted(set(range(below or 0)) - paths.keys()):
      raise UserError(
        f"{folder / f'part-{missing[0]:05d}.jsonl'} is missing; delete checkpoints/{stage} and start again: "
        "the stage is made once more"
      )
    for number, path in sorted(paths.items()):
      if below is None or number < below:
        yield from _read_trajectories(path, stage)

  def read_part(self, stage: str, number: int) -> list[Trajectory]:
    """The trajectories of one part; [] where there is no such part."""
    path = self.root / f"trajectories/{stage}/part-{number:05d}.jsonl"
    return list(_read_trajectories(path, stage)) if processes.broadcast(path.exists()) else []

  def checkpoint_folder(self, stage: str) -> epath.Path:
    return self.root / "checkpoints" / stage


def read_run_config(root: str) -> ConfigDict:
  """The configuration of the run in the folder `root`."""
  if not epath.Path(root).is_dir():
    raise UserError(f"workdir {root}: there is no such folder; give that of a run")
  found = Workdir(root).read_json("config.json")
  if found is None:
    raise UserError(f"workdir {root}: there is no config.json in it; give the folder of a run")
  return ConfigDict(found["config"])


def _read_trajectories(path: epath.Path, stage: str) -> Iterator[Trajectory]:
  try:
    with path.open(encoding="utf-8") as lines:
      yield from parse_trajectories(lines)
  except ValueError as error:
    raise UserError(
      f"{path} is damaged ({error}); delete it, stages/{stage}.json and checkpoints/{stage}, and start again: "
      "the stage is made once more"
    ) from error


def cannot_write_message(path: epath.Path, reason: object) -> str:
  """The message for a file or folder that cannot be written; `reason` is the error or a text."""
  if isinstance(reason, OSError):
    reason = reason.strerror or reason
  return f"{path} cannot be written ({reason}); mend that and start again: everything up to here is kept"


def _becomes_visible(path: epath.Path) -> bool:
  """Whether a file is there within `VISIBLE_TIMEOUT_S`: network file systems may show it late."""
  end = time.monotonic() + VISIBLE_TIMEOUT_S
  while not path.exists():
    if time.monotonic() >= end:
      return False
    time.sleep(0.5)
  return True
