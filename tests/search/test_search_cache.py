"""Results that are kept: asked for once, shared by threads and processes, replayed offline."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from score_jax.errors import UserError
from score_jax.runtime import reply_cache
from score_jax.search.backends import SearchCache
from score_jax.search.passages import SearchFailed


class Counting:
  """A search that never gives the same twice, and says what it was asked."""

  def __init__(self) -> None:
    self.asked: list[str] = []

  def __call__(self, query: str) -> str:
    self.asked.append(query)
    if query == "broken":
      raise SearchFailed("no route")
    return f"{query} #{len(self.asked)}"


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / "deep" / "search.sqlite"


@contextlib.contextmanager
def cache(
  path: pathlib.Path, search: Callable[[str], str] | None, *, retriever: str = "r", top_k: int = 3, chars: int = 100
) -> Iterator[SearchCache]:
  kept = SearchCache(path, search, retriever=retriever, top_k=top_k, passage_chars=chars)
  with contextlib.closing(kept):
    yield kept


def test_a_query_is_asked_once_also_in_a_later_run(path: pathlib.Path) -> None:
  first, second = Counting(), Counting()
  with cache(path, first) as search:
    assert [search(query) for query in ("a", "b", " a\n")] == ["a #1", "b #2", "a #1"]
  with cache(path, second) as search:
    assert [search(query) for query in ("b", "a", "c")] == ["b #2", "a #1", "c #1"]
  assert (first.asked, second.asked) == (["a", "b"], ["c"])


def test_a_run_replays_offline(path: pathlib.Path) -> None:
  with cache(path, Counting()) as search:
    search("a")
  with cache(path, None) as search:
    assert search("a") == "a #1"
    with pytest.raises(SearchFailed, match=r"offline=True, and .*search\.sqlite has no result of r .*top_k=3 for 'b%'"):
      search("b%")


def test_results_of_one_retriever_are_not_another_s(path: pathlib.Path) -> None:
  with cache(path, Counting()) as search:
    assert search("a") == "a #1"
  for changed in ({"retriever": "s"}, {"top_k": 4}, {"chars": 101}):
    with cache(path, None, **changed) as search, pytest.raises(SearchFailed):
      search("a")


def test_failures_are_not_kept(path: pathlib.Path) -> None:
  counting = Counting()
  with cache(path, counting) as search:
    for _ in range(2):
      with pytest.raises(SearchFailed, match="no route"):
        search("broken")
  assert counting.asked == ["broken"] * 2


def test_hostile_queries_are_kept_too(path: pathlib.Path) -> None:
  queries = ["x" * 1_000_000, "\x00'; DROP TABLE results; --", "\ud800", "", "é😀\u202e", "%", "*"]
  with cache(path, Counting()) as search:
    found = [search(query) for query in queries]
  with cache(path, None) as search:
    assert [search(query) for query in queries] == found
  assert len(set(found)) == len(queries)


def test_those_who_ask_the_same_wait_for_one_answer(path: pathlib.Path) -> None:
  asked: list[str] = []
  go = threading.Event()

  def slow(query: str) -> str:
    asked.append(query)
    go.wait(10.0)
    if query == "broken":
      raise SearchFailed("no route")
    return f"found {query}"

  with cache(path, slow) as search, ThreadPoolExecutor(12) as pool:
    flights = [pool.submit(search, query) for query in ["a", "b", "broken"] * 4]
    while len(asked) < 3:
      time.sleep(0.01)
    time.sleep(0.1)
    go.set()
    assert [f.result() for f in flights if f.exception() is None] == ["found a", "found b"] * 4
    assert {str(f.exception()) for f in flights} == {"None", "no route"}
  assert sorted(asked) == ["a", "b", "broken"]


WRITER = """
import contextlib, pathlib, sys
from score_jax.search.backends import SearchCache
who, path = sys.argv[1:]
search = SearchCache(pathlib.Path(path), lambda q: f"{q} by {who}", retriever="r", top_k=3, passage_chars=100)
print("ready", flush=True)
sys.stdin.readline()
with contextlib.closing(search):
  print([search(f"q{i}") for i in range(300)], flush=True)
"""


def test_several_processes_agree_on_every_result(path: pathlib.Path) -> None:
  """Whoever is first decides; all hear the same. They open the new file at the same time."""
  command = [sys.executable, "-W", "ignore", "-c", WRITER]
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
  runs = [subprocess.Popen([*command, who, str(path)], **pipes) for who in ("one", "two", "three", "four")]  # type: ignore[call-overload]
  assert [run.stdout.readline() for run in runs] == ["ready\n"] * 4
  for run in runs:
    run.stdin.write("go\n")
    run.stdin.flush()
  said = [run.communicate()[0] for run in runs]
  assert [run.returncode for run in runs] == [0] * 4
  assert said[0] and said == [said[0]] * 4
  with cache(path, None) as search:
    assert str([search(f"q{i}") for i in range(300)]) + "\n" == said[0]


def test_several_may_make_the_file_at_the_same_time(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  """All of them are past the look for a file before the first one has made it."""
  make, ready = reply_cache._create, threading.Barrier(6)

  def together(to: pathlib.Path, table: str) -> None:
    ready.wait(30.0)
    make(to, table)

  def race(who: str) -> str:
    with cache(path, lambda query: who) as search:
      return search("a")

  monkeypatch.setattr(reply_cache, "_create", together)
  with ThreadPoolExecutor(6) as pool:
    assert len(set(pool.map(race, "abcdef"))) == 1
  assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_killed_writer_leaves_a_file_that_serves(path: pathlib.Path) -> None:
  run = subprocess.Popen(
    [sys.executable, "-W", "ignore", "-c", WRITER.replace("range(300)", "range(10**9)"), "one", str(path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
  )
  assert run.stdin is not None
  run.stdin.write(b"go\n")
  run.stdin.flush()
  wal = path.with_name(path.name + "-wal")
  while not (wal.exists() and wal.stat().st_size > 20_000):
    time.sleep(0.01)
  run.kill()
  run.wait()
  run.stdin.close()
  with cache(path, None) as search:
    assert search("q0") == "q0 by one"


def test_files_that_cannot_be_used(tmp_path: pathlib.Path) -> None:
  with (
    pytest.raises(UserError, match=r"tools\.search\.offline=True, but .*none\.sqlite is not there"),
    cache(tmp_path / "none.sqlite", None),
  ):
    pass
  (tmp_path / "text").write_text("no database " * 1000)
  with contextlib.closing(sqlite3.connect(tmp_path / "foreign")) as foreign:
    foreign.execute("CREATE TABLE mine (x)")
  for path in (tmp_path / "text", tmp_path / "foreign", tmp_path, tmp_path / "text" / "below"):
    with (
      pytest.raises(UserError, match=r"tools\.search\.cache='.*' cannot be used \(.*\); give"),
      cache(path, Counting()),
    ):
      pass


def test_a_disk_that_fails_is_no_crash_and_nothing_is_lost(path: pathlib.Path) -> None:
  with cache(path, Counting()) as search:
    search("a")
    other = sqlite3.connect(path)
    other.execute("ALTER TABLE results RENAME TO gone")
    for query in ("a", "b"):
      with pytest.raises(sqlite3.Error, match="no such table"):
        search(query)
    other.execute("ALTER TABLE gone RENAME TO results")
    other.close()
    assert (search("a"), search("b")) == ("a #1", "b #2")


def test_the_file_may_be_copied_while_it_is_used(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
  """All that is known lies in the file and its log, whatever process is still at it."""
  with cache(path, Counting()) as search:
    search("a")
    for file in path.parent.iterdir():
      (tmp_path / file.name).write_bytes(file.read_bytes())
    os.remove(tmp_path / f"{path.name}-shm")
    with cache(tmp_path / path.name, None) as copied:
      assert copied("a") == "a #1"
