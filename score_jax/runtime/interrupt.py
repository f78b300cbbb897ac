"""SIGTERM and Ctrl-C: a run ends at a point where nothing is half done, within its grace time.

The signal handler only notes the signal. Rollouts check between two rounds and training between two updates; they save
what they have and raise `RunInterrupted`, which closes every resource on its way out. A process that does not reach
such a point in time (it compiles, or waits) is ended as by SIGKILL, which loses only what was not written yet. A second
Ctrl-C ends it at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from score_jax.runtime.processes import any_process

_received: list[int] = []  # signals received since `handle_signals` was entered


class RunInterrupted(SystemExit):
  """Ends a run that received a signal, with the exit status that shells give: 128 + signal number."""

  def __init__(self, number: int):
    super().__init__(128 + number)
    self.signal = signal.Signals(number).name


@contextlib.contextmanager
def handle_signals(grace_s: float) -> Iterator[None]:
  """Notes SIGTERM and SIGINT while it is open. For the main thread, since Python sets signal handlers only there.

  Args:
    grace_s: seconds from the first signal until the process is ended, whatever it does.
  """
  timers: list[threading.Timer] = []

  def note(number: int, frame: FrameType | None) -> None:
    del frame
    if number == signal.SIGINT and signal.SIGINT in _received:
      _exit_now(number)
    _received.append(number)
    if len(_received) == 1:
      timers.append(threading.Timer(grace_s, _exit_now, (number,)))
      timers[0].daemon = True
      timers[0].start()

  before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    for timer in timers:
      timer.cancel()
    _received.clear()


def interrupt_requested() -> bool:
  """Whether some process of the run received a signal. Collective: all processes have to call it."""
  return any_process(bool(_received))


def raise_interrupted() -> None:
  """Ends an interrupted run.

  Raises:
    RunInterrupted: always.
  """
  raise RunInterrupted(_received[0] if _received else signal.SIGTERM)  # none noted: another process received it


def raise_if_interrupted() -> None:
  """Ends the run here if a signal was received. Collective.

  Raises:
    RunInterrupted: a process of the run received a signal.
  """
  if interrupt_requested():
    raise_interrupted()


def _exit_now(number: int) -> None:
  """Ends the process at once, without cleaning up."""
  print(f"stopped by {signal.Signals(number).name} in the midst of something", file=sys.stderr, flush=True)
  os._exit(128 + number)
