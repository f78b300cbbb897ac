"""Exchanges that are kept: asked once, shared by processes, replayed offline to the same bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from score_jax.chat.interface import ChatBackend, ChatMessage, ChatReply, ChatRequest
from score_jax.chat.record import RecordedChat
from score_jax.errors import UserError
from score_jax.trajectory import Usage


class Counting(ChatBackend):
  """Never says the same twice, the last asked first."""

  model = "m"

  def __init__(self) -> None:
    self.asked: list[str] = []

  def iter_replies(self, asks: Sequence[ChatRequest]) -> Iterator[tuple[int, ChatReply]]:
    for place, ask in reversed([*enumerate(asks)]):
      self.asked.append(ask.name)
      if ask.name == "killed":
        raise KeyboardInterrupt
      if ask.name == "hopeless":
        yield place, ChatReply("", failed="chat: over budget", hopeless=True)
      elif ask.name == "refused":
        yield place, ChatReply("", failed="too long")
      else:
        yield place, ChatReply(f"{ask.name} #{len(self.asked)} \x00é\u202e", Usage(3, 0, 7, 0.1), cut=True, tries=2)


def ask(name: str, **more: Any) -> ChatRequest:
  return ChatRequest(name, (ChatMessage("user", f"say {name}"),), **{"temperature": 0.7, "tokens": 9} | more)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / "deep" / "chat.sqlite"


@contextlib.contextmanager
def chat(
  path: pathlib.Path, backend: ChatBackend | None, *, model: str = "m", settings: dict[str, Any] | None = None
) -> Iterator[RecordedChat]:
  made = RecordedChat(path, model, {"seed": 0} if settings is None else settings, backend and (lambda: backend))
  with contextlib.closing(made):
    yield made


def test_what_was_answered_is_not_asked_again(path: pathlib.Path) -> None:
  first, second = Counting(), Counting()
  with chat(path, first) as asked:
    before = asked.ask([ask("a"), ask("b")])
    assert asked.ask([ask("b"), ask("a")]) == before[::-1]
    assert (asked.asked, asked.known) == (2, 2)
    assert asked.total_usage() == Usage(6, 0, 14, 0.2)
  with chat(path, second) as asked:
    assert [*asked.ask([ask("a"), ask("c"), ask("b")])[::2]] == before
  assert (first.asked, second.asked) == (["b", "a"], ["c"])


def test_a_run_replays_offline_to_the_same_bytes(path: pathlib.Path) -> None:
  schema = {"type": "object"}
  asks = [ask("a"), ask("refused"), ask("b", schema=schema)]
  with chat(path, Counting()) as asked:
    before = asked.ask(asks)
  with chat(path, None) as replayed:
    assert repr(replayed.ask(asks)).encode() == repr(before).encode()
    assert replayed.known == 3
    with pytest.raises(
      UserError, match=r"offline=True, and .*chat\.sqlite has no reply of m to 'c' as it is asked now"
    ):
      replayed.ask([*asks, ask("c")])


def test_an_exchange_is_known_by_all_that_bears_on_the_reply(path: pathlib.Path) -> None:
  with chat(path, Counting()) as asked:
    asked.ask([ask("a")])
  one = ask("a")
  others = [
    ask("b"),
    ask("a", temperature=0.8),
    ask("a", tokens=10),
    ask("a", schema={}),
    dataclasses.replace(one, messages=(ChatMessage("system", "say a"),)),
    dataclasses.replace(one, messages=(*one.messages, *one.messages)),
  ]
  with chat(path, None) as asked:
    for other in others:
      with pytest.raises(UserError, match="has no reply"):
        asked.ask([other])
  for changed in ({"model": "n"}, {"settings": {"seed": 1}}, {"settings": {"seed": 0, "top_p": 0.9}}):
    with chat(path, None, **changed) as asked, pytest.raises(UserError, match="has no reply"):
      asked.ask([one])


def test_what_came_before_a_kill_or_the_end_of_hope_is_kept(path: pathlib.Path) -> None:
  """A reply is kept when it has come, whatever becomes of the others of its batch."""
  with chat(path, Counting()) as asked, pytest.raises(KeyboardInterrupt):
    asked.ask([ask("killed"), ask("a"), ask("b")])
  with chat(path, Counting()) as asked, pytest.raises(UserError, match="chat: over budget"):
    asked.ask([ask("c"), ask("hopeless"), ask("d")])
  with chat(path, None) as asked:
    assert len(asked.ask([ask(name) for name in "abcd"])) == 4
    for lost in ("killed", "hopeless"):
      with pytest.raises(UserError, match="has no reply"):
        asked.ask([ask(lost)])


def test_who_answers_is_not_called_for_what_is_known(path: pathlib.Path) -> None:
  """A model of gigabytes is not loaded for a replay, and loaded again after it was let go."""
  calls: list[int] = []

  def answers() -> ChatBackend:
    calls.append(1)
    return Counting()

  with contextlib.closing(RecordedChat(path, "m", {}, answers)) as asked:
    asked.ask([ask("a")])
    asked.ask([ask("a"), ask("b")])
    assert len(calls) == 1
    asked.free()
    asked.ask([ask("a")])
    assert len(calls) == 1
    asked.ask([ask("c")])
    assert len(calls) == 2


WRITER = """
import contextlib, pathlib, sys
from score_jax.chat.interface import ChatBackend, ChatMessage, ChatReply, ChatRequest
from score_jax.chat.record import RecordedChat
who, path = sys.argv[1:]
class Named(ChatBackend):
  model = "m"
  def iter_replies(self, asks):
    for place, ask in enumerate(asks):
      yield place, ChatReply(f"{ask.name} by {who}")
with contextlib.closing(RecordedChat(pathlib.Path(path), "m", {}, Named)) as chat:
  print("ready", flush=True)
  sys.stdin.readline()
  asks = [ChatRequest(f"q{i}", (ChatMessage("user", "?"),), 0.0, 9) for i in range(200)]
  print([reply.text for reply in chat.ask(asks)], flush=True)
"""


def test_several_processes_hear_the_same(path: pathlib.Path) -> None:
  command = [sys.executable, "-W", "ignore", "-c", WRITER]
  pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
  runs = [subprocess.Popen([*command, who, str(path)], **pipes) for who in ("one", "two")]
  for run in runs:
    assert run.stdout is not None and run.stdout.readline() == "ready\n"
  said = [run.communicate("go\n", timeout=120)[0] for run in runs]
  assert said[0].count(" by ") == 200 and said[0] == said[1]


def test_files_that_cannot_be_used(tmp_path: pathlib.Path) -> None:
  with (
    pytest.raises(UserError, match=r"chat\.offline=True, but .*none\.sqlite is not there"),
    chat(tmp_path / "none.sqlite", None),
  ):
    pass
  (tmp_path / "text").write_text("no database " * 1000)
  for path in (tmp_path / "text", tmp_path):
    with pytest.raises(UserError, match=r"chat\.record='.*' cannot be used \(.*\); give"), chat(path, Counting()):
      pass


def test_a_disk_that_fails_is_one_line_and_nothing_is_lost(path: pathlib.Path) -> None:
  with chat(path, Counting()) as asked:
    before = asked.ask([ask("a")])
    with contextlib.closing(sqlite3.connect(path)) as other:
      other.execute("ALTER TABLE exchanges RENAME TO gone")
      with pytest.raises(UserError, match=r"chat\.record: .* fails \(no such table"):
        asked.ask([ask("b")])
      other.execute("ALTER TABLE gone RENAME TO exchanges")
    assert asked.ask([ask("a")]) == before
