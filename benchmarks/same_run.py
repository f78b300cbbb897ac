"""Compares two workdirs of the same config: did a change of the code change what a run computes?

    python -m score_jax.main --config=configs/quickstart.py:smoke --workdir=runs/before     at the old commit
    python -m score_jax.main --config=configs/quickstart.py:smoke --workdir=runs/after      at the new commit
    python benchmarks/same_run.py runs/before runs/after

Compared are results.json, stages/, trajectories/ and eval/ byte for byte, config.json but for the commit, and every
array of each stage's last checkpoint. Metrics are not compared: they have times. Prints one line for each difference;
exit status 1 if there is any. Both runs have to be of one machine: another processor rounds differently.
"""

from __future__ import annotations

import argparse
import json
import logging
import pathlib
import sys
import warnings

import numpy as np

COMPARED_FILES = ("*.json", "stages/*.json", "trajectories/**/*", "eval/**/*")


def read_files(root: pathlib.Path) -> dict[str, bytes]:
  """The compared files of a workdir, by name."""
  found = {p for pattern in COMPARED_FILES for p in root.glob(pattern) if p.is_file()}
  files = {str(p.relative_to(root)): p.read_bytes() for p in sorted(found)}
  config = json.loads(files.pop("config.json", b"{}"))
  return files | {"config.json": json.dumps(config | {"commit": None}).encode()}


def read_arrays(root: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of the last checkpoint of each stage, by stage, step and name."""
  import jax
  import orbax.checkpoint as ocp

  found: dict[str, np.ndarray] = {}
  for stage in sorted((root / "checkpoints").iterdir()):
    last = max(int(p.name) for p in stage.iterdir() if p.name.isdigit())
    for item in ("weights", "optimizer"):
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.restore(stage.resolve() / str(last) / item)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        found[f"{stage.name}/{last}/{item}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
  return found


def compare(root: pathlib.Path, expected: pathlib.Path) -> tuple[int, list[str]]:
  """How many files and arrays were compared, and a line for each that differs or is in one workdir only."""
  ours, theirs = read_files(root), read_files(expected)
  lines = [f"file {name} is in one of them only" for name in sorted(ours.keys() ^ theirs.keys())]
  lines += [f"file {name} differs" for name in sorted(ours.keys() & theirs.keys()) if ours[name] != theirs[name]]
  saved, left = read_arrays(root), read_arrays(expected)
  lines += [f"array {name} is in one of them only" for name in sorted(saved.keys() ^ left.keys())]
  for name in sorted(saved.keys() & left.keys()):
    if saved[name].dtype != left[name].dtype or not np.array_equal(saved[name], left[name], equal_nan=True):
      lines.append(f"array {name} differs")
  return len(ours.keys() | theirs.keys()) + len(saved.keys() | left.keys()), lines


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("workdirs", nargs=2, type=pathlib.Path)
  first, second = parser.parse_args().workdirs
  logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs every restore
  warnings.filterwarnings("ignore", message="Sharding info not provided")
  count, lines = compare(first, second)
  print(*lines, f"{count - len(lines)} of {count} files and arrays are the same", sep="\n")
  return 1 if lines or not count else 0


if __name__ == "__main__":
  sys.exit(main())
