"""Rollouts with tools for an hour: what grows, what slows down, what stays behind.

    python benchmarks/soak.py --minutes=60

The shipped student answers word problems with Python and searches, again and again, as RL has it. A line for each
twelfth of the time: tokens drawn a second, and a processor second of this process (which neighbours on the machine
disturb less); its resident memory; processes of the tool, their memory, open files and temporary files, all of them
between two rounds. At the end the second quarter is compared with the last one, and what is left once all is closed is
counted. Status 1 where memory has grown by more than 3 %, tokens a processor second have fallen by more than 5 %,
the least of anything else has grown, or anything is left.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time

from descendants import descendants

from score_jax.agent.rollout import RolloutRequest, empty_trajectory
from score_jax.config import load_config
from score_jax.experiment.experiment import Experiment
from score_jax.limits import POSITIVE, make_argparse_type
from score_jax.runtime.workdir import Workdir

CONFIG = str(pathlib.Path(__file__).parent.parent / "configs/quickstart.py")
PARTS = 12
MEMORY, SPEED = 1.03, 0.95  # the last quarter over the second


@dataclasses.dataclass(frozen=True)
class Seen:
  """A round, and what there was after it."""

  at: float  # seconds since the start
  tokens: int
  seconds: float
  cpu_s: float
  rss_mb: float
  processes: int
  processes_mb: float
  files: int  # open ones
  temporary: int


def rss_mb(process: int | str) -> float:
  try:
    return (
      int(pathlib.Path(f"/proc/{process}/statm").read_text(encoding="utf-8").split()[1])
      * resource.getpagesize()
      / 2**20
    )
  except OSError:  # it has ended
    return 0.0


def look(at: float, tokens: int, seconds: float, cpu_s: float, temporary: pathlib.Path) -> Seen:
  children = descendants(os.getpid())
  return Seen(
    at=at,
    tokens=tokens,
    seconds=seconds,
    cpu_s=cpu_s,
    rss_mb=rss_mb("self"),
    processes=len(children),
    processes_mb=sum(map(rss_mb, children)),
    files=len(os.listdir("/proc/self/fd")),
    temporary=sum(1 for _ in temporary.rglob("*")),
  )


def soak(run: Experiment, seconds: float, temporary: pathlib.Path) -> list[Seen]:
  """Rounds for so long."""
  agent, questions = run.make_rl_agent(1.0), run.tasks.train[:16]
  start, seen, told = time.monotonic(), list[Seen](), 0
  while (at := time.monotonic() - start) < seconds:
    requests = [
      RolloutRequest(f"{len(seen)}/{q.id}", q, empty_trajectory(q), run.config.agent.acts, 8) for q in questions
    ]
    cpu = time.process_time()
    groups = agent.rollout(run.student.weights, requests)
    took, cpu = time.monotonic() - start - at, time.process_time() - cpu
    tokens = sum(t.ledger.of("student").generated for group in groups for t in group)
    seen.append(look(at, tokens, took, cpu, temporary))
    if at >= told * seconds / PARTS:
      told += 1
      print(line(seen[-8:]), flush=True)
  return seen


def speed(seen: list[Seen], *, cpu: bool) -> float:
  return sum(s.tokens for s in seen) / sum(s.cpu_s if cpu else s.seconds for s in seen)


def line(seen: list[Seen]) -> str:
  s = seen[-1]
  return (
    f"{s.at / 60:5.1f} min {speed(seen, cpu=False):7.0f} tokens/s {speed(seen, cpu=True):6.0f} tokens/CPU s "
    f"{s.rss_mb:7.1f} MiB, tool: {s.processes} processes, {s.processes_mb:.0f} MiB; {s.files} open files, "
    f"{s.temporary} temporary"
  )


def verdict(seen: list[Seen], seconds: float) -> list[str]:
  """What is wrong."""
  before, after = ([s for s in seen if a * seconds <= s.at < b * seconds] for a, b in ((0.25, 0.5), (0.75, 1.0)))
  if min(len(before), len(after)) < 2:
    return [f"{len(seen)} rounds are too few to compare; give more --minutes"]
  ratio = speed(after, cpu=True) / speed(before, cpu=True)
  wall = speed(after, cpu=False) / speed(before, cpu=False)
  grown = {f: greatest(after, f) / greatest(before, f) for f in ("rss_mb", "processes_mb")}
  print(f"last quarter over the second: tokens/s {wall:.3f}, tokens/CPU s {ratio:.3f}", end="")
  print("".join(f", {name} {by:.3f}" for name, by in grown.items()))
  wrong = [f"{name} has grown by {by - 1:.1%}" for name, by in grown.items() if by > MEMORY]
  wrong += [f"tokens a processor second have fallen to {ratio:.1%}"] if ratio < SPEED else []
  for name in ("processes", "files", "temporary"):
    first, last = (min(getattr(s, name) for s in part) for part in (before, after))  # sessions take a while to end
    wrong += [f"{name}: at least {first}, later {last}"] if last > first else []
  return wrong


def greatest(seen: list[Seen], name: str) -> float:
  """A high percentile: what a round leaves varies with what its code did."""
  return statistics.quantiles([getattr(s, name) for s in seen], n=20, method="inclusive")[-1]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--minutes", type=make_argparse_type(POSITIVE), default=60.0)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory(prefix="soak_") as folder:
    temporary = pathlib.Path(folder, "tmp")
    temporary.mkdir()
    tempfile.tempdir = str(temporary)
    config = load_config(CONFIG)
    with Experiment(config, Workdir(f"{folder}/run")) as run:
      seen = soak(run, 60 * args.minutes, temporary)
    left = descendants(os.getpid())
    wrong = verdict(seen, 60 * args.minutes)
    wrong += [f"{len(left)} processes are left"] if left else []
    wrong += [f"left in the folder of temporary files: {names}"] if (names := os.listdir(temporary)) else []
  rollouts = 128 * len(seen)
  print(
    f"{len(seen)} rounds, {rollouts} rollouts, {sum(s.tokens for s in seen)} tokens: {'; '.join(wrong) or 'steady'}"
  )
  sys.exit(bool(wrong))


if __name__ == "__main__":
  main()
