"""How a run that is asked to end does so: where nothing is half done, and within its grace time.

SIGTERM (a scheduler wants the machine back) and SIGINT (Ctrl-C) are only noted when they come. Rollouts look between
two rounds, training between two updates; they keep what they have and raise `Stopped`, which closes all on its way out.
Who does not come to such a point in time, because it compiles or waits, ends as by SIGKILL, which costs no more than
what was not written yet. A second SIGINT ends it so at once.
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

_noted: list[int] = []  # the signals that have come since `heeded` began


class RunInterrupted(SystemExit):
  """The run was asked to end, and does, with the status that a shell gives to what the signal ended."""

  def __init__(self, number: int):
    super().__init__(128 + number)
    self.signal = signal.Signals(number).name


@contextlib.contextmanager
def handle_signals(grace_s: float) -> Iterator[None]:
  """Within it the signals are noted; it is for the main thread."""
  patience: list[threading.Timer] = []

  def note(number: int, frame: FrameType | None) -> None:
    del frame
    if number == signal.SIGINT and signal.SIGINT in _noted:
      _end(number)
    _noted.append(number)
    if len(_noted) == 1:
      patience.append(threading.Timer(grace_s, _end, (number,)))
      patience[0].daemon = True
      patience[0].start()

  before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    for timer in patience:
      timer.cancel()
    _noted.clear()


def interrupt_requested() -> bool:
  """Whether the run is to end; all its processes have to ask, and are told the same, whichever of them was asked to."""
  return any_process(bool(_noted))


def raise_interrupted() -> None:
  """Ends the run that is asked to.

  Raises:
    Stopped: always.
  """
  raise RunInterrupted(_noted[0] if _noted else signal.SIGTERM)  # another process may have been the one that was asked


def raise_if_interrupted() -> None:
  """Ends the run here if it is asked to.

  Raises:
    Stopped: it is.
  """
  if interrupt_requested():
    raise_interrupted()


def _end(number: int) -> None:
  """Ends the process as it stands."""
  print(f"stopped by {signal.Signals(number).name} in the midst of something", file=sys.stderr, flush=True)
  os._exit(128 + number)
