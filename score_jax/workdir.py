"""The folder of a run: what lies where, written so that a file is there whole or not at all.

Several processes share one. The first of them writes, but for checkpoints, of which each writes its part.

config.json                      resolved configuration, versions, commit
split.json                       which question is in which part
overlap.json                     which questions are not used, and why
stages/<stage>.json              written when a stage is done: identity, cost, findings
trajectories/<stage>/part-*.jsonl
checkpoints/<stage>/<step>/      orbax
metrics/<stage>.jsonl            and TensorBoard's files; clock times stand only here
eval/<model>/<benchmark>-*.jsonl
results.json, report.html
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from score_jax.errors import UserError
from score_jax.mesh import hosts
from score_jax.trajectory import Trajectory, read_lines, to_json

APPEARS_S = 30.0  # until what one process wrote has to be seen by all


class Workdir:
  """Paths and files of one run."""

  def __init__(self, root: str):
    """
    Raises:
      UserError: the folder cannot be made or written.
    """
    self.root = epath.Path(root)
    try:
      self.root.mkdir(parents=True, exist_ok=True)
      probe = self.root / f".writable-{hosts.index()}-{os.getpid()}"
      probe.write_text("")
      probe.unlink()
    except OSError as error:
      raise UserError(
        f"workdir {root!r} cannot be written ({error.strerror or error}); give another --workdir"
      ) from error

  def require_shared(self) -> None:
    """
    Raises:
      UserError: a process sees another folder than the first one does.
    """
    if hosts.count() == 1:
      return
    name = hosts.from_first("workdir", lambda: f".shared-{secrets.token_hex(8)}")
    self.write(name, "")
    hosts.gather("workdir written", None)
    seen = hosts.gather("workdir seen", [_appears(self.root / name), socket.gethostname()])
    if hosts.first():
      (self.root / name).unlink()
    blind = [f"process {i} ({host})" for i, (saw, host) in enumerate(seen) if not saw]
    if blind:
      raise UserError(
        f"workdir {os.fspath(self.root)!r} is another folder for {', '.join(blind)}; give a --workdir that all "
        "processes share: on gs:// or a network file system"
      )

  def write(self, name: str, text: str) -> None:
    """Writes a file beside its place and moves it there."""
    if not hosts.first():
      return
    path = self.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.draft"
    draft.write_text(text)
    draft.replace(path)

  def write_json(self, name: str, data: Any) -> None:
    self.write(name, json.dumps(data, indent=1, sort_keys=True) + "\n")

  def read_json(self, name: str) -> Any | None:
    """What a JSON file holds; None when it is not there.

    Raises:
      UserError: it is no JSON.
    """
    return hosts.from_first(f"read {name}", lambda: self._read_json(name))

  def _read_json(self, name: str) -> Any | None:
    path = self.root / name
    if not path.exists():
      return None
    try:
      return json.loads(path.read_text())
    except ValueError as error:
      raise UserError(f"{path} is damaged ({error}); delete it and start again") from error

  def write_part(self, stage: str, number: int, trajectories: Iterable[Trajectory]) -> None:
    """One part of a stage's trajectories, written whole."""
    self.write(f"trajectories/{stage}/part-{number:05d}.jsonl", "".join(to_json(t) + "\n" for t in trajectories))

  def read_parts(self, stage: str, *, below: int | None = None) -> Iterator[Trajectory]:
    """All trajectories of a stage in order, or those of the parts numbered less than `below`.

    Raises:
      UserError: a part is damaged.
    """
    folder = self.root / "trajectories" / stage
    found = hosts.from_first(f"parts of {stage}", lambda: sorted(p.name for p in folder.glob("part-*.jsonl")))
    for path in (folder / name for name in found):
      if below is None or int(path.stem.removeprefix("part-")) < below:
        yield from _read(path)

  def read_part(self, stage: str, number: int) -> list[Trajectory]:
    """The trajectories of one part; none where it is not there.

    Raises:
      UserError: it is damaged.
    """
    path = self.root / f"trajectories/{stage}/part-{number:05d}.jsonl"
    return list(_read(path)) if path.exists() else []

  def checkpoints(self, stage: str) -> epath.Path:
    return self.root / "checkpoints" / stage


def config_of(root: str) -> ConfigDict:
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


def _read(path: epath.Path) -> Iterator[Trajectory]:
  try:
    with path.open() as lines:
      yield from read_lines(lines)
  except ValueError as error:
    raise UserError(f"{path} is damaged ({error}); delete it and start again") from error


class Metrics:
  """Numbers of a stage by step, as JSON lines and for TensorBoard. Appends; the last line of a step counts."""

  def __init__(self, workdir: Workdir, stage: str):
    self._workdir, self._name = workdir, f"metrics/{stage}.jsonl"
    self._lines, self._board = "", None
    if not hosts.first():
      return
    path = workdir.root / self._name
    self._lines = path.read_text() if path.exists() else ""
    self._board = SummaryWriter(str(workdir.root / "metrics" / "tensorboard" / stage))

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    hosts.mark()
    if self._board is None:
      return
    numbers = {**numbers, **hosts.numbers()}
    line = json.dumps({"step": step, "time": round(time.time(), 3)} | {k: float(v) for k, v in numbers.items()})
    self._lines += line + "\n"
    self._workdir.write(self._name, self._lines)
    for name, value in numbers.items():
      self._board.add_scalar(name, float(value), step)

  def close(self) -> None:
    if self._board is not None:
      self._board.close()


def _appears(path: epath.Path) -> bool:
  """Whether a file is there, or comes soon: a network file system may show what others wrote late."""
  end = time.monotonic() + APPEARS_S
  while not path.exists():
    if time.monotonic() >= end:
      return False
    time.sleep(0.5)
  return True
