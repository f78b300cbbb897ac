"""The command that lets one watch: what it prints is what the agent did."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from score_jax import ask
from score_jax.agent.rollout import RolloutRequest, empty_trajectory
from score_jax.config import load_config
from score_jax.experiment.experiment import Experiment
from score_jax.runtime.workdir import Workdir
from score_jax.trajectory import Question

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = "configs/quickstart.py:smoke"
#: the command, which hears Ctrl-C even as a child of a shell's background job
HEARS = (
  "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
  "runpy.run_module('score_jax.ask', run_name='__main__', alter_sys=True)"
)


def command(*arguments: str) -> list[str]:
  return [sys.executable, "-m", "score_jax.ask", "--model=shipped:teacher", f"--config={CONFIG}", *arguments]


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> str:
  with Experiment(load_config(str(ROOT / CONFIG)), Workdir(str(tmp_path_factory.mktemp("tasks")))) as run:
    return run.tasks.test[0].text


def test_events_are_the_trajectory(
  question: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)  # any folder
  monkeypatch.setattr(sys, "argv", ["ask", *command("--json", question)[3:]])
  assert ask.main() == 0
  *events, end = map(json.loads, capsys.readouterr().out.splitlines())
  config = load_config(CONFIG)
  config.student.path = "shipped:teacher"
  with Experiment(config, Workdir(str(tmp_path))) as run:
    asked = Question("ask", question, "")
    request = RolloutRequest("ask", asked, empty_trajectory(asked), config.agent.acts)
    ((told,),) = run.make_single_agent().rollout(run.student.weights, [request])
  assert end == {"status": told.status, "answer": told.answer} and told.status == "answered"
  for section, wanted in (
    ("first_thought", told.steps[0].thought),
    ("thought", "".join(s.thought for s in told.steps[1:])),
    ("code", "".join(s.code for s in told.steps)),
    ("observation", "".join(s.observation for s in told.steps if s.reason == "ok")),
  ):
    assert "".join(e["text"] for e in events if e["section"] == section) == wanted
  assert len(events) > len(told.steps) * 2, "nothing came piece by piece"


def test_bad_input_is_told_in_a_line(
  capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  monkeypatch.chdir(tmp_path)
  for arguments, told in (
    (["--workdir=none", "--stage=rl", "q"], "error: workdir none: there is no such folder"),
    (["--model=shipped:student", "--config=configs/none.py", "q"], "error: config=configs/none.py: there is no such"),
    (["--model=shipped:student", "--config=configs/quickstart.py:big", "q"], "error: configs/quickstart.py:big"),
  ):
    monkeypatch.setattr(sys, "argv", ["ask", *arguments])
    assert ask.main() == 1
    assert capsys.readouterr().err.startswith(told)


def test_interrupted_it_ends_in_a_line(question: str, tmp_path: pathlib.Path) -> None:
  """While its code runs, which takes longer than anyone waits."""
  slow = 'import time\n\ndef print(value):\n  """Takes its time."""\n  time.sleep(300)\n'
  (tmp_path / "slow.py").write_text(slow)
  (tmp_path / "slow_config.py").write_text(f"""
from score_jax.config import load_config

def get_config(arg=""):
  c = load_config({str(ROOT / CONFIG)!r})
  c.tools.functions, c.tools.timeout_s = {str(tmp_path / "slow.py")!r}, 600.0
  return c
""")
  line = [sys.executable, "-c", HEARS, *command(question, f"--config={tmp_path / 'slow_config.py'}")[3:]]
  started = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  assert started.stdout is not None
  started.stdout.read(1)  # it works on the question
  started.send_signal(signal.SIGINT)
  begun = time.monotonic()
  _, errors = started.communicate(timeout=60)
  assert started.returncode == 130 and errors.strip().endswith("interrupted") and "Traceback" not in errors
  assert time.monotonic() - begun < 30
