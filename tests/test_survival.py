"""Whole runs that are killed, and one whose disk fills: they end as if nothing had been."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests import small_disk

ROOT = pathlib.Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def test_killed_runs_survive() -> None:
  """The benchmark, which compares a run that is killed with one that is left alone, with few kills."""
  line = [sys.executable, "benchmarks/torture.py", "--kills=4", "--seed=1"]
  done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.stdout.splitlines()[-1:] == ["survived 4/4"], done.stdout + done.stderr
  assert done.returncode == 0


def test_a_run_whose_disk_is_full_stops_in_a_line_and_goes_on_once_there_is_room(tmp_path: pathlib.Path) -> None:
  """Again and again: each time there is a little more room."""
  disk, left = tmp_path / "disk", tmp_path / "undisturbed"
  disk.mkdir()
  command = [sys.executable, "-m", "score_jax.main", "--config=configs/quickstart.py:smoke"]
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [*command, f"--workdir={left}"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  code = f"""
import pathlib, shutil, subprocess
fillers = [pathlib.Path({str(disk)!r}) / f"filler{{i}}" for i in range(3)]
room = shutil.disk_usage({str(disk)!r}).free
for filler, bytes_ in zip(fillers, (room - (10 << 20), 3 << 20, 3 << 20)):
  filler.write_bytes(bytes(bytes_))
for filler in (*fillers[::-1], None):
  done = subprocess.run({[*command, f"--workdir={disk / 'run'}"]!r}, capture_output=True, text=True)
  errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  print(done.returncode, "Traceback" in done.stderr, *errors)
  if filler:
    filler.unlink()
shutil.copy({str(disk / "run" / "results.json")!r}, {str(tmp_path)!r})
"""
  said = small_disk.run(code, disk, kilobytes=200 << 10, timeout_s=3600).splitlines()
  assert said[-1] == "0 False"
  assert len(said) == 4
  for line in said[:-1]:
    assert line.startswith("1 False error: ")
    assert "No space left on device" in line
    assert "everything up to here is kept" in line
  assert (tmp_path / "results.json").read_bytes() == (left / "results.json").read_bytes()
