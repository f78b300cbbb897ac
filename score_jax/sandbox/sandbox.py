"""The Python that an agent's code runs in: sessions in processes of their own, beside the main program.

    with Sandbox(isolation="bubblewrap", workers=2, sessions=64, timeout_s=9, memory_mb=512, files_mb=64,
                 output_chars=4096, search=None) as tool:
      tool.submit("a", "x = 6 * 7", ())
      [(session, outcome)] = tool.wait(20.0)
      state = (ExecutedStep("x = 6 * 7", outcome.observation, outcome.reason),)
      tool.submit("a", "print(x)", state)

Every submit brings the whole history of its session, so nothing depends on what a process still holds: where a
session's process holds just what that history leaves it is used, otherwise the state is built anew by re-running
the history, each step of which must give what it gave before.

bubblewrap.py and jail.py keep the code in; tests/sandbox/test_hostile.py tries to get out.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import queue
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Self

from score_jax.errors import UserError
from score_jax.sandbox import bubblewrap
from score_jax.sandbox.interface import (
  NO_FUNCTIONS,
  ExecutedStep,
  FunctionDoc,
  Outcome,
  UserFunctions,
  keep_effective,
)
from score_jax.sandbox.process import CodeTask, SandboxConfig, remove_folder
from score_jax.sandbox.supervisor import Supervisor

_FEWEST_CHARS = 100


class Sandbox:
  """Runs code in sessions, several at once; a context manager, whose end leaves no process behind.

  Its methods are for one thread, which may be busy with other things in between: the work goes on.
  """

  def __init__(
    self,
    *,
    isolation: str,
    workers: int,
    sessions: int,
    timeout_s: float,
    memory_mb: int,
    files_mb: int,
    output_chars: int,
    search: Callable[[str], str] | None,
    functions: UserFunctions = NO_FUNCTIONS,
  ):
    """Starts what sessions are forked from, and waits until it is ready.

    Args:
      isolation: what keeps the code in: "bubblewrap", or "process", which is weak (bubblewrap.py).
      workers: how many pieces of code run at the same time.
      sessions: how many sessions' processes are kept for their next steps.
      timeout_s: wall-clock seconds that one step may take.
      memory_mb: MiB that a session's code may use beyond what is loaded at the start.
      files_mb: MiB of files that a session may have, in memory; only with isolation="bubblewrap".
      output_chars: the most characters of an observation, and of an answer.
      search: what `web_search` in the code calls, from some threads at once. Whatever it raises ends the code with
        reason "host_failure". None: no search.
      functions: what else the code can call.

    Raises:
      UserError: a value is not allowed, the functions' file fails, or code cannot be isolated here: says why, what
        mends it, and what to set to run it all the same.
    """
    self._settings = SandboxConfig(
      isolation, timeout_s, memory_mb, files_mb, output_chars, search is not None, functions
    )
    _check(self._settings, workers, sessions)
    self.calls = 0  # pieces of code submitted
    self._workers = workers
    self._finished: queue.SimpleQueue[tuple[CodeTask, Outcome]] = queue.SimpleQueue()
    self._in_flight: dict[str, CodeTask] = {}
    self._throwaway = itertools.count()
    self._folder = tempfile.TemporaryDirectory(prefix="score_jax_tools_", ignore_cleanup_errors=True)
    folder = pathlib.Path(self._folder.name)
    self._supervisor = Supervisor(self._settings, workers=workers, sessions=sessions, search=search, folder=folder)
    try:
      self._supervisor.loaded.result()
      self._try(functions)
    except BaseException:
      self.__exit__()
      raise

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self._supervisor.close()
    remove_folder(pathlib.Path(self._folder.name))
    self._folder.cleanup()

  @property
  def replayed_count(self) -> int:
    """How many earlier steps were run again."""
    return self._supervisor.replayed_count

  @property
  def busy_s(self) -> float:
    """Seconds that code ran, added up."""
    return self._supervisor.busy_s

  @property
  def pids(self) -> list[int]:
    """The process ids of the sessions that there are."""
    return self._supervisor.pids()

  @property
  def can_search(self) -> bool:
    """Whether its code can call web_search."""
    return self._settings.search

  @property
  def functions(self) -> tuple[FunctionDoc, ...]:
    """What else its code can call."""
    return self._settings.functions.offered

  def describe(self) -> str:
    """One line on what keeps the code in."""
    s = self._settings
    limits = f"{self._workers} at once, {s.timeout_s:g} s and {s.memory_mb} MiB a step"
    if s.isolation == "process":
      return (
        f"python tool: {limits}; isolation='process' is WEAK: limits and a filter of system calls only, what a model"
        f" writes runs as this user (uid {os.getuid()}), reads and writes its files and reaches its processes"
      )
    return f"python tool: {limits}; isolated by the kernel ({bubblewrap.find_bubblewrap()})"

  def submit(self, session: str, code: str, state: tuple[ExecutedStep, ...]) -> None:
    """Has `code` run in the Python state that `state`, all that ran before in this session, leaves.

    Raises:
      ValueError: the session's last submit is still in flight.
    """
    if session in self._in_flight:
      raise ValueError(f"session {session!r} has code in flight: wait for it first")
    self._in_flight[session] = self._send(session, code, state, self._finished)

  def wait(self, timeout_s: float) -> list[tuple[str, Outcome]]:
    """What has finished since the last call, as (session, outcome).

    Waits up to `timeout_s` seconds for at least one if there is none, and not at all if nothing is in flight.
    """
    end = time.monotonic() + timeout_s
    outcomes: list[tuple[str, Outcome]] = []
    while self._in_flight and not outcomes:
      try:
        self._collect(self._finished.get(timeout=max(0.0, end - time.monotonic())), outcomes)
        while True:
          self._collect(self._finished.get_nowait(), outcomes)
      except queue.Empty:
        if time.monotonic() >= end:
          break
    return outcomes

  def close(self, session: str) -> None:
    """Forgets a session; an outcome of it that is still to come is dropped."""
    task = self._in_flight.pop(session, None)
    if task is not None:
      task.closed = True
    self._supervisor.post(session)

  def run(self, code: str, state: tuple[ExecutedStep, ...] = ()) -> Outcome:
    """Runs `code` after `state` in a session of its own, and waits for the outcome."""
    finished: queue.SimpleQueue[tuple[CodeTask, Outcome]] = queue.SimpleQueue()
    session = f"run {next(self._throwaway)}"
    self._send(session, code, state, finished)
    _, outcome = finished.get()
    self._supervisor.post(session)
    return outcome

  def _try(self, functions: UserFunctions) -> None:
    """Has a session run nothing but their file, as every one does before its first step."""
    outcome = self.run("") if functions.source else None
    if outcome is not None and outcome.reason != "ok":
      raise UserError(f"tools.functions = {functions.path!r} fails in the sandbox ({outcome.observation}); mend it")

  def _send(
    self,
    session: str,
    code: str,
    state: tuple[ExecutedStep, ...],
    finished: queue.SimpleQueue[tuple[CodeTask, Outcome]],
  ) -> CodeTask:
    task = CodeTask(session, code, keep_effective(state), finished)
    self.calls += 1
    self._supervisor.post(task)
    return task

  def _collect(self, finished: tuple[CodeTask, Outcome], outcomes: list[tuple[str, Outcome]]) -> None:
    task, outcome = finished
    if not task.closed:
      del self._in_flight[task.session]
      outcomes.append((task.session, outcome))


def _check(settings: SandboxConfig, workers: int, sessions: int) -> None:
  if settings.isolation not in bubblewrap.ISOLATIONS:
    allowed = ", ".join(map(repr, bubblewrap.ISOLATIONS))
    raise UserError(f"tools.isolation={settings.isolation!r} is not known: give one of {allowed}")
  if sys.platform != "linux":
    raise UserError(f"the python tool does not run on {sys.platform!r}: use a Linux machine")
  if settings.output_chars < _FEWEST_CHARS:
    raise UserError(f"tools.output_chars={settings.output_chars} is too few: give at least {_FEWEST_CHARS}")
  values = {"workers": workers, "sessions": sessions, "timeout_s": settings.timeout_s}
  for name, value in (values | {"memory_mb": settings.memory_mb, "files_mb": settings.files_mb}).items():
    if value <= 0:
      raise UserError(f"tools.{name}={value} must be more than 0")
