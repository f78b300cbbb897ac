"""quickstart:smoke as two processes of four devices, against one of eight: the same files, and none survives the other.

Minutes: python -m pytest -m slow -n0 tests/runtime/test_processes.py
"""

from __future__ import annotations

import pathlib
import signal
import time

import pytest

from tests.runtime.processes import Process, by_hand, ended, start

pytestmark = pytest.mark.slow

PATIENCE_S = 3000.0
#: written by the clock, or about it
OF_ITS_TIME = ("metrics", "checkpoints", "report.html", "config.json", "lock")


def run(workdir: pathlib.Path, count: int) -> list[Process]:
  line = ["-m", "score_jax.main", "--config=configs/quickstart.py:smoke", "--config.mesh.train=(2,2,2)"]
  return start([*line, f"--workdir={workdir}"], by_hand(count))


def finish(processes: list[Process]) -> None:
  statuses, _, errors = ended(processes, timeout_s=PATIENCE_S)
  assert statuses == [0] * len(processes), [error[-3000:] for error in errors]


def files(workdir: pathlib.Path) -> dict[str, bytes]:
  """All that a run leaves, but what tells of its time."""
  found = (p for p in sorted(workdir.rglob("*")) if p.is_file())
  names = ((p.relative_to(workdir), p) for p in found)
  return {str(name): path.read_bytes() for name, path in names if name.parts[0] not in OF_ITS_TIME}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The workdir of one process."""
  workdir = tmp_path_factory.mktemp("alone") / "w"
  finish(run(workdir, 1))
  return workdir


def test_two_processes_leave_what_one_leaves(alone: pathlib.Path, tmp_path: pathlib.Path) -> None:
  finish(run(tmp_path / "w", 2))
  ours, theirs = files(tmp_path / "w"), files(alone)
  assert "results.json" in ours and ours.keys() == theirs.keys()
  assert [name for name in ours if ours[name] != theirs[name]] == []
  assert '"hosts/oldest_beat_s"' in (tmp_path / "w/metrics/rl.jsonl").read_text()


def test_one_that_is_killed_ends_the_other_and_both_go_on(alone: pathlib.Path, tmp_path: pathlib.Path) -> None:
  """The second in the midst of mentoring, then the first, to which the other is connected, in the midst of RL."""
  workdir = tmp_path / "w"
  kill(1, run(workdir, 2), "mps: round 1")
  kill(0, run(workdir, 2), "rl: starts")
  finish(run(workdir, 2))
  ours, theirs = files(workdir), files(alone)
  assert [name for name in theirs if ours.get(name) != theirs[name]] == []


def kill(victim: int, processes: list[Process], said: str) -> None:
  """Kills one process a little after the run has said something; the other ends within a minute, and says why."""
  processes[0].until(said, timeout_s=PATIENCE_S)
  time.sleep(3.0)
  processes[victim].send(signal.SIGKILL)
  processes[victim].ended(timeout_s=60.0)
  status, _, error = processes[1 - victim].ended(timeout_s=60.0)
  reasons = [line for line in error.splitlines() if line.startswith("error: ")]
  assert reasons and reasons[0].startswith(f"error: process {victim} (") and "died in stage" in reasons[0], error[
    -3000:
  ]
  assert status == 1
