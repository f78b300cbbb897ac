"""Serves a corpus by the protocol of Search-R1's retriever, so that several hosts share one index.

    python -m score_jax.search.server --corpus=corpus.jsonl --port=8000

For a network that one trusts: whoever reaches the port may ask. Exit status: 0 ended by Ctrl-C, 1 failed (one
line says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from score_jax.errors import UserError
from score_jax.limits import PORT, make_argparse_type
from score_jax.search.backends import DEFAULT_INDEX_DIR
from score_jax.search.corpus import Corpus, PassageFields
from score_jax.search.passages import find_passages

_LONGEST = 1 << 24  # bytes of a request


def make_server(corpus: Corpus, *, host: str, port: int) -> ThreadingHTTPServer:
  """Answers POST /retrieve once its serve_forever is called. Port 0: one that is free."""

  def results(*, queries: list[str], topk: int = 10, return_scores: bool = False) -> list[list[Any]]:
    found = [find_passages(corpus.index, corpus, query, max(1, topk)) for query in queries]
    contents = [[({"contents": d.contents}, score) for d, score in each] for each in found]
    return [[{"document": d, "score": s} if return_scores else d for d, s in each] for each in contents]

  class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60.0  # seconds that a client may keep silent

    def do_POST(self) -> None:
      if self.path != "/retrieve":
        self.send_error(404)
        return
      try:
        request = self.rfile.read(min(int(self.headers["Content-Length"]), _LONGEST))
        status, reply = 200, {"result": results(**json.loads(request))}
      except OSError as error:
        status, reply = 500, {"error": str(error)}
      except (ValueError, TypeError, AttributeError, RecursionError) as error:
        status, reply = 422, {"error": str(error)}
      body = json.dumps(reply).encode()
      self.send_response(status)
      self.send_header("Content-Type", "application/json")
      self.send_header("Content-Length", str(len(body)))
      self.end_headers()
      self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
      """Nothing is logged."""

  return ThreadingHTTPServer((host, port), Handler)


def main() -> None:
  parser = argparse.ArgumentParser(
    prog="python -m score_jax.search.server",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--corpus", type=pathlib.Path, required=True, help="JSONL file, one passage a line")
  parser.add_argument("--title", default="title", help="key of a passage's title; empty: its text's first line")
  parser.add_argument("--text", default="text", help="key of its text")
  parser.add_argument("--index", type=pathlib.Path, default=DEFAULT_INDEX_DIR, help="folder of the indexes")
  parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all")
  parser.add_argument("--port", type=make_argparse_type(PORT), default=8000)
  args = parser.parse_args()
  try:
    corpus = Corpus(args.corpus, fields=PassageFields(args.title, args.text), sha256="", indexes=args.index)
    serving = make_server(corpus, host=args.host, port=args.port)
  except (UserError, OSError) as error:
    sys.exit(f"error: {error}")
  print(f"{len(corpus)} passages at http://{args.host}:{serving.server_port}/retrieve", flush=True)
  try:
    serving.serve_forever()
  except KeyboardInterrupt:
    serving.server_close()


if __name__ == "__main__":
  main()
