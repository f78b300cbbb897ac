"""What the processes of a run tell each other beside the devices: values that they have to agree on, and signs of life.

Process 0 has a connection to each of the others. Over it go the exchanges, all in one order, and every second a
beat: where a process is, and how long it has done nothing new. A thread in each process reads and judges:

    died      a connection ended before the run did
    silent    no beat for `silence_s`: the host is gone, or the process is stopped
    stuck     no progress for `timeout_s`, on a process that waits for none of the others
    failed    the process said so itself
    astray    two processes are at different exchanges

Each of these ends the run on all processes, with one line that names the process. What waits in a device program
for another process may never come back, so the thread ends the process.

JAX has heartbeats of its own, after which it aborts without a name; they are left as they are, for what might
go wrong in here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn, cast

from score_jax.errors import UserError
from score_jax.runtime.cluster import ProcessInfo

HEARTBEAT_S = 1.0
HEARTBEAT_TIMEOUT_S = 45.0  # without a sign of life
STARTUP_TIMEOUT_S = 300.0  # until all processes are there
SHUTDOWN_TIMEOUT_S = 5.0  # for the others to hear why it ends
PROTOCOL_VERSION = "score_jax 1"
END_EXCHANGE = "end"  # the last exchange


@dataclasses.dataclass
class Peer:
  """What is known of a process."""

  index: int
  host: str
  pid: int
  connection: Connection | None = None  # None: this process, or one that only process 0 talks to
  lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)  # of sending
  last_heard: float = dataclasses.field(default_factory=time.monotonic)  # when, on this process's clock
  stage: str = ""
  progress_count: int = 0  # things done; the same things on every process
  idle_s: float = 0.0  # at its last beat: since the last of them
  waiting_in: str = ""  # at its last beat: the exchange that it waited in

  @property
  def name(self) -> str:
    return f"process {self.index} ({self.host}, pid {self.pid})"

  def send(self, data: bytes, *, patience_s: float = -1.0) -> None:
    """Sends a message, or drops it where another is under way for longer than some seconds (-1: waits).

    Where nobody is there any longer the thread that reads will see it.
    """
    if self.connection is not None and self.lock.acquire(timeout=patience_s):
      with contextlib.suppress(OSError):
        self.connection.send_bytes(data)
      self.lock.release()


class PeerConnections:
  """The connections of one process, open until `close`."""

  def __init__(
    self,
    place: ProcessInfo,
    *,
    timeout_s: float,
    silence_s: float = HEARTBEAT_TIMEOUT_S,
    start_s: float = STARTUP_TIMEOUT_S,
  ):
    """Waits until all processes are connected.

    Raises:
      UserError: some do not come, and which.
    """
    self.index, self.count = place.index, place.count
    self._timeout_s, self._silence_s = timeout_s, silence_s
    self._changed = threading.Condition()
    self._given: dict[int, dict[int, tuple[str, Any]]] = defaultdict(dict)  # exchange -> process -> what, value
    self._told: dict[int, tuple[str, Any]] = {}  # exchange -> what, result
    self._number = 0  # of the exchange
    self._marked, self._waits = time.monotonic(), ""
    self._over = False
    self._ending = threading.Lock()
    host, port = place.address.rsplit(":", 1)
    self.me = Peer(self.index, socket.gethostname(), os.getpid())
    end = time.monotonic() + start_s
    self.all = self._gathered(int(port) + 1, end) if self.index == 0 else self._joined(host, int(port) + 1, end)
    self._thread = threading.Thread(target=self._watch, name="score_jax hosts", daemon=True)
    self._thread.start()

  # Coming together.

  def _gathered(self, port: int, end: float) -> list[Peer]:
    """Process 0 takes the others in."""
    found: dict[int, Peer] = {0: self.me}
    try:
      server = socket.create_server(("", port), backlog=self.count)
    except OSError as error:
      raise UserError(f"port {port} of {self.me.host} cannot be used ({error.strerror}); give another one") from error
    with server:
      while len(found) < self.count and time.monotonic() < end:
        server.settimeout(max(end - time.monotonic(), 0.1))
        try:
          peer = _greeted(server.accept()[0], self.count)
        except OSError:
          continue
        if peer is not None:
          found.setdefault(peer.index, peer)
    missing = [str(i) for i in range(self.count) if i not in found]
    reason = f"of {self.count} processes these did not come to {self.me.host}:{port}: {', '.join(missing)}"
    people = [found[i] for i in sorted(found)]
    told = {"end": reason} if missing else {"go": [[p.host, p.pid] for p in people]}
    for peer in people[1:]:
      peer.send(_encoded(told))
    if missing:
      raise UserError(f"{reason}; see what they say")
    return people

  def _joined(self, host: str, port: int, end: float) -> list[Peer]:
    """Another process goes to process 0."""
    where = f"process {self.index} of {self.count} on {self.me.host}"
    while True:
      try:
        joined = socket.create_connection((host, port), timeout=5.0)
        break
      except OSError as error:
        if time.monotonic() >= end:
          raise UserError(
            f"{where}: process 0 is not at {host}:{port} ({error}); is it started, and can this host reach it?"
          ) from error
        time.sleep(0.2)
    connection = _connection(joined)
    first = Peer(0, host, 0, connection)
    me = {"hello": PROTOCOL_VERSION, "count": self.count, "index": self.index, "host": self.me.host, "pid": self.me.pid}
    first.send(_encoded(me))
    try:
      told = (
        json.loads(connection.recv_bytes())
        if connection.poll(max(end - time.monotonic(), 0.0) + SHUTDOWN_TIMEOUT_S)
        else {}
      )
    except (EOFError, OSError, ValueError):
      told = {"end": "it does not want this process: are all started with the same number of processes?"}
    if "go" not in told:
      raise UserError(f"{where}: process 0 at {host}:{port} says: {told.get('end', 'nothing')}")
    people = [Peer(i, str(who[0]), int(who[1])) for i, who in enumerate(told["go"])]
    people[0] = dataclasses.replace(first, host=people[0].host, pid=people[0].pid)
    people[self.index] = self.me
    return people

  # Exchanges: every process calls the same ones in the same order.

  def agree(self, what: str, value: Any) -> Any:
    """Process 0's value. What the others give does not matter."""
    number = self._next()
    if self.index:
      return self._result(number, what)
    self.mark()
    return self._tell(number, what, value)

  def gather(self, what: str, value: Any) -> list[Any]:
    """The values of all processes, in their order."""
    number = self._next()
    if self.index:
      self.all[0].send(_encoded({"give": [number, what, value]}))
      return self._result(number, what)
    with self._changed:
      self._given[number][0] = what, value
      self._wait(what, lambda: len(self._given[number]) == self.count)
      given = self._given.pop(number)
    for peer in self.all:
      self._require_same(peer, what, given[peer.index][0])
    values = [given[i][1] for i in range(self.count)]
    self._over = self._over or what == END_EXCHANGE
    return self._tell(number, what, values)

  def _next(self) -> int:
    self._number += 1
    return self._number

  def _result(self, number: int, what: str) -> Any:
    with self._changed:
      self._wait(what, lambda: number in self._told)
      theirs, result = self._told.pop(number)
    self._require_same(self.all[0], what, theirs)
    return result

  def _wait(self, what: str, come: Callable[[], bool]) -> None:
    self._waits = what
    self._changed.wait_for(come)
    self.mark()  # before it waits no longer: see _beat
    self._waits = ""

  def _tell(self, number: int, what: str, result: Any) -> Any:
    """Process 0 ends an exchange: all have the result as JSON gives it back."""
    data = _encoded({"all": [number, what, result]})
    for peer in self.all[1:]:
      peer.send(data)
    return json.loads(data)["all"][2]

  def _require_same(self, peer: Peer, ours: str, theirs: str) -> None:
    if ours != theirs:
      self.end(f"{self.me.name} is at {ours!r} while {peer.name} is at {theirs!r}: they did not compute the same")

  def mark(self, stage: str | None = None) -> None:
    """Something is done, which is done on every process."""
    self.at_work()
    self.me.progress_count += 1
    self.me.stage = self.me.stage if stage is None else stage

  def at_work(self) -> None:
    """Something is done, on this process alone."""
    self._marked = time.monotonic()

  def oldest_heartbeat(self) -> tuple[float, int]:
    """Seconds since the last sign of life of the process whose is the oldest, and which one that is."""
    now = time.monotonic()
    return max((now - p.last_heard, p.index) for p in self.all if p.connection is not None)

  # Leaving.

  def close(self) -> None:
    """Waits for the others to be at their end too."""
    self.gather(END_EXCHANGE, None)
    self._over = True
    self._thread.join(SHUTDOWN_TIMEOUT_S)

  def fail(self, reason: str, *, patience_s: float) -> NoReturn:
    """This process cannot go on, and ends the run on all; within `patience_s` it may hear that another is at fault."""
    time.sleep(patience_s)
    self.end(f"{self.me.name} failed{_in(self.me.stage)}: {reason}")

  def end(self, reason: str) -> NoReturn:
    """Tells the others and ends this process, whatever its main thread is at."""
    self._ending.acquire()  # the first reason counts: who comes second waits for the end
    os.write(2, f"error: {reason}\n".encode(errors="replace"))
    data = _encoded({"end": reason})
    for peer in self.all:
      peer.send(data, patience_s=0.2)
    self._linger()
    os._exit(1)

  def _linger(self) -> None:
    """Process 0 stays until the others have heard: JAX aborts them when it goes, and says less."""
    end = time.monotonic() + SHUTDOWN_TIMEOUT_S
    if threading.current_thread() is not self._thread:
      self._over = True  # the thread ends, and leaves the connections to this one
      self._thread.join(2 * HEARTBEAT_S)
    open_ = [p.connection for p in self.all if p.connection is not None]
    while open_ and self.index == 0 and time.monotonic() < end:
      for connection in _ready(open_, 0.1):
        if _receive(connection) is None:
          open_.remove(connection)

  # The thread.

  def _watch(self) -> None:
    by_connection = {p.connection: p for p in self.all if p.connection is not None}
    while not self._over:
      self._beat()
      end = time.monotonic() + HEARTBEAT_S
      while not self._over and (ready := _ready(list(by_connection), max(end - time.monotonic(), 0.0))):
        for connection in ready:  # all that has come is heard before anybody is judged: this thread may have been late
          self._hear(by_connection[connection])
      self._judge()

  def _hear(self, peer: Peer) -> None:
    assert peer.connection is not None
    message, now = _receive(peer.connection), time.monotonic()
    if self._over:
      return
    if message is None:
      self.end(f"{peer.name} died{_in(peer.stage)}, {now - peer.last_heard:.1f} s after its last sign of life")
    peer.last_heard = now
    if "end" in message:
      self.end(message["end"])
    elif "beat" in message:
      peer.stage, peer.progress_count, peer.idle_s, peer.waiting_in = message["beat"]
    else:
      with self._changed:
        if "give" in message:
          number, what, value = message["give"]
          self._given[number][peer.index] = what, value
        else:
          number, what, value = message["all"]
          self._told[number] = what, value
          self._over = self._over or what == END_EXCHANGE
        self._changed.notify_all()

  def _beat(self) -> None:
    """Says where this process is. One that has just been waiting has just done something, so that is looked at last."""
    self.me.waiting_in = self._waits
    self.me.idle_s = time.monotonic() - self._marked
    data = _encoded({"beat": [self.me.stage, self.me.progress_count, round(self.me.idle_s, 3), self.me.waiting_in]})
    for peer in self.all:
      peer.send(data, patience_s=0.0)

  def _judge(self) -> None:
    now = time.monotonic()
    for peer in self.all:
      if peer.connection is not None and now - peer.last_heard > self._silence_s:
        self.end(f"{peer.name} is silent{_in(peer.stage)}: no sign of life for {now - peer.last_heard:.0f} s")
    if self.index == 0:
      self._judge_progress()

  def _judge_progress(self) -> None:
    """Of those that wait for nobody, the ones that have come the least far keep all others waiting.

    Where all wait, what one has sent is on its way; or else, after as long, they wait for each other.
    """
    working = [p for p in self.all if not p.waiting_in]
    last = [p for p in working if p.progress_count == min(p.progress_count for p in working)] or self.all
    if min(p.idle_s for p in last) > self._timeout_s:
      names = ", ".join(p.name + (f" at {p.waiting_in!r}" if p.waiting_in else "") for p in last)
      self.end(f"stuck{_in(last[0].stage)}: {names} did nothing new for {last[0].idle_s:.0f} s (hosts.timeout_s)")


def _in(stage: str) -> str:
  return f" in stage {stage!r}" if stage else ""


def _connection(found: socket.socket) -> Connection:
  found.settimeout(None)
  found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  return Connection(found.detach())


def _greeted(found: socket.socket, count: int) -> Peer | None:
  """Who has connected; None if it is none of ours."""
  connection = _connection(found)
  try:
    told = json.loads(connection.recv_bytes(4096)) if connection.poll(SHUTDOWN_TIMEOUT_S) else {}
    known = told["hello"] == PROTOCOL_VERSION and told["count"] == count and 0 < told["index"] < count
    peer = Peer(told["index"], told["host"], told["pid"], connection) if known else None
  except (OSError, EOFError, ValueError, KeyError, TypeError):
    peer = None
  if peer is None:
    connection.close()
  return peer


def _ready(connections: list[Connection], timeout_s: float) -> list[Connection]:
  """Those that something has come over, or that have ended."""
  return cast(list[Connection], wait(connections, timeout=timeout_s))


def _encoded(message: dict[str, Any]) -> bytes:
  return json.dumps(message).encode()


def _receive(connection: Connection) -> dict[str, Any] | None:
  """The next message; None when no more can come."""
  try:
    return json.loads(connection.recv_bytes())
  except (EOFError, OSError):
    return None
