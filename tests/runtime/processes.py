"""Starts the processes of a run on this machine, for tests."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).parent.parent.parent


def free_port() -> int:
  """A port that is free."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def by_hand(count: int) -> list[dict[str, str]]:
  """The environments of so many processes, which share eight virtual CPU devices."""
  of_all = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count}",
    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
    "JAX_NUM_PROCESSES": str(count),
  }
  return [{**of_all, "JAX_PROCESS_ID": str(index)} for index in range(count)]


class Process:
  """A process of a run; what it says goes to files in memory, which nobody has to empty."""

  def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]):
    self._out, self._err = os.memfd_create("out"), os.memfd_create("err")
    line = [sys.executable, *arguments]
    self._popen = subprocess.Popen(line, env=environment, cwd=ROOT, stdout=self._out, stderr=self._err)
    self.pid = self._popen.pid

  def send(self, number: int) -> None:
    self._popen.send_signal(number)

  def until(self, said: str, *, timeout_s: float) -> None:
    """Waits until it has said so, to standard output."""
    end = time.monotonic() + timeout_s
    while said not in _text(self._out):
      assert self._popen.poll() is None and time.monotonic() < end, _text(self._out) + _text(self._err)
      time.sleep(0.1)

  def ended(self, *, timeout_s: float) -> tuple[int, str, str]:
    """Waits for its end: the status, and what it said to standard output and error."""
    try:
      status = self._popen.wait(timeout_s)
    finally:
      self._popen.kill()
    return status, _text(self._out), _text(self._err).strip()


def _text(file: int) -> str:
  """All that is in a file so far."""
  return os.pread(file, os.fstat(file).st_size, 0).decode()


def start(arguments: Sequence[str], environments: Sequence[Mapping[str, str]]) -> list[Process]:
  """`python arguments` in each environment."""
  return [Process(arguments, environment) for environment in environments]


def ended(processes: Sequence[Process], *, timeout_s: float) -> tuple[list[int], list[str], list[str]]:
  """Their statuses, and what they said to standard output and error."""
  found = [process.ended(timeout_s=timeout_s) for process in processes]
  return [status for status, _, _ in found], [out for _, out, _ in found], [err for _, _, err in found]
