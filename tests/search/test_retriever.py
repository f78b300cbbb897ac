"""Search over HTTP, against real servers on this machine."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import json
import pathlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest
import urllib3

from score_jax.errors import UserError
from score_jax.search.corpus import Corpus, PassageFields
from score_jax.search.passages import BM25Search, Document, SearchFailed
from score_jax.search.retriever import RateLimiter, Retriever
from score_jax.search.server import make_server
from tests.search.retrievers import Reply, ok, retriever, serving

TOWNS = (Document("Oslo", "The capital\nof Norway."), Document('"Heroes" (song)', "Sung in 1977, in Oslo."))
FOUND = ok(*(town.contents for town in TOWNS))
TEXT = 'Oslo: The capital of Norway.\n"Heroes" (song): Sung in 1977, in Oslo.'


class Clock:
  """A clock that stands until somebody waits."""

  def __init__(self) -> None:
    self.now = 100.0
    self.waits: list[float] = []

  def __call__(self) -> float:
    return self.now

  def wait(self, seconds: float) -> None:
    self.waits.append(seconds)
    self.now += seconds


@contextlib.contextmanager
def asking(url: str, **changed: object) -> Iterator[Retriever]:
  settings = {"top_k": 2, "passage_chars": 100, "timeout_s": 5.0, "retries": 3, "per_second": 0.0}
  with contextlib.closing(Retriever(url, **(settings | changed))) as search:  # type: ignore[arg-type]
    yield search


def answered(*replies: Reply | Callable[[BaseHTTPRequestHandler], None], **changed: object) -> tuple[str, int]:
  """What comes of a query when the server replies so, and how many requests it got."""
  with retriever(*replies) as played, asking(played.url, **changed) as search:
    try:
      text = search("q")
    except SearchFailed as error:
      text = f"failed: {error}".replace(played.url, "URL")
  return text, len(played.asked)


def test_it_speaks_the_protocol() -> None:
  with retriever(FOUND) as played, asking(played.url) as search:
    assert search("  where is\nOslo? \x00\ud800é") == TEXT
  assert played.asked == [{"queries": ["where is Oslo? \ufffd\ufffdé"], "topk": 2, "return_scores": True}]


def test_no_more_and_no_longer_passages_than_asked_for() -> None:
  reply = ok('"A"\nxyz', '"B"\n' + "y" * 500, "C\nno quotes", "D")
  text, _ = answered(reply, top_k=3, passage_chars=20)
  assert text.splitlines() == ["A: xyz", "B: " + "y" * 16 + "…", "C: no quotes"]


def test_nothing_found_and_nothing_asked() -> None:
  with retriever(ok()) as played, asking(played.url) as search:
    assert search("q") == "no results"
    assert search(" \n") == "no results"
  assert len(played.asked) == 1


def test_hostile_queries_arrive_as_text() -> None:
  queries = ["x" * 1_000_000, "\x00" * 1000, "\ud800\udfff", '"}], "topk": 99, {"', "é😀\u202e"]
  with retriever(FOUND) as played, asking(played.url) as search:
    assert [search(query) for query in queries] == [TEXT] * 5
  assert [each["queries"] for each in played.asked] == [
    [queries[0]],
    ["\ufffd" * 1000],
    ["\ufffd\ufffd"],
    [queries[3]],
    [queries[4]],
  ]
  assert {each["topk"] for each in played.asked} == {2}


def test_servers_that_are_busy_or_broken_are_asked_again_ever_later() -> None:
  clock = Clock()
  replies: list[Reply] = [(500, {}, b"oops"), (503, {}, b""), (429, {}, b""), FOUND]
  assert answered(*replies, clock=clock, wait=clock.wait) == (TEXT, 4)
  assert all(0.5 <= waited / full <= 1.0 for waited, full in zip(clock.waits, (0.5, 1.0, 2.0), strict=True))


def test_no_wait_is_longer_than_a_minute() -> None:
  clock = Clock()
  found = answered((500, {}, b""), retries=12, clock=clock, wait=clock.wait)
  assert found == ("failed: URL: HTTP 500: nothing (13 tries)", 13)
  assert len(clock.waits) == 12 and 30.0 <= max(clock.waits) <= 60.0


def test_the_server_says_how_long_to_wait() -> None:
  clock = Clock()
  date = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=20), usegmt=True)
  busy = [(429, {"Retry-After": after}, b"") for after in ("7", date, "soon")]
  assert answered(*busy, FOUND, clock=clock, wait=clock.wait) == (TEXT, 4)
  assert clock.waits[0] == 7.0
  assert 15.0 < clock.waits[1] <= 20.0
  assert 1.0 <= clock.waits[2] <= 2.0  # that was no time: as if it had said nothing


def test_a_server_that_asks_for_hours_is_left_alone() -> None:
  found = answered((429, {"Retry-After": "7200"}, b"slow down"))
  assert found == ("failed: URL: HTTP 429: slow down; it asks to wait for 7200 s", 1)


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
def test_other_statuses_are_no_use_to_repeat(status: int) -> None:
  elsewhere = {"Location": "http://127.0.0.1:1/"}
  found = answered((status, elsewhere, b"<b>no\nsuch</b> page"))
  assert found == (f"failed: URL: HTTP {status}: <b>no such</b> page", 1)


@pytest.mark.parametrize("status", [400, 413, 414, 422])
def test_a_query_that_is_refused_is_told_so(status: int) -> None:
  found = answered((status, {}, b"odd query"))
  assert found == (f"no results: the retriever refuses this query (HTTP {status})", 1)


@pytest.mark.parametrize(
  ("body", "message"),
  [
    (b"", "Expecting value.*: nothing$"),
    (b"<html>Login</html>", "no search result .*: <html>Login</html>$"),
    (b"\xff\xfe\xff", "no search result"),
    (b"[" * 100_000, "no search result"),
    (b"{}", r"not of the shape .*: \{\}$"),
    (b"null", "not of the shape"),
    (b'{"result": []}', "not of the shape"),
    (b'{"result": [[], []]}', "not of the shape"),
    (b'{"result": [[{"document": "text"}]]}', "not of the shape"),
    (b'{"result": [[{"contents": "text"}]]}', "not of the shape"),
    (b'{"result": "a"}', "not of the shape"),
    (b'{"result": [[{"document": {"contents": 7}}]]}', "contents that are no text"),
  ],
)
def test_a_reply_that_is_none_is_shown(body: bytes, message: str) -> None:
  text, asked = answered((200, {}, body))
  assert re.search(rf"^failed: URL: .*{message}", text), text
  assert asked == 1


def test_a_server_that_never_answers() -> None:
  done = threading.Event()
  start = time.monotonic()
  text, asked = answered(lambda handler: done.wait(20.0), timeout_s=0.2, retries=1)
  done.set()
  assert re.search(r"^failed: .*Read timed out.*\(2 tries\)$", text), text
  assert asked == 2
  assert time.monotonic() - start < 4.0


def test_a_server_that_answers_bit_by_bit() -> None:
  def drip(handler: BaseHTTPRequestHandler) -> None:
    with contextlib.suppress(OSError):
      handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
      for _ in range(1000):
        handler.wfile.write(b" ")
        time.sleep(0.02)

  start = time.monotonic()
  found = answered(drip, timeout_s=0.3, retries=0)
  assert found == ("failed: URL: TimeoutError: no whole reply within 0.3 s (1 tries)", 1)
  assert time.monotonic() - start < 3.0


def test_replies_that_break_off_or_are_no_http_are_asked_for_again() -> None:
  def cut(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"result": [[]]}')

  def silent(handler: BaseHTTPRequestHandler) -> None:
    """Hangs up."""

  def garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9\r\n")

  clock = Clock()
  assert answered(cut, silent, garbage, FOUND, clock=clock, wait=clock.wait) == (TEXT, 4)


def test_a_reply_without_end_is_cut_off() -> None:
  def flood(handler: BaseHTTPRequestHandler) -> None:
    with contextlib.suppress(OSError):
      handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
      while True:
        handler.wfile.write(b" " * (1 << 20))

  assert answered(flood, timeout_s=30.0) == ("failed: URL: a reply of more than 16777216 bytes", 1)


def test_nobody_is_there() -> None:
  with retriever(FOUND) as played:
    pass
  clock = Clock()
  with asking(played.url, retries=2, clock=clock, wait=clock.wait) as search:
    with pytest.raises(SearchFailed, match=r"NewConnectionError: .*refused.*\(3 tries\)"):
      search("q")
    with pytest.raises(UserError, match=r"tools\.search\.url does not answer as a retriever: .*offline=True"):
      search.check_server()


@pytest.mark.parametrize("reply", [(422, {}, b""), (404, {}, b""), (200, {}, b"{}")])
def test_a_url_that_is_no_retriever_is_refused_at_the_start(reply: Reply) -> None:
  with retriever(reply, ok()) as played, asking(played.url) as search:
    with pytest.raises(UserError, match="does not answer as a retriever"):
      search.check_server()
    search.check_server()


def test_closing_ends_the_waits() -> None:
  with retriever((500, {}, b"")) as played, ThreadPoolExecutor() as pool:
    with asking(played.url, retries=12) as search:
      asked = pool.submit(search, "q")
      while not played.asked:
        time.sleep(0.01)
      start = time.monotonic()
    with pytest.raises(SearchFailed, match="the search was closed"):
      asked.result()
    assert time.monotonic() - start < 5.0


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"url": "127.0.0.1:8000/retrieve"}, "tools.search.url='127.0.0.1:8000/retrieve' is none: give one such as"),
    ({"url": "http://"}, "tools.search.url='http://' is none"),
    ({"url": "http://[::1/x"}, "is none"),
    ({"url": "file:///etc/passwd"}, "is none"),
    ({"timeout_s": 0.0}, "tools.search.timeout_s=0.0 must be more than 0"),
    ({"retries": -1}, "tools.search.retries=-1 must not be less than 0"),
    ({"per_second": -0.5}, "tools.search.per_second=-0.5 must not be less than 0"),
    ({"top_k": 0}, "tools.search.top_k=0"),
  ],
)
def test_settings_that_make_no_sense(changed: dict[str, object], message: str) -> None:
  with pytest.raises(UserError) as caught, asking(**({"url": "http://127.0.0.1:1/"} | changed)):  # type: ignore[arg-type]
    pass
  assert message in str(caught.value)


def test_callers_come_evenly_spaced() -> None:
  clock = Clock()
  pace = RateLimiter(4.0, clock=clock, wait=clock.wait)
  turns = []
  for _ in range(5):
    pace.wait()
    turns.append(clock.now - 100.0)
  assert turns == [0.0, 0.25, 0.5, 0.75, 1.0]
  clock.now += 10.0  # a rest is not saved up
  pace.wait()
  pace.wait()
  assert clock.now == pytest.approx(111.25)


def test_no_pace_is_no_wait() -> None:
  clock = Clock()
  pace = RateLimiter(0.0, clock=clock, wait=clock.wait)
  for _ in range(100):
    pace.wait()
  assert not clock.waits


def test_the_pace_holds_for_all_threads_and_for_repeated_requests() -> None:
  busy: Reply = (500, {"Retry-After": "0"}, b"")
  with retriever(busy, FOUND) as played, asking(played.url, per_second=20.0) as search, ThreadPoolExecutor(8) as pool:
    assert list(pool.map(search, [f"q{i}" for i in range(8)])) == [TEXT] * 8
  assert len(played.times) == 9
  assert played.times[-1] - played.times[0] > 8 / 20.0 - 0.03


def test_many_threads_ask_at_the_same_time() -> None:
  together = threading.Barrier(8)

  def meet(handler: BaseHTTPRequestHandler) -> None:
    together.wait(10.0)  # breaks unless all eight are under way
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + FOUND[2])

  with retriever(meet) as played, asking(played.url) as search, ThreadPoolExecutor(8) as pool:
    assert list(pool.map(search, ["q"] * 8)) == [TEXT] * 8


@pytest.fixture
def corpus(tmp_path: pathlib.Path) -> Iterator[Corpus]:
  path = tmp_path / "corpus.jsonl"
  path.write_text("".join(json.dumps({"title": town.title, "text": town.text}) + "\n" for town in TOWNS))
  with contextlib.closing(
    Corpus(path, fields=PassageFields("title", "text"), sha256="", indexes=tmp_path / "index")
  ) as corpus:
    yield corpus


def test_our_server_gives_what_the_index_gives(corpus: Corpus) -> None:
  local = BM25Search(corpus.index, corpus, top_k=2, passage_chars=100)
  serving_corpus = make_server(corpus, host="127.0.0.1", port=0)
  with serving(serving_corpus), asking(f"http://127.0.0.1:{serving_corpus.server_port}/retrieve") as search:
    search.check_server()
    for query in ("Oslo", "capital", "1977 heroes", "nothing", "\ud800"):
      assert search(query) == local(query)


def test_our_server_refuses_what_is_no_request(corpus: Corpus) -> None:
  serving_corpus = make_server(corpus, host="127.0.0.1", port=0)
  url = f"http://127.0.0.1:{serving_corpus.server_port}"
  bodies = (
    b"{",
    b"[]",
    b'{"topk": 1}',
    b'{"queries": [7]}',
    b'{"queries": ["a"], "topk": "x"}',
    b'{"queries": ["a"], "x": 1}',
  )
  with serving(serving_corpus), urllib3.PoolManager() as pool:
    for body in bodies:
      assert pool.request("POST", f"{url}/retrieve", body=body).status == 422
    assert pool.request("POST", f"{url}/elsewhere", body=b"{}").status == 404
    body = json.dumps({"queries": ["song", "capital"], "topk": 1}).encode()
    reply = pool.request("POST", f"{url}/retrieve", body=body).json()
  assert reply == {"result": [[{"contents": town.contents}] for town in reversed(TOWNS)]}


def test_our_server_is_a_command(corpus: Corpus, tmp_path: pathlib.Path) -> None:
  command = [sys.executable, "-W", "ignore", "-m", "score_jax.search.server", f"--index={tmp_path / 'index'}"]
  none = subprocess.run([*command, "--corpus=nowhere"], capture_output=True, text=True)
  assert none.returncode == 1 and none.stderr.startswith("error: tools.search.path='nowhere' cannot be read")
  with subprocess.Popen([*command, f"--corpus={corpus._path}", "--port=0"], stdout=subprocess.PIPE, text=True) as run:
    assert run.stdout is not None
    said = run.stdout.readline()
    with asking(said.split()[-1]) as search:
      assert search("capital") == "Oslo: The capital of Norway."
    run.terminate()
  assert said.startswith("2 passages at http://127.0.0.1:")
