"""How fast the sandbox is, and what it leaves behind.

  python benchmarks/sandbox.py
  python benchmarks/sandbox.py --isolation=process --minutes=0.2

steps      trivial steps a second, 16 workers and 16 sessions at once
warm       a trivial step in a session that is there, ms: median and 95th percentile
fresh      a new session until it has answered, ms: median, one every 50 ms (from those forked ahead)
opened     new sessions a second, each answering once, over --minutes
left       processes, file descriptors, temporary files and RSS before and after 10,000 steps in 200 sessions
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

from score_jax.limits import POSITIVE, make_argparse_type
from score_jax.sandbox.bubblewrap import ISOLATIONS
from score_jax.sandbox.interface import ExecutedStep
from score_jax.sandbox.sandbox import Sandbox

CODE = "x = 1"


def opened(isolation: str, *, workers: int) -> Sandbox:
  limits = {"timeout_s": 10.0, "memory_mb": 256, "files_mb": 16, "output_chars": 4096}
  return Sandbox(isolation=isolation, workers=workers, sessions=64, search=None, **limits)


def step(tool: Sandbox, session: str, state: tuple[ExecutedStep, ...]) -> tuple[ExecutedStep, ...]:
  tool.submit(session, CODE, state)
  [(_, outcome)] = tool.wait(30.0)
  assert outcome.reason == "ok", outcome
  return (*state, ExecutedStep(CODE, outcome.observation, outcome.reason))


def steps_a_second(isolation: str, count: int = 4000, sessions: int = 16) -> float:
  with opened(isolation, workers=sessions) as tool:
    states: dict[str, tuple[ExecutedStep, ...]] = {str(i): () for i in range(sessions)}
    left = count
    start = time.perf_counter()
    for name in states:
      tool.submit(name, CODE, ())
    while found := tool.wait(30.0):
      for name, outcome in found:
        left -= 1
        if left >= sessions:
          states[name] += (ExecutedStep(CODE, outcome.observation, outcome.reason),)
          tool.submit(name, CODE, states[name])
    return count / (time.perf_counter() - start)


def warm(isolation: str, count: int = 300) -> list[float]:
  """Milliseconds of each step, ascending."""
  with opened(isolation, workers=1) as tool:
    state = step(tool, "a", ())
    times: list[float] = []
    for _ in range(count):
      start = time.perf_counter()
      state = step(tool, "a", state)
      times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)


def fresh(isolation: str, count: int = 100) -> float:
  with opened(isolation, workers=2) as tool:
    times: list[float] = []
    for _ in range(count):
      time.sleep(0.05)
      start = time.perf_counter()
      tool.run(CODE)
      times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def opened_a_second(isolation: str, seconds: float) -> float:
  with opened(isolation, workers=2) as tool:
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
      tool.run(CODE)
      count += 1
    return count / (time.perf_counter() - start)


def here() -> dict[str, int]:
  """What there is of this process and its descendants."""
  listed = subprocess.run(["ps", "-eo", "pid"], capture_output=True, text=True, check=True, encoding="utf-8")
  resident = int(pathlib.Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGESIZE")
  folder = pathlib.Path(tempfile.gettempdir())
  return {
    "processes": len(listed.stdout.splitlines()) - 1,
    "descriptors": len(os.listdir("/proc/self/fd")),
    "files": sum(1 for depth in ("*", "*/*", "*/*/*") for _ in folder.glob(f"score_jax_tools_{depth}")),
    "rss_mb": resident >> 20,
  }


def left(isolation: str, sessions: int = 200, steps: int = 50) -> dict[str, dict[str, int]]:
  with opened(isolation, workers=2) as tool:
    tool.run(CODE)
    time.sleep(1.0)
    before = here()
    for session in range(sessions):
      state: tuple[ExecutedStep, ...] = ()
      for _ in range(steps):
        state = step(tool, str(session), state)
      tool.close(str(session))
    time.sleep(1.0)
    return {"before": before, "after": here()}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--isolation", default="bubblewrap", choices=ISOLATIONS)
  parser.add_argument("--minutes", type=make_argparse_type(POSITIVE), default=1.0, help="of opened")
  parser.add_argument("--json", action="store_true")
  args = parser.parse_args()
  parts: dict[str, Callable[[], Any]] = {
    "steps": lambda: round(steps_a_second(args.isolation)),
    "warm": lambda: [round(quantile, 2) for quantile in statistics.quantiles(warm(args.isolation), n=20)[9::9]],
    "fresh": lambda: round(fresh(args.isolation), 1),
    "opened": lambda: round(opened_a_second(args.isolation, 60.0 * args.minutes), 1),
    "left": lambda: left(args.isolation),
  }
  found = {}
  for name, part in parts.items():
    found[name] = part()
    if not args.json:
      print(f"{name}: {found[name]}", flush=True)
  if args.json:
    print(json.dumps({"isolation": args.isolation} | found))


if __name__ == "__main__":
  main()
