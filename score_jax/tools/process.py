"""One worker process as its parent sees it: how it is started, spoken to and ended."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
import queue
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import score_jax
from score_jax.tools.channel import Frames, pack
from score_jax.tools.outcome import Outcome, Ran

_LONGEST = 16 << 20  # bytes of a message that a worker may send
_RECEIVE = 1 << 18  # bytes taken at once


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a worker is started with."""

  isolation: str
  timeout_s: float  # wall clock of one step
  memory_mb: int  # what code may use beyond what is loaded at the start
  output_chars: int  # the most characters of an observation
  search: bool  # whether web_search is available


@dataclasses.dataclass(eq=False)
class Task:
  """One submitted piece of code on its way."""

  session: str
  code: str
  state: tuple[Ran, ...]  # the effective steps before it
  finished: queue.SimpleQueue[tuple[Task, Outcome]]  # where its outcome goes
  id: int = 0
  replay: int = 0  # how many of `state` have to be run again
  replayed: int = 0  # how many of them have been
  answer: str | None = None
  closed: bool = False  # its session was closed: nobody waits for it


class Process:
  """A worker, the tasks that were given to it (the first one runs), and the bytes on their way to it."""

  def __init__(self, settings: Settings, folder: pathlib.Path):
    """Starts it, with `folder` as its own; it is ready when it says so.

    Raises:
      OSError: the process cannot be started.
    """
    folder.mkdir()
    self._folder = folder
    self.ready = False
    self.lost = False
    self.served = 0  # tasks that came to their end
    self.tasks: collections.deque[Task] = collections.deque()
    self.since = time.monotonic()  # when it began with what it does now
    self._out = bytearray()
    self._frames = Frames(longest=_LONGEST)
    self._log = folder.with_suffix(".log")  # what it says while it loads
    self.socket, theirs = socket.socketpair()
    self.socket.setblocking(False)
    try:
      with theirs, self._log.open("wb") as log:
        values = {**dataclasses.asdict(settings), "channel": theirs.fileno()}
        self._popen = subprocess.Popen(
          [sys.executable, "-P", "-m", "score_jax.tools.worker", json.dumps(values)],
          stdin=subprocess.DEVNULL,
          stdout=subprocess.DEVNULL,
          stderr=log,
          cwd=folder,
          env=_environment(folder),
          pass_fds=[theirs.fileno()],
          start_new_session=True,
        )
    except OSError:
      self.socket.close()
      raise
    self.pid = self._popen.pid

  def send(self, message: dict[str, Any]) -> None:
    """Puts a message on its way; `flush` sends it."""
    self._out += pack(message)

  def flush(self) -> bool:
    """Sends what the socket takes now; whether all is sent. A dead worker shows when read from."""
    try:
      while self._out:
        del self._out[: self.socket.send(self._out)]
    except BlockingIOError:
      return False
    except OSError:
      self._out.clear()
    return True

  def receive(self) -> Iterator[dict[str, Any]]:
    """The messages that have come.

    Raises:
      EOFError: the worker has ended.
      Garbled: it sent what is no message.
    """
    try:
      data = self.socket.recv(_RECEIVE)
    except BlockingIOError:
      return
    except OSError:
      data = b""
    if not data:
      raise EOFError
    yield from self._frames.feed(data)

  def kill(self) -> None:
    """Ends it and what it started, and removes its folder; once."""
    self.lost = True
    os.killpg(self.pid, signal.SIGKILL)  # its leader is not waited for yet, so the group is still its own
    self._popen.wait()
    self.socket.close()
    shutil.rmtree(self._folder, ignore_errors=True)

  def cause(self) -> str:
    """Why it did not get ready, once it was killed."""
    lines = self._log.read_text(errors="replace").strip().splitlines()
    status = self._popen.returncode
    return f"worker ended with status {status} while loading" + (f": {lines[-1]}" if lines else "")


def _environment(folder: pathlib.Path) -> dict[str, str]:
  """What the worker sees of the environment: enough to load, no keys or tokens."""
  kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
  package = str(pathlib.Path(score_jax.__file__).parent.parent)
  threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
  return {
    **kept,
    **threads,
    "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "LANG": "C.UTF-8",
    "HOME": str(folder),
    "TMPDIR": str(folder),
  }
