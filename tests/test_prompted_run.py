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
from typing import Any, NoReturn

import pytest

from score_jax.chat.record import open_chat
from score_jax.config import load_config
from score_jax.teaching.asking import PromptTemplates
from score_jax.teaching.judges import ChatStepJudge, StepPair, make_answer_judge
from score_jax.trajectory import Question, Step
from tests.chat.servers import Raw, Scripted, error, flood, half, hang_up, malformed, never_ending

ROOT = pathlib.Path(__file__).parent.parent
#: what every third request gets in the place of its reply, in turn
FAULTS = [error(429, Retry_After="1"), error(500), malformed(), half, hang_up, flood, error(503), never_ending]
GONE_S = 30.0  # how long the server is gone, in the middle of the run
KILLED_AFTER = 20  # requests
JUDGE = "--config.rl.judge=True"
PATIENT = ("--config.chat.timeout_s=90.0", "--config.chat.patience_s=900.0")  # beside other work too
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


def better(messages: list[dict[str, str]]) -> str | None:
  """What a better teacher would say to a first ask to locate or to correct; of others the model's own words do.

  SmolLM2 never names a step in JSON, so that nobody would ever be asked to correct one.
  """
  words = messages[0]["content"]
  if len(messages) > 1:
    return None
  if words.startswith("You are an experienced teacher."):
    steps = json.loads(words.rstrip("\n").rpartition("\n")[2])["steps"]
    return json.dumps({"step": min(len(steps) - 1, 1), "diagnosis": "It finds nothing; begin with one quantity."})
  if words.startswith("A student is about to solve a question"):
    return json.dumps({"thought": "Take the quantities that the question names, and find what it asks from them."})
  if words.startswith("A student solves a question step by step"):
    return json.dumps({"thought": "Begin with one quantity.", "code": "first = 1\nprint(first)"})
  return None


class Proxy(Scripted):
  """Passes requests on to the server, but for those that get a fault; and helps its teacher now and then."""

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
        said = json.loads(reply.read())
    except urllib.error.HTTPError as refused:
      return Raw(refused.code, refused.read())
    instead = better(body["messages"])
    if instead is not None:
      said["choices"][0] |= {"message": {"role": "assistant", "content": instead}, "finish_reason": "stop"}
    return Raw(200, json.dumps(said).encode())


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
def test_judges_ask_the_server_and_replay_offline(tmp_path: pathlib.Path) -> None:
  """Whatever SmolLM2 says: a verdict or none, the same from the record."""
  pytest.importorskip("gguf", reason="needs the extra smollm2")
  plan, *acts = (Step("first_thought", "Add them."), *(Step("act", "Add.", f"print({x})", str(x)) for x in (12, 12.5)))
  question = Question("q", "How many are 5 and 7?", "12")
  with between(tmp_path / "serve.log") as (_, proxy):
    c = load_config(str(ROOT / "configs/smollm2_prompted.py:smoke")).chat
    c.url, c.record = proxy.url, str(tmp_path / "chat.sqlite")
    verdicts = []
    for c.offline in (False, True):
      with open_chat(c, tmp_path, seed=0, on_mesh=nobody, log=print) as chat:
        told = {"wording": PromptTemplates(search=False), "temperature": 0.3, "tokens": 64}
        opinions = ChatStepJudge(chat, **told)([StepPair(question.text, (plan,), *acts)])
        verdicts.append([opinions, make_answer_judge(lambda: chat, **told)(question, "twelve")])
        assert (chat.asked == 0) == c.offline
  assert len(proxy.asked) >= 2 and verdicts[0] == verdicts[1]


def nobody() -> NoReturn:
  raise AssertionError("no model on the mesh is asked")


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
    ran(data, tmp_path / "asked", f"--config.chat.url={proxy.url}", *PATIENT, JUDGE)
    killer.join(timeout=1.0)
    asked = len(proxy.asked)
  assert gone and gone[0] >= GONE_S, f"the run was over after {asked} requests, before the server was killed"
  assert asked > 3 * len(FAULTS), "not every fault has come"
  summary = json.loads((tmp_path / "asked/trajectories/mps/summary.json").read_text())
  replies = summary["teacher_replies"]
  assert replies["locate"]["asked"] >= summary["questions"] > 0
  assert replies["correct"]["asked"] + replies["correct_first_thought"]["asked"] > 0
  ran(
    data,
    tmp_path / "replayed",
    "--config.chat.url=http://127.0.0.1:9/v1",
    "--config.chat.offline=True",
    f"--config.chat.record={tmp_path / 'asked' / 'chat.sqlite'}",
    JUDGE,
  )
  assert made(tmp_path / "replayed") == made(tmp_path / "asked")
