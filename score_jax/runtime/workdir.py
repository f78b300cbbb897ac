"""The folder of a run: what lies where, written so that a file is there whole or not at all.

Several processes share one. The first of them writes, but for checkpoints, of which each writes its part.

config.json                      resolved configuration, versions, commit
split.json                       which question is in which part
overlap.json                     which questions are not used, and why
stages/<stage>.json              written when a stage is done: identity, cost, findings
trajectories/<stage>/part-*.jsonl
journal/<stage>/part-*.jsonl     finished trajectories of a stage at work; they go when it is done
checkpoints/<stage>/<step>/      orbax
metrics/<stage>.jsonl            and TensorBoard's files; clock times stand only here
metrics/stages.jsonl             seconds and devices of each stage, in each start of the run
eval/<model>/<benchmark>-*.jsonl  and <benchmark>.json, the identity of what was examined
profile/<stage>/                 traces, if there are any (profiling.py)
functions.json                   which file of functions it was begun with, if any (sandbox/interface.py)
trackers.json                    the run's name for services that are told of it (trackers.py)
failed/<stage>-<step>.npz        the batch of an update that came to nothing finite
results.json, report.html
lock                             who is at work here
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.runtime import processes
from score_jax.runtime.tensorboard import encode_file_header, encode_scalars
from score_jax.trajectory import Trajectory, parse_trajectories, trajectory_to_json

VISIBLE_TIMEOUT_S = 30.0  # until what one process wrote has to be seen by all
#: seconds between two writes of a stage's metrics, and the greatest share of the time that they may take
METRICS_INTERVAL_S, METRICS_TIME_SHARE = 5.0, 0.05
#: is told of the numbers of a stage's step: (stage, step, numbers)
MetricsListener = Callable[[str, int, Mapping[str, float]], None]


class Workdir:
  """Paths and files of one run."""

  def __init__(self, root: str):
    """
    Raises:
      UserError: the folder cannot be made or written.
    """
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
    """
    Raises:
      UserError: a process sees another folder than the first one does.
    """
    if processes.process_count() == 1:
      return
    name = processes.run_on_primary("workdir", lambda: f".shared-{secrets.token_hex(8)}")
    self.write(name, "")
    processes.all_gather("workdir written", None)
    seen = processes.all_gather("workdir seen", [_appears(self.root / name), socket.gethostname()])
    if processes.is_primary():
      (self.root / name).unlink()
    blind = [f"process {i} ({host})" for i, (saw, host) in enumerate(seen) if not saw]
    if blind:
      raise UserError(
        f"workdir {os.fspath(self.root)!r} is another folder for {', '.join(blind)}; give a --workdir that all "
        "processes share: on gs:// or a network file system"
      )

  def write(self, name: str, text: str) -> None:
    """Writes a file beside its place and moves it there; of several processes the first one does.

    Raises:
      UserError: the disk is full, or permission is lost; what stood there before still does.
    """
    self.write_bytes(name, text.encode())

  def write_bytes(self, name: str, data: bytes) -> None:
    """The same for bytes."""
    if not processes.is_primary():
      return
    path = self.root / name
    draft = path.parent / f".{path.name}.draft"
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      draft.write_bytes(data)
      draft.replace(path)
    except OSError as error:
      with contextlib.suppress(OSError):  # what is half written takes room
        draft.unlink(missing_ok=True)
      raise UserError(cannot_write_message(path, error)) from error

  def append(self, name: str, data: bytes, known: int) -> None:
    """Writes the bytes after the `known` first ones; where nothing can be appended, all of them.

    Raises:
      UserError: they cannot be written.
    """
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
    """Removes a file or a folder, if it is there."""
    if not processes.is_primary():
      return
    path = self.root / name
    if path.is_dir():
      path.rmtree()
    else:
      path.unlink(missing_ok=True)

  def read_all(self, folder: str, pattern: str) -> dict[str, str]:
    """The texts of the files in a folder, by name within the workdir; bytes that are no text are shown as such."""
    found = sorted((self.root / folder).glob(pattern), key=lambda path: path.name)
    return {f"{folder}/{path.name}": path.read_bytes().decode(errors="replace") for path in found}

  def write_json(self, name: str, data: Any) -> None:
    self.write(name, json.dumps(data, indent=1, sort_keys=True) + "\n")

  def append_json_line(self, name: str, data: Any) -> None:
    """Adds a line of JSON to a file.

    Raises:
      UserError: it cannot be written.
    """
    if not processes.is_primary():
      return
    path = self.root / name
    try:
      before = path.read_bytes() if path.exists() else b""
    except OSError as error:
      raise UserError(cannot_write_message(path, error)) from error
    self.write_bytes(name, before + f"{json.dumps(data)}\n".encode())

  def read_json(self, name: str) -> Any | None:
    """What a JSON file holds; None when it is not there.

    Raises:
      UserError: it is no JSON.
    """
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
    """One part of a stage's trajectories, written whole."""
    self.write(
      f"trajectories/{stage}/part-{number:05d}.jsonl", "".join(trajectory_to_json(t) + "\n" for t in trajectories)
    )

  def read_parts(self, stage: str, *, below: int | None = None) -> Iterator[Trajectory]:
    """All trajectories of a stage in order, or those of the parts numbered less than `below`.

    Raises:
      UserError: a part is damaged, or one below `below` is missing.
    """
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
        yield from _read(path, stage)

  def read_part(self, stage: str, number: int) -> list[Trajectory]:
    """The trajectories of one part; none where it is not there.

    Raises:
      UserError: it is damaged.
    """
    path = self.root / f"trajectories/{stage}/part-{number:05d}.jsonl"
    return list(_read(path, stage)) if processes.broadcast(path.exists()) else []

  def checkpoint_folder(self, stage: str) -> epath.Path:
    return self.root / "checkpoints" / stage


def read_run_config(root: str) -> ConfigDict:
  """The configuration of the run in a folder.

  Raises:
    UserError: there is none.
  """
  if not epath.Path(root).is_dir():
    raise UserError(f"workdir {root}: there is no such folder; give that of a run")
  found = Workdir(root).read_json("config.json")
  if found is None:
    raise UserError(f"workdir {root}: there is no config.json in it; give the folder of a run")
  return ConfigDict(found["config"])


def _read(path: epath.Path, stage: str) -> Iterator[Trajectory]:
  try:
    with path.open(encoding="utf-8") as lines:
      yield from parse_trajectories(lines)
  except ValueError as error:
    raise UserError(
      f"{path} is damaged ({error}); delete it, stages/{stage}.json and checkpoints/{stage}, and start again: "
      "the stage is made once more"
    ) from error


def cannot_write_message(path: epath.Path, reason: object) -> str:
  """What is said when something cannot be written."""
  if isinstance(reason, OSError):
    reason = reason.strerror or reason
  return f"{path} cannot be written ({reason}); mend that and start again: everything up to here is kept"


def parse_metric_lines(text: str) -> list[dict[str, Any]]:
  """The lines of a metrics file by rising step; of a step done twice (a restart) the last one, cut lines left out."""
  found: dict[int, dict[str, Any]] = {}
  for line in text.split("\n"):
    try:
      data = json.loads(line)
    except ValueError:
      continue  # a killed run left it half written
    if isinstance(data, dict) and isinstance(data.get("step"), int):
      found[data["step"]] = data
  return [line for _, line in sorted(found.items())]


class MetricsWriter:
  """Numbers of a stage by step, as JSON lines and for TensorBoard. Appends; the last line of a step counts.

  They are written now and then, and at the end: a store like gs:// takes whole files alone, and few in a second.
  """

  def __init__(self, workdir: Workdir, stage: str, *, tell: MetricsListener | None = None):
    """`tell`: is told of the same."""
    self._workdir, self._stage, self._tell = workdir, stage, tell
    self._name = f"metrics/{stage}.jsonl"
    path = workdir.root / self._name
    self._lines = path.read_text(encoding="utf-8") if path.exists() else ""
    host, now = socket.gethostname(), time.time()
    self._events_name = f"metrics/tensorboard/{stage}/events.out.tfevents.{int(now)}.{host}.{os.getpid()}"
    self._events, self._written = bytearray(encode_file_header(now)), 0
    self._next = 0.0  # when to write

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    processes.report_progress()
    now, values = time.time(), {k: float(v) for k, v in {**numbers, **processes.heartbeat_metrics()}.items()}
    self._lines += json.dumps({"step": step, "time": round(now, 3)} | values) + "\n"
    self._events += encode_scalars(step, now, values)
    if self._tell is not None:
      self._tell(self._stage, step, values)
    start = time.monotonic()
    if start >= self._next:
      self.flush()
      took = time.monotonic() - start
      self._next = start + max(METRICS_INTERVAL_S, took / METRICS_TIME_SHARE)

  def lines_before(self, step: int) -> list[dict[str, Any]]:
    """The lines of the steps before one."""
    return [line for line in parse_metric_lines(self._lines) if line["step"] < step]

  def flush(self) -> None:
    """Writes what is not written yet.

    Raises:
      UserError: it cannot be written.
    """
    if self._written == len(self._events):
      return
    self._workdir.write(self._name, self._lines)
    self._workdir.append(self._events_name, bytes(self._events), self._written)
    self._written = len(self._events)

  def close(self) -> None:
    self.flush()


def _appears(path: epath.Path) -> bool:
  """Whether a file is there, or comes soon: a network file system may show what others wrote late."""
  end = time.monotonic() + VISIBLE_TIMEOUT_S
  while not path.exists():
    if time.monotonic() >= end:
      return False
    time.sleep(0.5)
  return True
