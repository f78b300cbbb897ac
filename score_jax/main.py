"""Runs or resumes a recipe, or an evaluation.

    python -m score_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
    python -m score_jax.main --config=configs/quickstart.py:smoke --config.rl.group_size=4
    python -m score_jax.main --config=configs/evaluate.py --config.model=runs/quickstart:rl --config.benchmarks=math500

    python -m score_jax.main --config=configs/quickstart.py --config.arms="('grpo',)" --workdir=runs/quickstart

Started again in the same workdir, it goes on where it was. Stages and arms that are asked for later are added to it
(score_jax/experiment/stages.py lists them). Exit status: 0 done, 1 failed (one line says why), 2 wrong usage, 143 or
130 when SIGTERM or Ctrl-C ended it and everything is kept.
"""

from __future__ import annotations

import pathlib
import subprocess
from importlib import metadata
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from score_jax.command import flatten_dict, run_command
from score_jax.errors import UserError
from score_jax.runtime import processes

if TYPE_CHECKING:
  from score_jax.runtime.workdir import Workdir

RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "tokenizers", "numpy")


def run_job(config: ConfigDict, root: str) -> None:
  """Does the config's job in the workdir `root`, alone in it, with all processes that were started for it.

  Raises:
    UserError: there is no such job, or it cannot be done.
  """
  from score_jax.chat.record import check_chat_config
  from score_jax.runtime import interrupt, lock
  from score_jax.runtime.workdir import Workdir

  jobs = {"recipe": run_recipe_job, "evaluate": run_evaluation_job}
  if config.job not in jobs:
    raise UserError(f"job = {config.job!r}; choose from {', '.join(jobs)}")
  check_chat_config(config.chat)  # before config.json is written: a key in the wrong place must not get into it
  with processes.distributed(timeout_s=config.hosts.timeout_s), interrupt.handle_signals(config.survival.grace_s):
    workdir = Workdir(root)
    workdir.require_shared()
    with lock.hold_lock(workdir.root):
      write_or_check_config(workdir, config)
      jobs[config.job](config, workdir)


def run_evaluation_job(config: ConfigDict, workdir: Workdir) -> None:
  """Evaluates the models that `config` names, and reports."""
  from score_jax.evaluate import evaluate_models
  from score_jax.report import page, table

  rows = evaluate_models(config, workdir)
  path = processes.run_on_primary("report", lambda: str(page.write_report(workdir.root)))
  print(table.format_table(rows))
  print(f"finished: {path}")


def run_recipe_job(config: ConfigDict, workdir: Workdir) -> None:
  """Walks the recipe of `config`, evaluates and reports."""
  from score_jax.evaluate import evaluate_stages
  from score_jax.experiment.experiment import Experiment
  from score_jax.recipe import run_recipe
  from score_jax.report import page, table

  with Experiment(config, workdir) as run:
    finished = workdir.read_json("results.json") is not None
    run_recipe(run)
    rows = evaluate_stages(run)
    path = processes.run_on_primary("report", lambda: str(page.write_report(workdir.root)))
  for stage, seconds in run.stage_seconds.items():
    print(f"{stage:>18} {seconds:7.1f} s")
  print(table.format_table(rows))
  print(f"{'finished before; nothing was left to do' if finished and not run.stage_seconds else 'finished'}: {path}")


def write_or_check_config(workdir: Workdir, config: ConfigDict) -> None:
  """Writes config.json, or checks that the one there is of the same configuration, what is only means aside.

  Raises:
    UserError: the workdir is of another configuration, or a process has another one; names what differs.
  """
  from score_jax.config import config_to_dict, identity_config

  now = config_to_dict(config)
  versions = {name: metadata.version(name) for name in RECORDED_PACKAGES}
  for what, value in (("config", now), ("versions of packages", versions), ("commit of score_jax", find_commit())):
    processes.require_same_on_all(what, value)
  found = workdir.read_json("config.json")
  if found is None:
    workdir.write_json("config.json", {"config": now, "versions": versions, "commit": find_commit()})
    return
  ours, theirs = (flatten_dict(identity_config(data)) for data in (now, found["config"]))
  for key in sorted(ours.keys() | theirs.keys()):
    if ours.get(key) != theirs.get(key):
      raise UserError(
        f"workdir {workdir.root} is of another config: {key} is {theirs.get(key)!r} there and {ours.get(key)!r} here; "
        "give another --workdir"
      )
  workdir.write_json("config.json", found | {"config": now})


def find_commit() -> str | None:
  """The commit of the checkout that this package lies in, if it lies in one."""
  here = pathlib.Path(__file__).parent
  found = subprocess.run(
    ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False, encoding="utf-8"
  )
  return found.stdout.strip() or None


if __name__ == "__main__":
  run_command(run_job)
