"""Runs or resumes a recipe, or an evaluation.

    python -m score_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
    python -m score_jax.main --config=configs/quickstart.py:smoke --config.rl.group_size=4
    python -m score_jax.main --config=configs/evaluate.py --config.model=runs/quickstart:rl --config.benchmarks=math500

    python -m score_jax.main --config=configs/quickstart.py --config.arms="('grpo',)" --workdir=runs/quickstart

Started again in the same workdir it goes on where it was; stages and arms that are asked for later are added to
it (score_jax/arms.py lists them). Exit status: 0 done, 1 failed (one line says why), 2 wrong usage, 143 or 130 when
it was asked to end by SIGTERM or Ctrl-C and has kept everything.
"""

from __future__ import annotations

import pathlib
import subprocess
from importlib import metadata
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from score_jax.command import command, flat
from score_jax.errors import UserError
from score_jax.mesh import hosts

if TYPE_CHECKING:
  from score_jax.workdir import Workdir

VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "tokenizers", "numpy")


def run(config: ConfigDict, root: str) -> None:
  """Does the config's job in the workdir `root`, alone in it, with all processes that were started for it.

  Raises:
    UserError: there is no such job, or it cannot be done.
  """
  from score_jax import lock, stopping
  from score_jax.chat.open_chat import check
  from score_jax.workdir import Workdir

  jobs = {"recipe": run_recipe, "evaluate": run_evaluation}
  if config.job not in jobs:
    raise UserError(f"job = {config.job!r}; choose from {', '.join(jobs)}")
  check(config.chat)  # before config.json is written: a key in the wrong place must not get into it
  with hosts.together(timeout_s=config.hosts.timeout_s), stopping.heeded(config.survival.grace_s):
    workdir = Workdir(root)
    workdir.require_shared()
    with lock.held(workdir.root):
      claim(workdir, config)
      jobs[config.job](config, workdir)


def run_evaluation(config: ConfigDict, workdir: Workdir) -> None:
  """Examines the models that `config` names, and reports."""
  from score_jax.candidates import evaluate
  from score_jax.report import page, table

  rows = evaluate(config, workdir)
  path = hosts.from_first("report", lambda: str(page.write(workdir.root)))
  print(table.render(rows))
  print(f"finished: {path}")


def run_recipe(config: ConfigDict, workdir: Workdir) -> None:
  """Walks the recipe of `config`, evaluates and reports."""
  from score_jax.evaluate import evaluate
  from score_jax.recipe import walk
  from score_jax.report import page, table
  from score_jax.run import Run

  with Run(config, workdir) as run:
    finished = workdir.read_json("results.json") is not None
    walk(run)
    rows = evaluate(run)
    path = hosts.from_first("report", lambda: str(page.write(workdir.root)))
  for stage, seconds in run.seconds.items():
    print(f"{stage:>18} {seconds:7.1f} s")
  print(table.render(rows))
  print(f"{'finished before; nothing was left to do' if finished and not run.seconds else 'finished'}: {path}")


def claim(workdir: Workdir, config: ConfigDict) -> None:
  """Writes config.json, or checks that the one there is of the same configuration, what is only means aside.

  Raises:
    UserError: the workdir is of another configuration, or a process has another one; names what differs.
  """
  from score_jax.means import essential, resolved

  now = resolved(config)
  versions = {name: metadata.version(name) for name in VERSIONS}
  for what, value in (("config", now), ("versions of packages", versions), ("commit of score_jax", commit())):
    hosts.require_same(what, value)
  found = workdir.read_json("config.json")
  if found is None:
    workdir.write_json("config.json", {"config": now, "versions": versions, "commit": commit()})
    return
  ours, theirs = (flat(essential(data)) for data in (now, found["config"]))
  for key in sorted(ours.keys() | theirs.keys()):
    if ours.get(key) != theirs.get(key):
      raise UserError(
        f"workdir {workdir.root} is of another config: {key} is {theirs.get(key)!r} there and {ours.get(key)!r} here; "
        "give another --workdir"
      )
  workdir.write_json("config.json", found | {"config": now})


def commit() -> str | None:
  """The commit of the checkout that this package lies in, if it lies in one."""
  here = pathlib.Path(__file__).parent
  found = subprocess.run(
    ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False, encoding="utf-8"
  )
  return found.stdout.strip() or None


if __name__ == "__main__":
  command(run)
