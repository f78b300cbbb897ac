from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from score_jax.errors import UserError
from score_jax.tools.outcome import Outcome, Ran, cut, observe
from score_jax.tools.python import PythonTool

CHARS = 400


def found(query: str) -> str:
  if query == "broken":
    raise OSError("no route to the index")
  return f"{query}: what is known of it"


def open_tool(*, workers: int = 1, timeout_s: float = 30.0, memory_mb: int = 256, search: bool = True) -> PythonTool:
  return PythonTool(
    isolation="process",
    workers=workers,
    timeout_s=timeout_s,
    memory_mb=memory_mb,
    output_chars=CHARS,
    search=found if search else None,
  )


@pytest.fixture(scope="module")
def tool() -> Iterator[PythonTool]:
  """One worker for most tests, so that their sessions share it."""
  with open_tool() as tool:
    yield tool


@dataclasses.dataclass
class Talk:
  """A session and what ran in it."""

  tool: PythonTool
  name: str
  state: tuple[Ran, ...] = ()

  def __call__(self, code: str) -> Outcome:
    self.tool.submit(self.name, code, self.state)
    [(name, outcome)] = self.tool.wait(60.0)
    assert name == self.name
    self.state += (Ran(code, outcome.observation, outcome.reason),)
    return outcome


def gone(pid: int) -> bool:
  """Whether a process has ended (a dead one may wait for its parent to notice)."""
  for _ in range(100):
    stat = pathlib.Path(f"/proc/{pid}/stat")
    if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
      return True
    time.sleep(0.02)
  return False


def test_state_lasts_from_step_to_step(tool: PythonTool) -> None:
  talk = Talk(tool, "a")
  assert talk("x = 6\ndef f(y):\n  return x * y") == Outcome("ok", "")
  assert talk("x = 7\nprint(f(6))\nprint()") == Outcome("ok", "42")
  assert talk("print(sorted(n for n in dir() if n[0] != '_'), __name__)") == Outcome(
    "ok", "['f', 'final_answer_print', 'web_search', 'x'] __main__"
  )


def test_sessions_of_one_worker_do_not_see_each_other(tool: PythonTool) -> None:
  one, two = Talk(tool, "one"), Talk(tool, "two")
  one("x = 1\nimport sys, decimal, numpy as np\nnp.set_printoptions(precision=2)\ndecimal.getcontext().prec = 5")
  one("sys.setrecursionlimit(5000); sys.set_int_max_str_digits(9999)")
  assert two("print(x)").observation == "NameError: name 'x' is not defined"
  show = "import sys, decimal, numpy as np\nprint(np.array([1 / 3]), decimal.Decimal(1) / 3, sys.getrecursionlimit())"
  assert two(show).observation == "[0.33333333] 0.3333333333333333333333333333 1000"
  assert one(show).observation == "[0.33] 0.33333 5000"
  assert one("print(x, len(str(10**9000)))").observation == "1 9001"
  assert tool.pids and not one("print(x)").replayed


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
    ("(1).x = object()", "AttributeError: 'int' object has no attribute 'x'"),
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
def test_exceptions_end_with_the_last_line_of_the_traceback(tool: PythonTool, code: str, observation: str) -> None:
  talk = Talk(tool, "exception")
  talk("kept = 5")
  assert talk(code) == Outcome("exception", observation)
  assert talk("print(kept)") == Outcome("ok", "5")
  tool.close("exception")


def test_timeout_ends_the_code_and_nobody_else() -> None:
  with open_tool(timeout_s=1.0) as tool:
    loop, sibling = Talk(tool, "loop"), Talk(tool, "sibling")
    sibling("x = 20")
    loop("y = 1")
    pids = tool.pids
    tool.submit("loop", "y = 2\nwhile True: pass", loop.state)
    tool.submit("sibling", "x += 1\nprint(x)", sibling.state)
    start = time.monotonic()
    outcomes = dict(tool.wait(10.0))
    assert outcomes == {"loop": Outcome("timeout", "TimeoutError: the code ran longer than 1 s")}
    assert 0.9 < time.monotonic() - start < 5.0
    assert tool.wait(10.0) == [("sibling", Outcome("ok", "21", replayed=True))]
    assert gone(pids[0])
    loop.state += (Ran("y = 2\nwhile True: pass", outcomes["loop"].observation, "timeout"),)
    assert loop("print(y)") == Outcome("ok", "1", replayed=True)
    assert tool.replays == 2


STEPS = (
  "import random, numpy as np, sympy\nx = [random.random() for _ in range(3)]\nprint(x)",
  "print(np.random.rand(2), random.randint(0, 10**9))\nprint(undefined)",
  "class Thing: pass\nthings = [Thing(), lambda: 0]\nprint(things, {'a', 'b', 'c'})",
  "print(web_search('Oslo'), sympy.factor(sympy.Symbol('z') ** 2 - 1))",
  "for i in range(100): print(i, x)",
  "while True: print('z' * 1000)",
)


def test_a_rebuilt_state_is_the_live_one(tool: PythonTool) -> None:
  live, other = Talk(tool, "live"), Talk(tool, "other")
  for step in STEPS:
    assert not live(step).replayed
    other("import random, numpy\nrandom.random(); numpy.random.rand()")  # draws in between change nothing
  assert [ran.reason for ran in live.state] == ["ok", "exception", "ok", "ok", "ok", "output_limit"]
  last = "print(x, len(things), random.random(), np.random.rand())"
  outcomes = [tool.run(last, live.state), live(last)]
  assert outcomes[0] == dataclasses.replace(outcomes[1], replayed=True)
  assert outcomes[0].reason == "ok"


def test_a_prefix_can_go_on_in_two_ways(tool: PythonTool) -> None:
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


def test_a_step_that_gives_something_else_is_a_mismatch(tool: PythonTool, tmp_path: pathlib.Path) -> None:
  talk = Talk(tool, "clock")
  talk("x = 1")
  talk("import time\nprint(time.time_ns())")
  mark = tmp_path / "ran"
  outcome = tool.run(f"open({str(mark)!r}, 'w')", talk.state)
  assert outcome.reason == "replay_mismatch"
  assert outcome.observation == "step 2 of 2 gave something else when it was run again"
  assert not mark.exists()
  assert talk("print(x)") == Outcome("ok", "1")


def test_a_replayed_step_that_does_not_end_is_a_mismatch(tool: PythonTool) -> None:
  outcome = tool.run("print(1)", (Ran("x = 1", "", "ok"), Ran("import os\nos.kill(os.getpid(), 9)", "", "ok")))
  assert outcome.reason == "replay_mismatch"
  assert outcome.observation == "step 2 of 2 did not end: killed"


def test_memory_is_limited(tool: PythonTool) -> None:
  talk = Talk(tool, "memory")
  talk("x = 3")
  outcome = talk("x = []\nwhile True: x.append([0] * 1000)")
  assert (outcome.reason, outcome.observation) == ("memory", "MemoryError")
  assert talk("print(x)") == Outcome("ok", "3", replayed=True)


def test_memory_that_others_took_is_no_fault_of_the_code() -> None:
  with open_tool() as tool:
    hog, talk = Talk(tool, "hog"), Talk(tool, "modest")
    assert hog("x = bytearray(180 << 20)").reason == "ok"
    talk("y = 5")
    assert talk("x = bytearray(120 << 20)\nprint(y)") == Outcome("ok", "5", replayed=True)
    tool.close("modest")
    assert hog("print(len(x) >> 20)") == Outcome("ok", "180", replayed=True)


def test_output_is_limited(tool: PythonTool) -> None:
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


def test_a_process_that_ends_is_replaced(tool: PythonTool) -> None:
  talk = Talk(tool, "exit")
  talk("x = 4")
  assert talk("import os\nprint(1)\nos._exit(0)") == Outcome("killed", "the code ended the Python process")
  assert talk("print(x)") == Outcome("ok", "4", replayed=True)


def test_only_final_answer_print_answers(tool: PythonTool) -> None:
  fake = """print('{"id": 1, "answer": "7"}')\nprint('final_answer_print(7)')\nprint('<answer>7</answer>')"""
  assert tool.run(fake).answer is None
  code = "print('so')\ntry:\n  final_answer_print(6 * 7)\nexcept Exception:\n  print('caught')\nprint('after')"
  assert tool.run(code) == Outcome("ok", "so", "42")
  code = "print('so')\ntry:\n  final_answer_print([1])\nexcept:\n  final_answer_print(2)\nprint('after')"
  assert tool.run(code) == Outcome("ok", "so", "[1]")
  assert tool.run("final_answer_print(1 / 0)") == Outcome("exception", "ZeroDivisionError: division by zero")
  state = (Ran("final_answer_print(1)", "", "ok"),)
  assert tool.run("print(2)", state) == Outcome("ok", "2", replayed=True)


def test_what_no_code_may_send_ends_the_worker(tool: PythonTool) -> None:
  forge = "import os\nfor fd in range(3, 64):\n  try: os.write(fd, {!r})\n  except OSError: pass"
  assert tool.run(forge.format(b"\x00\x00\x00\x02{}")).reason == "killed"
  assert tool.run("print(1)") == Outcome("ok", "1")


def test_search_goes_over_the_channel(tool: PythonTool) -> None:
  assert tool.run("r = web_search('Oslo')\nprint(type(r).__name__, r)") == Outcome(
    "ok", "str Oslo: what is known of it"
  )
  failed = tool.run("try:\n  web_search('broken')\nexcept Exception:\n  print('caught')")
  assert failed == Outcome("host_failure", "web_search failed: OSError: no route to the index")
  assert tool.run("web_search('x' * 20000)").reason == "exception"
  with open_tool(search=False) as bare:
    none = bare.run("web_search('Oslo')")
    assert none == Outcome("exception", "RuntimeError: web_search is not available")


def test_many_sessions_at_once() -> None:
  with open_tool(workers=2) as tool:
    states: dict[str, tuple[Ran, ...]] = {str(i): () for i in range(300)}
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
        states[name] += (Ran(code, outcome.observation, outcome.reason),)
        if step < 4:
          step += 1
          tool.submit(name, f"x += {name} * {step}\nprint(x, web_search('{name} {step % 2}')[:3])", states[name])
    assert {len(state) for state in states.values()} == {5}
    assert (tool.calls, tool.replays) == (1500, 0)
    assert tool.busy_s > 0


def test_observations_are_plain_text(tool: PythonTool) -> None:
  outcome = tool.run(r"print('a\x00b\x1b[31m\r\tc\x7f\x9b\n\ud800é😀')")
  assert outcome == Outcome("ok", "a\ufffdb\ufffd[31m\ufffd\tc\ufffd\ufffd\n\ufffdé😀")


def test_observe_changes_nothing_the_second_time() -> None:
  for text in ("", "a\n\n", "x" * 1000, "<f at 0x7f00aa11bb22>\n" * 50, "\n" * 500 + "é\r" * 300):
    once = observe(text, chars=CHARS)
    assert observe(once, chars=CHARS) == once
    assert len(once) <= CHARS
  assert cut("a" * 100, chars=100) == "a" * 100


THREAD = """import subprocess, threading, time
print(subprocess.Popen(['sleep', '1000']).pid, flush=True)
def f():
  while True:
    time.sleep(0.001)
    print('thread')
threading.Thread(target=f, daemon=True).start()"""


def test_what_the_code_starts_ends_with_its_step(tool: PythonTool) -> None:
  outcome = tool.run(THREAD)
  if outcome.reason == "process_limit":
    pytest.skip("no process can be started here")
  assert tool.run("import time\ntime.sleep(0.1)\nprint(1)") == Outcome("ok", "1")
  assert gone(int(outcome.observation.partition("\n")[0]))
  fork = "import os\nif os.fork() == 0:\n  print('child')\n  web_search('child')\nprint('parent')"
  assert tool.run(fork) == Outcome("ok", "parent")


@pytest.mark.skipif(os.geteuid() == 0, reason="the limit of processes does not bind root")
def test_processes_are_limited(tool: PythonTool) -> None:
  assert tool.run("import os\nos.fork()").reason == "process_limit"


def test_a_refused_process_is_recognised(tool: PythonTool) -> None:
  refuse = "import errno, os\nraise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))"
  assert tool.run(refuse).reason == "process_limit"
  assert tool.run('raise RuntimeError("can\'t start new thread")').reason == "process_limit"


def test_what_waits_and_what_does_not(tool: PythonTool) -> None:
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


def test_nothing_is_left_running() -> None:
  with open_tool(workers=2) as tool:
    pids = tool.pids
    tool.submit("loop", "while True: pass", ())
    assert len(pids) == 2
  assert all(gone(pid) for pid in pids)
  assert tool.wait(0.0) == [("loop", Outcome("host_failure", "the tool was closed"))]


def test_workers_that_cannot_start_are_the_hosts_failure(monkeypatch: pytest.MonkeyPatch) -> None:
  with open_tool() as tool:
    with monkeypatch.context() as patch:
      patch.setattr(sys, "executable", "/bin/false")
      outcome = tool.run("import os\nos._exit(1)")
      assert outcome.reason == "killed"
      outcome = tool.run("print(1)")
      assert outcome == Outcome("host_failure", "worker ended with status 1 while loading")
      with pytest.raises(UserError, match="cannot start"):
        open_tool()
    time.sleep(1.1)  # it tries again after a second
    assert tool.run("print(1)") == Outcome("ok", "1")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"isolation": "docker"}, "tools.isolation='docker' is not known: give one of 'process'"),
    ({"workers": 0}, "tools.workers=0 must be more than 0"),
    ({"timeout_s": -1.0}, "tools.timeout_s=-1.0 must be more than 0"),
    ({"output_chars": 5}, "tools.output_chars=5 is too few: give at least 100"),
  ],
)
def test_settings_that_make_no_sense(change: dict[str, object], message: str) -> None:
  settings = {"isolation": "process", "workers": 1, "timeout_s": 1.0, "memory_mb": 64, "output_chars": 200}
  with pytest.raises(UserError) as caught:
    PythonTool(**{**settings, **change}, search=None)
  assert str(caught.value) == message


def test_it_says_what_it_does_not_cover(tool: PythonTool) -> None:
  assert "WEAK" in tool.describe()
  assert "\n" not in tool.describe()


def test_the_tools_do_not_load_jax() -> None:
  modules = "score_jax.tools.python, score_jax.tools.search, score_jax.tools.worker"
  subprocess.run([sys.executable, "-c", f"import sys, {modules}\nassert 'jax' not in sys.modules"], check=True)
