"""The thread between the main program and the workers: it does all input and output with them.

It gives tasks to workers, watches the clock, answers searches and replaces workers that were lost, so that
code runs on while the main thread is inside a jitted program. A session stays with one worker, whose namespace
of it the next task continues. When a worker is lost, only the task that it was at is ended by that: the tasks
behind it go to another worker, which rebuilds their namespaces by re-running the steps that each task brings.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import pathlib
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, get_args

from score_jax.errors import UserError
from score_jax.tools.channel import Garbled
from score_jax.tools.outcome import EFFECTS, Outcome, Ran, Reason, observe
from score_jax.tools.process import Process, Settings, Task

_START_S = 120.0  # a worker that has not loaded by then has failed
_STARTS = 3  # failures in a row after which a worker's place stays empty for a while
_DOWN_S = 1.0  # that while
_REASONS: dict[str, Reason] = {reason: reason for reason in get_args(Reason)}


@dataclasses.dataclass(eq=False)
class _Session:
  process: Process
  live: tuple[Ran, ...] | None = None  # the effective steps that made its namespace there; None: there is none


@dataclasses.dataclass(eq=False)
class _Place:
  """Where one worker process after another runs."""

  process: Process | None = None
  failures: int = 0  # starts that failed, in a row
  retry: float = 0.0  # when an empty place is worth another try


class Supervisor:
  """Runs from its making on; `loaded` resolves when a worker is ready, or raises UserError when none can be."""

  def __init__(self, settings: Settings, *, workers: int, search: Callable[[str], str] | None, folder: pathlib.Path):
    self.loaded: concurrent.futures.Future[None] = concurrent.futures.Future()
    self.replays = 0  # steps run again
    self.busy_s = 0.0  # seconds that workers had a task, added up
    self._settings = settings
    self._search = search
    self._folder = folder
    self._found: dict[str, str] = {}  # results of searches by query
    self._inbox: collections.deque[Task | str | None] = collections.deque()
    self._woken = False
    self._wake, self._waker = socket.socketpair()
    self._selector = selectors.DefaultSelector()
    self._selector.register(self._wake, selectors.EVENT_READ)
    self._places = [_Place() for _ in range(workers)]
    self._sessions: dict[str, _Session] = {}
    self._open: set[Task] = set()  # taken and not ended
    self._done: list[tuple[Task, Outcome]] = []  # ended and not published
    self._tasks = 0  # taken so far
    self._starts = 0
    self._cause = ""  # why no worker could be started, the last time
    self._closing = False
    self._thread = threading.Thread(target=self._run, name="score_jax tools", daemon=True)
    self._thread.start()

  def tell(self, message: Task | str | None) -> None:
    """From any thread: runs a task, or forgets a session (given its name); None ends it all."""
    self._inbox.append(message)
    if not self._woken:
      self._woken = True
      self._waker.send(b"\0")

  def pids(self) -> list[int]:
    """The process ids of the workers that are there now."""
    return [place.process.pid for place in self._places if place.process is not None]

  def close(self) -> None:
    """Ends the workers; what is still in flight ends with reason "host_failure"."""
    self.tell(None)
    self._thread.join()

  def _run(self) -> None:
    try:
      while not self._closing:
        self._turn()
      self._cause = "the tool was closed"
    except Exception as error:  # a fault in here: whoever waits for a task must hear of it
      self._fail(f"{type(error).__name__} in the tool's supervisor: {error}")
    for place in self._places:
      if place.process is not None:
        self._stop(place)
    self._refuse()
    while not self._closing:
      self._wake.recv(1 << 12)
      self._refuse()
    for closable in (self._selector, self._wake, self._waker):
      closable.close()

  def _turn(self) -> None:
    """Waits until there is something to do, and does it."""
    for place in self._places:
      if place.process is None and place.retry <= time.monotonic():
        self._start(place)
    for key, _ in self._selector.select(self._patience()):
      if key.fileobj is self._wake:
        self._take()
      elif key.data.process is not None and key.data.process.socket is key.fileobj:
        self._read(key.data)
    self._check_clock()
    self._flush()
    self._publish()

  def _patience(self) -> float | None:
    """Seconds until the clock has to be looked at."""
    end = min(place.retry if place.process is None else self._end(place.process) for place in self._places)
    return max(0.0, end - time.monotonic()) if end < float("inf") else None

  def _end(self, process: Process) -> float:
    """When the patience with a worker ends."""
    if not process.ready:
      return process.since + _START_S
    return process.since + self._settings.timeout_s if process.tasks else float("inf")

  def _check_clock(self) -> None:
    for place in self._places:
      if place.process is None or self._end(place.process) > time.monotonic():
        continue
      self._read(place)  # this thread may have been kept waiting while the answer came
      if place.process is not None and self._end(place.process) <= time.monotonic():
        self._lose(place, "timeout")

  def _flush(self) -> None:
    for place in self._places:
      if place.process is not None:
        writing = 0 if place.process.flush() else selectors.EVENT_WRITE
        self._selector.modify(place.process.socket, selectors.EVENT_READ | writing, place)

  def _publish(self) -> None:
    for task, outcome in self._done:
      task.finished.put((task, outcome))
    self._done.clear()

  def _refuse(self) -> None:
    """Ends all that waits, when there is no worker left."""
    self._woken = False
    while self._inbox:
      message = self._inbox.popleft()
      self._closing = self._closing or message is None
      if isinstance(message, Task):
        self._open.add(message)
    for task in list(self._open):
      self._conclude(task, Outcome("host_failure", self._cause))
    self._publish()

  # What the main thread tells.

  def _take(self) -> None:
    self._wake.recv(1 << 12)
    self._woken = False
    while self._inbox:
      message = self._inbox.popleft()
      if message is None:
        self._closing = True
      elif isinstance(message, Task):
        self._open.add(message)
        self._assign(message, None)
      else:
        self._forget(message)

  def _assign(self, task: Task, place: _Place | None) -> None:
    """Gives a task to the worker that has its session, else to the one in `place`, else to the least busy one."""
    session = self._sessions.get(task.session)
    if session is None or session.process.lost:
      process = place.process if place is not None and place.process is not None else self._least_busy()
      if process is None:
        self._conclude(task, Outcome("host_failure", self._cause))
        return
      session = self._sessions[task.session] = _Session(process)
    live = session.live == task.state
    self._tasks += 1
    task.id, task.replayed, task.replay = self._tasks, 0, 0 if live else len(task.state)
    replay = None if live else [[ran.code, ran.observation, ran.reason] for ran in task.state]
    session.process.send({"id": task.id, "session": task.session, "code": task.code, "replay": replay})
    if session.process.ready and not session.process.tasks:
      session.process.since = time.monotonic()
    session.process.tasks.append(task)

  def _least_busy(self) -> Process | None:
    processes = [place.process for place in self._places if place.process is not None]
    return min(processes, key=lambda process: (len(process.tasks), not process.ready), default=None)

  def _forget(self, name: str) -> None:
    session = self._sessions.pop(name, None)
    if session is not None and not session.process.lost:
      session.process.send({"close": name})

  # What a worker tells.

  def _read(self, place: _Place) -> None:
    process = place.process
    assert process is not None
    try:
      for message in process.receive():
        self._handle(place, process, message)
        if process.lost:
          return
    except (EOFError, Garbled):
      self._lose(place, "killed")

  def _handle(self, place: _Place, process: Process, message: dict[str, Any]) -> None:
    """Acts on a message; Garbled if it is not what the worker may say now."""
    now = time.monotonic()
    if not process.ready:
      process.ready, process.since, place.failures = True, now, 0
      if not self.loaded.done():
        self.loaded.set_result(None)
      return
    if not process.tasks or message.get("id") != process.tasks[0].id:
      raise Garbled("not from the task that runs")
    task = process.tasks[0]
    if "search" in message:
      process.send(self._reply(_text(message, "search")))
      process.since += time.monotonic() - now  # the code's time does not run while it waits for this
    elif "answer" in message:
      task.answer = observe(_text(message, "answer"), chars=self._settings.output_chars)
    elif "at" in message:
      if message["at"] != task.replayed + 1:
        raise Garbled("not the step that comes next")
      self.busy_s += now - process.since
      task.replayed, process.since = task.replayed + 1, now
      self.replays += 1
    else:
      self._result(place, process, task, message)

  def _reply(self, query: str) -> dict[str, str]:
    if self._search is None:
      raise Garbled("a search where there is none")
    if query not in self._found:
      try:
        self._found[query] = self._search(query)
      except Exception as error:  # whatever a search backend raises is the host's failure, not the code's
        return {"failed": f"web_search failed: {type(error).__name__}: {error}"}
    return {"found": self._found[query]}

  def _result(self, place: _Place, process: Process, task: Task, message: dict[str, Any]) -> None:
    said, observation = _text(message, "reason"), _text(message, "observation")
    reason = _REASONS.get(said)
    if reason is None:
      raise Garbled(f"no reason: {said}")
    if reason == "memory" and process.served:
      self._lose(place, None)  # what others left there may have taken the room: once more, first in a new worker
      return
    self._finish(process, self._verdict(task, reason, observation))
    if message.get("retire"):
      self._lose(place, None)

  def _verdict(self, task: Task, reason: Reason, observation: str) -> Outcome:
    """The outcome of a task for that reason; a step that ended well before must do so when it is run again."""
    if task.replayed < task.replay and reason not in ("replay_mismatch", "host_failure"):
      reason, observation = "replay_mismatch", f"step {task.replayed + 1} of {task.replay} did not end: {reason}"
    text = observe(observation, chars=self._settings.output_chars)
    return Outcome(reason, text, task.answer, task.replay > 0)

  def _finish(self, process: Process, outcome: Outcome) -> None:
    """Ends the task that the worker was at."""
    task = process.tasks.popleft()
    now = time.monotonic()
    self.busy_s += now - process.since
    process.since = now
    process.served += 1
    session = self._sessions.get(task.session)
    if session is not None and not task.closed:
      ran = Ran(task.code, outcome.observation, outcome.reason)
      session.live = (*task.state, ran) if outcome.reason in EFFECTS else None
    self._conclude(task, outcome)

  def _conclude(self, task: Task, outcome: Outcome) -> None:
    self._open.discard(task)
    self._done.append((task, outcome))

  # Workers come and go.

  def _start(self, place: _Place) -> None:
    """Starts a worker; after some failures in a row the place stays empty for a while."""
    while place.process is None and place.failures < _STARTS:
      self._starts += 1
      try:
        place.process = Process(self._settings, self._folder / str(self._starts))
        self._selector.register(place.process.socket, selectors.EVENT_READ, place)
      except OSError as error:
        self._cause = f"no worker can be started: {error}"
        place.failures += 1
    if place.process is None:
      place.failures, place.retry = 0, time.monotonic() + _DOWN_S
      self._fail(self._cause)

  def _fail(self, cause: str) -> None:
    self._cause = cause
    if not self.loaded.done():
      self.loaded.set_exception(
        UserError(
          f"the python tool cannot start ({cause}): install score_jax with its dependencies for {sys.executable}"
        )
      )

  def _stop(self, place: _Place) -> None:
    """Ends the worker in a place."""
    process, place.process = place.process, None
    assert process is not None
    self._selector.unregister(process.socket)
    process.kill()

  def _lose(self, place: _Place, reason: Reason | None) -> None:
    """Replaces a worker. The task that it was at ends for `reason` if there is one; the others begin anew."""
    process = place.process
    assert process is not None
    if reason is not None and process.ready and process.tasks:
      self._finish(process, self._verdict(process.tasks[0], reason, self._words(reason)))
    self._stop(place)
    if not process.ready:
      self._cause = process.cause()
      place.failures += 1
    self._start(place)
    for task in process.tasks:
      if task.closed:
        self._open.discard(task)
      else:
        self._assign(task, place)

  def _words(self, reason: Reason) -> str:
    if reason == "timeout":
      return f"TimeoutError: the code ran longer than {self._settings.timeout_s:g} s"
    return "the code ended the Python process"


def _text(message: dict[str, Any], name: str) -> str:
  value = message.get(name)
  if not isinstance(value, str):
    raise Garbled(f"{name} is not text")
  return value
