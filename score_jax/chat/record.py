"""Exchanges with a chat model in an SQLite file, so that a run asks nothing twice and replays offline, byte for byte.

An exchange is known by all that bears on the reply: the model, how it draws, the ask. The first reply that gets into
the file is everybody's from then on. Asks that the model refused are kept too, since the run went on with that; what
failed because nobody could have been answered (`Reply.hopeless`) is not. A reply is written when it has come whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from score_jax.chat.completion import most
from score_jax.chat.exchange import Ask, Backend, Message, Reply, in_order
from score_jax.errors import UserError
from score_jax.mesh import hosts
from score_jax.store import open_table
from score_jax.trajectory import Usage

_TABLE = """
CREATE TABLE exchanges (
  digest TEXT PRIMARY KEY, model TEXT NOT NULL, asked TEXT NOT NULL, reply TEXT NOT NULL
) WITHOUT ROWID
"""
_PROBE = "SELECT digest, model, asked, reply FROM exchanges"
_READ = "SELECT reply FROM exchanges WHERE digest = ?"
_WRITE = "INSERT OR IGNORE INTO exchanges VALUES (?, ?, ?, ?)"
_OF_MODEL = "SELECT asked, reply FROM exchanges WHERE model = ?"


class Recorded:
  """A chat whose exchanges are kept. Its file may be used by several processes.

  Attributes:
    path: the file.
    asked: how many asks were put to the model.
    known: how many were answered from the file.
    estimated: replies, from wherever, to which the model did not say how many tokens they took.
  """

  def __init__(
    self, path: pathlib.Path, model: str, settings: Mapping[str, Any], answers: Callable[[], Backend] | None
  ):
    """
    Args:
      path: the file, on a local disk; made where there is none, unless offline.
      settings: how the model draws, as JSON can hold it.
      answers: gives who is asked for what is not in the file, called when that is needed; None: nobody (offline).

    Raises:
      UserError: the file cannot be used.
    """
    self.path, self.model, self._settings, self._answers = path, model, dict(settings), answers
    self.asked = self.known = self.estimated = 0
    self._backend: Backend | None = None
    self._lock = threading.Lock()
    if answers is None and not path.exists():
      raise UserError(f"chat.offline=True, but {path} is not there; give the record of an earlier run as chat.record")
    self._file = open_table(path, _TABLE, _PROBE, setting="chat.record")

  def close(self) -> None:
    with self._lock:
      self._file.close()

  def free(self) -> None:
    """Lets go of a model on the mesh; it is loaded again where it is needed again."""
    self._backend = None

  def used(self) -> Usage:
    """What all replies of the model took that stand in the file; where that is not known, the most that they can."""
    with self._lock:
      rows = self._file.execute(_OF_MODEL, (self.model,)).fetchall()
    return sum((_taken(asked, _decoded(reply)) for asked, reply in rows), Usage())

  def ask(self, asks: Sequence[Ask]) -> list[Reply]:
    """As `Chat.ask`; those known are not asked again.

    Raises:
      UserError: as there; or offline, and one is not in the file; or the file fails.
    """
    texts = [json.dumps(self._asked(ask), sort_keys=True) for ask in asks]
    found = {i: reply for i, text in enumerate(texts) if (reply := self._read(text)) is not None}
    rest = [i for i in range(len(asks)) if i not in found]
    self.known += len(found)
    if rest:
      backend = self._ready(asks[rest[0]])
      self.asked += len(rest)
      for place, reply in backend.replies([asks[i] for i in rest]):
        at = rest[place]
        hosts.at_work()
        found[at] = reply if reply.hopeless else self._keep(texts[at], reply)
    self.estimated += sum(reply.estimated for reply in found.values())
    return in_order(found)

  def _asked(self, ask: Ask) -> dict[str, Any]:
    return {"model": self.model, **self._settings, "ask": dataclasses.asdict(ask)}

  def _ready(self, ask: Ask) -> Backend:
    if self._answers is None:
      raise UserError(
        f"chat.offline=True, and {self.path} has no reply of {self.model} to {ask.name!r} as it is asked now; ask it "
        "with chat.offline=False, or give the record of a run of the same config"
      )
    if self._backend is None:
      self._backend = self._answers()
    return self._backend

  def _read(self, text: str) -> Reply | None:
    row = self._execute(_READ, (_digest(text),))
    return row and _decoded(row[0])

  def _keep(self, text: str, reply: Reply) -> Reply:
    """Writes a reply; the one that is kept, which is another's where that was faster."""
    self._execute(_WRITE, (_digest(text), self.model, text, json.dumps(dataclasses.asdict(reply), sort_keys=True)))
    return self._read(text) or reply

  def _execute(self, statement: str, values: tuple[str, ...]) -> tuple[str] | None:
    try:
      with self._lock:
        return self._file.execute(statement, values).fetchone()
    except sqlite3.Error as error:
      raise UserError(
        f"chat.record: {self.path} fails ({error}); look after the disk, then start the same again: what was answered "
        "before is kept"
      ) from error


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()


def _taken(asked: str, reply: Reply) -> Usage:
  if not reply.estimated:
    return reply.usage
  data = json.loads(asked)["ask"]
  return most(Ask(**data | {"messages": tuple(Message(**message) for message in data["messages"])}))


def _decoded(text: str) -> Reply:
  data = json.loads(text)
  return Reply(**data | {"usage": Usage(**data["usage"])})
