"""Starts the processes of a run on this machine, for tests."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

ROOT = pathlib.Path(__file__).parent.parent.parent


def free_port() -> int:
  """A port that is free."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def eight_devices(count: int) -> Callable[[int], Mapping[str, str]]:
  """The environment of each of so many processes, which share eight virtual CPU devices."""
  port = free_port()
  return lambda index: {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count}",
    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
    "JAX_NUM_PROCESSES": str(count),
    "JAX_PROCESS_ID": str(index),
  }


def start(
  arguments: Callable[[int], Sequence[str]],
  count: int,
  environment: Callable[[int], Mapping[str, str]] = lambda _: os.environ,
) -> list[subprocess.Popen[str]]:
  """`python arguments(index)` for each index; what they say is kept in pipes."""
  return [
    subprocess.Popen(
      [sys.executable, *arguments(index)],
      env=environment(index),
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(count)
  ]
