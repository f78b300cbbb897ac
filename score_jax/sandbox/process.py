"""The processes of the tool as their parent sees them: the zygote, and the sessions that are forked from it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import re
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

from score_jax.sandbox import bubblewrap
from score_jax.sandbox.channel import FrameDecoder, pack_message
from score_jax.sandbox.interface import ExecutedStep, Outcome, UserFunctions
from score_jax.sandbox.jail import NOBODY_ID
from score_jax.sandbox.zygote import SESSION_NUMBER

_RECEIVE = 1 << 18  # bytes taken at once
_ENDS_S = 0.02  # what a zygote that was killed takes to be gone, at most


@dataclasses.dataclass(frozen=True)
class SandboxConfig:
  """What the tool is started with."""

  isolation: str
  timeout_s: float  # wall clock of one step
  memory_mb: int  # what a session's code may use beyond what is loaded at the start
  files_mb: int  # room for a session's files
  output_chars: int  # the most characters of an observation
  search: bool  # whether web_search is available
  functions: UserFunctions  # what else code can call


@dataclasses.dataclass(eq=False)
class CodeTask:
  """One submitted piece of code on its way."""

  session: str
  code: str
  state: tuple[ExecutedStep, ...]  # the effective steps before it
  outcome_queue: queue.SimpleQueue[tuple[CodeTask, Outcome]]  # where its outcome goes
  id: str = ""
  steps_to_replay: int = 0  # how many of `state` have to be run again
  steps_replayed: int = 0  # how many of them have been
  search_count: int = 0  # asked for in the step that runs
  search_failed: bool = False  # whether a search did
  answer: str | None = None
  closed: bool = False  # its session was closed: nobody waits for it


class Zygote:
  """The process that sessions are forked from."""

  def __init__(self, settings: SandboxConfig, folder: pathlib.Path):
    """Starts it, with `folder` as its own; it is ready when it says so.

    Raises:
      OSError: the process cannot be started.
    """
    folder.mkdir()
    self._settings, self._folder = settings, folder
    self._log = folder / "log"  # what it says while it loads
    self._forked = 0
    self._frames = FrameDecoder(longest=1 << 10)
    self.ready = False
    self.socket, theirs = socket.socketpair()
    try:
      with theirs, self._log.open("wb") as log:
        self._popen = subprocess.Popen(
          [
            *bubblewrap.build_command(settings.isolation, folder),
            "-m",
            "score_jax.sandbox.zygote",
            self._told(theirs.fileno()),
          ],
          stdin=subprocess.DEVNULL,
          stdout=subprocess.DEVNULL,
          stderr=log,
          cwd=folder,
          env=bubblewrap.build_environment(settings.isolation, folder),
          pass_fds=[theirs.fileno()],
          start_new_session=True,
        )
    except OSError:
      self.socket.close()
      raise

  def _told(self, channel: int) -> str:
    s = self._settings
    user = None if os.geteuid() == 0 else (NOBODY_ID, NOBODY_ID)
    jail = {"namespaces": s.isolation == "bubblewrap", "user": user, "memory_mb": s.memory_mb, "files_mb": s.files_mb}
    worker = {"timeout_s": s.timeout_s, "output_chars": s.output_chars, "search": s.search}
    return json.dumps({**worker, "functions": s.functions.source, "jail": jail, "channel": channel})

  def read_messages(self) -> None:
    """Reads what it has sent, which is that it is ready.

    Raises:
      EOFError: it has ended.
    """
    data = self.socket.recv(_RECEIVE)
    if not data:
      raise EOFError
    self.ready = any(message.get("ready") for message in self._frames.feed(data)) or self.ready

  def has_ended(self) -> bool:
    """Whether it has ended, or does at this moment."""
    try:
      readable = select.select([self.socket], [], [], _ENDS_S)[0]
      return bool(readable) and not self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
      return True

  def fork(self) -> SessionProcess:
    """A new session, on its way.

    Raises:
      OSError: the zygote is gone.
    """
    self._forked += 1
    ours, theirs = socket.socketpair()
    with theirs:
      try:
        socket.send_fds(self.socket, [SESSION_NUMBER.pack(self._forked)], [theirs.fileno()])
      except OSError:
        ours.close()
        raise
    # An escaped character takes twelve bytes at most, and an observation is not all that a message has.
    longest = 12 * self._settings.output_chars + (1 << 18)
    own_files = self._settings.isolation == "bubblewrap"
    return SessionProcess(ours, self._folder / str(self._forked), longest=longest, own_files=own_files)

  def kill(self) -> None:
    """Ends it and what it started."""
    os.killpg(self._popen.pid, signal.SIGKILL)  # its leader is not waited for yet, so the group is still its own
    self._popen.wait()
    self.socket.close()

  def failure_cause(self) -> str:
    """Why it did not get ready, once it was killed."""
    lines = self._log.read_text(errors="replace", encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else f"it ended with status {self._popen.returncode} while loading"


class SessionProcess:
  """The process of a session. It is busy while it has a task.

  Attributes:
    held_steps: the effective steps that made what it holds; None: nothing may go on from that.
    jail_error: why it could not be shut in, if it could not.
  """

  def __init__(self, ours: socket.socket, folder: pathlib.Path, *, longest: int, own_files: bool):
    self.socket = ours
    self.socket.setblocking(False)
    self.pidfd = -1  # until the zygote has told it
    self._locked = False
    self.task: CodeTask | None = None
    self.held_steps: tuple[ExecutedStep, ...] | None = ()
    self.busy_since = 0.0  # when it began with what it does now
    self.waits_for_search = False  # whether it waits for a search: its time does not run then
    self.held_bytes = 0  # bytes that its last step left it with, as far as they are its own
    self._inherited = 0  # pages that it began with
    self.jail_error = ""
    self._folder, self._own_files = folder, own_files
    self._frames = FrameDecoder(longest=longest)
    self._out = bytearray()

  def send(self, message: dict[str, Any]) -> None:
    """Puts a message on its way; `flush` sends it."""
    self._out += pack_message(message)

  def flush(self) -> bool:
    """Sends what the socket takes now; whether all is sent. A dead process shows when read from."""
    try:
      while self._out:
        del self._out[: self.socket.send(self._out)]
    except BlockingIOError:
      return False
    except OSError:
      self._out.clear()
    return True

  def receive(self) -> Iterator[dict[str, Any]]:
    """The messages that have come; whether it started, or could not, is noted here.

    Raises:
      EOFError: the process has ended.
      Garbled: it sent what is no message.
    """
    fds: list[int] = []
    try:
      if not self.started:
        data, fds, _, _ = socket.recv_fds(self.socket, _RECEIVE, 1)
      else:
        data = self.socket.recv(_RECEIVE)
    except BlockingIOError:
      return
    except OSError:
      data = b""
    if not data:
      raise EOFError
    if not self.started:
      self._start(data, fds)
      return
    yield from self._frames.feed(data)

  def _start(self, data: bytes, fds: list[int]) -> None:
    """Takes what the zygote and the process itself tell before its first task: its pidfd, and that it is shut in."""
    if fds:
      self.pidfd = fds[0]
    for message in self._frames.feed(data):
      if "failed" in message:
        self.jail_error = str(message["failed"])
        raise EOFError
      self._locked = self._locked or "locked" in message

  def measure_memory(self) -> None:
    """Notes what it holds, which at its start is what it shares with the zygote."""
    try:
      resident = _own_memory(pathlib.Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8"))
      files = os.statvfs(pathlib.Path("/proc", str(self.pid), "root", "tmp")) if self._own_files else None
    except OSError:  # it has ended
      return
    self._inherited = self._inherited or resident
    self.held_bytes = resident - self._inherited
    if files is not None:
      self.held_bytes += (files.f_blocks - files.f_bfree) * files.f_frsize

  @property
  def started(self) -> bool:
    return self._locked and self.pidfd >= 0

  @property
  def has_ended(self) -> bool:
    """Whether its process has."""
    return self.pidfd >= 0 and bool(select.select([self.pidfd], [], [], 0)[0])

  @property
  def pid(self) -> int:
    """Its process id here; 0 where it has not started, -1 when it has ended."""
    if self.pidfd < 0:
      return 0
    try:
      lines = pathlib.Path(f"/proc/self/fdinfo/{self.pidfd}").read_text(encoding="utf-8").splitlines()
    except OSError:  # another thread asks, and it was ended just now
      return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pid:")), 0)

  def freeze(self) -> None:
    """Stops it, so that code which says it has ended, or waits, does not run on; no process can resist that."""
    self._signal(signal.SIGSTOP)

  def resume(self) -> None:
    """Lets it run, if it was stopped."""
    self._signal(signal.SIGCONT)

  def _signal(self, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
      signal.pidfd_send_signal(self.pidfd, number)

  def kill(self) -> None:
    """Ends it, and removes its folder."""
    self.held_steps = None
    if self.pidfd >= 0:
      self._signal(signal.SIGKILL)
      os.close(self.pidfd)
      self.pidfd = -1
    self.socket.close()
    if self._folder.exists():
      remove_folder(self._folder)


def _own_memory(status: str) -> int:
  """Bytes of a process's memory, from /proc/PID/status, without pages of files.

  Those are shared, and how many of them a step maps hangs on the kernel, the file system and the Python.
  """
  return sum(int(kib) << 10 for kib in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", status, re.MULTILINE))


def remove_folder(folder: pathlib.Path) -> None:
  """Removes a folder that code has written to, as far as that is possible."""
  try:
    shutil.rmtree(folder, ignore_errors=True)
  except RecursionError:  # folders in folders, a thousand deep
    subprocess.run(["rm", "-rf", "--", folder], check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
