r"""Client of a Search-R1 retrieval server, with a rate limit.

    POST {"queries": [query], "topk": 10, "return_scores": true}
    200  {"result": [[{"document": {"contents": "\"Title\"\ntext"}, "score": 1.5}, ...]]}

If the server refuses the query (REFUSED_STATUSES), the agent's code gets a text that says so. Everything else is the
host's failure and raises SearchFailed: no connection, no answer in time, status 429 or 5xx after all retries, any other
status, a reply of another shape.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.util import Url, parse_url

from score_jax.errors import UserError
from score_jax.search.passages import (
  NO_RESULTS,
  Document,
  SearchFailed,
  check_result_limits,
  format_results,
  to_single_line,
)


class RateLimiter:
  """Lets callers through one by one, evenly spaced, in the order in which they come. For any number of threads."""

  def __init__(self, per_second: float, *, clock: Callable[[], float], wait: Callable[[float], None]):
    """`per_second`: callers, at most; 0: as they come. `clock` tells seconds, `wait` lets that many pass."""
    self._apart = 1.0 / per_second if per_second else 0.0
    self._clock, self._wait = clock, wait
    self._lock = threading.Lock()
    self._next = clock()

  def wait(self) -> None:
    """Returns when it is the caller's turn."""
    with self._lock:
      now = self._clock()
      turn = max(self._next, now)
      self._next = turn + self._apart
    if turn > now:
      self._wait(turn - now)


def parse_retry_after(retry_after: str) -> float | None:
  """The seconds that a header Retry-After asks for, given as a number or as a date; None when it says nothing."""
  if retry_after.isascii() and retry_after.isdigit():
    return float(retry_after)
  try:
    until = email.utils.parsedate_to_datetime(retry_after)
  except ValueError:
    return None
  if until.tzinfo is None:
    until = until.replace(tzinfo=datetime.UTC)
  return max(0.0, (until - datetime.datetime.now(datetime.UTC)).total_seconds())


REFUSED_STATUSES = (
  400,
  413,
  414,
  422,
)  # statuses that say that the query is at fault; the first query of all proves the URL
_BUSY = 429
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0
_LONGEST_REPLY = 16 << 20  # bytes
_CONNECTIONS = 32  # kept open


class Retriever:
  """Asks a server. May be called from several threads at once."""

  def __init__(
    self,
    url: str,
    *,
    top_k: int,
    passage_chars: int,
    timeout_s: float,
    retries: int,
    per_second: float,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] | None = None,
  ):
    """
    Args:
      url: the whole of it, such as http://127.0.0.1:8000/retrieve. Proxies of the environment are not used.
      top_k: passages of a result, at most.
      passage_chars: characters of one, title included, at most.
      timeout_s: seconds that one request may take; twice that when the server sends its reply bit by bit.
      retries: how often a request is made again; after 0.5 s, then each time twice as long, up to 60 s, each less
        up to half at random; or as long as the server says, if that is up to 60 s.
      per_second: requests, at most, repeated ones included; 0: no limit.
      clock, wait: for tests.

    Raises:
      UserError: a setting makes no sense.
    """
    check_result_limits(top_k=top_k, passage_chars=passage_chars)
    _check(url, timeout_s=timeout_s, retries=retries, per_second=per_second)
    self.url, self._top_k, self._passage_chars, self._retries = url, top_k, passage_chars, retries
    self._timeout_s = timeout_s
    self._closed = threading.Event()
    self._clock, self._wait = clock, wait or self._closed.wait
    self._pace = RateLimiter(per_second, clock=clock, wait=self._pause)
    self._jitter = random.Random()
    self._pool = urllib3.PoolManager(maxsize=_CONNECTIONS, timeout=urllib3.Timeout(total=timeout_s), retries=False)

  def close(self) -> None:
    """Ends what waits for its next try, and all connections that nobody uses."""
    self._closed.set()
    self._pool.clear()

  def check_server(self) -> None:
    """Asks something, so that a wrong URL shows before thousands of queries fail one by one.

    Raises:
      UserError: there is no such server there.
    """
    try:
      text = self("capital of Norway")
    except SearchFailed as error:
      text = str(error)
    else:
      if not text.startswith(_refusal("")):
        return
    raise UserError(
      f"tools.search.url does not answer as a retriever: {text}; start one there (python -m "
      "score_jax.search.server --help), or replay from a cache with tools.search.offline=True"
    )

  def __call__(self, query: str) -> str:
    """The passages that the server gives, in its order, one a line as "title: text".

    Raises:
      SearchFailed: it gives none; the message says why.
    """
    query = to_single_line(query)
    if not query:
      return NO_RESULTS
    body = json.dumps({"queries": [query], "topk": self._top_k, "return_scores": True}).encode()
    for tried in range(self._retries + 1):
      self._pace.wait()
      try:
        status, pause, reply = self._post(body)
      except (HTTPError, TimeoutError) as error:
        failure, pause = f"{type(error).__name__}: {error}", None
      else:
        if status == 200:
          return self._text(reply)
        if status in REFUSED_STATUSES:
          return _refusal(f"HTTP {status}")
        failure = f"HTTP {status}: {_start(reply)}"
        if status != _BUSY and status < 500:
          raise SearchFailed(f"{self.url}: {failure}")
      if pause is not None and pause > _LONGEST_PAUSE_S:
        raise SearchFailed(f"{self.url}: {failure}; it asks to wait for {pause:.0f} s")
      if tried < self._retries:
        self._pause(self._backoff(tried) if pause is None else pause)
    raise SearchFailed(f"{self.url}: {failure} ({self._retries + 1} tries)")

  def _post(self, body: bytes) -> tuple[int, float | None, bytes]:
    """One request: its status, for how many seconds the server asks to be left alone, and what it replied."""
    deadline = self._clock() + self._timeout_s
    headers = {"Content-Type": "application/json"}
    response = self._pool.request("POST", self.url, body=body, headers=headers, preload_content=False, redirect=False)
    reply = bytearray()
    try:
      while part := response.read1(1 << 16):
        reply += part
        if len(reply) > _LONGEST_REPLY:
          raise SearchFailed(f"{self.url}: a reply of more than {_LONGEST_REPLY} bytes")
        if self._clock() > deadline:
          raise TimeoutError(f"no whole reply within {self._timeout_s:g} s")
    finally:
      response.close()
    return response.status, parse_retry_after(response.headers.get("Retry-After", "")), bytes(reply)

  def _text(self, reply: bytes) -> str:
    try:
      found = _documents(json.loads(reply))
    except (ValueError, RecursionError) as error:
      raise SearchFailed(f"{self.url}: a reply that is no search result ({error}): {_start(reply)}") from error
    return format_results(found[: self._top_k], chars=self._passage_chars)

  def _backoff(self, tried: int) -> float:
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0**tried) * self._jitter.uniform(0.5, 1.0)

  def _pause(self, seconds: float) -> None:
    if self._wait(seconds) and self._closed.is_set():
      raise SearchFailed(f"{self.url}: the search was closed")


def _check(url: str, *, timeout_s: float, retries: int, per_second: float) -> None:
  try:
    parsed = parse_url(url)
  except HTTPError:
    parsed = Url()
  if parsed.scheme not in ("http", "https") or not parsed.host:
    raise UserError(f"tools.search.url={url!r} is none: give one such as http://127.0.0.1:8000/retrieve")
  if timeout_s <= 0:
    raise UserError(f"tools.search.timeout_s={timeout_s} must be more than 0")
  for name, value in (("retries", retries), ("per_second", per_second)):
    if value < 0:
      raise UserError(f"tools.search.{name}={value} must not be less than 0")


def _documents(reply: Any) -> list[Document]:
  """
  Raises:
    ValueError: the reply is no list of passages for one query.
  """
  try:
    [found] = reply["result"]
    contents = [each["document"]["contents"] for each in found]
  except (TypeError, KeyError, ValueError, IndexError) as error:
    raise ValueError('not of the shape {"result": [[{"document": {"contents": …}}]]}') from error
  if not all(isinstance(text, str) for text in contents):
    raise ValueError("contents that are no text")
  return [Document.from_contents(text) for text in contents]


def _refusal(why: str) -> str:
  return f"{NO_RESULTS}: the retriever refuses this query{why and f' ({why})'}"


def _start(reply: bytes) -> str:
  """The first words of a reply, for a message."""
  return to_single_line(reply[:200].decode("utf-8", "replace")) or "nothing"
