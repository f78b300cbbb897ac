"""The thread between the main program and the sessions: it does all input and output with them.

It has sessions forked, gives them code, watches the clock and ends what has to end, so that code runs on while the
main thread is inside a jitted program. So many pieces of code run at once; the others wait for their turn. A
session's process is kept for its next step. Where there are too many, or they hold too much memory, the one that
was idle longest is ended, and its next step begins in a new one with the earlier steps run again, as it does after
a step that was broken off.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import pathlib
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, get_args

from score_jax.errors import UserError
from score_jax.sandbox import bubblewrap
from score_jax.sandbox.channel import InvalidMessage
from score_jax.sandbox.interface import (
  EFFECTIVE_REASONS,
  MAX_QUERY_CHARS,
  MAX_SEARCHES_PER_STEP,
  ExecutedStep,
  Outcome,
  OutcomeReason,
  format_observation,
  replace_control_chars,
)
from score_jax.sandbox.process import CodeTask, SandboxConfig, SessionProcess, Zygote

_START_S = 120.0  # a zygote that has not loaded by then has failed
_STARTS = 3  # failures in a row after which nothing is started for a while
_DOWN_S = 1.0  # that while
_SPARE = 4  # sessions that are forked ahead, at most
_SEARCHES = 8  # searches at once
_REASONS: dict[str, OutcomeReason] = {reason: reason for reason in get_args(OutcomeReason)}

SupervisorMessage = Callable[[], None] | CodeTask | str | None


class Supervisor:
  """Runs from its making on; `loaded` resolves when code can be run, or raises UserError when none can be."""

  def __init__(
    self,
    settings: SandboxConfig,
    *,
    workers: int,
    sessions: int,
    search: Callable[[str], str] | None,
    folder: pathlib.Path,
  ):
    self.loaded: concurrent.futures.Future[None] = concurrent.futures.Future()
    self.replayed_count = 0  # steps run again
    self.busy_s = 0.0  # seconds that code ran, added up
    self._settings, self._workers, self._most = settings, workers, max(sessions, workers)
    self._search = search
    self._searchers = concurrent.futures.ThreadPoolExecutor(_SEARCHES, thread_name_prefix="score_jax search")
    self._folder = folder
    self._inbox: collections.deque[SupervisorMessage] = collections.deque()
    self._woken = False
    self._wake, self._waker = socket.socketpair()
    self._selector = selectors.DefaultSelector()
    self._selector.register(self._wake, selectors.EVENT_READ, self._take)
    self._zygote: Zygote | None = None
    self._since = 0.0  # when the zygote was started, or is to be tried again
    self._starts = self._failures = 0  # of zygotes: all, and the last in a row that failed
    self._spare: list[SessionProcess] = []
    self._sessions: collections.OrderedDict[str, SessionProcess] = collections.OrderedDict()  # idle longest first
    self._busy: set[SessionProcess] = set()
    self._waiting: collections.deque[CodeTask] = collections.deque()
    self._done: list[tuple[CodeTask, Outcome]] = []  # ended and not published
    self._cause = ""  # why nothing can be run, the last time
    self._closing = False
    self._thread = threading.Thread(target=self._run, name="score_jax tools", daemon=True)
    self._thread.start()

  def post(self, message: SupervisorMessage) -> None:
    """From any thread: runs a task, forgets a session (given its name), calls a function; None ends it all."""
    self._inbox.append(message)
    if not self._woken:
      self._woken = True
      self._waker.send(b"\0")

  def pids(self) -> list[int]:
    """The process ids of the sessions that have started."""
    return [pid for session in [*self._sessions.values(), *self._spare] if (pid := session.pid) > 0]

  def close(self) -> None:
    """Ends all processes; what is still in flight ends with reason "host_failure"."""
    self.post(None)
    self._thread.join()
    for closable in (self._selector, self._wake, self._waker):  # not by the thread, which this one may still be waking
      closable.close()
    self._searchers.shutdown(wait=False, cancel_futures=True)

  def _run(self) -> None:
    try:
      while not self._closing:
        self._turn()
      self._cause = "the tool was closed"
    except Exception as error:  # a fault in here: whoever waits for a task must hear of it
      self._fail(f"{type(error).__name__} in the tool's supervisor: {error}")
    self._end_zygote()
    self._refuse()
    while not self._closing:
      self._wake.recv(1 << 12)
      self._refuse()

  def _turn(self) -> None:
    """Waits until there is something to do, and does it."""
    if self._zygote is None and self._since <= time.monotonic():
      self._start_zygote()
    self._give_out()
    for key, _ in self._selector.select(self._patience()):
      key.data()
    self._check_clock()
    self._publish()

  def _patience(self) -> float | None:
    """Seconds until the clock has to be looked at."""
    ends = [self._end(session) for session in self._busy if not session.waits_for_search]
    if self._zygote is None:
      ends.append(self._since)
    elif not self._zygote.ready:
      ends.append(self._since + _START_S)
    return max(0.0, min(ends) - time.monotonic()) if ends else None

  def _end(self, session: SessionProcess) -> float:
    """When the patience with a session ends; one that has yet to start is given as long as a zygote."""
    return session.busy_since + (self._settings.timeout_s if session.started else _START_S)

  def _check_clock(self) -> None:
    for session in [s for s in self._busy if not s.waits_for_search and self._end(s) <= time.monotonic()]:
      if session in self._busy:  # it may have gone with the zygote
        self._read(session)  # this thread may have been kept waiting while the answer came
      if session in self._busy and not session.waits_for_search and self._end(session) <= time.monotonic():
        self._lose(session, "timeout")
    if self._zygote and not self._zygote.ready and self._since + _START_S <= time.monotonic():
      self._lose_zygote()

  def _publish(self) -> None:
    for task, outcome in self._done:
      task.outcome_queue.put((task, outcome))
    self._done.clear()

  def _refuse(self) -> None:
    """Ends all that waits, when nothing can be run any longer."""
    self._woken = False
    while self._inbox:
      message = self._inbox.popleft()
      self._closing = self._closing or message is None
      if isinstance(message, CodeTask):
        self._waiting.append(message)
    while self._waiting:
      self._done.append((self._waiting.popleft(), Outcome("host_failure", self._cause)))
    self._publish()

  # What others tell.

  def _take(self) -> None:
    self._wake.recv(1 << 12)
    self._woken = False
    while self._inbox:
      message = self._inbox.popleft()
      if message is None:
        self._closing = True
      elif isinstance(message, CodeTask):
        self._waiting.append(message)
      elif isinstance(message, str):
        self._forget(message)
      else:
        message()

  def _forget(self, name: str) -> None:
    self._waiting = collections.deque(task for task in self._waiting if not (task.closed and task.session == name))
    session = self._sessions.pop(name, None)
    if session is not None:
      self._end_session(session)

  # Code goes out.

  def _give_out(self) -> None:
    """Gives waiting tasks to sessions as long as fewer run than may, and forks some ahead."""
    zygote = self._zygote
    if zygote is None or not zygote.ready:
      return
    try:
      while self._waiting and len(self._busy) < self._workers:
        self._assign(self._waiting[0], zygote)
        self._waiting.popleft()
      while len(self._spare) < min(self._workers, _SPARE):
        self._spare.append(self._fork(zygote))
    except OSError:
      self._lose_zygote()

  def _assign(self, task: CodeTask, zygote: Zygote) -> None:
    """Gives a task to its session where that holds what came before, else to a new one."""
    session = self._sessions.pop(task.session, None)
    if session is not None and (session.held_steps != task.state or session.has_ended):
      self._end_session(session)
      session = None
    if session is None:
      session = next((spare for spare in self._spare if not spare.has_ended), None) or self._fork(zygote)
      self._spare = [spare for spare in self._spare if spare is not session]
      self._make_room()
    task.id = secrets.token_hex(8)
    task.steps_replayed, task.steps_to_replay = 0, len(task.state) if session.held_steps != task.state else 0
    task.search_count, task.search_failed, task.answer = 0, False, None
    replay = [[ran.code, ran.observation, ran.reason] for ran in task.state[: task.steps_to_replay]]
    self._sessions[task.session] = session
    session.task, session.busy_since = task, time.monotonic()
    self._busy.add(session)
    session.send({"id": task.id, "code": task.code, "replay": replay})
    if session.started:
      session.resume()
    self._flush(session)

  def _make_room(self) -> None:
    """Ends sessions that have been idle longest, where too many are kept or all hold more than may run at once."""
    room = self._workers * (self._settings.memory_mb << 20)
    idle = {name: session for name, session in self._sessions.items() if session.task is None}
    for name, session in idle.items():
      held = sum(other.held_bytes for other in self._sessions.values())
      if len(self._sessions) < self._most and held <= room:
        return
      del self._sessions[name]
      self._end_session(session)

  def _fork(self, zygote: Zygote) -> SessionProcess:
    session = zygote.fork()
    session.busy_since = time.monotonic()
    self._selector.register(session.socket, selectors.EVENT_READ, functools.partial(self._serve, session))
    return session

  def _serve(self, session: SessionProcess) -> None:
    """Its socket has something to read, or room for what is to be sent."""
    if session.socket.fileno() >= 0:  # not ended a moment ago
      self._read(session)
    if session.socket.fileno() >= 0:
      self._flush(session)

  def _flush(self, session: SessionProcess) -> None:
    """Sends what its socket takes; nothing before it has started, or its answer could overtake that it has."""
    if not session.started:
      return
    writing = 0 if session.flush() else selectors.EVENT_WRITE
    key = self._selector.get_key(session.socket)
    if key.events != selectors.EVENT_READ | writing:
      self._selector.modify(session.socket, selectors.EVENT_READ | writing, key.data)

  # What a session tells.

  def _read(self, session: SessionProcess) -> None:
    started = session.started
    try:
      for message in session.receive():
        if session.task is None or message.get("id") != session.task.id:
          raise InvalidMessage("not from the task that runs")
        self._handle(session, session.task, message)
    except EOFError:
      if self._zygote is not None and self._zygote.has_ended():  # which took it along: no doing of the code
        self._lose_zygote()
      else:
        self._lose(session, "killed")
    except InvalidMessage:
      self._lose(session, "killed")
    if not started and session.started:
      session.measure_memory()
      session.busy_since = time.monotonic()  # its time runs from here
      self._flush(session)

  def _handle(self, session: SessionProcess, task: CodeTask, message: dict[str, Any]) -> None:
    """Acts on a message; Garbled if it is not what the session may say now."""
    if "search" in message:
      self._ask(session, task, _text(message, "search"))
    elif "answer" in message:
      if task.answer is not None or task.steps_replayed < task.steps_to_replay:
        raise InvalidMessage("an answer where there can be none")
      task.answer = format_observation(_text(message, "answer"), chars=self._settings.output_chars)
    elif "at" in message:
      if message["at"] != task.steps_replayed + 1 or message["at"] > task.steps_to_replay:
        raise InvalidMessage("not the step that comes next")
      now = time.monotonic()
      self.busy_s += now - session.busy_since
      task.steps_replayed, task.search_count, session.busy_since = task.steps_replayed + 1, 0, now
      self.replayed_count += 1
    else:
      said, observation = _text(message, "reason"), _text(message, "observation")
      if not _may_say(task, said):
        raise InvalidMessage(f"not a reason that it can know: {said}")
      self._finish(session, self._verdict(task, _REASONS[said], observation))

  def _ask(self, session: SessionProcess, task: CodeTask, query: str) -> None:
    """Has a query answered in another thread, and the answer sent."""
    if (
      self._search is None
      or session.waits_for_search
      or task.search_count == MAX_SEARCHES_PER_STEP
      or len(query) > MAX_QUERY_CHARS
    ):
      raise InvalidMessage("a search where there can be none")
    task.search_count += 1
    session.waits_for_search, asked = True, time.monotonic()
    session.freeze()
    search, query = self._search, replace_control_chars(query)

    def work() -> None:
      try:
        reply = {"found": search(query)}
      except Exception as error:  # whatever a search backend raises is the host's failure, not the code's
        reply = {"failed": f"web_search failed: {type(error).__name__}: {error}"}
      self.post(lambda: answer(reply))

    def answer(reply: dict[str, str]) -> None:
      if session.task is task:
        session.waits_for_search, task.search_failed = False, "failed" in reply
        session.busy_since += time.monotonic() - asked
        session.send(reply)
        session.resume()
        self._flush(session)

    self._searchers.submit(work)

  def _verdict(self, task: CodeTask, reason: OutcomeReason, observation: str) -> Outcome:
    """The outcome of a task for that reason; a step that ended well before must do so when it is run again."""
    if task.steps_replayed < task.steps_to_replay and reason not in ("replay_mismatch", "host_failure"):
      reason, observation = (
        "replay_mismatch",
        f"step {task.steps_replayed + 1} of {task.steps_to_replay} did not end: {reason}",
      )
    text = format_observation(observation, chars=self._settings.output_chars)
    return Outcome(reason, text, task.answer, task.steps_to_replay > 0)

  def _finish(self, session: SessionProcess, outcome: Outcome) -> None:
    """Ends the task that the session was at."""
    task = session.task
    assert task is not None
    self.busy_s += time.monotonic() - session.busy_since
    session.task, session.waits_for_search = None, False
    self._busy.discard(session)
    self._done.append((task, outcome))
    if outcome.reason in EFFECTIVE_REASONS and self._sessions.get(task.session) is session:
      session.held_steps = (*task.state, ExecutedStep(task.code, outcome.observation, outcome.reason))
      session.freeze()
      self._sessions.move_to_end(task.session)
      session.measure_memory()
    else:
      self._remove(session)

  # Processes come and go.

  def _lose(self, session: SessionProcess, reason: OutcomeReason) -> None:
    """Ends a session that cannot go on; the task that it was at ends for `reason`."""
    if session.jail_error:
      self._fail(bubblewrap.explain_failure(f"{bubblewrap.JAIL_PREFIX} {session.jail_error}"))
    if session.task is None:
      self._remove(session)
    elif not session.started:  # the code has not begun
      self._finish(session, Outcome("host_failure", self._cause or "a session could not be started"))
    else:
      self._finish(session, self._verdict(session.task, reason, self._words(reason)))

  def _remove(self, session: SessionProcess) -> None:
    """Ends a session and forgets it."""
    for name in [name for name, other in self._sessions.items() if other is session]:
      del self._sessions[name]
    if session in self._spare:
      self._spare.remove(session)
    self._end_session(session)

  def _end_session(self, session: SessionProcess) -> None:
    """Ends its process. A task that it is at has been closed, or waits again: it is this session's no longer."""
    self._busy.discard(session)
    session.task = None
    if session.socket.fileno() >= 0:
      self._selector.unregister(session.socket)
      session.kill()

  def _start_zygote(self) -> None:
    self._starts += 1
    try:
      self._zygote = Zygote(self._settings, self._folder / str(self._starts))
      self._since = time.monotonic()
      self._selector.register(self._zygote.socket, selectors.EVENT_READ, functools.partial(self._hear, self._zygote))
    except OSError as error:
      self._note_failure(str(error))

  def _hear(self, zygote: Zygote) -> None:
    if zygote is not self._zygote:
      return  # lost a moment ago
    try:
      zygote.read_messages()
    except (EOFError, InvalidMessage, OSError):
      self._lose_zygote()
      return
    self._failures = 0
    if not self.loaded.done():
      self.loaded.set_result(None)

  def _lose_zygote(self) -> None:
    """Ends the zygote, and with it the sessions: their tasks begin anew in those of another."""
    zygote = self._zygote
    assert zygote is not None
    self._end_zygote()
    if not zygote.ready:
      self._note_failure(bubblewrap.explain_failure(zygote.failure_cause()))

  def _end_zygote(self) -> None:
    """Ends all processes; the tasks that they were at wait again."""
    self._waiting.extendleft(session.task for session in self._busy if session.task is not None)
    for session in [*self._sessions.values(), *self._spare]:
      self._end_session(session)
    self._sessions.clear()
    self._spare.clear()
    if self._zygote is not None:
      self._selector.unregister(self._zygote.socket)
      self._zygote.kill()
      self._zygote = None

  def _note_failure(self, cause: str) -> None:
    """A zygote could not be started; after some such in a row, what waits is refused and it rests for a while."""
    self._failures += 1
    if self._failures >= _STARTS:
      self._failures, self._since = 0, time.monotonic() + _DOWN_S
      self._fail(cause)
      while self._waiting:
        self._done.append((self._waiting.popleft(), Outcome("host_failure", cause)))

  def _fail(self, cause: str) -> None:
    self._cause = cause
    if not self.loaded.done():
      self.loaded.set_exception(UserError(f"the python tool cannot start: {cause}"))

  def _words(self, reason: OutcomeReason) -> str:
    if reason == "timeout":
      return f"TimeoutError: the code ran longer than {self._settings.timeout_s:g} s"
    return "the code ended the Python process"


def _may_say(task: CodeTask, reason: str) -> bool:
  """Whether a session may end its task for that reason; whose fault it was, and the time, are not for it to say."""
  if reason == "host_failure":
    return task.search_failed
  if reason == "replay_mismatch":
    return task.steps_replayed < task.steps_to_replay
  return reason in _REASONS and reason not in ("timeout", "killed")


def _text(message: dict[str, Any], name: str) -> str:
  value = message.get(name)
  if not isinstance(value, str):
    raise InvalidMessage(f"{name} is not text")
  return value
