"""A whole run with a prompted teacher: our server, a real model behind it, and all that a server can do to a run."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chat.servers import Raw, Scripted, error, flood, half, hang_up, malformed, never_ending

ROOT = pathlib.Path(__file__).parent.parent
#: what every third request gets in the place of its reply, in turn
FAULTS = [error(429, Retry_After="1"), error(500), malformed(), half, hang_up, flood, error(503), never_ending]
GONE_S = 30.0  # how long the server is gone, in the middle of the run
KILLED_AFTER = 20  # requests
ON_ONE_DEVICE = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}  # the tests' eight would hold eight copies


class Served:
  """`score_jax.serve` with SmolLM2 behind it, on a port that it keeps when it is killed and started again."""

  def __init__(self, log: pathlib.Path):
    self._log, self.port = log, 0
    self.start()

  def start(self) -> None:
    command = [sys.executable, "-m", "score_jax.serve", "--model=smollm2", "--slots=8", "--length=2048"]
    with self._log.open("ab") as errors:
      self._process = subprocess.Popen(
        [*command, f"--port={self.port}"],
        cwd=ROOT,
        env=ON_ONE_DEVICE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
      )
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    assert "127.0.0.1:" in line, self._log.read_text()
    self.port = int(line.partition("127.0.0.1:")[2].partition("/")[0].split()[0])

  def kill(self) -> None:
    self._process.send_signal(signal.SIGKILL)
    self._process.wait()
    assert self._process.stdout is not None
    self._process.stdout.close()


class Proxy(Scripted):
  """Passes requests on to the server, but for those that get a fault."""

  def __init__(self, served: Served):
    self._served = served
    super().__init__(lambda messages: "", lambda number: FAULTS[number // 3 % len(FAULTS)] if number % 3 == 1 else None)

  def reply(self, body: dict[str, Any]) -> Raw:
    request = urllib.request.Request(
      f"http://127.0.0.1:{self._served.port}/v1/chat/completions",
      json.dumps(body).encode(),
      {"Content-Type": "application/json"},
    )
    try:
      with urllib.request.urlopen(request, timeout=300) as reply:
        return Raw(reply.status, reply.read())
    except urllib.error.HTTPError as refused:
      return Raw(refused.code, refused.read())


@contextlib.contextmanager
def between(log: pathlib.Path) -> Iterator[tuple[Served, Proxy]]:
  served = Served(log)
  proxy = Proxy(served)
  try:
    yield served, proxy
  finally:
    proxy.stop()
    served.kill()


def ran(data: str, workdir: pathlib.Path, *overrides: str) -> None:
  command = [sys.executable, "-m", "score_jax.main", "--config=configs/smollm2_prompted.py:smoke"]
  command += [f"--config.tasks.path={data}/gsm8k", f"--workdir={workdir}", *overrides]
  done = subprocess.run(command, cwd=ROOT, env=ON_ONE_DEVICE, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def made(workdir: pathlib.Path) -> dict[str, bytes]:
  """All that a run computes, but for clock times and checkpoints, whose weights results.json names."""
  names = ("trajectories", "stages", "eval")
  files = [path for name in names for path in (workdir / name).rglob("*.json*")]
  return {str(path.relative_to(workdir)): path.read_bytes() for path in [*files, workdir / "results.json"]}


@pytest.mark.slow
def test_it_survives_its_server_and_replays_offline(tmp_path: pathlib.Path) -> None:
  pytest.importorskip("gguf", reason="needs the extra smollm2")
  data = os.environ.get("SCORE_JAX_DATA")
  if not data:
    pytest.skip("SCORE_JAX_DATA names no folder with gsm8k")
  with between(tmp_path / "serve.log") as (served, proxy):
    gone: list[float] = []

    def kill() -> None:
      while len(proxy.asked) < KILLED_AFTER:
        time.sleep(0.1)
      served.kill()
      start = time.monotonic()
      time.sleep(GONE_S)
      served.start()
      gone.append(time.monotonic() - start)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    ran(data, tmp_path / "asked", f"--config.chat.url={proxy.url}", "--config.chat.timeout_s=60.0")
    killer.join(timeout=1.0)
    asked = len(proxy.asked)
  assert gone and gone[0] >= GONE_S, f"the run was over after {asked} requests, before the server was killed"
  assert asked > 3 * len(FAULTS), "not every fault has come"
  summary = json.loads((tmp_path / "asked/trajectories/mps/summary.json").read_text())
  assert summary["teacher_replies"]["locate"]["asked"] == summary["questions"] > 0
  ran(
    data,
    tmp_path / "replayed",
    "--config.chat.url=http://127.0.0.1:9/v1",
    "--config.chat.offline=True",
    f"--config.chat.record={tmp_path / 'asked' / 'chat.sqlite'}",
  )
  assert made(tmp_path / "replayed") == made(tmp_path / "asked")
