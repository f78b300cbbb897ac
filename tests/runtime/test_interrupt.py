"""Signals that ask a run to end are noted, told at safe points, and enforced when the patience is over."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from score_jax.runtime import interrupt

NUMBERS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


@pytest.mark.parametrize(("number", "status"), NUMBERS)
def test_a_signal_is_noted_and_obeyed_at_the_next_safe_point(number: signal.Signals, status: int) -> None:
  before = signal.getsignal(number)
  with pytest.raises(interrupt.RunInterrupted) as stopped, interrupt.handle_signals(1e6):
    interrupt.raise_if_interrupted()
    assert not interrupt.interrupt_requested()
    signal.raise_signal(number)
    assert interrupt.interrupt_requested()
    interrupt.raise_if_interrupted()
  assert (stopped.value.signal, stopped.value.code) == (number.name, status)
  assert signal.getsignal(number) is before
  assert not interrupt.interrupt_requested(), "the next run in this process is not asked"


def test_what_handles_failures_does_not_take_it_for_one() -> None:
  assert not issubclass(interrupt.RunInterrupted, Exception)


def ended(grace_s: float, signals: list[int]) -> subprocess.CompletedProcess[str]:
  """A process that never comes to a safe point, and is sent the signals, each when the one before it was taken.

  Two signals of one number are one to the kernel while the first is pending.
  """
  code = (
    "import time; from score_jax.runtime import interrupt\n"
    f"with interrupt.handle_signals({grace_s}):\n"
    "  print('ready', flush=True)\n"
    "  while not interrupt.interrupt_requested(): time.sleep(0.01)\n"
    "  print('asked', flush=True)\n"
    "  time.sleep(60)"
  )
  line = [sys.executable, "-c", code]
  with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
    assert process.stdout is not None
    for number in signals:
      assert process.stdout.readline()  # "ready" before the first, "asked" before the second
      process.send_signal(number)
    out, error = process.communicate(timeout=60)
  return subprocess.CompletedProcess(line, process.returncode, out, error)


def test_who_does_not_come_to_one_ends_when_the_patience_is_over() -> None:
  done = ended(0.5, [signal.SIGTERM, signal.SIGTERM])
  assert done.returncode == 143
  assert done.stderr == "stopped by SIGTERM in the midst of something\n"


def test_a_second_interrupt_ends_at_once() -> None:
  done = ended(60.0, [signal.SIGINT, signal.SIGINT])
  assert done.returncode == 130
  assert done.stderr == "stopped by SIGINT in the midst of something\n"
