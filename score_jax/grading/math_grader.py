"""Grades mathematical answers in a worker process, within limits of processor time and memory.

    with MathGrader() as grader:
      grader(question, r"\\frac{2}{4}")  ->  (1.0, "equal")

How failures are told apart:

 - An answer that is too long, too deep or has control characters is wrong, at once.
 - An answer that cannot be verified within the limits of processor time and memory, or on which SymPy fails, is
   wrong (0.0), and the reason says so: otherwise a policy could escape a bad grade by hanging its grader.
 - A gold with which that happens, a gold that is empty, a worker process that cannot be started, is killed by somebody
   else or gets no processor time: these are the grader's failures (None).
"""

from __future__ import annotations

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Self

import score_jax
from score_jax.grading.math_text import bracket_depth
from score_jax.sandbox.channel import FrameDecoder, InvalidMessage, pack_message
from score_jax.trajectory import Question

MAX_ANSWER_CHARS = 2000  # characters of an answer
MAX_BRACKET_DEPTH = 25  # nested brackets
MAX_DIGITS = 1500  # digits in a row
GRADES_PER_WORKER = 2000  # a new worker after so many grades: SymPy's caches grow
LOAD_TIMEOUT_S = 60.0
CONTROL_PATTERN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
EXTERNAL_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class MathGrader:
  """Grades by meaning; a context manager whose end leaves no process behind. Threads take turns."""

  def __init__(self, *, cpu_s: float = 2.0, wall_s: float = 20.0, memory_mb: int = 512):
    """Sets the limits; the first grade starts the worker.

    Args:
      cpu_s: seconds of processor time for reading the gold, and again for the answer.
      wall_s: seconds after which a worker that got too little of a busy machine is given up.
      memory_mb: MiB for an expression, beyond what the worker takes once loaded.
    """
    self._limits = (cpu_s, memory_mb)
    self._wall_s = wall_s
    self._worker: _Worker | None = None
    self._lock = threading.Lock()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def close(self) -> None:
    """Ends the worker; a later call starts another."""
    with self._lock:
      self._end()

  @property
  def worker_pid(self) -> int | None:
    """The process id of the worker; None: none runs."""
    return self._worker.pid if self._worker else None

  def __call__(self, question: Question, answer: str) -> tuple[float | None, str]:
    """(grade, reason): 1.0 if the answer equals the gold, 0.0 if not, None if the grader failed."""
    gold = question.answer.strip()
    if not gold:
      return None, "the reference answer is empty"
    if refused := refusal_reason(answer):
      return 0.0, refused
    if answer.split() == gold.split():
      return 1.0, "the same text"
    with self._lock:
      return self._grade(gold, answer)

  def _grade(self, gold: str, answer: str) -> tuple[float | None, str]:
    """The grade from the worker; asked twice if the worker failed for another reason than this answer."""
    grade, reason = None, ""
    for _ in range(2):
      fresh = self._worker is None
      try:
        grade, reason = self._grade_once(gold, answer)
      except _WorkerLost as lost:
        grade, reason = None, str(lost)
      if grade is not None and (fresh or reason != OUT_OF_MEMORY_REASON):
        break
      self._end()
    return grade, reason

  def _grade_once(self, gold: str, answer: str) -> tuple[float | None, str]:
    if self._worker is not None and self._worker.served >= GRADES_PER_WORKER:
      self._end()
    if self._worker is None:
      self._worker = _Worker(*self._limits)
      self._worker.load()
    worker, end = self._worker, time.monotonic() + self._wall_s
    try:
      reply = worker.ask({"gold": gold, "answer": answer}, end)
    except _LimitExceeded:
      self._end()
      return None, "the reference answer takes too long to read"
    if "failed" in reply:
      return None, f"the reference answer cannot be read ({reply['failed']})"
    try:
      reply = worker.receive(end)
    except _LimitExceeded:
      self._end()
      return 0.0, "the answer took too long to verify"
    if "failed" in reply:
      return 0.0, OUT_OF_MEMORY_REASON if reply[
        "failed"
      ] == "MemoryError" else f"cannot be verified ({reply['failed']})"
    return (1.0, "equal") if reply["right"] else (0.0, "not equal to the reference")

  def _end(self) -> None:
    if self._worker is not None:
      self._worker.kill()
      self._worker = None


OUT_OF_MEMORY_REASON = "the answer took too much memory to verify"


def refusal_reason(answer: str) -> str:
  """Why a text is no answer to anything, without parsing it; empty: it may be one."""
  if len(answer) > MAX_ANSWER_CHARS:
    return f"{len(answer)} characters are too long for an answer"
  if not answer.strip():
    return "the answer is empty"
  if found := CONTROL_PATTERN.search(answer):
    return f"the answer has a control character (U+{ord(found[0]):04X})"
  if bracket_depth(answer) > MAX_BRACKET_DEPTH:
    return "the answer is nested too deep"
  return "the answer has too long a number" if re.search(rf"\d{{{MAX_DIGITS}}}", answer) else ""


class _LimitExceeded(Exception):
  """The worker used up its processor time, or crashed on the expression."""


class _WorkerLost(Exception):
  """The worker is gone or makes no progress, and the expression is not the cause."""


class _Worker:
  """One worker process and the socket to it."""

  def __init__(self, cpu_s: float, memory_mb: int):
    self.served = 0
    self._frames = FrameDecoder(longest=1 << 16)
    self._replies: list[dict[str, Any]] = []
    self._socket, theirs = socket.socketpair()
    command = [
      sys.executable,
      "-P",
      "-m",
      "score_jax.grading.math_worker",
      str(theirs.fileno()),
      str(cpu_s),
      str(memory_mb),
    ]
    with theirs:
      try:
        self._popen = subprocess.Popen(
          command,
          stdin=subprocess.DEVNULL,
          stdout=subprocess.DEVNULL,
          stderr=subprocess.DEVNULL,
          cwd="/",
          env=_worker_environment(),
          pass_fds=[theirs.fileno()],
          start_new_session=True,
        )
      except OSError as error:
        self._socket.close()
        raise _WorkerLost(f"the grader's process cannot be started ({error})") from error
    self.pid = self._popen.pid

  def load(self) -> None:
    """Waits until the worker has loaded, for LOAD_TIMEOUT_S at most.

    Raises:
      _WorkerLost: it has not.
    """
    try:
      self.receive(time.monotonic() + LOAD_TIMEOUT_S)
    except _LimitExceeded as error:
      raise _WorkerLost("the grader's process crashed while loading; is the package math-verify installed?") from error

  def ask(self, request: dict[str, Any], end: float) -> dict[str, Any]:
    """The first reply to a request.

    Raises:
      _LimitExceeded: the gold exceeded a limit.
      _WorkerLost: the worker failed for another reason.
    """
    self.served += 1
    try:
      self._socket.settimeout(max(0.1, end - time.monotonic()))
      self._socket.sendall(pack_message(request))
    except OSError as error:
      raise _WorkerLost(f"the grader's process does not listen ({error})") from error
    return self.receive(end)

  def receive(self, end: float) -> dict[str, Any]:
    """The next reply.

    Raises:
      _LimitExceeded, _WorkerLost: as in `ask`.
    """
    while not self._replies:
      try:
        self._socket.settimeout(max(0.001, end - time.monotonic()))
        data = self._socket.recv(1 << 16)
      except TimeoutError as error:
        raise _WorkerLost("the grader's process got too little processor time") from error
      except OSError:
        data = b""
      if not data:
        raise self._exit_error()
      try:
        self._replies += self._frames.feed(data)
      except InvalidMessage as error:
        raise _WorkerLost("the grader's process sent what is no reply") from error
    return self._replies.pop(0)

  def _exit_error(self) -> Exception:
    status = self._popen.wait()
    if status < 0 and -status not in EXTERNAL_SIGNALS:
      return _LimitExceeded()
    return _WorkerLost(f"the grader's process ended with status {status}")

  def kill(self) -> None:
    """Ends the process and waits for its end."""
    self._popen.kill()
    self._popen.wait()
    self._socket.close()


def _worker_environment() -> dict[str, str]:
  """Environment of the worker: enough to load, no keys or tokens, a fixed hash seed."""
  kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
  package = str(pathlib.Path(score_jax.__file__).parent.parent)
  path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
  return {**kept, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
