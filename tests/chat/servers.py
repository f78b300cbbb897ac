"""An OpenAI-compatible server on which replies are scripted, and which can fail in every way that real ones do.

with scripted(lambda messages: "4" if "2 + 2" in messages[-1]["content"] else "?") as server:
  …  server.url is http://127.0.0.1:PORT/v1; server.asked are the bodies of the requests that came
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: what the model says to the messages of a request, each {"role": …, "content": …}
Says = Callable[[list[dict[str, str]]], str]


@dataclasses.dataclass(frozen=True)
class Raw:
  """A reply as it goes over the wire."""

  status: int
  body: bytes
  headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


#: in the place of a scripted reply: other bytes, or a function that does to the connection what it likes
Fault = Raw | Callable[[BaseHTTPRequestHandler], None]


def completion(text: str, *, finish: str = "stop", prompt: int = 7, written: int = 3) -> dict[str, Any]:
  """The body of a chat completion."""
  return {
    "id": "chatcmpl-0",
    "object": "chat.completion",
    "created": 0,
    "model": "scripted",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
    "usage": {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written},
  }


def ok(text: str, **more: Any) -> Raw:
  return Raw(200, json.dumps(completion(text, **more)).encode())


def error(status: int, message: str = "no", **headers: str) -> Raw:
  body = json.dumps({"error": {"message": message, "type": "test", "param": None, "code": None}}).encode()
  return Raw(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def malformed(_: BaseHTTPRequestHandler | None = None) -> Raw:
  return Raw(200, b'{"choices": [{"message"')


def half(handler: BaseHTTPRequestHandler) -> None:
  """The connection ends in the middle of a reply."""
  body = ok("half").body
  _head(handler, {"Content-Length": str(len(body))})
  handler.wfile.write(body[: len(body) // 2])


def hang_up(handler: BaseHTTPRequestHandler) -> None:
  """The connection ends before a reply."""


def never_ending(handler: BaseHTTPRequestHandler) -> None:
  """A reply that goes on, slowly, until the other end has enough of it."""
  _drip(handler, b" ", 0.01)


def flood(handler: BaseHTTPRequestHandler) -> None:
  """A reply that goes on, as fast as it can."""
  _drip(handler, b" " * 65536, 0.0)


def silence(handler: BaseHTTPRequestHandler) -> None:
  """No reply for ten seconds, or until the test is over."""
  handler.server.over.wait(10.0)  # type: ignore[attr-defined]


def _head(handler: BaseHTTPRequestHandler, headers: Mapping[str, str]) -> None:
  handler.send_response(200)
  for name, value in {"Content-Type": "application/json", **headers}.items():
    handler.send_header(name, value)
  handler.end_headers()


def _drip(handler: BaseHTTPRequestHandler, part: bytes, pause: float) -> None:
  _head(handler, {"Connection": "close"})
  with contextlib.suppress(OSError):
    while not handler.server.over.wait(pause):  # type: ignore[attr-defined]
      handler.wfile.write(part)


class Scripted:
  """A server on a port of its own, which it keeps when it is stopped and started again.

  Attributes:
    asked: the bodies of the requests, in the order in which they came.
    headers: theirs, their names in small letters.
    times: when they came, in seconds of time.monotonic.
    most: how many it worked at once at most.
  """

  def __init__(self, says: Says, faults: Callable[[int], Fault | None]):
    self.asked: list[dict[str, Any]] = []
    self.headers: list[dict[str, str]] = []
    self.times: list[float] = []
    self.most = self._now = 0
    self._says, self._faults = says, faults
    self._lock = threading.Lock()
    self._connections: list[socket.socket] = []
    self._port = 0
    self.start()

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self._port}/v1"

  def start(self) -> None:
    played, connections = self, self._connections

    class Handler(BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"
      disable_nagle_algorithm = True

      def setup(self) -> None:
        super().setup()
        connections.append(self.connection)

      def do_POST(self) -> None:
        played._answer(self)

      def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
    self._server.daemon_threads, self._server.block_on_close = True, False
    self._server.over = threading.Event()  # type: ignore[attr-defined]
    self._port = self._server.server_port
    self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
    self._thread.start()

  def stop(self) -> None:
    """As if it were killed: nobody listens any more, and what was on its way is cut off."""
    self._server.over.set()  # type: ignore[attr-defined]
    self._server.shutdown()
    self._server.server_close()
    self._thread.join()
    for connection in self._connections:
      with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    self._connections.clear()

  def reply(self, body: dict[str, Any]) -> Raw:
    return ok(self._says(body["messages"]))

  def _answer(self, handler: BaseHTTPRequestHandler) -> None:
    body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
    with self._lock:
      number = len(self.asked)
      self.asked.append(body)
      self.headers.append({name.lower(): value for name, value in handler.headers.items()})
      self.times.append(time.monotonic())
      self._now += 1
      self.most = max(self.most, self._now)
    try:
      reply = self._faults(number) or self.reply(body)
      if callable(reply):
        handler.close_connection = True
        reply(handler)
        return
      handler.send_response(reply.status)
      for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
        handler.send_header(name, value)
      handler.end_headers()
      handler.wfile.write(reply.body)
    except OSError:  # the other end has gone, or this one was stopped
      handler.close_connection = True
    finally:
      with self._lock:
        self._now -= 1


@contextlib.contextmanager
def scripted(says: Says, faults: Callable[[int], Fault | None] = lambda number: None) -> Iterator[Scripted]:
  """A server that replies as `says` says.

  Args:
    faults: what the request of that number (from 0) gets in the place of its reply; None: its reply.
  """
  server = Scripted(says, faults)
  try:
    yield server
  finally:
    server.stop()


def first(*faults: Fault) -> Callable[[int], Fault | None]:
  """The first requests get these, the others their replies."""
  return lambda number: faults[number] if number < len(faults) else None
