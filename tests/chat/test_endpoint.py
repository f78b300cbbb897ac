"""An endpoint that fails in every way is asked again, within limits, and its key is never told."""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from score_jax.chat.endpoint import ChatBudget, EndpointChat, read_endpoint_key
from score_jax.chat.interface import ChatMessage, ChatRequest
from score_jax.chat.record import RecordedChat
from score_jax.errors import UserError
from score_jax.trajectory import Usage
from tests.chat import servers
from tests.chat.servers import Fault, Raw, Scripted, error, first, ok, scripted

KEY = "sk-planted-0123456789abcdef"


def upper(messages: list[dict[str, str]]) -> str:
  return messages[-1]["content"].upper()


def ask(text: str, **more: Any) -> ChatRequest:
  return ChatRequest(
    text, (ChatMessage("system", "shout"), ChatMessage("user", text)), **{"temperature": 0.5, "tokens": 9} | more
  )


@contextlib.contextmanager
def endpoint(server: Scripted, **more: Any) -> Iterator[EndpointChat]:
  settings: dict[str, Any] = {
    "model": "scripted",
    "key": "",
    "seed": 1,
    "top_p": 0.9,
    "concurrency": 4,
    "timeout_s": 5.0,
    "patience_s": 20.0,
    "budget": ChatBudget(0.0, 0.0, (0.0, 0.0)),
  }
  with contextlib.closing(EndpointChat(server.url, **settings | more)) as made:
    yield made


def test_many_are_asked_at_once_and_answered_in_order() -> None:
  together = threading.Barrier(4)

  def says(messages: list[dict[str, str]]) -> str:
    together.wait(30.0)
    return upper(messages)

  with scripted(says) as server, endpoint(server) as chat:
    replies = chat.ask([ask(f"figs {i}") for i in range(16)])
  assert [r.text for r in replies] == [f"FIGS {i}" for i in range(16)]
  assert {r.usage for r in replies} == {Usage(generated=3, read=7)} and not any(r.failed or r.cut for r in replies)
  assert server.most == 4


def test_what_is_sent_is_what_was_asked() -> None:
  schema = {"type": "object"}
  with scripted(upper) as server:
    with endpoint(server, key=KEY) as chat:
      chat.ask([ask("figs", schema=schema)])
    with endpoint(server, schema="json_schema", tokens_field="most", extra={"top_k": 3, "temperature": None}) as chat:
      chat.ask([ask("figs", schema=schema)])
    with endpoint(server, seed=2) as chat:
      chat.ask([ask("figs"), ask("dates")])
  plain, held, *others = server.asked
  seed = plain.pop("seed")
  talk = [{"role": "system", "content": "shout"}, {"role": "user", "content": "figs"}]
  assert plain == {"model": "scripted", "messages": talk, "temperature": 0.5, "top_p": 0.9, "max_tokens": 9}
  assert held == {
    "model": "scripted",
    "messages": talk,
    "top_p": 0.9,
    "most": 9,
    "seed": seed,
    "top_k": 3,
    "response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}},
  }
  seeds = {seed, *(other["seed"] for other in others)}
  assert len(seeds) == 3 and all(0 <= s < 1 << 31 for s in seeds)
  sent = [headers["authorization"] for headers in server.headers]
  assert sent == [f"Bearer {KEY}", "Bearer none", "Bearer none", "Bearer none"]


@pytest.mark.parametrize(
  ("fault", "kind"),
  [
    (error(429, Retry_After="0"), "busy"),
    (error(500), "server error"),
    (Raw(503, b"<html>gone</html>"), "server error"),
    (Raw(200, b'{"choices": [{"message"'), "malformed"),
    (Raw(200, b"[" * 100_000), "malformed"),
    (Raw(200, b"{}"), "malformed"),
    (Raw(200, b'{"choices": null}'), "malformed"),
    (Raw(200, b'{"choices": []}'), "unreadable"),
    (Raw(200, b'{"choices": [{"message": null}]}'), "unreadable"),
    (Raw(200, b'{"choices": [{"message": {"content": 7}}]}'), "unreadable"),
    (Raw(200, b"\xff\xfe"), "malformed"),
    (servers.half, "connection"),
    (servers.hang_up, "connection"),
    (servers.never_ending, "time-out"),
    (servers.silence, "time-out"),
    (servers.flood, "malformed"),
  ],
)
def test_what_may_pass_is_tried_again(fault: Fault, kind: str) -> None:
  quick = {"timeout_s": 0.3} if kind == "time-out" else {}
  with scripted(upper, first(fault)) as server, endpoint(server, **quick) as chat:
    [reply] = chat.ask([ask("figs")])
  assert (reply.text, reply.tries, reply.failed) == ("FIGS", 2, "")
  assert chat.failures == {kind: 1} and len(server.asked) == 2


def test_the_server_says_how_long_to_leave_it_alone() -> None:
  with scripted(upper, first(error(429, Retry_After="1"))) as server, endpoint(server) as chat:
    assert chat.ask([ask("figs")])[0].tries == 2
  assert server.times[1] - server.times[0] >= 1.0
  with scripted(upper, lambda n: error(429, Retry_After="3600") if n < 1 else None) as server:
    with endpoint(server) as chat:
      [reply] = chat.ask([ask("figs")])
    assert "HTTP 429" in reply.failed and server.times[-1] - server.times[0] < 5.0, "an hour is not waited for"


def test_pauses_double_and_their_jitter_is_of_the_seed() -> None:
  def pauses(seed: int) -> list[float]:
    waited: list[float] = []

    async def wait(seconds: float) -> None:
      waited.append(seconds)

    with scripted(upper, first(*[error(500)] * 8)) as server, endpoint(server, wait=wait, seed=seed) as chat:
      assert chat.ask([ask("figs")])[0].tries == 9
    return waited

  once, again, other = pauses(1), pauses(1), pauses(2)
  assert once[:6] == again[:6] != other[:6]
  for number, pause in enumerate(once[:5]):
    assert 0.5 * 2**number * 0.5 <= pause <= 0.5 * 2**number
  assert max(once) <= 20.0, "no pause is longer than the patience that is left"


def test_a_refused_ask_is_data_and_the_others_go_on() -> None:
  def faults(number: int) -> Fault | None:
    return error(400, "too long") if server.asked[number]["messages"][-1]["content"] == "bad" else None

  with scripted(upper, faults) as server, endpoint(server) as chat:
    good, bad, after = chat.ask([ask("a"), ask("bad"), ask("b")])
    assert (good.text, after.text, bad.tries, bad.hopeless) == ("A", "B", 1, False)
    assert bad.failed.endswith("HTTP 400: too long") and bad.text == ""


def test_an_ask_that_always_breaks_the_server_is_data_too() -> None:
  """It answers a trifle, so the ask is at fault; nobody waits for it for ever."""

  def faults(number: int) -> Fault | None:
    return error(500, "bug") if server.asked[number]["messages"][-1]["content"] == "bad" else None

  with scripted(upper, faults) as server, endpoint(server, patience_s=0.7) as chat:
    [bad] = chat.ask([ask("bad")])
  assert bad.failed.endswith("HTTP 500: bug (0.7 s after the first failure)") and bad.tries >= 2


@pytest.mark.parametrize(
  ("fault", "said"),
  [
    (error(401, "wrong key"), "HTTP 401: wrong key"),
    (error(404, "no such model"), "HTTP 404: no such model"),
    (error(400, "max_tokens is not supported"), "HTTP 400: max_tokens is not supported"),  # refuses a trifle as well
    (error(503, "down"), r"HTTP 503: down \(0.5 s after the first failure\)"),
    (servers.hang_up, r"disconnected.* \(0.5 s after the first failure\)"),
  ],
)
def test_what_holds_for_every_ask_stops_the_run(fault: Fault, said: str) -> None:
  with (
    scripted(upper, lambda number: fault) as server,
    endpoint(server, patience_s=0.5, concurrency=2) as chat,
    pytest.raises(UserError, match=f"^chat: {server.url}/: .*{said}; mend that and start the same again"),
  ):
    chat.ask([ask(f"{i}") for i in range(20)])
  assert len(server.asked) <= 14, "the others are not tried one by one"


def test_a_server_that_is_killed_and_comes_back_is_survived() -> None:
  def says(messages: list[dict[str, str]]) -> str:
    time.sleep(0.1)
    return upper(messages)

  with scripted(says) as server, endpoint(server, concurrency=2) as chat:
    replies: list[Any] = []
    for place, reply in chat.iter_replies([ask(f"figs {i}") for i in range(12)]):
      replies.append((place, reply.text))
      if len(replies) == 3:
        server.stop()
        threading.Timer(1.2, server.start).start()
  assert sorted(replies) == [(i, f"FIGS {i}") for i in range(12)]
  assert chat.failures["connection"] >= 2


def test_nobody_listening_is_told_with_the_reason() -> None:
  with scripted(upper) as server:
    server.stop()
    with endpoint(server, patience_s=0.1) as chat, pytest.raises(UserError, match=r"ConnectError: .*what was answered"):
      chat.ask([ask("figs")])
    server.start()


# Budgets


def test_no_more_is_asked_when_the_money_is_spent() -> None:
  """A reply costs 7 times 2 + 3 times 10 = 44 millionths: after three of them, 132, a budget of 100 is spent."""
  budget = ChatBudget(100e-6, 0.0, (2.0, 10.0))
  with scripted(upper) as server, endpoint(server, budget=budget, concurrency=1) as chat:
    replies = dict(chat.iter_replies([ask(f"{i}") for i in range(6)]))
    assert [replies[i].text for i in range(3)] == ["0", "1", "2"] and len(server.asked) == 3
    assert all(replies[i].hopeless and "over budget: 0.000132 USD spent" in replies[i].failed for i in range(3, 6))
    with pytest.raises(UserError, match=r"chat: over budget: .* of chat\.budget_usd = 0\.0001; raise it to go on"):
      chat.ask([ask("more")])
  assert budget.spent == pytest.approx(132e-6)


def test_no_more_is_asked_when_the_time_is_over() -> None:
  now = [100.0]
  budget = ChatBudget(0.0, 30.0, (0.0, 0.0), clock=lambda: now[0])
  with scripted(upper) as server, endpoint(server, budget=budget) as chat:
    assert chat.ask([ask("a")])[0].text == "A"
    now[0] += 30.0
    with pytest.raises(UserError, match=r"over budget: chat\.budget_s = 30 s have passed"):
      chat.ask([ask("b")])
  assert len(server.asked) == 1


def test_a_budget_that_cannot_be_held_is_refused() -> None:
  for bad in ((1.0, 0.0, (0.0, 0.0)), (-1.0, 0.0, (1.0, 1.0)), (0.0, 0.0, (1.0,))):
    with pytest.raises(UserError, match=r"chat\.(budget_usd|usd_per_million)"):
      ChatBudget(*bad)


def test_a_budget_counts_the_most_that_a_reply_of_unknown_tokens_can_have_taken(tmp_path: pathlib.Path) -> None:
  """An ask allows 9 tokens, and its 6 bytes with 16 tokens around each message are read: 9 x 10 + 38 x 2 millionths."""
  reply = odd(usage=None)
  with scripted(upper, lambda number: reply) as server:
    budget = ChatBudget(300e-6, 0.0, (2.0, 10.0))
    with endpoint(server, budget=budget, concurrency=1) as chat:
      recorded = RecordedChat(tmp_path / "chat.sqlite", "m", {}, lambda: chat)
      with contextlib.closing(recorded):
        with pytest.raises(UserError, match=r"over budget: 0\.000332 USD spent"):
          recorded.ask([ask(name) for name in "abc"])
        assert len(server.asked) == 2 and recorded.total_usage() == budget.used == Usage(generated=18, read=76)


# Replies


def odd(*, message: Any = None, choice: Any = None, **fields: Any) -> Raw:
  """A completion that says "x", with some of its fields put otherwise; those that are ... are taken out."""
  made = servers.completion("x")
  made["choices"][0]["message"] |= message or {}
  made["choices"][0] |= choice or {}
  made |= fields
  for part in (made, made["choices"][0], made["choices"][0]["message"]):
    for name in [name for name, value in part.items() if value is ...]:
      del part[name]
  return Raw(200, json.dumps(made).encode())


PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "x"}]


@pytest.mark.parametrize(
  ("reply", "text"),
  [
    (odd(message={"content": [{"type": "text", "text": "fi"}, {"type": "text", "text": "gs"}]}), "figs"),
    (odd(message={"content": PARTS}), "x"),
    (odd(message={"content": []}), ""),
    (odd(message={"content": None}), ""),
    (odd(message={"content": ..., "reasoning_content": "hm"}), ""),
    (odd(message={"reasoning_content": "hm", "tool_calls": None, "audio": None, "annotations": []}), "x"),
    (odd(message={"refusal": None, "role": ...}), "x"),
    (odd(choice={"finish_reason": ...}), "x"),
    (odd(choice={"finish_reason": None, "stop_reason": 7, "logprobs": None}, system_fingerprint=None, id=...), "x"),
    (odd(usage={"prompt_tokens": 7, "total_tokens": 10}), "x"),
    (odd(usage={"prompt_tokens": 7.0, "completion_tokens": 3.0, "prompt_tokens_details": None}), "x"),
  ],
)
def test_what_endpoints_really_send_is_a_reply(reply: Raw, text: str) -> None:
  with scripted(upper, lambda number: reply) as server, endpoint(server) as chat:
    [found] = chat.ask([ask("a")])
  assert (found.text, found.failed, found.cut, found.tries) == (text, "", False, 1)
  assert found.usage == Usage(generated=3, read=7) and not found.estimated and not chat.failures


@pytest.mark.parametrize(
  ("usage", "read", "generated"),
  [
    (..., 4, 4),
    (None, 4, 4),
    ({}, 4, 4),
    ({"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}, 4, 4),
    ({"prompt_tokens": 7, "completion_tokens": None}, 7, 4),
    ({"prompt_tokens": None, "completion_tokens": 3}, 4, 3),
    ({"prompt_tokens": -1, "completion_tokens": "3"}, 4, 4),
  ],
)
def test_tokens_that_are_not_said_are_estimated_and_marked_so(usage: Any, read: int, generated: int) -> None:
  """A token for four bytes: messages of 5 and 6 bytes are read, and 9 come with 3 of thinking, which is no reply."""
  reply = odd(message={"content": "two figs!", "reasoning_content": "hm."}, usage=usage)
  with scripted(upper, lambda number: reply) as server, endpoint(server) as chat:
    [found] = chat.ask([ask("figs??")])
  assert found.usage == Usage(generated=generated, read=read) and found.estimated and found.text == "two figs!"


def test_a_reply_without_a_finish_is_cut_where_it_has_all_its_tokens() -> None:
  for count, cut in ((8, False), (9, True)):
    reply = odd(choice={"finish_reason": None}, usage={"prompt_tokens": 7, "completion_tokens": count})
    with scripted(upper, lambda number, reply=reply: reply) as server, endpoint(server) as chat:
      assert chat.ask([ask("a")])[0].cut == cut


def test_what_is_paid_for_and_cannot_be_read_fails_alone_and_is_booked() -> None:
  """Three tries of 3 and 7 tokens each; the endpoint answers others, so the run goes on."""

  def faults(number: int) -> Fault | None:
    return odd(message={"content": 7}) if server.asked[number]["messages"][-1]["content"] == "bad" else None

  budget = ChatBudget(0.0, 0.0, (0.0, 0.0))
  with scripted(upper, faults) as server, endpoint(server, budget=budget, patience_s=60.0) as chat:
    good, bad, after = chat.ask([ask("a"), ask("bad"), ask("b")])
  assert (good.text, after.text, bad.text, bad.hopeless) == ("A", "B", "", False)
  assert (bad.tries, bad.usage) == (3, Usage(generated=9, read=21)) and "a completion without text" in bad.failed
  assert budget.used == Usage(generated=15, read=35)


def test_an_endpoint_that_never_says_anything_readable_stops_the_run() -> None:
  with (
    scripted(upper, lambda number: odd(message={"content": 7})) as server,
    endpoint(server) as chat,
    pytest.raises(UserError, match="a completion without text"),
  ):
    chat.ask([ask("a")])
  assert len(server.asked) == 4, "three times what was asked, and a trifle"


def test_replies_are_taken_as_they_are() -> None:
  texts = ["", "\x00 <|im_end|>", "half \ud800 a pair", "é😀\u202e", "x" * 20_000]
  with scripted(lambda messages: texts[int(messages[-1]["content"])]) as server, endpoint(server) as chat:
    found = [reply.text for reply in chat.ask([ask(str(i)) for i in range(len(texts))])]
  assert found == [text.replace("\ud800", "\N{REPLACEMENT CHARACTER}") for text in texts]


def test_a_reply_that_is_cut_or_kept_back_is_told() -> None:
  refusing = servers.completion("")
  refusing["choices"][0]["message"]["refusal"] = "I will not"
  faults = first(ok("long", finish="length"), ok("", finish="content_filter"), Raw(200, json.dumps(refusing).encode()))
  with scripted(upper, faults) as server, endpoint(server, concurrency=1) as chat:
    cut, kept, refused, good = chat.ask([ask(f"{i}") for i in range(4)])
  assert (cut.text, cut.cut, cut.failed) == ("long", True, "")
  assert kept.failed == "the endpoint keeps the reply back: content_filter" and kept.usage.read == 7
  assert refused.failed.endswith("I will not") and not refused.hopeless
  assert (good.text, good.cut) == ("3", False)


# The key


def test_the_key_is_told_nowhere(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
  """The server tells all its headers, in errors and in a reply."""
  caplog.set_level(logging.DEBUG)

  def told(status: int) -> Any:
    def reply(handler: Any) -> None:
      headers = json.dumps(dict(handler.headers))
      body = error(status, headers).body if status >= 300 else ok(headers).body
      handler.send_response(status)
      handler.send_header("Content-Length", str(len(body)))
      handler.send_header("X-Echo", handler.headers["authorization"])
      handler.end_headers()
      handler.wfile.write(body)

    return reply

  said: list[str] = []
  for status in (500, 400, 401, 200):
    with (
      scripted(upper, lambda number, status=status: told(status)) as server,
      endpoint(server, key=KEY, patience_s=0.0) as chat,
    ):
      said += [repr(reply) for _, reply in chat.iter_replies([ask("a")])]
  assert len(said) == 4 and all("Bearer [the key]" in text for text in said)
  out, err = capfd.readouterr()
  for text in (*said, out, err):
    assert KEY not in text
  ours = [record for record in caplog.records if not record.name.startswith(("httpcore", "asyncio"))]
  assert KEY not in "".join(record.getMessage() for record in ours)


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setenv("MY_KEY", KEY)
  assert (read_endpoint_key("MY_KEY"), read_endpoint_key("")) == (KEY, "")
  monkeypatch.delenv("MY_KEY")
  with pytest.raises(UserError, match=r"chat\.key_env=MY_KEY: the environment has no such variable"):
    read_endpoint_key("MY_KEY")


# Threads


def test_it_is_asked_from_several_threads_and_within_an_event_loop() -> None:
  import asyncio

  with scripted(upper) as server, endpoint(server) as chat:
    with ThreadPoolExecutor(4) as pool:
      found = list(pool.map(lambda i: chat.ask([ask(f"figs {i}"), ask(f"dates {i}")]), range(8)))

    async def notebook() -> str:
      return chat.ask([ask("in a loop")])[0].text

    assert asyncio.run(notebook()) == "IN A LOOP"
  assert [[r.text for r in replies] for replies in found] == [[f"FIGS {i}", f"DATES {i}"] for i in range(8)]


def test_who_stops_listening_ends_what_is_on_its_way() -> None:
  with scripted(upper, lambda number: servers.silence if number else None) as server:
    began = time.monotonic()
    with endpoint(server, timeout_s=60.0, concurrency=1) as chat:
      replies = chat.iter_replies([ask("a"), ask("b")])
      assert next(replies)[1].text == "A"
      replies.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 5.0
