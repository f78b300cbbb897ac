"""What serves a session: runs its code, step after step, in one namespace, and answers its parent over one socket.

The process is the session's own (zygote.py forks it, jail.py shuts it in): whatever its code changes is gone with
it. Standard input, output and error are the null device; what the code prints is caught in Python, and nothing
that it prints decides anything. Clock (clock.py) and random generators begin each step at values that depend on
the step's number alone, so that honest code gives the same when it is run again.

From the parent:
  {"id", "code", "replay": [[code, observation, reason], …]}   steps to run again first, when nothing ran here yet
  {"found": text} | {"failed": cause}                          the reply to a search
To the parent, `id` always that of the task, a number nobody can know before it comes:
  {"id", "at": n}                                              n steps have been run again
  {"id", "search": query}
  {"id", "answer": text}                                       final_answer_print was called
  {"id", "reason", "observation"}                              the end of the task
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import re
import signal
import socket
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

import numpy
from sympy.core import random as sympy_random

from score_jax.sandbox import clock
from score_jax.sandbox.channel import FrameDecoder, pack_message
from score_jax.sandbox.interface import (
  EFFECTIVE_REASONS,
  MAX_QUERY_CHARS,
  MAX_SEARCHES_PER_STEP,
  OutcomeReason,
  format_observation,
)
from score_jax.sandbox.jail import limit_cpu_time

_OUTPUT_BOUND = 1 << 20  # characters that a step may print before it is stopped
_MODULE_FILE = re.compile(r" \((/.*|unknown location)\)$")
_BUILTINS = dict(builtins.__dict__)
_SEED = (random.seed, numpy.random.seed, sympy_random.rng.seed)
_DENIED = (errno.EPERM, errno.EACCES, errno.EROFS)


class StopExecution(BaseException):
  """Ends the code from inside one of its calls; not an Exception, so that `except Exception` lets it through."""


class CapturedOutput(io.TextIOBase):
  """Catches what the code prints, up to a bound."""

  encoding = "utf-8"

  def __init__(self) -> None:
    self.parts: list[str] = []
    self.chars_left = _OUTPUT_BOUND
    self.is_full = False
    self.muted = False  # drops what is still printed after the final answer

  def writable(self) -> bool:
    return True

  def write(self, text: str, /) -> int:
    if not isinstance(text, str):
      raise TypeError(f"write() argument must be str, not {type(text).__name__}")
    if self.muted or not text:
      return len(text)
    self.is_full = len(text) > self.chars_left
    self.parts.append(text[: self.chars_left])
    self.chars_left -= len(self.parts[-1])
    if self.is_full:
      raise StopExecution
    return len(text)

  def text(self) -> str:
    return "".join(self.parts)


class DiscardedOutput(io.TextIOBase):
  """Standard error: warnings carry file names and come once a process, so no replay would match."""

  encoding = "utf-8"

  def writable(self) -> bool:
    return True

  def write(self, text: str, /) -> int:
    return len(text)


class Worker:
  """Answers the parent's messages one by one."""

  def __init__(self, channel: socket.socket, *, timeout_s: float, output_chars: int, search: bool, functions: str):
    """`functions`: code that runs before any other (the user's functions)."""
    self._channel = channel
    self._timeout_s = timeout_s
    self._output_chars = output_chars
    self._frames = FrameDecoder(longest=1 << 30)
    self._module = types.ModuleType("__main__")
    self._module.__dict__.update(_functions(self, search=search))
    self._steps = 0  # run so far
    # Of the step that runs:
    self._task = ""
    self._replaying = False
    self._output = CapturedOutput()
    self._answered = False
    self._failure = ""
    self._searches = 0
    self._loaded: tuple[str, OutcomeReason] = self._run(functions) if functions else ("", "ok")

  def serve(self) -> NoReturn:
    while True:
      message = self._receive()
      self._task = message["id"]
      observation, reason = self._serve_task(message["code"], message["replay"])
      self._send({"id": self._task, "reason": reason, "observation": observation})

  def submit(self, answer: str) -> NoReturn:
    """What final_answer_print does: the first answer counts, and the code ends."""
    self._require_task("final_answer_print")
    if not self._answered and not self._replaying:
      self._send({"id": self._task, "answer": format_observation(answer, chars=self._output_chars)})
    self._answered = self._output.muted = True
    raise StopExecution

  def search(self, query: str) -> str:
    """What web_search does: asks the parent and waits."""
    self._require_task("web_search")
    if len(query) > MAX_QUERY_CHARS:
      raise ValueError(f"web_search: the query has {len(query)} characters, at most {MAX_QUERY_CHARS} are allowed")
    if self._searches == MAX_SEARCHES_PER_STEP:
      raise RuntimeError(f"web_search: at most {MAX_SEARCHES_PER_STEP} searches are allowed in one step")
    self._searches += 1
    self._send({"id": self._task, "search": query})
    reply = self._receive()
    if "failed" in reply:
      self._failure = reply["failed"]
      raise StopExecution
    return reply["found"]

  def _require_task(self, name: str) -> None:
    if not self._task:
      raise RuntimeError(f"{name}: there is nothing to do yet; call it within a function")

  def _send(self, message: dict[str, Any]) -> None:
    self._channel.sendall(pack_message(message))

  def _receive(self) -> dict[str, Any]:
    """The next message; the parent sends none before the last was answered."""
    while True:
      data = self._channel.recv(1 << 16)
      if not data:
        os._exit(0)  # the parent is gone
      for message in self._frames.feed(data):
        return message

  def _serve_task(self, code: str, replay: list[list[str]]) -> tuple[str, OutcomeReason]:
    """Runs the steps to replay, then the code; stops at the first replayed step that gives something else.

    Without the functions that it may call no code runs.
    """
    if self._loaded[1] != "ok":
      return self._loaded
    steps = [*replay, [code, None, None]]
    for index, (step, *recorded) in enumerate(steps):
      self._replaying = index < len(steps) - 1
      result = self._run(step)
      if not self._replaying or result[1] not in EFFECTIVE_REASONS:
        return result
      if list(result) != recorded:
        return f"step {index + 1} of {len(steps) - 1} gave something else when it was run again", "replay_mismatch"
      self._send({"id": self._task, "at": index + 1})
    raise AssertionError("the last step returns")

  def _run(self, code: str) -> tuple[str, OutcomeReason]:
    """Runs one step; what it printed, and how it ended."""
    self._enter()
    reason: OutcomeReason = "ok"
    line = ""
    try:
      exec(compile(code, "<code>", "exec", dont_inherit=True), self._module.__dict__)
    except StopExecution:
      reason = "output_limit" if self._output.is_full else "ok"
    except MemoryError:
      self._module.__dict__.clear()  # makes room for what is still to be done here
      reason, line = "memory", "MemoryError"
    except BaseException as error:
      reason, line = _exception(error)
    builtins.__dict__.update(_BUILTINS)  # what the code has made of them is its own affair, and this is not its code
    signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm of this step must not ring in the next
    if self._failure:
      return self._failure, "host_failure"
    if self._answered:
      reason, line = "ok", ""
    elif self._output.is_full:
      reason, line = "output_limit", ""
    text = self._output.text()
    between = "\n" if text and line and not text.endswith("\n") else ""
    return format_observation(text + between + line, chars=self._output_chars), reason

  def _enter(self) -> None:
    self._output, self._answered, self._failure, self._searches = CapturedOutput(), False, "", 0
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), self._output, DiscardedOutput()
    sys.modules["__main__"] = self._module
    _seed(self._steps)
    clock.set_step(self._steps)
    self._steps += 1
    limit_cpu_time(self._timeout_s)


def _functions(worker: Worker, *, search: bool) -> dict[str, Callable[..., Any]]:
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


def _exception(error: BaseException) -> tuple[OutcomeReason, str]:
  """The reason for what the code raised, and the last line of its traceback without the names of files."""
  kind = type(error)
  name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
  try:
    message = str(error.msg if isinstance(error, SyntaxError) else error)
  except BaseException:
    message = "<its str() failed>"
  if isinstance(error, ImportError):
    message = _MODULE_FILE.sub("", message)
  return _reason(error, message), f"{name}: {message}" if message else name


def _reason(error: BaseException, message: str) -> OutcomeReason:
  if isinstance(error, BlockingIOError) and error.errno == errno.EAGAIN:
    return "process_limit"
  if isinstance(error, RuntimeError) and message == "can't start new thread":
    return "process_limit"
  return "denied" if isinstance(error, OSError) and error.errno in _DENIED else "exception"


def _seed(step: int) -> None:
  for seed in _SEED:
    seed(step)
