"""Kills quickstart:smoke at random moments, and shows that the runs end as if nobody had.

    python benchmarks/torture.py --kills=30

A run is begun, killed by SIGTERM or SIGKILL at a random moment, begun again in the same workdir, and so on until it
gets to its end; then the next run is begun, until there were as many kills. Each run has to end with the bytes of one
that was left alone: results.json, every trajectory and evaluation, and, array for array, the last checkpoint of each
stage. A process that gets SIGTERM has to end with status 143 within its grace time; none may leave a process of its
tools. The last kill is of a run on two (virtual) devices, which goes on with one: it has to find the arrays that were
there, make the next step on the same batch to 1e-5, and end with every question once.

Ends with status 1, and says what differs, at the first run that does not survive. Last line: survived KILLS/KILLS
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import itertools
import json
import logging
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from descendants import descendants
from same_run import compare

from score_jax.limits import POSITIVE_INT, make_argparse_type

CONFIG = "configs/quickstart.py"


class Process:
  """The command in a workdir, whose lines are read as they come."""

  def __init__(self, root: pathlib.Path, *, devices: int, compiled: pathlib.Path):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(compiled)}
    line = [sys.executable, "-m", "score_jax.main", f"--config={CONFIG}:smoke", f"--workdir={root}"]
    self.start, self.lines = time.monotonic(), list[str]()
    self._popen = subprocess.Popen(
      line,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
      encoding="utf-8",
    )
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def _read(self) -> None:
    assert self._popen.stdout is not None
    for line in self._popen.stdout:
      self.lines.append(line.rstrip())
      if "--verbose" in sys.argv:
        print("  |", line.rstrip(), flush=True)

  @property
  def at(self) -> str:
    """The stage that it is at."""
    said = [line for line in self.lines if line.endswith(": starts") or line.startswith("eval: ")]
    return said[-1].removesuffix(": starts") if said else "start-up"

  def wait(self, timeout_s: float | None) -> int | None:
    """Its status, or None where it goes on."""
    try:
      status = self._popen.wait(timeout_s)
    except subprocess.TimeoutExpired:
      return None
    self._reader.join()
    return status

  def kill(self, number: signal.Signals, *, grace_s: float) -> None:
    """Ends it by a signal, and sees to it that it ends as it should, with all that it had started."""
    started = descendants(self._popen.pid)
    sent = time.monotonic()
    self._popen.send_signal(number)
    status = self.wait(grace_s + 5.0)
    if number == signal.SIGTERM and any(line.startswith("finished") for line in self.lines):
      return  # it had just got to its end, and may heed nothing any more
    expected = {-number} if number == signal.SIGKILL else {128 + number}
    if not self.lines:  # it still loads, and has nothing to keep: the kernel ends it, which a shell calls 143 too
      expected.add(-number)
    require(status in expected, f"{number.name} ended it with status {status}", self.lines)
    took = time.monotonic() - sent
    while left := [pid for pid in started if pathlib.Path(f"/proc/{pid}").exists() and not zombie(pid)]:
      require(time.monotonic() - sent < took + 10.0, f"processes {left} are left", self.lines)
      time.sleep(0.1)


def zombie(pid: int) -> bool:
  """Whether it has ended and nobody has buried it."""
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
  except OSError:
    return True


def require(holds: bool, what: str, lines: Sequence[str] = ()) -> None:
  if not holds:
    print(*lines[-20:], f"NOT SURVIVED: {what}", sep="\n")
    sys.exit(1)


def require_same(root: pathlib.Path, expected: pathlib.Path) -> None:
  """Ends this program unless two runs have left the same."""
  count, differences = compare(root, expected)
  require(not differences, f"{root} differs from {expected}: {'; '.join(differences[:3])}")
  require(not list((root / "journal").glob("*")), f"{root}: something is left in its journal")
  print(f"  {root.name}: {count} files and arrays as if nobody had been killed", flush=True)


def require_readable(root: pathlib.Path) -> None:
  """Ends this program unless all that a kill has left is there whole."""
  from score_jax.errors import UserError
  from score_jax.runtime.workdir import Workdir

  workdir = Workdir(str(root))
  try:
    for path in root.glob("trajectories/*"):
      list(workdir.read_parts(path.name))
    for path in root.rglob("*.json"):
      if "checkpoints" not in path.parts:
        workdir.read_json(str(path.relative_to(root)))
  except UserError as error:
    require(False, f"half a file: {error}")


def finish(root: pathlib.Path, *, devices: int, compiled: pathlib.Path) -> Process:
  """Runs to the end."""
  process = Process(root, devices=devices, compiled=compiled)
  status = process.wait(None)
  require(status == 0, f"the run ended with status {status}", process.lines)
  return process


def torture(
  folder: pathlib.Path, kills: int, draw: random.Random, undisturbed: pathlib.Path, *, whole_s: float, grace_s: float
) -> None:
  """Runs that are killed at random moments, until there were so many kills; `whole_s`: what one takes that is not."""
  killed, number, where = 0, 0, collections.Counter[str]()
  while killed < kills:
    root = folder / f"run_{number}"
    number += 1
    for start in itertools.count():
      process = Process(root, devices=1, compiled=folder / "compiled")
      # Early ones come before there is anything; late ones get far enough that the run comes to its end.
      patience = draw.uniform(0.05 * whole_s, 0.6 * whole_s) if killed < kills else None
      status = process.wait(patience)
      if status is not None:
        require(status == 0, f"the run ended with status {status}", process.lines)
        whole_s = min(whole_s, time.monotonic() - process.start) if not start else whole_s
        break
      which = draw.choice((signal.SIGTERM, signal.SIGKILL))
      at = process.at
      process.kill(which, grace_s=grace_s)
      require_readable(root)
      killed += 1
      where[at] += 1
      print(f"  kill {killed}: {which.name} after {time.monotonic() - process.start:.0f} s, at {at}", flush=True)
    require_same(root, undisturbed)
  print(f"  kills by stage: {', '.join(f'{at} {count}' for at, count in where.items())}", flush=True)


# One restart on half of the devices


def halved(folder: pathlib.Path, draw: random.Random, *, grace_s: float) -> None:
  """A run on two devices is killed after its first stage has trained, and goes on with one."""
  root, compiled = folder / "halved", folder / "compiled"
  process = Process(root, devices=2, compiled=compiled)
  while not any(line.startswith("mps: round") for line in process.lines):
    require(process.wait(0.2) is None, "the run ended before it was killed", process.lines)
  process.wait(draw.uniform(0.0, 5.0))
  process.kill(signal.SIGKILL, grace_s=grace_s)
  found = [steps(root, folder, devices=devices) for devices in (2, 1)]
  for name, array in found[0].items():
    if name.startswith("restored"):
      require(np.array_equal(array, found[1][name]), f"{name} differs on half of the devices")
  furthest = max(float(np.abs(x - found[1][name]).max()) for name, x in found[0].items() if name.startswith("next"))
  require(furthest <= 1e-5, f"the next step differs by {furthest} on half of the devices")
  finish(root, devices=1, compiled=compiled)
  require_every_question_once(root)
  print(f"  on half of the devices: the same arrays, the next step to {furthest:.1e}, every question once", flush=True)


def steps(root: pathlib.Path, folder: pathlib.Path, *, devices: int) -> dict[str, np.ndarray]:
  """What a process with so many devices restores of warm_start, and what its next step makes of that."""
  out = folder / f"next_{devices}.npz"
  flags = f"--xla_force_host_platform_device_count={devices}"
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
  subprocess.run([sys.executable, __file__, f"--step={root}", f"--out={out}"], env=environment, check=True)
  return dict(np.load(out))


def step(root: pathlib.Path, out: pathlib.Path) -> None:
  """Restores the newest state of warm_start, makes one step on the demonstrations, and writes both."""
  import jax

  from score_jax.experiment.experiment import Experiment
  from score_jax.model import lora
  from score_jax.runtime.workdir import Workdir
  from score_jax.train.batch import iter_updates, make_example
  from score_jax.train.checkpoints import Checkpoints
  from score_jax.train.optimizer import make_optimizer, make_schedule
  from score_jax.train.step import Trainer, make_forward_config, make_sft_loss

  config = smoke()
  with Experiment(config, Workdir(str(root))) as run:
    settings, frozen = run.make_sft_config(config.warm_start), lora.split_trainable(run.student.weights)[1]
    rate = make_schedule(peak=settings.learning_rate, steps=1, warmup=0.0, kind="constant")
    rule = make_optimizer(settings.optimizer, rate, weight_decay=settings.weight_decay, max_norm=settings.max_norm)
    trainer = Trainer(
      run.student.graph, rule, make_sft_loss(), run.meshes.train, make_forward_config(config, 1.0), frozen
    )
    with Checkpoints(run.workdir.checkpoint_folder("warm_start"), keep=0) as checkpoints:
      state = checkpoints.restore_newest(trainer.abstract_state(run.student.config))
    assert state is not None
    restored = named("restored", jax.device_get(state))
    samples = [make_example(t) for t in run.workdir.read_parts("warm_start")]
    order = {"rows": settings.rows, "micro": settings.micro_rows, "length": settings.length}
    state, _ = trainer(state, next(iter_updates(samples, **order, epochs=1, seed=0)))
    np.savez(out, **restored, **named("next", jax.device_get(state.weights)))  # pyright: ignore[reportArgumentType]


def named(what: str, tree: Any) -> dict[str, np.ndarray]:
  import jax

  return {f"{what}{jax.tree_util.keystr(p)}": np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def smoke() -> Any:
  spec = importlib.util.spec_from_file_location("quickstart", CONFIG)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config("smoke")


def require_every_question_once(root: pathlib.Path) -> None:
  """Nothing lost, nothing doubled: mentoring and evaluation have each question once, RL each rollout."""
  from score_jax.runtime.workdir import Workdir

  split = json.loads((root / "split.json").read_text(encoding="utf-8"))
  workdir = Workdir(str(root))
  require([t.question_id for t in workdir.read_parts("mps")] == split["mps"], "mps has not every question once")
  for row in json.loads((root / "results.json").read_text(encoding="utf-8"))["rows"]:
    lines = [
      json.loads(line)
      for p in sorted((root / "eval" / row["model"]).glob("*.jsonl"))
      for line in p.open(encoding="utf-8")
    ]
    asked = [line["trajectory"]["question_id"] for line in lines]
    require(asked == split["test"], f"the evaluation of {row['model']} has not every question once")
  for stage in ("rl", "rl_from_question"):
    names = [t.name for t in workdir.read_parts(stage)]
    require(len(set(names)) == len(names), f"{stage} has a rollout twice")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--kills", type=make_argparse_type(POSITIVE_INT), default=30)
  parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
  parser.add_argument("--workdir", type=pathlib.Path, help="an empty folder; default: one that is removed")
  parser.add_argument("--verbose", action="store_true", help="shows what the runs say")
  parser.add_argument("--step", type=pathlib.Path, help=argparse.SUPPRESS)  # how it calls itself
  parser.add_argument("--out", type=pathlib.Path, help=argparse.SUPPRESS)
  args = parser.parse_args()
  os.chdir(pathlib.Path(__file__).parent.parent)
  logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax says much
  warnings.filterwarnings("ignore", message="Sharding info not provided")
  if args.step:
    step(args.step, args.out)
    return
  draw = random.Random(args.seed)
  grace_s = float(smoke().survival.grace_s)
  with tempfile.TemporaryDirectory(prefix="torture_") as temporary:
    folder = (args.workdir or pathlib.Path(temporary)).resolve()
    finish(folder / "compiling", devices=1, compiled=folder / "compiled")  # so that all that follow start alike
    undisturbed = finish(folder / "undisturbed", devices=1, compiled=folder / "compiled")
    whole = time.monotonic() - undisturbed.start
    print(f"  undisturbed: {whole:.0f} s", flush=True)
    require_same(folder / "compiling", folder / "undisturbed")
    torture(folder, args.kills - 1, draw, folder / "undisturbed", whole_s=whole, grace_s=grace_s)
    halved(folder, draw, grace_s=grace_s)
  print(f"survived {args.kills}/{args.kills}")


if __name__ == "__main__":
  main()
