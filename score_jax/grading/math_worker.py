"""The worker process that compares mathematical answers. A crash or a time-out ends this process only.

math_grader.py starts it as `python -m score_jax.grading.math_worker FD CPU_S MEMORY_MB`. It exchanges JSON frames over
the socket FD. {"gold", "answer"} comes in; {"read": true} goes out once the gold is parsed; then {"right": bool} or
{"failed": why}. Gold and answer get CPU_S seconds of processor time each. After that the kernel ends the process, even
within one long multiplication. The worker exits when its parent is gone.
"""

from __future__ import annotations

import logging
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

from score_jax.grading import math_compare
from score_jax.sandbox.channel import FrameDecoder, pack_message

MAX_REQUEST_BYTES = 1 << 20  # bytes of a request
MAX_OPEN_FILES = 32  # for the modules that SymPy imports late
WARM_UP_PAIRS = (
  ("2x+2", "2(1+x)"),
  (r"\frac{\pi}{6}", "0.52359877559829"),
  (r"\sqrt{2}", "sqrt(8)/2"),
  ("x=1+y", "y=x-1"),
)


def main() -> None:
  channel, cpu_s, memory_mb = socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]), int(sys.argv[3])
  logging.disable(logging.CRITICAL)
  for gold, answer in WARM_UP_PAIRS:
    math_compare.matches_gold(gold, answer)
  _limit_resources(memory_mb)
  channel.sendall(pack_message({"ready": True}))
  for request in _requests(channel):
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    failure = _try(lambda: math_compare.prepare_gold(request["gold"]))  # noqa: B023
    if isinstance(failure, dict):
      channel.sendall(pack_message(failure))
      continue
    channel.sendall(pack_message({"read": True}))
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    found = _try(lambda: math_compare.matches_gold(request["gold"], request["answer"]))  # noqa: B023
    signal.setitimer(signal.ITIMER_PROF, 0)
    channel.sendall(pack_message(found if isinstance(found, dict) else {"right": found}))


def _try(work: Any) -> Any:
  """The result of `work`, or {"failed": why}: SymPy may raise anything."""
  try:
    return work()
  except Exception as error:
    return {"failed": type(error).__name__}


def _requests(channel: socket.socket) -> Iterator[dict[str, Any]]:
  frames = FrameDecoder(longest=MAX_REQUEST_BYTES)
  while data := channel.recv(1 << 16):
    yield from frames.feed(data)


def _limit_resources(memory_mb: int) -> None:
  """Forbids files and core dumps, and limits address space to `memory_mb` MiB beyond the present use."""
  with open("/proc/self/statm", encoding="utf-8") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
  limits = {
    resource.RLIMIT_AS: used + (memory_mb << 20),
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
  }
  for limit, value in limits.items():
    resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
  main()
