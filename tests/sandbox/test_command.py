"""The command that runs code from lines of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from score_jax.errors import UserError
from score_jax.sandbox.__main__ import run_json_lines
from score_jax.sandbox.interface import ExecutedStep, Outcome
from score_jax.sandbox.sandbox import Sandbox


@pytest.fixture(scope="module")
def tool() -> Iterator[Sandbox]:
  limits = {"timeout_s": 20.0, "memory_mb": 256, "files_mb": 16, "output_chars": 400}
  with Sandbox(isolation="process", workers=2, sessions=8, search=None, **limits) as tool:
    yield tool


def line(session: str, code: str) -> str:
  return json.dumps({"session": session, "code": code}) + "\n"


def test_sessions_keep_their_order_and_their_state(tool: Sandbox) -> None:
  lines = [line(name, code) for code in ("x = 1", "x += 1", "print(x)") for name in ("a", "b")]
  found = list(run_json_lines(tool, [*lines, "\n", line("a", "final_answer_print(x)")]))
  for name in ("a", "b"):
    assert [f["observation"] for f in found if f["session"] == name][:3] == ["", "", "2"]
  last = [f for f in found if f["session"] == "a"][-1]
  assert last == {"session": "a", "reason": "ok", "observation": "", "answer": "2"}


class Together:
  """A tool where all that runs ends at once, when no more lines can come."""

  def __init__(self) -> None:
    self.running: list[str] = []

  def submit(self, session: str, code: str, state: tuple[ExecutedStep, ...]) -> None:
    self.running.append(session)

  def wait(self, timeout_s: float) -> list[tuple[str, Outcome]]:
    if timeout_s < 1.0:
      return []
    ended, self.running = self.running, []
    return [(session, Outcome("ok", "")) for session in ended]

  def close(self, session: str) -> None:
    pass


def test_no_line_is_lost_when_all_sessions_end_at_once() -> None:
  lines = [line(name, "x") for name in "aabbab"]
  assert sorted(str(f["session"]) for f in run_json_lines(Together(), lines)) == list("aaabbb")


def test_a_slow_session_does_not_hold_up_another(tool: Sandbox) -> None:
  lines = [line("slow", "import time\ntime.sleep(0.5)"), line("fast", "print(1)")]
  assert [f["session"] for f in run_json_lines(tool, lines)] == ["fast", "slow"]


@pytest.mark.parametrize("odd", ["no json", '["a"]', '{"session": "a"}', '{"session": 1, "code": "x"}'])
def test_other_lines_are_refused(tool: Sandbox, odd: str) -> None:
  with pytest.raises(UserError, match="session"):
    list(run_json_lines(tool, [odd]))


def test_the_command_answers_each_line_as_it_comes() -> None:
  command = [sys.executable, "-m", "score_jax.sandbox", "--isolation=process", "--timeout_s=5"]
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
  with subprocess.Popen(command, text=True, **pipes) as process:
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    for code, observation in (("x = 6", ""), ("print(7 * x)", "42")):
      process.stdin.write(line("a", code))
      process.stdin.flush()
      answer = json.loads(process.stdout.readline())
      assert answer == {"session": "a", "reason": "ok", "observation": observation, "answer": None}
    process.stdin.close()
    assert process.wait(20) == 0
    assert "WEAK" in process.stderr.read()
