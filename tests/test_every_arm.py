"""Every baseline and control runs quickstart:smoke to its table by its one override, all in one workdir."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from score_jax.experiment.stages import STAGES, resolve_stages
from tests.configs import module

ROOT = pathlib.Path(__file__).parent.parent
MAIN = module("quickstart").get_config("smoke").stages
ARMS = [name for name in STAGES if name not in MAIN]

pytestmark = pytest.mark.slow


def run(workdir: pathlib.Path, *overrides: str) -> str:
  """What the command prints."""
  line = [sys.executable, "-m", "score_jax.main", "--config=configs/quickstart.py:smoke", f"--workdir={workdir}"]
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  environment.pop("XLA_FLAGS", None)  # one device, as on a user's machine
  done = subprocess.run([*line, *overrides], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A finished run, to which each test adds an arm."""
  folder = tmp_path_factory.mktemp("arms") / "smoke"
  run(folder)
  return folder


def stages(workdir: pathlib.Path) -> dict[str, bytes]:
  return {path.stem: path.read_bytes() for path in (workdir / "stages").glob("*.json")}


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_runs_to_its_table(workdir: pathlib.Path, arm: str) -> None:
  before = stages(workdir)
  said = run(workdir, f"--config.arms=('{arm}',)")
  after = stages(workdir)
  assert after.keys() == before.keys() | set(resolve_stages(MAIN, (arm,)))
  assert before.items() <= after.items(), "what it shares with others is not done again"
  rows = {row["model"]: row for row in json.loads((workdir / "results.json").read_text())["rows"]}
  assert list(rows) == [name for name in ("teacher", "untrained", *STAGES) if name in rows]
  assert rows.keys() >= {"teacher", "untrained", arm, *MAIN} - {"mps"}
  assert rows[arm]["from"] == STAGES[arm].init_from in {"untrained", *rows}
  assert rows[arm]["n"] == 12
  [line] = [line for line in said.splitlines() if line.startswith(f"{STAGES[arm].label}  ")]
  assert f"  {STAGES[arm].init_from}  " in line
  assert STAGES[arm].purpose.replace("'", "&#39;") in (workdir / "report.html").read_text()
  others = {name: row["weights_sha256"] for name, row in rows.items() if name != arm}
  assert rows[arm]["weights_sha256"] not in others.values(), "it learnt something of its own"
