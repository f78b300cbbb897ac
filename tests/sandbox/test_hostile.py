"""What a hostile model may write is held, with the host as the judge."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest

from score_jax.sandbox.interface import ExecutedStep, Outcome
from score_jax.sandbox.sandbox import Sandbox
from tests.documents import ROOT
from tests.sandbox.hostile import HOSTILE, WORKER

TIMEOUT_S = 2.0
SLACK_S = 10.0  # of other load on the machine; a tool that waits for code in vain waits for minutes
GROWTH = 32 << 20  # bytes that this process may grow by while all is tried
ANOTHER_USER = 1000
CASES = [
  pytest.param(*case, id=f"{kind} {i}") for kind, cases in HOSTILE.items() for i, case in enumerate(cases, start=1)
]
#: what another user's sandbox is tried with as well, which is made in another way
ALSO = [
  pytest.param(*case, id=f"{kind} {i}")
  for kind in (
    *("reads the host's files", "writes outside", "reaches the network", "memory that no limit counts", "signals"),
    *("links", "rights and namespaces", "limits", "descriptors"),
  )
  for i, case in enumerate(HOSTILE[kind], start=1)
]


def stat(pid: int | str) -> list[str]:
  """What the kernel says of a process from its state on; nothing where there is none."""
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
  except OSError:
    return []


def processes() -> dict[int, int]:
  """The parents of all processes that there are, dead ones that nobody has looked at among them."""
  stats = {int(entry): stat(entry) for entry in os.listdir("/proc") if entry.isdigit()}
  return {pid: int(fields[1]) for pid, fields in stats.items() if fields}


def begun(pid: int) -> list[str]:
  """When a process began, which tells it from a later one of the same id."""
  return stat(pid)[19:20]


def ended(pid: int, began: list[str]) -> bool:
  """Whether the process that began then runs no longer; a dead one may wait for the host to notice."""
  return stat(pid)[:1] in ([], ["Z"]) or begun(pid) != began


def descendants(ancestor: int) -> set[int]:
  """The processes that one has started, and theirs, and itself if it is there."""
  parents = processes()
  found = {ancestor} & parents.keys()
  while more := {pid for pid, parent in parents.items() if parent in found} - found:
    found |= more
  return found


def resident() -> int:
  """Bytes of memory that this process has."""
  return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def soon(holds: Callable[[], bool]) -> bool:
  """Whether something comes true within half a minute, which other load may take."""
  end = time.monotonic() + 30.0
  while not holds():
    if time.monotonic() > end:
      return False
    time.sleep(0.01)
  return True


def cpu(pid: int) -> int:
  """Ticks for which a process has computed."""
  return sum(map(int, stat(pid)[11:13]))


@dataclasses.dataclass
class Judge:
  """The host: what it keeps secret, what it watches, and the tool that it tries code in."""

  tool: Sandbox
  secret: str
  files: list[pathlib.Path]
  watched: pathlib.Path
  mark: str

  def __post_init__(self) -> None:
    self.names = 0
    self.settle()

  def settle(self) -> None:
    """Takes what there is now for what has to stay."""
    self.names += 1
    self.beside = f"neighbour {self.names}"  # a session that lives on beside all that is tried
    self.neighbour: tuple[ExecutedStep, ...] = ()
    self.honest()
    zygote = self.tool._supervisor._zygote
    assert zygote is not None
    self.ancestor = zygote._popen.pid
    self.started, self.starts = self.at_rest(), self.tool._supervisor._starts
    self.had = resident()
    self.left = self.traces()

  def others(self) -> set[int]:
    """The tool's processes that are no sessions."""
    return descendants(self.ancestor) - set(self.tool.pids)

  def at_rest(self) -> set[int]:
    """The others while no session is starting or ending: bwrap, the same as first of its processes, the zygote."""
    end = time.monotonic() + 30.0
    while len(found := self.others()) != 3:
      assert time.monotonic() < end, found
      time.sleep(0.01)
    return found

  def step(self, session: str, code: str, state: tuple[ExecutedStep, ...]) -> Outcome:
    """Runs a step and sees to it that it comes to its end in time."""
    start = time.monotonic()
    self.tool.submit(session, code, state)
    [(name, outcome)] = self.tool.wait(60.0)
    took = time.monotonic() - start
    assert name == session
    assert took <= TIMEOUT_S + SLACK_S, f"{took:.2f} s"
    return outcome

  def honest(self) -> None:
    """Sees to it that honest code is served as ever: in a session that was there before, and in a new one."""
    code = "n = 0" if not self.neighbour else "n += 1\nprint(n, sum(range(n)))"
    outcome = self.step(self.beside, code, self.neighbour)
    n = len(self.neighbour)
    assert outcome == Outcome("ok", f"{n} {sum(range(n))}" if n else "")
    self.neighbour += (ExecutedStep(code, outcome.observation, outcome.reason),)
    assert self.step("new", "import math\nprint(math.factorial(5))", ()) == Outcome("ok", "120")
    self.tool.close("new")

  def traces(self) -> list[str]:
    """What can be seen of the places where something could have been written."""
    places = [self.watched, *(pathlib.Path(p) for p in ("/", "/tmp", "/var/tmp", "/dev/shm", "/usr", "/usr/lib"))]
    places += [pathlib.Path.home(), pathlib.Path.cwd(), pathlib.Path(self.tool._folder.name)]
    marked = [str(path) for place in places if place.exists() for path in place.iterdir() if self.mark in path.name]
    touched = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in [*self.files, *self.watched.iterdir()]]
    null = os.stat("/dev/null")
    own = sorted(str(path) for path in pathlib.Path(self.tool._folder.name).rglob("*"))
    return [*marked, *map(str, touched), f"{null.st_mode} {null.st_mtime_ns}", *own]

  def told(self, code: str) -> str:
    """The code with what it must know about this host."""
    files = repr([str(path) for path in self.files])
    for name, value in (("CANARY_FILES", files), ("CANARY_FOLDER", repr(str(self.watched)))):
      code = code.replace(name, value)
    return code.replace("PARENT", str(os.getpid())).replace("MARK", self.mark)

  def tries(self, reasons: str, code: str) -> None:
    """Runs hostile code, and judges; what fails here must not make the next fail."""
    try:
      self.judges(reasons, code)
    except BaseException:
      self.tool.close(f"hostile {self.names}")
      self.tool.close(self.beside)
      self.settle()
      raise

  def judges(self, reasons: str, code: str) -> None:
    self.names += 1
    name = f"hostile {self.names}"
    state: tuple[ExecutedStep, ...] = ()
    for step in self.told(code).split("# next step\n"):
      outcome = self.step(name, step, state)
      print(outcome)
      state += (ExecutedStep(step, outcome.observation, outcome.reason),)
      assert outcome.reason in reasons.split()
      assert outcome.answer in (None, "mine")
      assert self.secret not in f"{outcome.observation}{outcome.answer}"
      assert len(outcome.observation) <= 400
    self.tool.close(name)
    self.honest()
    assert self.traces() == self.left
    assert soon(lambda: self.others() == self.started)
    assert resident() - self.had < GROWTH
    assert self.tool._supervisor._starts == self.starts  # the zygote has lived through it


def judge(tmp_path: pathlib.Path) -> Iterator[Judge]:
  secret, mark = secrets.token_hex(16), f"mark{secrets.token_hex(8)}"
  limits = {"workers": 2, "sessions": 8, "timeout_s": TIMEOUT_S, "memory_mb": 128, "files_mb": 16, "output_chars": 400}
  (tmp_path / "watched").mkdir()
  files = []
  try:
    for place in (tmp_path, pathlib.Path(tempfile.gettempdir()), pathlib.Path.home(), pathlib.Path.cwd()):
      if os.access(place, os.W_OK):
        files.append(place / f"canary_{secrets.token_hex(8)}")
        files[-1].write_text(secret)
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv("SCORE_JAX_CANARY", secret)
      with Sandbox(isolation="bubblewrap", search=None, **limits) as tool:
        host = Judge(tool, secret, files, tmp_path / "watched", mark)
        yield host
        started = {pid: begun(pid) for pid in descendants(host.ancestor)}
    assert soon(lambda: all(ended(pid, began) for pid, began in started.items()))
  finally:
    for file in files:
      file.unlink()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
  yield from judge(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def other_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
  """One whose user is not root, so that user namespaces are made."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(os, "geteuid", lambda: ANOTHER_USER)
    yield from judge(tmp_path_factory.mktemp("other_host"))


def test_much_is_tried() -> None:
  assert len(HOSTILE) >= 18
  assert len(CASES) >= 70


@pytest.mark.parametrize(("reasons", "code"), CASES)
def test_it_is_held(host: Judge, reasons: str, code: str) -> None:
  host.tries(reasons, code)


@pytest.mark.skipif(os.geteuid() != 0, reason="this is not root anyway")
@pytest.mark.parametrize(("reasons", "code"), ALSO)
def test_it_is_held_for_another_user(other_host: Judge, reasons: str, code: str) -> None:
  other_host.tries(reasons, code)


@pytest.fixture(scope="module", params=[os.geteuid(), ANOTHER_USER], ids=["this user", "another user"])
def tool(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
  """A tool with a search."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(os, "geteuid", lambda: request.param)
    with open_tool() as tool:
      yield tool


def open_tool(isolation: str = "bubblewrap") -> Sandbox:
  limits = {"workers": 2, "sessions": 8, "timeout_s": 5.0, "memory_mb": 128, "files_mb": 16, "output_chars": 400}
  return Sandbox(isolation=isolation, search=slow, **limits)


def slow(query: str) -> str:
  time.sleep(0.3 if query == "slow" else 0.0)
  return f"found {query}"


KILLED = Outcome("killed", "the code ended the Python process")


@pytest.mark.parametrize(
  "code",
  [
    "import os\nos.kill(0, 9)",
    "import os\nos.killpg(os.getpgrp(), 9)",
    "import os\nos.setpriority(os.PRIO_PGRP, 0, 19)",
    "import os, signal\nfor s in range(1, 32): os.kill(0, s)",
  ],
)
def test_a_process_group_ends_at_its_session(tool: Sandbox, code: str) -> None:
  """It is no part of a process namespace: in a common one this would end or slow sessions that are at work."""
  victim = "import os, time\nfor _ in range(20): time.sleep(0.02)\nprint(os.getpriority(os.PRIO_PROCESS, 0))"
  tool.submit("idle", "x = 1", ())
  assert tool.wait(10.0) == [("idle", Outcome("ok", ""))]
  tool.submit("victim", victim, ())
  tool.submit("hostile", code, ())
  outcomes = {}
  while len(outcomes) < 2:
    outcomes |= tool.wait(10.0)
  assert outcomes["victim"] == Outcome("ok", str(os.getpriority(os.PRIO_PROCESS, 0))), "as nice as the suite, as before"
  tool.submit("idle", "print(x)", (ExecutedStep("x = 1", "", "ok"),))
  assert tool.wait(10.0) == [("idle", Outcome("ok", "1"))]


def test_two_sessions_cannot_talk(tool: Sandbox) -> None:
  """They share a network namespace, in which addresses of sockets are common."""
  listen = "import socket\na, b = socket.socketpair(type=socket.SOCK_{})\nb.bind('\\0meet')\nb.settimeout(1)\n"
  for kind in ("DGRAM", "SEQPACKET", "STREAM"):
    assert tool.run(listen.format(kind) + "print(b.recv(9))").reason == "denied"
  tell = "import socket\na, b = socket.socketpair()\na.sendto(b'x', '\\0meet')"
  assert tool.run(tell).observation == "OSError: [Errno 106] Transport endpoint is already connected"
  flags = "import fcntl\nprint([fcntl.fcntl(fd, fcntl.F_GETFL) & 0o6000 for fd in range(3)])"
  for fd in range(3):
    assert tool.run(f"import fcntl\nfcntl.fcntl({fd}, fcntl.F_SETFL, 0o6000)").reason == "ok"
  assert tool.run(flags).observation == "[0, 0, 0]"


def test_nothing_is_inherited_but_the_channel(tool: Sandbox) -> None:
  code = "import os\nfor fd in range(4096):\n  try: print(fd, oct(os.fstat(fd).st_mode))\n  except OSError: pass"
  tool.submit("before", "x = 1", ())
  tool.wait(10.0)
  assert re.sub("0o14....", "socket", tool.run(code).observation).splitlines() == [
    *("0 0o20666", "1 0o20666", "2 0o20666"),
    "3 socket",
  ]


def test_a_crash_starts_nothing_on_the_host(tool: Sandbox) -> None:
  """A handler of core dumps would be started whatever the limit of their size is."""
  code = "import ctypes\nlibc = ctypes.CDLL(None)\nprint(libc.prctl(3), libc.prctl(4, 1, 0, 0, 0), libc.prctl(3))"
  assert tool.run(code).observation == "0 -1 0"


def test_code_that_has_said_its_end_does_not_run_on(tool: Sandbox) -> None:
  tool.submit("a", WORKER + "say(reason='ok', observation='done')\nwhile True: pass", ())
  assert tool.wait(10.0) == [("a", Outcome("ok", "done"))]
  time.sleep(0.1)
  computed = {pid: cpu(pid) for pid in tool.pids}
  time.sleep(0.5)
  assert sum(cpu(pid) - computed[pid] for pid in tool.pids if pid in computed) <= 2


def test_code_does_not_run_while_it_waits_for_a_search(tool: Sandbox) -> None:
  tool.submit("a", WORKER + "import os\nsay(search='slow')\nwhile True: pass", ())
  time.sleep(0.1)
  computed = {pid: cpu(pid) for pid in tool.pids}
  time.sleep(0.15)
  assert sum(cpu(pid) - computed[pid] for pid in tool.pids if pid in computed) <= 2
  tool.close("a")


def test_a_session_can_be_closed_while_it_waits_for_a_search(tool: Sandbox) -> None:
  tool.submit("a", "web_search('slow')", ())
  time.sleep(0.1)
  tool.close("a")
  time.sleep(0.4)
  assert tool.run("print(1)") == Outcome("ok", "1")


def test_searches_have_an_end(tool: Sandbox) -> None:
  """The clock stands still while one is answered."""
  many = "for i in range(65): web_search(str(i))"
  assert tool.run(many).observation == "RuntimeError: web_search: at most 64 searches are allowed in one step"
  assert tool.run(WORKER + "worker._searches = -9\n" + many) == KILLED
  assert tool.run(WORKER + "say(search='x' * 10_001)") == KILLED
  state = (ExecutedStep("for i in range(64): web_search('a')", "", "ok"),) * 2
  assert tool.run("print(web_search('b'))", state) == Outcome("ok", "found b", replayed=True)


def test_a_query_is_plain_text(tool: Sandbox) -> None:
  assert tool.run(r"print(ascii(web_search('\ud800\0')))") == Outcome("ok", r"'found \ufffd\ufffd'")


@pytest.mark.parametrize("reason", ["host_failure", "replay_mismatch", "timeout", "killed", "nonsense"])
def test_a_session_may_not_say_whose_fault_it_was(tool: Sandbox, reason: str) -> None:
  """Trajectories that fail by the host's fault are not trained on."""
  assert tool.run(WORKER + f"say(reason={reason!r}, observation='not mine')") == KILLED


def test_an_answer_from_a_step_that_is_run_again_is_none(tool: Sandbox) -> None:
  outcome = tool.run("print(1)", (ExecutedStep(WORKER + "say(answer='early')", "", "ok"),))
  assert (outcome.reason, outcome.answer) == ("replay_mismatch", None)


@pytest.mark.parametrize("isolation", ["bubblewrap", "process"])
def test_nothing_outlives_a_parent_that_is_killed(isolation: str, tmp_path: pathlib.Path) -> None:
  code = f"""
import time
from tests.sandbox.test_hostile import open_tool
tool = open_tool({isolation!r})
tool.submit("loop", "import os\\ntry: os.setsid()\\nexcept OSError: pass\\nwhile True: pass", ())
tool.submit("idle", "x = 1", ())
tool.wait(10.0)
time.sleep(0.2)
print(*tool.pids, flush=True)
time.sleep(60)
"""
  env = os.environ | {"TMPDIR": str(tmp_path)}
  with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT) as parent:
    assert parent.stdout is not None
    pids = {pid: begun(pid) for pid in map(int, parent.stdout.readline().split())}
    parent.send_signal(signal.SIGKILL)
  assert len(pids) >= 2
  assert soon(lambda: all(ended(pid, began) for pid, began in pids.items()))


@pytest.mark.parametrize("isolation", ["bubblewrap", "process"])
def test_folders_a_thousand_deep_are_removed(isolation: str) -> None:
  with open_tool(isolation) as tool:
    assert tool.run("import os\nfor _ in range(1500):\n  os.mkdir('d')\n  os.chdir('d')").reason == "ok"
    assert tool.run("print(1)") == Outcome("ok", "1")
    folder = pathlib.Path(tool._folder.name)
  assert not folder.exists()
