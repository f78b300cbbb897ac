"""Two runs never share a workdir, whatever became of the one before, and the second is told who has it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from etils import epath

from score_jax.errors import UserError
from score_jax.runtime import lock
from tests.fake_store import Store, store

__all__ = ["store"]
BEAT_S = 0.2


def holder(root: pathlib.Path) -> subprocess.Popen[str]:
  """A process that holds the lock until it is ended."""
  code = (
    "import sys, time; from etils import epath; from score_jax.runtime import lock\n"
    "with lock.hold_lock(epath.Path(sys.argv[1])):\n"
    "  print('holds', flush=True)\n"
    "  time.sleep(60)"
  )
  process = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True)
  assert process.stdout is not None
  assert process.stdout.readline() == "holds\n"
  return process


def test_the_second_is_refused_and_told_of_the_first_until_that_is_killed(tmp_path: pathlib.Path) -> None:
  process = holder(tmp_path)
  said = rf"workdir {tmp_path} is in use by the run with process id {process.pid} on {socket.gethostname()} since 20"
  with pytest.raises(UserError, match=said) as refused, lock.hold_lock(epath.Path(tmp_path)):
    pass
  assert "\n" not in str(refused.value)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  with lock.hold_lock(epath.Path(tmp_path)):
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    with pytest.raises(UserError, match=f"process id {os.getpid()}"), lock.hold_lock(epath.Path(tmp_path)):
      pass
  with lock.hold_lock(epath.Path(tmp_path)):
    pass


@pytest.fixture(params=["gs", "no locks"])
def root(request: pytest.FixtureRequest, store: type[Store], tmp_path: pathlib.Path) -> epath.Path:
  """A workdir for which the kernel keeps no lock."""
  if request.param == "gs":
    return epath.Path("gs://bucket/run")

  def unknown(file: object, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")

  request.getfixturevalue("monkeypatch").setattr(fcntl, "flock", unknown)
  return epath.Path(tmp_path)


def test_heartbeats_tell_where_the_kernel_keeps_no_lock(root: epath.Path) -> None:
  said = f"is in use by the run with process id {os.getpid()} on"
  with lock.hold_lock(root, beat_s=BEAT_S), pytest.raises(UserError, match=said), lock.hold_lock(root, beat_s=BEAT_S):
    pass
  if str(root).startswith("gs"):
    assert not (root / "lock").exists()


def test_what_a_dead_run_left_is_taken_over_after_some_beats(root: epath.Path) -> None:
  (root / "lock").write_text(json.dumps({"host": "gone", "pid": 1, "since": "2026-01-01", "beat": 7}))
  start = time.monotonic()
  with lock.hold_lock(root, beat_s=BEAT_S):
    assert time.monotonic() - start >= lock.STALE_BEATS * BEAT_S
    assert json.loads((root / "lock").read_text())["pid"] == os.getpid()
