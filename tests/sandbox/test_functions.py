"""Functions of one's own: what a file may hold, and that every session's code can call them, and they nothing else."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from score_jax.errors import UserError
from score_jax.sandbox.interface import NO_FUNCTIONS, ExecutedStep, FunctionDoc, Outcome, load_functions
from score_jax.sandbox.sandbox import Sandbox
from score_jax.teaching.asking import PromptTemplates

FILE = '''"""Roman numerals."""
import math

_SIGNS = {10: "X", 9: "IX", 5: "V", 4: "IV", 1: "I"}
calls = 0


def roman(number: int, *, lower=False) -> str:
  """The Roman numeral of a number under 40.

  More of it.
  """
  global calls
  calls += 1
  found = ""
  for value, sign in _SIGNS.items():
    found, number = found + sign * (number // value), number % value
  return found.lower() if lower else found


def secret():
  """What stands in a file."""
  return open("/etc/passwd").read()


def _helper():
  return 1
'''
ROMAN = FunctionDoc("roman(number: int, *, lower=False) -> str", "The Roman numeral of a number under 40.")


def written(folder: pathlib.Path, text: str) -> str:
  path = folder / "mine.py"
  path.write_text(text)
  return str(path)


@pytest.fixture
def tool(tmp_path: pathlib.Path) -> Iterator[Sandbox]:
  limits = {"timeout_s": 5.0, "memory_mb": 256, "files_mb": 16, "output_chars": 1000}
  found = load_functions(written(tmp_path, FILE))
  with Sandbox(isolation="bubblewrap", workers=2, sessions=4, search=None, functions=found, **limits) as tool:
    yield tool


def test_a_file_offers_its_functions_by_signature_and_first_line(tmp_path: pathlib.Path) -> None:
  assert load_functions(written(tmp_path, FILE)).offered == (ROMAN, FunctionDoc("secret()", "What stands in a file."))
  assert load_functions("") == NO_FUNCTIONS


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("def f(:", "is no Python .*line 1"),
    ("x = 1\ndef _f():\n  '''Hidden.'''", "defines no function"),
    ("def f():\n  return 1", "f, line 1, has no docstring"),
    ("def web_search(query):\n  '''Searches.'''", "web_search, line 1, has the name of one that is there anyway"),
    (f"x = {'1' * 70_000!r}\ndef f():\n  '''F.'''", "has more than 64 KiB"),
    (f"x = {'я' * 15_000!r}\ndef f():\n  '''F.'''", "has more than 64 KiB"),
    ("def f():\n  '''F.'''\nx = '\0'", "is no Python"),
  ],
)
def test_of_another_file_one_line_says_what_is_wrong(tmp_path: pathlib.Path, text: str, said: str) -> None:
  with pytest.raises(UserError, match=f"tools.functions = .*mine.py.*{said}"):
    load_functions(written(tmp_path, text))


def test_a_file_that_is_not_there_is_named() -> None:
  with pytest.raises(UserError, match=r"tools.functions = 'nowhere.py' cannot be read"):
    load_functions("nowhere.py")


def test_code_calls_them_and_each_session_has_its_own(tool: Sandbox) -> None:
  for session in ("a", "b"):
    tool.submit(session, "print(roman(14), roman(9, lower=True), calls)", ())
    assert tool.wait(20.0) == [(session, Outcome("ok", "XIV ix 2"))]
  state = (ExecutedStep("print(roman(14), roman(9, lower=True), calls)", "XIV ix 2", "ok"),)
  tool.submit("a", "print(calls)", state)
  assert tool.wait(20.0)[0][1].observation == "2"


def test_they_are_there_when_a_session_is_run_again(tool: Sandbox) -> None:
  outcome = tool.run("print(x, calls)", (ExecutedStep("x = roman(3)", "", "ok"),))
  assert (outcome.reason, outcome.observation, outcome.replayed) == ("ok", "III 1", True)


def test_they_are_shut_in_like_the_code(tool: Sandbox) -> None:
  assert tool.run("print(secret())").reason == "denied"


def test_a_file_that_fails_in_the_sandbox_ends_the_start(tmp_path: pathlib.Path) -> None:
  found = load_functions(written(tmp_path, "import socket\nsocket.socket()\ndef f():\n  '''F.'''"))
  limits = {"timeout_s": 5.0, "memory_mb": 256, "files_mb": 16, "output_chars": 1000}
  with pytest.raises(UserError, match=r"mine.py' fails in the sandbox \(.*; mend it"):
    Sandbox(isolation="bubblewrap", workers=1, sessions=1, search=None, functions=found, **limits)


@pytest.mark.parametrize("call", ["final_answer_print(1)", "web_search('x')"])
def test_a_file_cannot_answer_or_search_before_there_is_a_question(tmp_path: pathlib.Path, call: str) -> None:
  found = load_functions(written(tmp_path, f"{call}\ndef f():\n  '''F.'''"))
  limits = {"timeout_s": 5.0, "memory_mb": 256, "files_mb": 16, "output_chars": 1000}
  with pytest.raises(UserError, match=r"fails in the sandbox \(RuntimeError: .*: there is nothing to do yet"):
    Sandbox(isolation="bubblewrap", workers=1, sessions=1, search=str.upper, functions=found, **limits)


def test_a_file_of_any_allowed_size_reaches_the_sandbox(tmp_path: pathlib.Path) -> None:
  found = load_functions(written(tmp_path, f"x = {'я' * 10_000!r}\ndef f():\n  '''F.'''"))
  limits = {"timeout_s": 5.0, "memory_mb": 256, "files_mb": 16, "output_chars": 1000}
  with Sandbox(isolation="bubblewrap", workers=1, sessions=1, search=None, functions=found, **limits) as tool:
    assert tool.run("print(len(x))").observation == "10000"


def test_a_prompted_teacher_is_told_of_them() -> None:
  wording = PromptTemplates(search=False, functions=(ROMAN,))
  text = wording.render_prompt("solve_step", question="?", steps=[], acts_left=3)
  assert f"- {ROMAN.call}: {ROMAN.about}\n- final_answer_print(x)" in text
  assert "roman" not in PromptTemplates(search=False).render_prompt("solve_step", question="?", steps=[], acts_left=3)


def test_the_command_takes_a_file(tmp_path: pathlib.Path) -> None:
  command = [sys.executable, "-m", "score_jax.sandbox", f"--functions={written(tmp_path, FILE)}"]
  asked = json.dumps({"session": "a", "code": "print(roman(21))"}) + "\n"
  done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True, timeout=120)
  assert json.loads(done.stdout)["observation"] == "XXI"
