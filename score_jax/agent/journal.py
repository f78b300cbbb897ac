"""What the stage at work has drawn so far: finished trajectories, kept in the workdir until the stage is done.

    with journal.stage("mps"):
      agent.rollout(weights, requests)      draws only what is not in the journal

What a request draws follows from its name, its start, the weights and the settings, so these are its key, and a run
that was killed finds what it had finished, whoever asked for it. Trajectories are written some at a time, each time as
a part of its own, which is there whole or not at all; one that is damaged is told and its trajectories drawn again.
What was half drawn is drawn again with the same keys. What the host failed is not kept: the next run may have better
luck.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

from score_jax.errors import UserError
from score_jax.runtime.processes import run_on_primary
from score_jax.runtime.workdir import Workdir
from score_jax.trajectory import Trajectory, trajectory_from_json, trajectory_to_json

logger = logging.getLogger(__name__)


class Journal:
  """The journal of one run; it keeps what is drawn within `stage` alone."""

  def __init__(self, workdir: Workdir, *, config: str, every_s: float):
    """
    Args:
      config: of the run, as text; what was drawn for another one is not found.
      every_s: seconds between two writes.
    """
    self._workdir, self._config, self._every_s = workdir, config, every_s
    self._folder = ""  # of the stage at work; empty outside of one
    self._found: dict[str, str] = {}  # key -> trajectory as JSON, what an earlier process finished
    self._drawn: list[str] = []  # lines that are not written yet
    self._parts: list[str] = []  # names of the files
    self._number = 0  # of the next one
    self._settled = 0  # how many of them `settle` takes next
    self._next = 0.0  # when to write

  @contextlib.contextmanager
  def stage(self, name: str) -> Iterator[None]:
    """Keeps what is drawn within; when that ends well, what it was kept for is done, and it goes."""
    self._folder = f"journal/{name}"
    try:
      self._open()
      yield
    except BaseException:
      try:
        self._write()
      except UserError as error:  # as it may be what ends the run
        logger.warning("what was drawn last is lost: %s", error)
      raise
    else:
      self.remove_stage(name)
    finally:
      self._folder, self._found, self._drawn = "", {}, []

  def remove_stage(self, name: str) -> None:
    """Removes what was kept of a stage."""
    self._workdir.remove(f"journal/{name}")

  def key(self, *parts: Any) -> str:
    """The key of what is drawn for all that `parts`, JSON data, say."""
    return hashlib.sha256(json.dumps([self._config, *parts], sort_keys=True).encode()).hexdigest()

  def find(self, key: str) -> Trajectory | None:
    """What an earlier process finished under that key."""
    line = self._found.pop(key, None)
    try:
      return None if line is None else trajectory_from_json(line)
    except ValueError as error:
      logger.warning("%s: a trajectory cannot be read (%s); it is drawn again", self._folder, error)
      return None

  def add(self, key: str, trajectory: Trajectory) -> None:
    """Keeps a finished trajectory; `write_if_due` writes it."""
    if self._folder and trajectory.status not in ("tool_failure", "replay_mismatch"):
      self._drawn.append(f'{{"key":"{key}","trajectory":{trajectory_to_json(trajectory)}}}\n')

  def write_if_due(self) -> None:
    """Writes what is to be written, if it is time."""
    if self._drawn and time.monotonic() >= self._next:
      self._write()
      self._next = time.monotonic() + self._every_s

  def prune_checkpointed(self) -> None:
    """To be called after each checkpoint: what had been drawn by the last call is in two of them, and goes."""
    self._write()
    for name in self._parts[: self._settled]:
      self._workdir.remove(name)
    del self._parts[: self._settled]
    self._settled = len(self._parts)

  def _open(self) -> None:
    """Takes what earlier processes left of this stage; all processes of this run take what the first one finds."""
    texts: dict[str, str] = run_on_primary("journal", lambda: self._workdir.read_all(self._folder, "part-*.jsonl"))
    self._parts, self._settled, self._next = sorted(texts), 0, time.monotonic() + self._every_s
    self._number = 1 + max((int(name[-len("00000.jsonl") :][:5]) for name in texts), default=-1)
    for name in self._parts:
      lines = _lines(texts[name])
      if lines is None:
        logger.warning("%s is damaged; what it held is drawn again", self._workdir.root / name)
        continue
      for line in lines:
        key, _, rest = line.removeprefix('{"key":"').partition('","trajectory":')
        self._found[key] = rest.removesuffix("}")

  def _write(self) -> None:
    """One more part."""
    if self._drawn:
      body = "".join(self._drawn)
      name = f"{self._folder}/part-{self._number:05d}.jsonl"
      self._workdir.write(name, f'{{"sha256":"{_digest(body)}"}}\n{body}')
      self._parts.append(name)
      self._number += 1
      self._drawn = []


def _lines(text: str) -> list[str] | None:
  """The records of a part; None where it is not what was written."""
  head, _, body = text.partition("\n")
  return body.split("\n")[:-1] if head == f'{{"sha256":"{_digest(body)}"}}' else None


def _digest(body: str) -> str:
  return hashlib.sha256(body.encode()).hexdigest()
