"""A disk that is soon full: a file system in memory, mounted where only the code of a test sees it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from score_jax.sandbox import bubblewrap as isolation

ROOT = pathlib.Path(__file__).parent.parent


def run(code: str, disk: pathlib.Path, *, kilobytes: int | None, timeout_s: float = 120) -> str:
  """What Python code prints when the folder `disk` has so much room; what it leaves there is gone afterwards.

  With None the folder is as it is, and can only be read.
  """
  try:
    bubblewrap = isolation.find_bubblewrap()
  except FileNotFoundError as error:
    pytest.skip(f"no disk can be mounted: {error}")
  small = ["--size", str((kilobytes or 0) << 10), "--tmpfs", str(disk)]
  mounts = ["--dev-bind", "/", "/", *(small if kilobytes else ["--ro-bind", str(disk), str(disk)])]
  done = subprocess.run(
    [bubblewrap, *mounts, sys.executable, "-c", code],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
    timeout=timeout_s,
    check=False,
  )
  if "bwrap: " in done.stderr:
    pytest.skip(f"no disk can be mounted: {done.stderr.strip()}")
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout
