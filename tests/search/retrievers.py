"""Servers that play a retriever, well or badly."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def results(*contents: object) -> bytes:
  """The reply of a retriever that found these."""
  found = [{"document": {"id": str(i), "contents": text}, "score": 1.0} for i, text in enumerate(contents)]
  return json.dumps({"result": [found]}).encode()


def ok(*contents: object) -> Reply:
  return 200, {}, results(*contents)


class Retriever:
  """A server on a free port that gives one reply after the other, the last one again and again."""

  def __init__(self, replies: list[Reply | Callable[[BaseHTTPRequestHandler], None]]):
    self.asked: list[Any] = []  # the bodies of the requests, and when they came
    self.times: list[float] = []
    played = self

    class Handler(BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"
      disable_nagle_algorithm = True

      def do_POST(self) -> None:
        played.times.append(time.monotonic())
        played.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        reply = replies[min(len(played.asked), len(replies)) - 1]
        if callable(reply):
          reply(self)
          self.close_connection = True
          return
        status, headers, body = reply
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
          self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

      def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self.url = f"http://127.0.0.1:{self.server.server_port}/retrieve"


@contextlib.contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
  """Runs a server beside the test."""
  server.daemon_threads = True
  server.block_on_close = False
  thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
  thread.start()
  try:
    yield
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


@contextlib.contextmanager
def retriever(*replies: Reply | Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Retriever]:
  """A server that gives these replies."""
  played = Retriever(list(replies))
  with serving(played.server):
    yield played
