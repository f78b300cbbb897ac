"""A client for OpenAI-compatible endpoints, with retries and a budget.

Failures are sorted by cause. Transient ones (no connection, status 408, 409, 429 or 5xx, a timeout, a malformed reply)
are retried until `patience_s` seconds after the first. Then, or after status 400, 413 or 422, a short probe request is
sent. If the probe succeeds, the request is at fault, and its reply says so. If it fails, the run stops
(`ChatReply.hopeless`). Any other status (wrong key, unknown model) stops the run at once.

completion.py reads a completion in every shape that endpoints give it. A reply that is paid for and cannot be read is
requested three times at most. All tries count against `ChatBudget`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import httpx2
import openai

from score_jax.chat.completion import max_usage, parse_completion
from score_jax.chat.interface import ChatBackend, ChatMessage, ChatReply, ChatRequest
from score_jax.errors import UserError
from score_jax.sampler.slots import request_key
from score_jax.search.retriever import parse_retry_after
from score_jax.text import replace_surrogates
from score_jax.trajectory import Usage


@dataclasses.dataclass
class ChatBudget:
  """Sums up what was spent.

  Attributes:
    usd: what all replies may cost; 0: no limit. Those on their way when it is spent still come, and cost.
    seconds: how long may be asked, on the wall's clock, from the first ask of this process on; 0: no limit.
    prices: USD for a million tokens, (prompt, reply).
    used: tokens so far, those of earlier starts included.
  """

  usd: float
  seconds: float
  prices: Sequence[float]
  used: Usage = Usage()
  clock: Callable[[], float] = time.monotonic
  began: float | None = None

  def __post_init__(self) -> None:
    """
    Raises:
      UserError: there is a limit and no price, or a number is below 0.
    """
    if min(self.usd, self.seconds, *self.prices) < 0 or len(self.prices) != 2:
      raise UserError("chat.budget_usd, chat.budget_s and both of chat.usd_per_million must not be less than 0")
    if self.usd and not any(self.prices):
      raise UserError(f"chat.budget_usd = {self.usd:g} needs prices: give chat.usd_per_million=(prompt, reply)")

  @property
  def spent(self) -> float:
    """USD."""
    return (self.used.read * self.prices[0] + self.used.generated * self.prices[1]) / 1e6

  def exhausted_reason(self) -> str:
    """Why no more may be asked; empty while it may."""
    if self.began is None:
      self.began = self.clock()
    if self.usd and self.spent >= self.usd:
      return f"over budget: {self.spent:.4g} USD spent of chat.budget_usd = {self.usd:g}; raise it to go on"
    if self.seconds and self.clock() - self.began >= self.seconds:
      return f"over budget: chat.budget_s = {self.seconds:g} s have passed; start again, or raise it, to go on"
    return ""


FailureKind = Literal[
  "connection", "time-out", "malformed", "unreadable", "busy", "server error", "refused", "forbidden"
]
RETRIABLE: tuple[FailureKind, ...] = ("connection", "time-out", "malformed", "busy", "server error")
PROBE_REQUEST = ChatRequest("trifle", (ChatMessage("user", "Say: yes"),), temperature=0.0, tokens=8)
MAX_PAID_TRIES = 3  # for a reply that comes, is paid for and cannot be read
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_SECRET_CHARS = 8  # a key of fewer is a placeholder such as EMPTY
_REPLY_BYTES, _TOKEN_BYTES = 1 << 16, 256  # the most that a reply may have: so many, and so many more for each token


class RequestFailed(Exception):
  """One try has failed. `pause`: for how many seconds the endpoint asks to be left alone. `paid`: what it took."""

  def __init__(self, kind: FailureKind, text: str, pause: float | None = None, paid: ChatReply | None = None):
    super().__init__(text)
    self.kind, self.pause, self.paid = kind, pause, paid


class EndpointChat(ChatBackend):
  """Asks a server. May be called from several threads, and within an event loop (a notebook): it has a loop of its own.

  Attributes:
    failures: tries that failed, by kind.
    budget: what may be spent, and was.
  """

  def __init__(
    self,
    url: str,
    model: str,
    *,
    key: str,
    seed: int,
    top_p: float,
    concurrency: int,
    timeout_s: float,
    patience_s: float,
    budget: ChatBudget,
    tokens_field: str = "max_tokens",
    schema: str = "",
    extra: Mapping[str, Any] | None = None,
    wait: Callable[[float], Any] = asyncio.sleep,
  ):
    """
    Args:
      url: such as http://127.0.0.1:8000/v1.
      key: the secret itself; empty for servers that want none. It is taken out of all that comes back.
      seed: of the run: with an ask's name it gives the seed that is sent, and the jitter of the pauses.
      concurrency: asks on their way at once.
      timeout_s: seconds of one try, whatever the server does in them.
      patience_s: for so many after its first failure an ask is tried again; after 0.5 s, then each time twice as long,
        up to 30 s, each less up to half; or as long as the server says.
      tokens_field: the name under which the endpoint takes the most tokens of a reply.
      schema: how a reply is held to Ask.schema: json_schema, json_object; empty: not at all.
      extra: more fields of a request; one that is None takes the field out.
      wait: for tests.
    """
    self.model, self.failures = model, Counter[str]()
    self._key, self._seed, self._top_p = key, seed, top_p
    self._timeout_s, self._patience_s, self.budget = timeout_s, patience_s, budget
    self._tokens_field, self._schema, self._extra = tokens_field, schema, dict(extra or {})
    self._wait = wait
    self._answered_at = -1.0  # by the monotonic clock; before 0: never
    self._client = openai.AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=0, timeout=timeout_s)
    self._places = asyncio.Semaphore(concurrency)
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Ends what is on its way, and the connections."""
    asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()

  async def _end(self) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
      task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await self._client.close()

  def iter_replies(self, asks: Sequence[ChatRequest]) -> Iterator[tuple[int, ChatReply]]:
    came: queue.SimpleQueue[tuple[int, ChatReply] | None] = queue.SimpleQueue()
    flight = asyncio.run_coroutine_threadsafe(self._ask_all(asks, came.put), self._loop)
    flight.add_done_callback(lambda _: came.put(None))
    try:
      while (one := came.get()) is not None:
        yield one
      flight.result()
    finally:
      flight.cancel()

  async def _ask_all(self, asks: Sequence[ChatRequest], put: Callable[[tuple[int, ChatReply]], None]) -> None:
    hopeless: list[ChatReply] = []

    async def one(place: int, ask: ChatRequest) -> None:
      async with self._places:
        reply = await self._ask(ask, hopeless)
      put((place, reply))

    async with asyncio.TaskGroup() as group:
      for place, ask in enumerate(asks):
        group.create_task(one(place, ask))

  async def _ask(self, ask: ChatRequest, hopeless: list[ChatReply]) -> ChatReply:
    """Tries until there is a reply. `hopeless` holds why others were given up, which ends this one too."""
    tries, since, unread = 0, 0.0, list[ChatReply]()
    while True:
      if hopeless:
        return dataclasses.replace(hopeless[0], tries=tries)
      if over := self.budget.exhausted_reason():
        hopeless.append(ChatReply("", failed=f"chat: {over}", hopeless=True))
        continue
      tries += 1
      try:
        reply = await self._try(ask)
      except RequestFailed as failure:
        self.failures[failure.kind] += 1
        if failure.paid is not None:
          unread.append(failure.paid)
          self._book(ask, failure.paid)
        since = since or time.monotonic()
        left = since + self._patience_s - time.monotonic()
        pause = failure.pause if failure.pause is not None else self._backoff(ask, tries)
        again = failure.kind in RETRIABLE or (failure.kind == "unreadable" and len(unread) < MAX_PAID_TRIES)
        if again and left > 0 and (failure.pause is None or pause <= left):
          await self._wait(min(pause, left))
          continue
        reply = await self._give_up(failure, since)
        if reply.hopeless:
          hopeless.append(reply)
      else:
        self._answered_at = time.monotonic()
        self._book(ask, reply)
      usage = sum((one.usage for one in unread), reply.usage)
      estimated = reply.estimated or any(one.estimated for one in unread)
      return dataclasses.replace(reply, usage=usage, estimated=estimated, tries=tries)

  def _book(self, ask: ChatRequest, reply: ChatReply) -> None:
    """Counts a reply against the budget: where its tokens are estimated, the most that it can have taken."""
    self.budget.used += max_usage(ask) if reply.estimated else reply.usage

  def _backoff(self, ask: ChatRequest, tries: int) -> float:
    jitter = random.Random(f"{self._seed}/{ask.name}/{tries}").uniform(0.5, 1.0)
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (tries - 1)) * jitter

  async def _give_up(self, failure: RequestFailed, since: float) -> ChatReply:
    text = f"{self._client.base_url}: {failure}"
    if failure.kind in RETRIABLE:
      text += f" ({self._patience_s:g} s after the first failure)"
    if failure.kind != "forbidden" and (self._answered_since(failure, since) or await self._answers_a_trifle()):
      return ChatReply("", failed=text)
    return ChatReply(
      "", failed=f"chat: {text}; mend that and start the same again: what was answered is kept", hopeless=True
    )

  def _answered_since(self, failure: RequestFailed, since: float) -> bool:
    """Whether the endpoint answered other asks, so that this one is at fault."""
    return self._answered_at > (since if failure.kind in RETRIABLE else 0.0)

  async def _answers_a_trifle(self) -> bool:
    try:
      reply = await self._try(PROBE_REQUEST)
    except RequestFailed:
      return False
    self._answered_at = time.monotonic()
    self._book(PROBE_REQUEST, reply)
    return True

  async def _try(self, ask: ChatRequest) -> ChatReply:
    """
    Raises:
      Failure: no reply came.
    """
    try:
      async with asyncio.timeout(self._timeout_s):
        return self._reply(ask, await self._post(ask))
    except openai.APIStatusError as error:
      raise self._of_status(error) from None
    except (TimeoutError, openai.APITimeoutError):
      raise RequestFailed("time-out", f"no whole reply within {self._timeout_s:g} s") from None
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
      cause = error.__cause__ or error
      raise RequestFailed("connection", self._shown(f"{type(cause).__name__}: {cause}")) from None

  async def _post(self, ask: ChatRequest) -> bytes:
    """The body of a reply, of whatever shape; read bit by bit, since it may never end."""
    messages: Any = [dataclasses.asdict(message) for message in ask.messages]
    most = _REPLY_BYTES + _TOKEN_BYTES * ask.tokens
    create = self._client.chat.completions.with_streaming_response.create
    body = bytearray()
    async with create(model=self.model, messages=messages, extra_body=self._fields(ask)) as response:
      async for part in response.iter_bytes():
        body += part
        if len(body) > most:
          raise RequestFailed("malformed", f"a reply of more than {most} bytes to an ask for {ask.tokens} tokens")
    return bytes(body)

  def _fields(self, ask: ChatRequest) -> dict[str, Any]:
    fields = {
      "temperature": ask.temperature,
      "top_p": self._top_p,
      self._tokens_field: ask.tokens,
      "seed": int(request_key(self._seed, ask.name)[0]) >> 1,  # 31 bits, which every server takes
    }
    if ask.schema is not None and self._schema == "json_schema":
      fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": dict(ask.schema)}}
    elif ask.schema is not None and self._schema == "json_object":
      fields["response_format"] = {"type": "json_object"}
    return {name: value for name, value in (fields | self._extra).items() if value is not None}

  def _reply(self, ask: ChatRequest, body: bytes) -> ChatReply:
    """
    Raises:
      Failure: it is none, or one that cannot be read.
    """
    try:
      found = parse_completion(json.loads(body))
    except (ValueError, RecursionError) as error:
      start = self._shown(body.decode("utf-8", "replace"))
      raise RequestFailed("malformed", f"a reply that is no completion ({type(error).__name__}): {start!r}") from None
    usage, estimated = found.usage(ask)
    if found.text is None:
      start = self._shown(body.decode("utf-8", "replace"))
      raise RequestFailed(
        "unreadable", f"a completion without text: {start!r}", paid=ChatReply("", usage, estimated=estimated)
      )
    if found.refusal:
      failed = f"the endpoint keeps the reply back: {self._shown(found.refusal)}"
      return ChatReply("", usage, failed=failed, estimated=estimated)
    return ChatReply(self._without_key(replace_surrogates(found.text)), usage, cut=found.cut(ask), estimated=estimated)

  def _of_status(self, error: openai.APIStatusError) -> RequestFailed:
    status = error.status_code
    said = error.body.get("message") if isinstance(error.body, Mapping) else None
    text = f"HTTP {status}: {self._shown(str(said or error.body or 'nothing'))}"
    if status in (408, 409, 429):
      return RequestFailed("busy", text, parse_retry_after(error.response.headers.get("Retry-After", "")))
    if status >= 500:
      return RequestFailed("server error", text, parse_retry_after(error.response.headers.get("Retry-After", "")))
    return RequestFailed("refused" if status in (400, 413, 422) else "forbidden", text)

  def _shown(self, text: str) -> str:
    """The start of what a server said, in one line, for a message."""
    return " ".join(self._without_key(replace_surrogates(text)).split())[:300]

  def _without_key(self, text: str) -> str:
    return text.replace(self._key, "[the key]") if len(self._key) >= _SECRET_CHARS else text


def read_endpoint_key(variable: str) -> str:
  """The key in an environment variable; empty where none is named.

  Raises:
    UserError: there is no such variable.
  """
  if variable and not os.environ.get(variable):
    raise UserError(f"chat.key_env={variable}: the environment has no such variable; set it to the endpoint's key")
  return os.environ[variable] if variable else ""
