"""The folder of a run: what lies where, written so that a file is there whole or not at all.

config.json                      resolved configuration, versions, commit
split.json                       which question is in which part
overlap.json                     which questions are not used, and why
stages/<stage>.json              written when a stage is done: identity, cost, findings
trajectories/<stage>/part-*.jsonl
checkpoints/<stage>/<step>/      orbax
metrics/<stage>.jsonl            and TensorBoard's files; clock times stand only here
eval/<model>/<benchmark>-*.jsonl  and <benchmark>.json, the identity of what was examined
results.json, report.html
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from score_jax.errors import UserError
from score_jax.trajectory import Trajectory, read_lines, to_json


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
      probe = self.root / f".writable-{os.getpid()}"
      probe.write_text("")
      probe.unlink()
    except OSError as error:
      raise UserError(
        f"workdir {root!r} cannot be written ({error.strerror or error}); give another --workdir"
      ) from error

  def write(self, name: str, text: str) -> None:
    """Writes a file beside its place and moves it there."""
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
    for path in sorted(folder.glob("part-*.jsonl"), key=lambda p: p.name):
      if below is None or int(path.stem.removeprefix("part-")) < below:
        try:
          with path.open() as lines:
            yield from read_lines(lines)
        except ValueError as error:
          raise UserError(f"{path} is damaged ({error}); delete it and start again") from error

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


class Metrics:
  """Numbers of a stage by step, as JSON lines and for TensorBoard. Appends; the last line of a step counts."""

  def __init__(self, workdir: Workdir, stage: str):
    self._workdir, self._name = workdir, f"metrics/{stage}.jsonl"
    path = workdir.root / self._name
    self._lines = path.read_text() if path.exists() else ""
    self._board = SummaryWriter(str(workdir.root / "metrics" / "tensorboard" / stage))

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    line = json.dumps({"step": step, "time": round(time.time(), 3)} | {k: float(v) for k, v in numbers.items()})
    self._lines += line + "\n"
    self._workdir.write(self._name, self._lines)
    for name, value in numbers.items():
      self._board.add_scalar(name, float(value), step)

  def close(self) -> None:
    self._board.close()
