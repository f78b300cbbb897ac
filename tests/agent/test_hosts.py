"""Two processes roll out as one: the tool runs beside the first, and both take the same decisions."""

from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent


def rolled_out(count: int) -> list[list[dict[str, Any]]]:
  """The trajectories that each of so many processes has."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  commands = [[sys.executable, "-m", "tests.agent.hosts", str(port), str(count), str(i)] for i in range(count)]
  started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for command in commands]
  found = [process.communicate(timeout=300)[0] for process in started]
  assert [process.returncode for process in started] == [0] * count
  return [json.loads(text.strip().splitlines()[-1]) for text in found]


def test_two_processes_roll_out_as_one() -> None:
  first, second = rolled_out(2)
  assert first == second
  (alone,) = rolled_out(1)
  assert len(first) == 36 and sum(s["reason"] == "ok" for t in first for s in t["steps"]) > 10, "no code has run"
  assert [t["steps"] for t in first] == [t["steps"] for t in alone]
