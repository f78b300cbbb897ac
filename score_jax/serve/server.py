"""The HTTP of the server: OpenAI's chat completions over an engine, one thread a connection."""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import itertools
import json
import os
import select
import socket
import time
from collections.abc import Generator, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from score_jax.chat.template import ChatTemplate, ConversationRefused
from score_jax.sampler.slots import SamplingParams, request_key
from score_jax.serve.engine import Delta, Engine, EngineClosed, StreamedReply, TokenChunk
from score_jax.serve.requests import BadRequest, ChatCompletionRequest, parse_request
from score_jax.text import replace_surrogates_in_json

_LONGEST_BODY = 16 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class ChatService:
  """What is served.

  Attributes:
    name: of the model.
    decoding: where a request says nothing.
  """

  name: str
  template: ChatTemplate
  engine: Engine
  decoding: SamplingParams
  numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count)

  def start_reply(self, body: ChatCompletionRequest) -> tuple[int, StreamedReply, Generator[Delta]]:
    """Tokens of the prompt, and the reply with what makes it grow.

    Raises:
      BadRequest: the conversation cannot be had in this model's template or context.
    """
    switches = body.chat_template_kwargs or {}
    try:
      self.template.check_switches(switches)
    except ConversationRefused as refused:
      raise BadRequest(f"chat_template_kwargs: {refused}", "chat_template_kwargs") from None
    try:
      prompt = self.template.encode_prompt([message.shown for message in body.messages], switches)
    except ConversationRefused as refused:
      raise BadRequest(f"messages: {refused}", "messages") from None
    room = self.engine.capacity - len(prompt)
    if room < 1:
      text = f"messages: {len(prompt)} tokens, where prompt and reply may have {self.engine.capacity}"
      raise BadRequest(text, "messages")
    seed = int.from_bytes(os.urandom(8)) if body.seed is None else body.seed
    parts = self.engine.draw(prompt, request_key(seed, "serve"), self._decoding(body), min(body.limit or room, room))
    written = StreamedReply(self.template, body.stops)

    return len(prompt), written, _growing(written, parts)

  def _decoding(self, body: ChatCompletionRequest) -> SamplingParams:
    asked = {
      "temperature": body.temperature,
      "top_k": body.top_k,
      "top_p": body.top_p,
      "repetition_penalty": body.repetition_penalty,
    }
    return dataclasses.replace(self.decoding, **{name: x for name, x in asked.items() if x is not None})

  def logprobs(self, fresh: Delta) -> list[dict[str, Any]]:
    """Of each token, in OpenAI's form; under the model's own distribution, whatever the temperature."""
    entries: list[dict[str, Any]] = []
    for token, logprob in zip(fresh.tokens, fresh.logprobs, strict=True):
      spelled = self.template.bytes_of(token)
      entry = {"token": spelled.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(spelled)}
      entries.append({**entry, "top_logprobs": []})
    return entries


def _growing(written: StreamedReply, parts: Generator[TokenChunk]) -> Generator[Delta]:
  """Adds what is drawn until the reply has ended; closing it ends the drawing."""
  with contextlib.closing(parts):
    for part in parts:
      yield written.add(part)
      if written.finish_reason:
        return


def make_server(service: ChatService, host: str, port: int, *, key: str = "") -> ThreadingHTTPServer:
  """The server, bound and not yet serving.

  Args:
    key: that clients must send as a bearer token; empty: they need none.

  Raises:
    OSError: the port cannot be had.
  """

  class Handler(_Handler):
    served, expected = service, f"Bearer {key}".encode() if key else b""

  made = ThreadingHTTPServer((host, port), Handler)
  made.daemon_threads, made.block_on_close = True, False
  return made


class _Handler(BaseHTTPRequestHandler):
  """One connection."""

  served: ChatService
  expected = b""  # the header Authorization; empty: any will do
  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True

  def do_GET(self) -> None:
    if not self._known():
      return
    if self.path.rstrip("/") == "/v1/models":
      one = {"id": self.served.name, "object": "model", "created": 0, "owned_by": "score_jax"}
      self._send(200, {"object": "list", "data": [one]})
    else:
      self._refuse(404, f"{self.path}: there is none; GET /v1/models or POST /v1/chat/completions")

  def do_POST(self) -> None:
    try:
      if not self._known():
        return
      data = self._data()
      if self.path.rstrip("/") != "/v1/chat/completions":
        self._refuse(404, f"{self.path}: there is none; POST /v1/chat/completions")
        return
      body = parse_request(data)
      if body.model != self.served.name:
        text = f"model: {body.model!r} is not served here, only {self.served.name!r}"
        self._refuse(404, text, "model", "model_not_found")
        return
      self._complete(body)
    except BadRequest as bad:
      self._refuse(400, str(bad), bad.field)
    except EngineClosed as closed:
      self._refuse(503, str(closed))
    except (BrokenPipeError, ConnectionResetError, TimeoutError):
      self.close_connection = True  # the client has gone; its iterator is closed, which ends the drawing

  def _known(self) -> bool:
    """Whether the client has the key; if not, it gets a 401. Comparing takes the same time for every wrong key."""
    given = self.headers.get("Authorization", "").encode("utf-8", "replace")
    if not self.expected or hmac.compare_digest(given, self.expected):
      return True
    self.close_connection = True  # what it has sent is not read
    text = "Authorization: the key is missing or wrong; send it as a bearer token (api_key of OpenAI's client)"
    self._refuse(401, text, code="invalid_api_key")
    return False

  def _data(self) -> Any:
    size = self.headers.get("Content-Length", "")
    if not size.isdecimal() or int(size) > _LONGEST_BODY:
      self.close_connection = True
      raise BadRequest(f"Content-Length: {size or 'none'}; give that of a body of up to {_LONGEST_BODY} bytes")
    try:
      return replace_surrogates_in_json(json.loads(self.rfile.read(int(size))))
    except (ValueError, RecursionError) as error:
      raise BadRequest(f"the body is no JSON ({type(error).__name__})") from None

  def _complete(self, body: ChatCompletionRequest) -> None:
    head = {"id": f"chatcmpl-{next(self.served.numbers)}", "created": int(time.time()), "model": self.served.name}
    prompt, written, growing = self.served.start_reply(body)
    with contextlib.closing(growing):
      if body.stream:
        self._stream(body, head, prompt, written, growing)
      else:
        self._reply(body, head, prompt, written, growing)

  def _reply(
    self,
    body: ChatCompletionRequest,
    head: dict[str, Any],
    prompt: int,
    written: StreamedReply,
    growing: Generator[Delta],
  ) -> None:
    logprobs: list[Any] = []
    for fresh in growing:
      logprobs += self.served.logprobs(fresh)
      if self._gone():
        raise ConnectionResetError
    choice = {
      "index": 0,
      "message": {"role": "assistant", "content": written.text, "refusal": None},
      "logprobs": {"content": logprobs, "refusal": None} if body.logprobs else None,
      "finish_reason": written.finish_reason,
    }
    self._send(200, {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(prompt, written)})

  def _stream(
    self,
    body: ChatCompletionRequest,
    head: dict[str, Any],
    prompt: int,
    written: StreamedReply,
    growing: Generator[Delta],
  ) -> None:
    """Server-sent events. The connection is closed at the end, which is how the client knows it."""
    self.send_response(200)
    for name, value in {
      "Content-Type": "text/event-stream",
      "Cache-Control": "no-cache",
      "Connection": "close",
    }.items():
      self.send_header(name, value)
    self.end_headers()
    self.close_connection = True
    head = {**head, "object": "chat.completion.chunk"}

    def send(data: Any) -> None:
      self.wfile.write(b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n")

    def chunk(delta: Mapping[str, str], finish: str | None = None, logprobs: Any = None) -> None:
      choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
      send({**head, "choices": [choice]})

    chunk({"role": "assistant", "content": ""})
    try:
      for fresh in growing:
        logprobs = {"content": self.served.logprobs(fresh), "refusal": None} if body.logprobs else None
        chunk({"content": fresh.text}, logprobs=logprobs)
    except EngineClosed as closed:  # the status is sent: an event has to tell
      send({"error": {"message": str(closed), "type": "server_error", "param": None, "code": None}})
      return
    chunk({}, written.finish_reason)
    if body.stream_options is not None and body.stream_options.include_usage:
      send({**head, "choices": [], "usage": _usage(prompt, written)})
    send(b"[DONE]")

  def _gone(self) -> bool:
    """Whether the client has hung up, as one does that was tired of waiting and will ask again."""
    readable, _, _ = select.select([self.connection], [], [], 0)
    return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

  def _refuse(self, status: int, message: str, field: str = "", code: str | None = None) -> None:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    self._send(status, {"error": {"message": message, "type": kind, "param": field or None, "code": code}})

  def _send(self, status: int, data: Any) -> None:
    body = json.dumps(data).encode()
    self.send_response(status)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(body)))
    if self.close_connection:
      self.send_header("Connection", "close")
    if status == 401:
      self.send_header("WWW-Authenticate", "Bearer")
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, format: str, *args: Any) -> None:
    """Nothing is logged: requests hold what people say."""


def _usage(prompt: int, written: StreamedReply) -> dict[str, int]:
  size = len(written.tokens)
  return {"prompt_tokens": prompt, "completion_tokens": size, "total_tokens": prompt + size}
