"""The process that an agent's code runs in: `python -m score_jax.tools.worker SETTINGS`, started by process.py.

It holds the live namespaces of many sessions and runs one piece of code at a time. What it is asked and what it
answers goes over a socket of its own; standard input, output and error are the null device, what the code prints
is caught in Python, and nothing that it prints decides anything.

Sessions share the interpreter and its imported modules. Each has its own namespace (as `__main__`), its own
context variables (so numpy's print options and decimal's precision), recursion limit and limit of digits; the
global generators of `random`, `numpy.random` and sympy are seeded anew before each step with the step's number,
so draws are the same in a replay whatever ran in between. What a session changes inside a module, or writes into
a file, the others of its worker can see.

From the parent:
  {"id", "session", "code", "replay": null | [[code, observation, reason], …]}   null: go on in the live namespace
  {"close": session}
  {"found": text} | {"failed": cause}                                            the reply to a search
To the parent, `id` always that of the task:
  {"ready": true}                                                                once, when loaded
  {"id", "at": n}                                                                n steps have been run again
  {"id", "search": query}
  {"id", "answer": text}                                                         final_answer_print was called
  {"id", "reason", "observation", "retire"}                                      the end of the task
"""

from __future__ import annotations

import collections
import contextvars
import ctypes
import dataclasses
import errno
import functools
import gc
import importlib
import io
import json
import os
import random
import re
import resource
import signal
import socket
import sys
import threading
import time
import types
import warnings
from typing import Any, NoReturn

import numpy.random
import sympy.core.random

from score_jax.tools.channel import Frames, pack
from score_jax.tools.outcome import EFFECTS, Reason, observe

PRELOADED = (  # the imports that the method allows; others work too, they are only slower the first time
  *("collections", "datetime", "itertools", "math", "numpy", "queue", "random", "re", "stat", "statistics", "sympy"),
  *("time", "unicodedata"),
)
_OUTPUT_BOUND = 1 << 20  # characters that a step may print before it is stopped
_QUERY_BOUND = 10_000  # characters of a search query
_QUERIES = 1000  # whose results a worker keeps
_FILE_BYTES = 64 << 20
_OPEN_FILES = 128
_CPU_SLACK_S = 60  # the parent's wall clock is what ends a step; this ends a worker that lost its parent
_KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_MODULE_FILE = re.compile(r" \((/.*|unknown location)\)$")

_RECURSION = sys.getrecursionlimit()
_DIGITS = sys.get_int_max_str_digits()


class Stop(BaseException):
  """Ends the code from inside one of its calls; not an Exception, so that `except Exception` lets it through."""


class Output(io.TextIOBase):
  """Catches what the code prints, up to a bound."""

  encoding = "utf-8"

  def __init__(self) -> None:
    self.parts: list[str] = []
    self.room = _OUTPUT_BOUND
    self.full = False
    self.shut = False  # drops what is still printed after the final answer

  def writable(self) -> bool:
    return True

  def write(self, text: str, /) -> int:
    if not isinstance(text, str):
      raise TypeError(f"write() argument must be str, not {type(text).__name__}")
    if self.shut or not text:
      return len(text)
    self.full = len(text) > self.room
    self.parts.append(text[: self.room])
    self.room -= len(self.parts[-1])
    if self.full:
      raise Stop
    return len(text)

  def text(self) -> str:
    return "".join(self.parts)


class Discard(io.TextIOBase):
  """Standard error: warnings carry file names and come once a process, so no replay would match."""

  encoding = "utf-8"

  def writable(self) -> bool:
    return True

  def write(self, text: str, /) -> int:
    return len(text)


@dataclasses.dataclass
class Session:
  """The Python state of one session."""

  module: types.ModuleType
  context: contextvars.Context
  steps: int = 0  # run in this namespace so far
  recursion: int = _RECURSION
  digits: int = _DIGITS


class Worker:
  """Answers the parent's messages one by one."""

  def __init__(self, channel: socket.socket, *, timeout_s: float, output_chars: int, search: bool):
    self._channel = channel
    self._timeout_s = timeout_s
    self._output_chars = output_chars
    self._functions = _functions(self, search=search)
    self._pid = os.getpid()
    self._home = os.getcwd()
    self._frames = Frames(longest=1 << 30)
    self._backlog: collections.deque[dict[str, Any]] = collections.deque()
    self._sessions: dict[str, Session] = {}
    self._found: dict[str, str] = {}  # results of searches by query: saves the way to the parent and back
    self._cpu_s = 0
    # Of the step that runs:
    self._task = 0
    self._replaying = False
    self._output = Output()
    self._answered = False
    self._failure = ""
    os.register_at_fork(after_in_child=channel.close)  # a process that the code forks has no say here

  def serve(self) -> NoReturn:
    self._send({"ready": True})
    while True:
      while self._backlog:
        self._handle(self._backlog.popleft())
      self._backlog.extend(self._receive())

  def submit(self, answer: str) -> NoReturn:
    """What final_answer_print does: the first answer counts, and the code ends."""
    if not self._answered and not self._replaying:
      self._send({"id": self._task, "answer": observe(answer, chars=self._output_chars)})
    self._answered = self._output.shut = True
    raise Stop

  def search(self, query: str) -> str:
    """What web_search does."""
    if len(query) > _QUERY_BOUND:
      raise ValueError(f"web_search: the query has {len(query)} characters, at most {_QUERY_BOUND} are allowed")
    if query not in self._found:
      if len(self._found) == _QUERIES:
        self._found.clear()
      self._found[query] = self._ask(query)
    return self._found[query]

  def _ask(self, query: str) -> str:
    """Asks the parent and waits; tasks that come meanwhile stay in the backlog."""
    self._send({"id": self._task, "search": query})
    reply = None
    while reply is None:
      for message in self._receive():
        if "found" in message or "failed" in message:
          reply = message
        else:
          self._backlog.append(message)
    if "failed" in reply:
      self._failure = reply["failed"]
      raise Stop
    return reply["found"]

  def _send(self, message: dict[str, Any]) -> None:
    self._channel.sendall(pack(message))

  def _receive(self) -> list[dict[str, Any]]:
    data = self._channel.recv(1 << 16)
    if not data:
      os._exit(0)  # the parent is gone
    return list(self._frames.feed(data))

  def _handle(self, message: dict[str, Any]) -> None:
    if "close" in message:
      self._drop(message["close"])
      return
    self._task = message["id"]
    observation, reason = self._serve_task(message["session"], message["code"], message["replay"])
    if reason not in EFFECTS:
      self._drop(message["session"])
    self._send({"id": self._task, "reason": reason, "observation": observation, "retire": _something_goes_on()})

  def _serve_task(self, name: str, code: str, replay: list[list[str]] | None) -> tuple[str, Reason]:
    """Runs the steps to replay, then the code; stops at the first replayed step that gives something else."""
    if replay is not None:
      self._drop(name)
      self._sessions[name] = self._open()
    steps = [*(replay or ()), [code, None, None]]
    for index, (step, *recorded) in enumerate(steps):
      self._replaying = index < len(steps) - 1
      result = self._run(self._sessions[name], step)
      if not self._replaying or result[1] not in EFFECTS:
        return result
      if list(result) != recorded:
        return f"step {index + 1} of {len(steps) - 1} gave something else when it was run again", "replay_mismatch"
      self._send({"id": self._task, "at": index + 1})
    raise AssertionError("the last step returns")

  def _open(self) -> Session:
    session = Session(types.ModuleType("__main__"), contextvars.Context())
    session.module.__dict__.update(self._functions)
    return session

  def _drop(self, name: str) -> None:
    session = self._sessions.pop(name, None)
    if session is not None:
      session.module.__dict__.clear()  # breaks the cycles through its functions: no need to wait for the collector

  def _run(self, session: Session, code: str) -> tuple[str, Reason]:
    """Runs one step in the session's namespace; what it printed, and how it ended."""
    self._enter(session)
    reason: Reason = "ok"
    line = ""
    try:
      session.context.run(exec, _compiled(code), session.module.__dict__)
    except Stop:
      reason = "output_limit" if self._output.full else "ok"
    except MemoryError:
      session.module.__dict__.clear()  # makes room for what is still to be done here
      reason, line = "memory", "MemoryError"
    except BaseException as error:
      reason, line = _exception(error)
    self._leave(session)
    if self._failure:
      return self._failure, "host_failure"
    if self._answered:
      reason, line = "ok", ""
    elif self._output.full:
      reason, line = "output_limit", ""
    text = self._output.text()
    between = "\n" if text and line and not text.endswith("\n") else ""
    return observe(text + between + line, chars=self._output_chars), reason

  def _enter(self, session: Session) -> None:
    self._output, self._answered, self._failure = Output(), False, ""
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), self._output, Discard()
    sys.modules["__main__"] = session.module
    os.chdir(self._home)
    sys.setrecursionlimit(session.recursion)
    sys.set_int_max_str_digits(session.digits)
    _seed(session.steps)
    session.steps += 1
    if time.process_time() + self._timeout_s > self._cpu_s:
      self._cpu_s = int(time.process_time() + self._timeout_s + _CPU_SLACK_S)
      _limit(resource.RLIMIT_CPU, self._cpu_s, hard=False)

  def _leave(self, session: Session) -> None:
    if os.getpid() != self._pid:
      os._exit(0)  # a process that the code forked, and that came out of it at the end
    session.recursion = sys.getrecursionlimit()
    session.digits = sys.get_int_max_str_digits()
    sys.setrecursionlimit(_RECURSION)
    sys.set_int_max_str_digits(_DIGITS)
    signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm of this step must not ring in another session's


def _functions(worker: Worker, *, search: bool) -> dict[str, Any]:
  """What a namespace starts with."""

  def web_search(query: str) -> str:
    """Searches, and returns the best results as text, one a line."""
    if not search:
      raise RuntimeError("web_search is not available")
    return worker.search(str(query))

  def final_answer_print(answer: object) -> NoReturn:
    """Submits the final answer and ends the code."""
    worker.submit(str(answer))

  for function in (web_search, final_answer_print):
    function.__module__, function.__qualname__ = "__main__", function.__name__
  return {"web_search": web_search, "final_answer_print": final_answer_print}


@functools.lru_cache(maxsize=1000)  # the samples of a question, and replays, run the same code again and again
def _compiled(code: str) -> types.CodeType:
  return compile(code, "<code>", "exec", dont_inherit=True)


def _exception(error: BaseException) -> tuple[Reason, str]:
  """The reason for what the code raised, and the last line of its traceback without the names of files."""
  kind = type(error)
  name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
  try:
    message = str(error.msg if isinstance(error, SyntaxError) else error)
  except BaseException:
    message = "<its str() failed>"
  if isinstance(error, ImportError):
    message = _MODULE_FILE.sub("", message)
  no_process = isinstance(error, BlockingIOError) and error.errno == errno.EAGAIN
  no_thread = isinstance(error, RuntimeError) and message == "can't start new thread"
  reason: Reason = "process_limit" if no_process or no_thread else "exception"
  return reason, f"{name}: {message}" if message else name


def _something_goes_on() -> bool:
  """Whether the code left a thread or process behind; the worker can then not be shared any longer."""
  if threading.active_count() > 1:
    return True
  try:
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
  except ChildProcessError:
    return False
  return True


def _seed(step: int) -> None:
  random.seed(step)
  numpy.random.seed(step)
  sympy.core.random.rng.seed(step)


def _limit(kind: int, value: int, *, hard: bool = True) -> None:
  """Sets a resource limit, or leaves the one in force where it is lower and binding."""
  highest = resource.getrlimit(kind)[1]
  if highest != resource.RLIM_INFINITY:
    value = min(value, highest)
  resource.setrlimit(kind, (value, value if hard else highest))


def _limit_all(memory_mb: int) -> None:
  with open("/proc/self/statm") as file:
    loaded = int(file.read().split()[0]) * resource.getpagesize()
  _limit(resource.RLIMIT_AS, loaded + (memory_mb << 20))
  _limit(resource.RLIMIT_FSIZE, _FILE_BYTES)
  _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
  _limit(resource.RLIMIT_CORE, 0)
  _limit(resource.RLIMIT_NPROC, 0)  # binds everybody but root


def main() -> NoReturn:
  settings = json.loads(sys.argv[1])
  ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)
  channel = socket.socket(fileno=settings["channel"])
  channel.set_inheritable(False)
  for name in PRELOADED:
    importlib.import_module(name)
  warnings.simplefilter("ignore")
  _seed(0)
  gc.collect()
  gc.freeze()  # what is loaded by now stays: the collector need not look at it again
  _limit_all(settings["memory_mb"])
  timeout_s, output_chars, search = settings["timeout_s"], settings["output_chars"], settings["search"]
  worker = Worker(channel, timeout_s=timeout_s, output_chars=output_chars, search=search)
  os.dup2(1, 2)  # up to here standard error was the parent's to read
  worker.serve()


if __name__ == "__main__":
  main()
