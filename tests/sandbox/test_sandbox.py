from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest

from score_jax.errors import UserError
from score_jax.sandbox.channel import pack_message
from score_jax.sandbox.interface import ExecutedStep, Outcome, format_observation, truncate_middle
from score_jax.sandbox.process import Zygote
from score_jax.sandbox.sandbox import Sandbox
from score_jax.sandbox.supervisor import Supervisor
from tests.sandbox.test_hostile import descendants

CHARS = 400


def found(query: str) -> str:
  if query == "broken":
    raise OSError("no route to the index")
  return f"{query}: what is known of it"


def open_tool(isolation: str, *, search: bool = True, **limits: Any) -> Sandbox:
  usual = {"workers": 1, "sessions": 8, "timeout_s": 30.0, "memory_mb": 256, "files_mb": 16, "output_chars": CHARS}
  return Sandbox(isolation=isolation, search=found if search else None, **(usual | limits))


@pytest.fixture(scope="module", params=["bubblewrap", "process"])
def isolation(request: pytest.FixtureRequest) -> str:
  return request.param


@pytest.fixture(scope="module")
def tool(isolation: str) -> Iterator[Sandbox]:
  with open_tool(isolation) as tool:
    yield tool


@dataclasses.dataclass
class Talk:
  """A session and what ran in it."""

  tool: Sandbox
  name: str
  state: tuple[ExecutedStep, ...] = ()

  def __call__(self, code: str) -> Outcome:
    self.tool.submit(self.name, code, self.state)
    [(name, outcome)] = self.tool.wait(60.0)
    assert name == self.name
    self.state += (ExecutedStep(code, outcome.observation, outcome.reason),)
    return outcome


def gone(pid: int) -> bool:
  """Whether a process has ended (a dead one may wait for its parent to notice)."""
  for _ in range(100):
    try:
      stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
      return True
    if stat.rpartition(")")[2].split()[0] == "Z":
      return True
    time.sleep(0.02)
  return False


def test_state_lasts_from_step_to_step(tool: Sandbox) -> None:
  talk = Talk(tool, "a")
  assert talk("x = 6\ndef f(y):\n  return x * y") == Outcome("ok", "")
  assert talk("x = 7\nprint(f(6))\nprint()") == Outcome("ok", "42")
  assert talk("print(sorted(n for n in dir() if n[0] != '_'), __name__)") == Outcome(
    "ok", "['f', 'final_answer_print', 'web_search', 'x'] __main__"
  )


def test_sessions_do_not_see_each_other(tool: Sandbox) -> None:
  one, two = Talk(tool, "one"), Talk(tool, "two")
  one(
    "x = 1\nimport sys, math, numpy as np\nnp.set_printoptions(precision=2)\nmath.pi = 3\nsys.setrecursionlimit(5000)"
  )
  one("import builtins\nbuiltins.print = None\nopen('left', 'w').write('behind')")
  show = (
    "import os, sys, math, numpy as np\nprint(np.array([1 / 3]), math.pi, sys.getrecursionlimit(), os.listdir('.'))"
  )
  assert two(show).observation == "[0.33333333] 3.141592653589793 1000 []"
  assert two("print(x)").observation == "NameError: name 'x' is not defined"
  assert one("sys.stdout.write(f'{x} {math.pi} {os.listdir()}')").reason == "exception"
  assert one("import os\nsys.stdout.write(f'{x} {math.pi} {os.listdir()}')") == Outcome("ok", "1 3 ['left']")


def test_so_many_sessions_are_kept(isolation: str) -> None:
  with open_tool(isolation, sessions=2) as tool:
    one, two, three = (Talk(tool, name) for name in ("one", "two", "three"))
    for talk in (one, two, three):
      talk(f"x = {talk.name!r}")
    assert three("print(x)") == Outcome("ok", "three")
    assert two("print(x)") == Outcome("ok", "two")
    assert one("print(x)") == Outcome("ok", "one", replayed=True)  # it was idle longest when the third came
    assert three("print(x)") == Outcome("ok", "three", replayed=True)


#: what newer Pythons add when an attribute cannot be set
NO_DICT = " and no __dict__ for setting new attributes" if sys.version_info >= (3, 13) else ""


@pytest.mark.parametrize(
  ("code", "observation"),
  [
    ("print('before')\ny", "before\nNameError: name 'y' is not defined"),
    ("print('no newline', end='')\n1 / 0", "no newline\nZeroDivisionError: division by zero"),
    ("x = (", "SyntaxError: '(' was never closed"),
    ("from math import nothing", "ImportError: cannot import name 'nothing' from 'math'"),
    ("from sympy import nothing", "ImportError: cannot import name 'nothing' from 'sympy'"),
    ("import json\njson.loads('')", "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
    ("class Odd(Exception):\n  pass\nraise Odd", "Odd"),
    ("class Bad(Exception):\n  def __str__(self): 1 / 0\nraise Bad", "Bad: <its str() failed>"),
    ("(1).x = object()", f"AttributeError: 'int' object has no attribute 'x'{NO_DICT}"),
    ("object()()", "TypeError: 'object' object is not callable"),
    ("raise ValueError(object())", "ValueError: <object object at 0x0>"),
    ("exit()", "SystemExit: None"),
    ("input('name? ')", "name? \nEOFError: EOF when reading a line"),
    (
      "print('\ud800')",
      "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800' in position 7: surrogates not allowed",
    ),
  ],
)
def test_exceptions_end_with_the_last_line_of_the_traceback(tool: Sandbox, code: str, observation: str) -> None:
  talk = Talk(tool, "exception")
  talk("kept = 5")
  assert talk(code) == Outcome("exception", observation)
  assert talk("print(kept)") == Outcome("ok", "5")
  tool.close("exception")


def test_sessions_together_hold_no_more_than_those_that_run_may(isolation: str) -> None:
  with open_tool(isolation, memory_mb=128) as tool:
    one, two, three = (Talk(tool, name) for name in ("one", "two", "three"))
    one("x = bytearray(b'x') * (80 << 20)")
    two("x = bytearray(b'x') * (80 << 20)")
    three("x = 3")
    assert two("print(len(x) >> 20)") == Outcome("ok", "80")
    assert one("print(len(x) >> 20)") == Outcome("ok", "80", replayed=True)


def test_timeout_ends_the_code_and_nobody_else(isolation: str) -> None:
  with open_tool(isolation, timeout_s=1.0) as tool:
    loop, sibling = Talk(tool, "loop"), Talk(tool, "sibling")
    sibling("x = 20")
    loop("y = 1")
    tool.submit("loop", "y = 2\nwhile True: pass", loop.state)
    tool.submit("sibling", "x += 1\nprint(x)", sibling.state)
    start = time.monotonic()
    outcomes = dict(tool.wait(10.0))
    assert outcomes["loop"] == Outcome("timeout", "TimeoutError: the code ran longer than 1 s")
    assert 0.9 < time.monotonic() - start < 2.0
    assert outcomes | dict(tool.wait(10.0)) == outcomes | {"sibling": Outcome("ok", "21")}
    loop.state += (ExecutedStep("y = 2\nwhile True: pass", outcomes["loop"].observation, "timeout"),)
    assert loop("print(y)") == Outcome("ok", "1", replayed=True)
    assert tool.replayed_count == 1


STEPS = (
  "import random, numpy as np, sympy\nx = [random.random() for _ in range(3)]\nprint(x)",
  "print(np.random.rand(2), random.randint(0, 10**9))\nprint(undefined)",
  "class Thing: pass\nthings = [Thing(), lambda: 0]\nprint(things, {'a', 'b', 'c'})",
  "print(web_search('Oslo'), sympy.factor(sympy.Symbol('z') ** 2 - 1))",
  "for i in range(100): print(i, x)",
  "while True: print('z' * 1000)",
)


def test_a_rebuilt_state_is_the_live_one(tool: Sandbox) -> None:
  live, other = Talk(tool, "live"), Talk(tool, "other")
  for step in STEPS:
    assert not live(step).replayed
    other("import random, numpy\nrandom.random(); numpy.random.rand()")  # draws in between change nothing
  assert [ran.reason for ran in live.state] == ["ok", "exception", "ok", "ok", "ok", "output_limit"]
  last = "print(x, len(things), random.random(), np.random.rand())"
  outcomes = [tool.run(last, live.state), live(last)]
  assert outcomes[0] == dataclasses.replace(outcomes[1], replayed=True)
  assert outcomes[0].reason == "ok"


def test_a_prefix_can_go_on_in_two_ways(tool: Sandbox) -> None:
  talk = Talk(tool, "trunk")
  talk("x = [1]")
  talk("x.append(2)")
  left, right = Talk(tool, "left", talk.state), Talk(tool, "right", talk.state)
  assert left("x.append(3)\nprint(x)") == Outcome("ok", "[1, 2, 3]", replayed=True)
  assert right("x.append(4)\nprint(x)") == Outcome("ok", "[1, 2, 4]", replayed=True)
  assert left("print(x)") == Outcome("ok", "[1, 2, 3]")
  assert talk("print(x)") == Outcome("ok", "[1, 2]")
  talk.state = talk.state[:1]  # the live namespace is ahead of this
  assert talk("print(x)") == Outcome("ok", "[1]", replayed=True)


def test_a_step_that_gives_something_else_is_a_mismatch(tool: Sandbox, tmp_path: pathlib.Path) -> None:
  talk = Talk(tool, "entropy")
  talk("x = 1")
  talk("import os\nprint(os.urandom(8))")
  mark = tmp_path / "ran"
  outcome = tool.run(f"open({str(mark)!r}, 'w')", talk.state)
  assert outcome.reason == "replay_mismatch"
  assert outcome.observation == "step 2 of 2 gave something else when it was run again"
  assert not mark.exists()
  assert talk("print(x)") == Outcome("ok", "1")


def test_a_replayed_step_that_does_not_end_is_a_mismatch(tool: Sandbox) -> None:
  outcome = tool.run("print(1)", (ExecutedStep("x = 1", "", "ok"), ExecutedStep("import os\nos._exit(0)", "", "ok")))
  assert outcome.reason == "replay_mismatch"
  assert outcome.observation == "step 2 of 2 did not end: killed"


def test_memory_is_limited(tool: Sandbox) -> None:
  talk = Talk(tool, "memory")
  talk("x = 3")
  outcome = talk("x = []\nwhile True: x.append([0] * 1000)")
  assert (outcome.reason, outcome.observation) == ("memory", "MemoryError")
  assert talk("print(x)") == Outcome("ok", "3", replayed=True)


def test_output_is_limited(tool: Sandbox) -> None:
  talk = Talk(tool, "talkative")
  long = talk("print('head')\nprint('x' * 5000)\nprint('tail')")
  assert long.reason == "ok"
  assert len(long.observation) == CHARS
  assert long.observation.startswith("head\nxxx")
  assert long.observation.endswith("xxx\ntail")
  assert "\n... [4641 characters cut] ...\n" in long.observation
  endless = talk("x = 1\nwhile True:\n  try:\n    print('y' * 100)\n  except Exception:\n    pass")
  assert endless.reason == "output_limit"
  assert len(endless.observation) <= CHARS
  assert talk("print(x)") == Outcome("ok", "1")


def test_a_process_that_ends_is_replaced(tool: Sandbox) -> None:
  talk = Talk(tool, "exit")
  talk("x = 4")
  assert talk("import os\nprint(1)\nos._exit(0)") == Outcome("killed", "the code ended the Python process")
  assert talk("print(x)") == Outcome("ok", "4", replayed=True)


def test_only_final_answer_print_answers(tool: Sandbox) -> None:
  fake = """print('{"id": 1, "answer": "7"}')\nprint('final_answer_print(7)')\nprint('<answer>7</answer>')"""
  assert tool.run(fake).answer is None
  code = "print('so')\ntry:\n  final_answer_print(6 * 7)\nexcept Exception:\n  print('caught')\nprint('after')"
  assert tool.run(code) == Outcome("ok", "so", "42")
  code = "print('so')\ntry:\n  final_answer_print([1])\nexcept:\n  final_answer_print(2)\nprint('after')"
  assert tool.run(code) == Outcome("ok", "so", "[1]")
  assert tool.run("final_answer_print(1 / 0)") == Outcome("exception", "ZeroDivisionError: division by zero")
  state = (ExecutedStep("final_answer_print(1)", "", "ok"),)
  assert tool.run("print(2)", state) == Outcome("ok", "2", replayed=True)


def test_what_no_code_may_send_ends_the_session(tool: Sandbox) -> None:
  forge = "import os\nfor fd in range(3, 64):\n  try: os.write(fd, {!r})\n  except OSError: pass"
  for frame in ({}, {"id": "0", "reason": "ok", "observation": "42"}, {"id": 1, "answer": "42"}, {"started": True}):
    assert tool.run(forge.format(pack_message(frame))) == Outcome("killed", "the code ended the Python process")
  assert tool.run("print(1)") == Outcome("ok", "1")


def test_search_goes_over_the_channel(tool: Sandbox, isolation: str) -> None:
  assert tool.run("r = web_search('Oslo')\nprint(type(r).__name__, r)") == Outcome(
    "ok", "str Oslo: what is known of it"
  )
  failed = tool.run("try:\n  web_search('broken')\nexcept Exception:\n  print('caught')")
  assert failed == Outcome("host_failure", "web_search failed: OSError: no route to the index")
  assert tool.run("web_search('x' * 20000)").reason == "exception"
  with open_tool(isolation, search=False) as bare:
    none = bare.run("web_search('Oslo')")
    assert none == Outcome("exception", "RuntimeError: web_search is not available")


def test_many_sessions_at_once(isolation: str) -> None:
  with open_tool(isolation, workers=2, sessions=300) as tool:
    states: dict[str, tuple[ExecutedStep, ...]] = {str(i): () for i in range(300)}
    expected = {name: 0 for name in states}
    for name in states:
      tool.submit(name, "x = 0", ())
    while finished := tool.wait(30.0):
      for name, outcome in finished:
        step = len(states[name])
        code = f"x += {name} * {step}\nprint(x, web_search('{name} {step % 2}')[:3])" if step else "x = 0"
        if step:
          expected[name] += int(name) * step
          assert outcome == Outcome("ok", f"{expected[name]} {found(f'{name} {step % 2}')[:3]}")
        states[name] += (ExecutedStep(code, outcome.observation, outcome.reason),)
        if step < 4:
          step += 1
          tool.submit(name, f"x += {name} * {step}\nprint(x, web_search('{name} {step % 2}')[:3])", states[name])
    assert {len(state) for state in states.values()} == {5}
    assert (tool.calls, tool.replayed_count) == (1500, 0)
    assert tool.busy_s > 0


def test_a_steps_time_begins_when_its_process_has_started(tool: Sandbox) -> None:
  """Until then that of starting counts, which a step does not pay for."""
  supervisor, now = tool._supervisor, 1000.0
  sessions: list[Any] = [types.SimpleNamespace(busy_since=now, started=started) for started in (False, True)]
  starting, limit = (supervisor._end(session) - now for session in sessions)
  assert limit == 30.0 < starting == 120.0


def test_a_step_may_print_a_megabyte_to_the_last_character(tool: Sandbox) -> None:
  """1,048,576 characters, the end of the line included."""
  assert tool.run("print('x' * (2**20 - 1))").reason == "ok"
  assert tool.run("print('x' * 2**20)").reason == "output_limit"
  assert tool.run("print('x' * 2**20, end='')").reason == "ok"


def test_observations_are_plain_text(tool: Sandbox) -> None:
  outcome = tool.run(r"print('a\x00b\x1b[31m\r\tc\x7f\x9b\n\ud800é😀')")
  assert outcome == Outcome("ok", "a\ufffdb\ufffd[31m\ufffd\tc\ufffd\ufffd\n\ufffdé😀")


def test_what_is_cut_says_how_much_is_missing() -> None:
  """Of 1,000 characters 100 may be seen. A note of 1,000 has 31, so that 69 are left: 34 in front, 35 at the end."""
  text = "".join(chr(ord("a") + i % 26) for i in range(1000))
  assert truncate_middle(text, chars=100) == f"{text[:34]}\n... [931 characters cut] ...\n{text[-35:]}"


def test_observe_changes_nothing_the_second_time() -> None:
  for text in ("", "a\n\n", "x" * 1000, "<f at 0x7f00aa11bb22>\n" * 50, "\n" * 500 + "é\r" * 300):
    once = format_observation(text, chars=CHARS)
    assert format_observation(once, chars=CHARS) == once
    assert len(once) <= CHARS
  assert truncate_middle("a" * 100, chars=100) == "a" * 100


@pytest.mark.parametrize(
  "code",
  [
    "import os\nos.fork()",
    "import subprocess\nsubprocess.Popen(['sleep', '1000'])",
    "import threading\nthreading.Thread(target=print).start()",
    "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
  ],
)
def test_nothing_can_be_started(tool: Sandbox, code: str) -> None:
  assert tool.run(code).reason == "process_limit"


def test_a_refused_process_is_recognised(tool: Sandbox) -> None:
  refuse = "import errno, os\nraise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))"
  assert tool.run(refuse).reason == "process_limit"
  assert tool.run('raise RuntimeError("can\'t start new thread")').reason == "process_limit"


def test_what_waits_and_what_does_not(tool: Sandbox) -> None:
  start = time.monotonic()
  assert tool.wait(60.0) == []
  tool.submit("slow", "import time\ntime.sleep(0.3)", ())
  assert tool.wait(0.0) == []
  assert time.monotonic() - start < 5.0
  with pytest.raises(ValueError, match="in flight"):
    tool.submit("slow", "1", ())
  tool.close("slow")
  assert tool.wait(60.0) == []
  assert Talk(tool, "slow")("print(5)") == Outcome("ok", "5")


def test_nothing_is_left_running(isolation: str) -> None:
  with open_tool(isolation, workers=2) as tool:
    assert Talk(tool, "idle")("x = 1").reason == "ok"
    tool.submit("loop", "while True: pass", ())
    time.sleep(0.2)
    pids = tool.pids
    assert len(pids) >= 2
  assert all(gone(pid) for pid in pids)
  assert tool.wait(0.0) == [("loop", Outcome("host_failure", "the tool was closed"))]


def test_a_fault_of_the_supervisor_ends_what_waits(isolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
  with open_tool(isolation) as tool:
    monkeypatch.setattr(Supervisor, "_verdict", lambda *_: 1 / 0)
    tool.submit("a", "print(1)", ())
    fault = "ZeroDivisionError in the tool's supervisor: division by zero"
    assert tool.wait(10.0) == [("a", Outcome("host_failure", fault))]


def test_what_was_killed_from_outside_is_made_anew(isolation: str) -> None:
  with open_tool(isolation) as tool:
    talk = Talk(tool, "a")
    talk("x = 5")
    pids = tool.pids
    for pid in pids:
      os.kill(pid, signal.SIGKILL)
    assert all(gone(pid) for pid in pids)
    assert talk("print(x)") == Outcome("ok", "5", replayed=True)
    zygote = tool._supervisor._zygote
    assert zygote is not None
    os.killpg(zygote._popen.pid, signal.SIGKILL)
    assert gone(zygote._popen.pid)
    for name in ("a", "b"):  # a's process may still be there, b's has to come from another zygote
      assert Talk(tool, name, talk.state)("print(x)").observation == "5"


def test_a_zygote_and_its_sessions_may_be_seen_to_end_at_once(isolation: str) -> None:
  with open_tool(isolation) as tool:
    for number in range(5):
      tool.submit("a", "while True: pass", ())
      while not any(session.started for session in list(tool._supervisor._busy)):
        time.sleep(0.02)
      zygote = tool._supervisor._zygote
      assert zygote is not None
      tool._supervisor.post(lambda: time.sleep(0.5))
      time.sleep(0.1)
      for pid in tool.pids:
        os.kill(pid, signal.SIGKILL)
      os.killpg(zygote._popen.pid, signal.SIGKILL)
      assert gone(zygote._popen.pid)
      tool.close("a")
      assert tool.run(f"print({number})") == Outcome("ok", str(number))


def test_what_cannot_start_is_the_hosts_failure(isolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
  with open_tool(isolation) as tool:
    with monkeypatch.context() as patch:
      patch.setattr(Zygote, "_told", lambda *_: "{}")
      zygote = tool._supervisor._zygote
      assert zygote is not None
      pids = descendants(zygote._popen.pid)  # the zygote dies some time after what holds it
      os.killpg(zygote._popen.pid, signal.SIGKILL)
      assert all(gone(pid) for pid in pids)
      outcome = tool.run("print(1)")
      assert (outcome.reason, outcome.observation) == ("host_failure", "KeyError: 'jail'")
      with pytest.raises(UserError, match="the python tool cannot start: KeyError: 'jail'"):
        open_tool(isolation)
    end = time.monotonic() + 60.0
    while (outcome := tool.run("print(1)")).reason == "host_failure" and time.monotonic() < end:
      time.sleep(0.3)  # it tries again after a second
    assert outcome == Outcome("ok", "1")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"isolation": "docker"}, "tools.isolation='docker' is not known: give one of 'bubblewrap', 'process'"),
    ({"workers": 0}, "tools.workers=0 must be more than 0"),
    ({"files_mb": 0}, "tools.files_mb=0 must be more than 0"),
    ({"timeout_s": -1.0}, "tools.timeout_s=-1.0 must be more than 0"),
    ({"output_chars": 5}, "tools.output_chars=5 is too few: give at least 100"),
  ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], message: str) -> None:
  with pytest.raises(UserError) as caught:
    open_tool(**({"isolation": "process"} | change))
  assert str(caught.value) == message


def test_it_says_what_keeps_the_code_in(tool: Sandbox, isolation: str) -> None:
  assert ("WEAK" in tool.describe()) == (isolation == "process")
  assert "\n" not in tool.describe()


def test_honest_code_that_asks_the_time_can_be_run_again(tool: Sandbox) -> None:
  talk = Talk(tool, "clock")
  talk("import datetime, time\nstart = time.perf_counter()\nprint(datetime.datetime.now(), time.strftime('%Y'))")
  talk("time.sleep(0.05)\nprint(time.perf_counter() - start, time.time(), datetime.date.today())")
  talk("print(isinstance(datetime.datetime(2026, 1, 1), datetime.date), datetime.datetime.fromtimestamp(0))")
  assert [ran.reason for ran in talk.state] == ["ok"] * 3
  assert talk.state[0].observation == "2026-01-01 00:00:00.000002 2026"
  assert tool.run("print(2)", talk.state) == Outcome("ok", "2", replayed=True)


def test_the_tools_do_not_load_jax() -> None:
  modules = "score_jax.sandbox.sandbox, score_jax.search.passages, score_jax.sandbox.worker"
  subprocess.run([sys.executable, "-c", f"import sys, {modules}\nassert 'jax' not in sys.modules"], check=True)
