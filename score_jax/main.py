"""Runs or resumes a recipe.

    python -m score_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
    python -m score_jax.main --config=configs/quickstart.py:smoke --config.rl.group_size=4

Started again in the same workdir it goes on where it was. Exit status: 0 done,
1 failed (one line says why), 2 wrong usage.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
from importlib import metadata
from typing import Any

from ml_collections import ConfigDict

from score_jax.command import command, flat
from score_jax.errors import UserError

VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "tokenizers", "numpy")


def run_recipe(config: ConfigDict, root: str) -> None:
  """Walks the recipe of `config` in the workdir `root`, evaluates and reports."""
  from score_jax.chat.open_chat import check
  from score_jax.evaluate import evaluate
  from score_jax.recipe import walk
  from score_jax.report import page, table
  from score_jax.run import Run
  from score_jax.workdir import Workdir

  check(config.chat)  # before config.json is written: a key in the wrong place must not get into it
  workdir = Workdir(root)
  claim(workdir, config)
  with Run(config, workdir) as run:
    finished = workdir.read_json("results.json") is not None
    walk(run)
    rows = evaluate(run)
    path = page.write(workdir.root)
  for stage, seconds in run.seconds.items():
    print(f"{stage:>18} {seconds:7.1f} s")
  print(table.render(rows))
  print(f"{'finished before; nothing was left to do' if finished and not run.seconds else 'finished'}: {path}")


def claim(workdir: Any, config: ConfigDict) -> None:
  """Writes config.json, or checks that the one there is of the same configuration, `stages.MEANS` aside.

  Raises:
    UserError: the workdir is of another configuration; names what differs.
  """
  from score_jax.stages import MEANS

  resolved = json.loads(config.to_json_best_effort())
  found = workdir.read_json("config.json")
  if found is None:
    versions = {name: metadata.version(name) for name in VERSIONS}
    workdir.write_json("config.json", {"config": resolved, "versions": versions, "commit": commit()})
    return
  ours, theirs = flat(resolved), flat(found["config"])
  for key in sorted((ours.keys() | theirs.keys()) - MEANS):
    if ours.get(key) != theirs.get(key):
      raise UserError(
        f"workdir {workdir.root} is of another config: {key} is {theirs.get(key)!r} there and {ours.get(key)!r} here; "
        "give another --workdir"
      )


def commit() -> str | None:
  """The commit of the checkout that this package lies in, if it lies in one."""
  here = pathlib.Path(__file__).parent
  found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
  return found.stdout.strip() or None


if __name__ == "__main__":
  command(run_recipe)
