"""The connections between the processes of a run: exchanged values, and a watchdog that names the process that failed.

Process 0 has one TCP connection to each other process. Exchanges go over it, all in one order, and every second a
heartbeat: the stage, and for how long the process has made no progress. A thread in each process ends the run when:

    died      a connection closed before the run ended
    silent    no heartbeat for `silence_s`: the host is gone, or the process is stopped
    stuck     no progress for `timeout_s` on a process that waits for none of the others
    failed    the process reported an error
    astray    two processes are at different exchanges

The run then ends on all processes with one line that names the process. The thread ends the process itself, since a
device program that waits for a lost process never returns. JAX's own heartbeats abort without naming a process; they
stay on, in case this module fails.
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
HEARTBEAT_TIMEOUT_S = 45.0  # without a heartbeat
STARTUP_TIMEOUT_S = 300.0  # until all processes are connected
SHUTDOWN_TIMEOUT_S = 5.0  # for the reason to reach the other processes
PROTOCOL_VERSION = "score_jax 1"
END_EXCHANGE = "end"  # the last exchange


@dataclasses.dataclass
class Peer:
  """A process of the run: its connection and its last heartbeat."""

  index: int
  host: str
  pid: int
  connection: Connection | None = None  # None: this process itself, or one that is connected to process 0 only
  lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)  # held while sending
  last_heard: float = dataclasses.field(default_factory=time.monotonic)  # last message, on this process's clock
  stage: str = ""
  progress_count: int = 0  # steps of progress, which all processes make in one order
  idle_s: float = 0.0  # at its last heartbeat: seconds since its last progress
  waiting_in: str = ""  # at its last heartbeat: the exchange in which it waits for others; "" if it works

  @property
  def name(self) -> str:
    return f"process {self.index} ({self.host}, pid {self.pid})"

  def send(self, data: bytes, *, patience_s: float = -1.0) -> None:
    """Sends a message; drops it if another one is still being sent after `patience_s` seconds (-1: waits).

    A closed connection is ignored here; the thread that reads from it reports it.
    """
    if self.connection is not None and self.lock.acquire(timeout=patience_s):
      with contextlib.suppress(OSError):
        self.connection.send_bytes(data)
      self.lock.release()


class PeerConnections:
  """The connections of one process to the others, open until `close`, and the thread that watches them."""

  def __init__(
    self,
    place: ProcessInfo,
    *,
    timeout_s: float,
    silence_s: float = HEARTBEAT_TIMEOUT_S,
    start_s: float = STARTUP_TIMEOUT_S,
  ):
    """Waits until all processes are connected; an error after `start_s` seconds names the missing ones."""
    self.index, self.count = place.index, place.count
    self._timeout_s, self._silence_s = timeout_s, silence_s
    self._changed = threading.Condition()
    self._values: dict[int, dict[int, tuple[str, Any]]] = defaultdict(dict)  # exchange -> process -> (what, value)
    self._results: dict[int, tuple[str, Any]] = {}  # exchange -> (what, result)
    self._number = 0  # of exchanges begun
    self._last_progress, self._waiting_in = time.monotonic(), ""
    self._closing = False
    self._ending = threading.Lock()
    host, port = place.address.rsplit(":", 1)
    self.me = Peer(self.index, socket.gethostname(), os.getpid())
    end = time.monotonic() + start_s
    self.all = (
      self._accept_all(int(port) + 1, end) if self.index == 0 else self._connect_to_primary(host, int(port) + 1, end)
    )
    self._thread = threading.Thread(target=self._watch, name="score_jax hosts", daemon=True)
    self._thread.start()

  # Connecting.

  def _accept_all(self, port: int, end: float) -> list[Peer]:
    """Process 0: accepts the connections of all others."""
    found: dict[int, Peer] = {0: self.me}
    try:
      server = socket.create_server(("", port), backlog=self.count)
    except OSError as error:
      raise UserError(f"port {port} of {self.me.host} cannot be used ({error.strerror}); give another one") from error
    with server:
      while len(found) < self.count and time.monotonic() < end:
        server.settimeout(max(end - time.monotonic(), 0.1))
        try:
          peer = _read_hello(server.accept()[0], self.count)
        except OSError:
          continue
        if peer is not None:
          found.setdefault(peer.index, peer)
    missing = [str(i) for i in range(self.count) if i not in found]
    reason = f"of {self.count} processes these did not come to {self.me.host}:{port}: {', '.join(missing)}"
    peers = [found[i] for i in sorted(found)]
    message = {"end": reason} if missing else {"go": [[p.host, p.pid] for p in peers]}
    for peer in peers[1:]:
      peer.send(_encode(message))
    if missing:
      raise UserError(f"{reason}; see what they say")
    return peers

  def _connect_to_primary(self, host: str, port: int, end: float) -> list[Peer]:
    """Any other process: connects to process 0 and waits for its list of processes."""
    where = f"process {self.index} of {self.count} on {self.me.host}"
    while True:
      try:
        opened = socket.create_connection((host, port), timeout=5.0)
        break
      except OSError as error:
        if time.monotonic() >= end:
          raise UserError(
            f"{where}: process 0 is not at {host}:{port} ({error}); is it started, and can this host reach it?"
          ) from error
        time.sleep(0.2)
    connection = _make_connection(opened)
    first = Peer(0, host, 0, connection)
    me = {"hello": PROTOCOL_VERSION, "count": self.count, "index": self.index, "host": self.me.host, "pid": self.me.pid}
    first.send(_encode(me))
    try:
      reply = (
        json.loads(connection.recv_bytes())
        if connection.poll(max(end - time.monotonic(), 0.0) + SHUTDOWN_TIMEOUT_S)
        else {}
      )
    except (EOFError, OSError, ValueError):
      reply = {"end": "it does not want this process: are all started with the same number of processes?"}
    if "go" not in reply:
      raise UserError(f"{where}: process 0 at {host}:{port} says: {reply.get('end', 'nothing')}")
    peers = [Peer(i, str(who[0]), int(who[1])) for i, who in enumerate(reply["go"])]
    peers[0] = dataclasses.replace(first, host=peers[0].host, pid=peers[0].pid)
    peers[self.index] = self.me
    return peers

  # Exchanges: every process calls the same ones in the same order.

  def agree(self, what: str, value: Any) -> Any:
    """Process 0's value (a broadcast); the values of the others are ignored."""
    number = self._next_number()
    if self.index:
      return self._receive_result(number, what)
    self.mark()
    return self._send_result(number, what, value)

  def gather(self, what: str, value: Any) -> list[Any]:
    """The values of all processes, by index (an all-gather)."""
    number = self._next_number()
    if self.index:
      self.all[0].send(_encode({"give": [number, what, value]}))
      return self._receive_result(number, what)
    with self._changed:
      self._values[number][0] = what, value
      self._wait(what, lambda: len(self._values[number]) == self.count)
      given = self._values.pop(number)
    for peer in self.all:
      self._require_same(peer, what, given[peer.index][0])
    values = [given[i][1] for i in range(self.count)]
    self._closing = self._closing or what == END_EXCHANGE
    return self._send_result(number, what, values)

  def _next_number(self) -> int:
    self._number += 1
    return self._number

  def _receive_result(self, number: int, what: str) -> Any:
    with self._changed:
      self._wait(what, lambda: number in self._results)
      theirs, result = self._results.pop(number)
    self._require_same(self.all[0], what, theirs)
    return result

  def _wait(self, what: str, come: Callable[[], bool]) -> None:
    self._waiting_in = what
    self._changed.wait_for(come)
    self.mark()  # before `_waiting_in` is cleared: see _send_heartbeat
    self._waiting_in = ""

  def _send_result(self, number: int, what: str, result: Any) -> Any:
    """Process 0: sends the result of an exchange. Its own copy goes through JSON too, so that all have the same."""
    data = _encode({"all": [number, what, result]})
    for peer in self.all[1:]:
      peer.send(data)
    return json.loads(data)["all"][2]

  def _require_same(self, peer: Peer, ours: str, theirs: str) -> None:
    if ours != theirs:
      self.end(f"{self.me.name} is at {ours!r} while {peer.name} is at {theirs!r}: they did not compute the same")

  def mark(self, stage: str | None = None) -> None:
    """Counts a step of progress that all processes make."""
    self.at_work()
    self.me.progress_count += 1
    self.me.stage = self.me.stage if stage is None else stage

  def at_work(self) -> None:
    """Notes progress of this process only."""
    self._last_progress = time.monotonic()

  def oldest_heartbeat(self) -> tuple[float, int]:
    """Age in seconds of the oldest last message of a connected process, and the index of that process."""
    now = time.monotonic()
    return max((now - p.last_heard, p.index) for p in self.all if p.connection is not None)

  # Ending.

  def close(self) -> None:
    """Waits until all processes are at their end, and closes the connections."""
    self.gather(END_EXCHANGE, None)
    self._closing = True
    self._thread.join(SHUTDOWN_TIMEOUT_S)

  def fail(self, reason: str, *, patience_s: float) -> NoReturn:
    """Ends the run on all processes because this one failed.

    It waits for `patience_s` seconds first: the news may come that another process failed and caused this failure.
    """
    time.sleep(patience_s)
    self.end(f"{self.me.name} failed{_in_stage(self.me.stage)}: {reason}")

  def end(self, reason: str) -> NoReturn:
    """Sends the reason to the others and ends this process, whatever its main thread does."""
    self._ending.acquire()  # the first reason counts: a second thread waits here until the process ends
    os.write(2, f"error: {reason}\n".encode(errors="replace"))
    data = _encode({"end": reason})
    for peer in self.all:
      peer.send(data, patience_s=0.2)
    self._wait_for_others()
    os._exit(1)

  def _wait_for_others(self) -> None:
    """Keeps process 0 alive until the others have closed: JAX aborts them when it ends, with a worse message."""
    end = time.monotonic() + SHUTDOWN_TIMEOUT_S
    if threading.current_thread() is not self._thread:
      self._closing = True  # the watchdog thread ends and leaves reading to this thread
      self._thread.join(2 * HEARTBEAT_S)
    open_ = [p.connection for p in self.all if p.connection is not None]
    while open_ and self.index == 0 and time.monotonic() < end:
      for connection in _ready(open_, 0.1):
        if _receive(connection) is None:
          open_.remove(connection)

  # The watchdog thread.

  def _watch(self) -> None:
    by_connection = {p.connection: p for p in self.all if p.connection is not None}
    while not self._closing:
      self._send_heartbeat()
      end = time.monotonic() + HEARTBEAT_S
      while not self._closing and (ready := _ready(list(by_connection), max(end - time.monotonic(), 0.0))):
        # All messages that have arrived are read before the checks: this thread may have been delayed itself.
        for connection in ready:
          self._read_message(by_connection[connection])
      self._check_peers()

  def _read_message(self, peer: Peer) -> None:
    """Handles one message of a peer: the end of the run, a heartbeat, a value, or the result of an exchange."""
    assert peer.connection is not None
    message, now = _receive(peer.connection), time.monotonic()
    if self._closing:
      return
    if message is None:
      self.end(f"{peer.name} died{_in_stage(peer.stage)}, {now - peer.last_heard:.1f} s after its last sign of life")
    peer.last_heard = now
    if "end" in message:
      self.end(message["end"])
    elif "beat" in message:
      peer.stage, peer.progress_count, peer.idle_s, peer.waiting_in = message["beat"]
    else:
      with self._changed:
        if "give" in message:
          number, what, value = message["give"]
          self._values[number][peer.index] = what, value
        else:
          number, what, value = message["all"]
          self._results[number] = what, value
          self._closing = self._closing or what == END_EXCHANGE
        self._changed.notify_all()

  def _send_heartbeat(self) -> None:
    """Sends the state of this process to the others.

    Order matters: `_waiting_in` is read before the time of the last progress. An exchange that ends in between then
    looks like a wait with progress, never like idle work.
    """
    self.me.waiting_in = self._waiting_in
    self.me.idle_s = time.monotonic() - self._last_progress
    data = _encode({"beat": [self.me.stage, self.me.progress_count, round(self.me.idle_s, 3), self.me.waiting_in]})
    for peer in self.all:
      peer.send(data, patience_s=0.0)

  def _check_peers(self) -> None:
    now = time.monotonic()
    for peer in self.all:
      if peer.connection is not None and now - peer.last_heard > self._silence_s:
        self.end(f"{peer.name} is silent{_in_stage(peer.stage)}: no sign of life for {now - peer.last_heard:.0f} s")
    if self.index == 0:
      self._check_progress()

  def _check_progress(self) -> None:
    """Ends the run when the processes that hold up the others made no progress for `timeout_s`.

    Of the processes that wait for none, those with the least progress hold up the others. If all wait, a message is
    still on its way; after `timeout_s` they wait for each other.
    """
    working = [p for p in self.all if not p.waiting_in]
    last = [p for p in working if p.progress_count == min(p.progress_count for p in working)] or self.all
    if min(p.idle_s for p in last) > self._timeout_s:
      names = ", ".join(p.name + (f" at {p.waiting_in!r}" if p.waiting_in else "") for p in last)
      self.end(f"stuck{_in_stage(last[0].stage)}: {names} did nothing new for {last[0].idle_s:.0f} s (hosts.timeout_s)")


def _in_stage(stage: str) -> str:
  return f" in stage {stage!r}" if stage else ""


def _make_connection(found: socket.socket) -> Connection:
  found.settimeout(None)
  found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  return Connection(found.detach())


def _read_hello(found: socket.socket, count: int) -> Peer | None:
  """The process at the other end of a new connection; None if it is not one of this run."""
  connection = _make_connection(found)
  try:
    hello = json.loads(connection.recv_bytes(4096)) if connection.poll(SHUTDOWN_TIMEOUT_S) else {}
    known = hello["hello"] == PROTOCOL_VERSION and hello["count"] == count and 0 < hello["index"] < count
    peer = Peer(hello["index"], hello["host"], hello["pid"], connection) if known else None
  except (OSError, EOFError, ValueError, KeyError, TypeError):
    peer = None
  if peer is None:
    connection.close()
  return peer


def _ready(connections: list[Connection], timeout_s: float) -> list[Connection]:
  """The connections that have a message, or are closed."""
  return cast(list[Connection], wait(connections, timeout=timeout_s))


def _encode(message: dict[str, Any]) -> bytes:
  return json.dumps(message).encode()


def _receive(connection: Connection) -> dict[str, Any] | None:
  """The next message; None if the connection is closed."""
  try:
    return json.loads(connection.recv_bytes())
  except (EOFError, OSError):
    return None
