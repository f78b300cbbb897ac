"""The Python that an agent's code runs in: a pool of worker processes that run code beside the main program.

    with PythonTool(isolation="process", workers=2, timeout_s=9, memory_mb=512, output_chars=4096, search=None) as tool:
      tool.submit("a", "x = 6 * 7", ())
      [(session, outcome)] = tool.wait(20.0)
      state = (Ran("x = 6 * 7", outcome.observation, outcome.reason),)
      tool.submit("a", "print(x)", state)

Every submit brings the whole history of its session, so nothing depends on what a worker still holds: where the
live namespace is just what that history leaves it is used, otherwise it is built anew by re-running the history,
each step of which must give what it gave before.

What isolation="process" covers: wall-clock time, address space, size of files, number of open files, amount of
output, a crash or exit of the process, and text that tries to pass for an answer or an error. What it does not:
the code runs as the same user, reads and writes that user's files, uses the network, may (as root) start
processes, can read the worker's own memory, and can change modules that the sessions of a worker share.
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
from score_jax.tools.outcome import Outcome, Ran, effective
from score_jax.tools.process import Settings, Task
from score_jax.tools.supervisor import Supervisor

ISOLATIONS = ("process",)
_FEWEST_CHARS = 100


class PythonTool:
  """Runs code in sessions, several at once; a context manager, whose end leaves no process behind.

  Its methods are for one thread, which may be busy with other things in between: the work goes on.
  """

  def __init__(
    self,
    *,
    isolation: str,
    workers: int,
    timeout_s: float,
    memory_mb: int,
    output_chars: int,
    search: Callable[[str], str] | None,
  ):
    """Starts the workers and waits until one is ready.

    Args:
      isolation: what keeps the code in; only "process" by now.
      workers: how many processes run code at the same time.
      timeout_s: wall-clock seconds that one step may take.
      memory_mb: MiB that code may use beyond what a worker takes once loaded, all its sessions together; a step
        that finds too little is run again in a new worker before it is told so.
      output_chars: the most characters of an observation, and of an answer.
      search: what `web_search` in the code calls; it is called in a thread of the tool, once a query. Whatever it
        raises ends the code with reason "host_failure". None: no search.

    Raises:
      UserError: a value is not allowed, or no worker can be started.
    """
    self._settings = Settings(isolation, timeout_s, memory_mb, output_chars, search is not None)
    _check(self._settings, workers)
    self.calls = 0  # pieces of code submitted
    self._workers = workers
    self._finished: queue.SimpleQueue[tuple[Task, Outcome]] = queue.SimpleQueue()
    self._in_flight: dict[str, Task] = {}
    self._throwaway = itertools.count()
    self._folder = tempfile.TemporaryDirectory(prefix="score_jax_tools_", ignore_cleanup_errors=True)
    folder = pathlib.Path(self._folder.name)
    self._supervisor = Supervisor(self._settings, workers=workers, search=search, folder=folder)
    try:
      self._supervisor.loaded.result()
    except BaseException:
      self.__exit__()
      raise

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self._supervisor.close()
    self._folder.cleanup()

  @property
  def replays(self) -> int:
    """How many earlier steps were run again."""
    return self._supervisor.replays

  @property
  def busy_s(self) -> float:
    """Seconds that the workers had code to run, added up."""
    return self._supervisor.busy_s

  @property
  def pids(self) -> list[int]:
    """The process ids of the workers."""
    return self._supervisor.pids()

  def describe(self) -> str:
    """One line on what keeps the code in."""
    limits = f"{self._settings.timeout_s:g} s and {self._settings.memory_mb} MiB a step"
    return (
      f"python tool: {self._workers} workers, {limits}; isolation={self._settings.isolation!r} is WEAK: resource limits"
      f" only, what a model writes runs as this user (uid {os.getuid()}) with its files and its network"
    )

  def submit(self, session: str, code: str, state: tuple[Ran, ...]) -> None:
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
    self._supervisor.tell(session)

  def run(self, code: str, state: tuple[Ran, ...] = ()) -> Outcome:
    """Runs `code` after `state` in a session of its own, and waits for the outcome."""
    finished: queue.SimpleQueue[tuple[Task, Outcome]] = queue.SimpleQueue()
    session = f"run {next(self._throwaway)}"
    self._send(session, code, state, finished)
    _, outcome = finished.get()
    self._supervisor.tell(session)
    return outcome

  def _send(
    self, session: str, code: str, state: tuple[Ran, ...], finished: queue.SimpleQueue[tuple[Task, Outcome]]
  ) -> Task:
    task = Task(session, code, effective(state), finished)
    self.calls += 1
    self._supervisor.tell(task)
    return task

  def _collect(self, finished: tuple[Task, Outcome], outcomes: list[tuple[str, Outcome]]) -> None:
    task, outcome = finished
    if not task.closed:
      del self._in_flight[task.session]
      outcomes.append((task.session, outcome))


def _check(settings: Settings, workers: int) -> None:
  if settings.isolation not in ISOLATIONS:
    allowed = ", ".join(map(repr, ISOLATIONS))
    raise UserError(f"tools.isolation={settings.isolation!r} is not known: give one of {allowed}")
  if sys.platform != "linux":
    raise UserError(f"the python tool does not run on {sys.platform!r}: use a Linux machine")
  if settings.output_chars < _FEWEST_CHARS:
    raise UserError(f"tools.output_chars={settings.output_chars} is too few: give at least {_FEWEST_CHARS}")
  for name, value in (("workers", workers), ("timeout_s", settings.timeout_s), ("memory_mb", settings.memory_mb)):
    if value <= 0:
      raise UserError(f"tools.{name}={value} must be more than 0")
