"""`open_chat` opens the chat model of a config; `RecordedChat` stores its replies in an SQLite file.

A recorded request is not asked again, so a run can be repeated offline, byte for byte. The key of a record is the
model, the settings that change replies (REPLY_SETTINGS) and the request. Settings of the transport (config.py,
CHAT_TRANSPORT) are no part of it. The first stored reply wins when several processes write. Refusals are stored;
failures that would stop any request (`ChatReply.hopeless`) are not. A reply is written when it is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from score_jax.chat.completion import max_usage
from score_jax.chat.interface import ChatBackend, ChatMessage, ChatReply, ChatRequest, order_replies
from score_jax.errors import UserError
from score_jax.runtime import processes
from score_jax.runtime.reply_cache import open_table
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


class RecordedChat:
  """A chat whose exchanges are kept. Its file may be used by several processes.

  Attributes:
    path: the file.
    asked: how many asks were put to the model.
    known: how many were answered from the file.
    estimated: replies, from wherever, to which the model did not say how many tokens they took.
  """

  def __init__(
    self, path: pathlib.Path, model: str, settings: Mapping[str, Any], answers: Callable[[], ChatBackend] | None
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
    self._backend: ChatBackend | None = None
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

  def total_usage(self) -> Usage:
    """What all replies of the model took that stand in the file; where that is not known, the most that they can."""
    with self._lock:
      rows = self._file.execute(_OF_MODEL, (self.model,)).fetchall()
    return sum((_taken(asked, _decoded(reply)) for asked, reply in rows), Usage())

  def ask(self, asks: Sequence[ChatRequest]) -> list[ChatReply]:
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
      for place, reply in backend.iter_replies([asks[i] for i in rest]):
        at = rest[place]
        processes.report_local_progress()
        found[at] = reply if reply.hopeless else self._keep(texts[at], reply)
    self.estimated += sum(reply.estimated for reply in found.values())
    return order_replies(found)

  def _asked(self, ask: ChatRequest) -> dict[str, Any]:
    return {"model": self.model, **self._settings, "ask": dataclasses.asdict(ask)}

  def _ready(self, ask: ChatRequest) -> ChatBackend:
    if self._answers is None:
      raise UserError(
        f"chat.offline=True, and {self.path} has no reply of {self.model} to {ask.name!r} as it is asked now; ask it "
        "with chat.offline=False, or give the record of a run of the same config"
      )
    if self._backend is None:
      self._backend = self._answers()
    return self._backend

  def _read(self, text: str) -> ChatReply | None:
    row = self._execute(_READ, (_digest(text),))
    return row and _decoded(row[0])

  def _keep(self, text: str, reply: ChatReply) -> ChatReply:
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


def _taken(asked: str, reply: ChatReply) -> Usage:
  if not reply.estimated:
    return reply.usage
  data = json.loads(asked)["ask"]
  return max_usage(ChatRequest(**data | {"messages": tuple(ChatMessage(**message) for message in data["messages"])}))


def _decoded(text: str) -> ChatReply:
  data = json.loads(text)
  return ChatReply(**data | {"usage": Usage(**data["usage"])})


#: kind -> the settings without which it cannot be
REQUIRED_SETTINGS = {"": (), "mesh": ("path",), "endpoint": ("url", "model")}
#: kind -> settings that bear on the replies, beside the model
REPLY_SETTINGS = {
  "mesh": ("top_p", "dtype", "slots", "length", "template_kwargs"),
  "endpoint": ("top_p", "schema", "extra", "template_kwargs"),
}
#: those that came later: where they say nothing, a record from before holds the same exchanges
OMITTED_IF_UNSET = ("template_kwargs",)


@contextlib.contextmanager
def open_chat(
  config: ConfigDict,
  folder: str | os.PathLike[str],
  *,
  seed: int,
  on_mesh: Callable[[], ChatBackend],
  log: Callable[[str], None],
) -> Iterator[RecordedChat]:
  """Who answers, with the record of what was said.

  Args:
    config: the group `chat`.
    folder: the run's; there lies the record, unless the config names another.
    on_mesh: loads the model of kind mesh; called when something is asked that the record does not hold.
    log: told in the end what was asked.

  Raises:
    UserError: nobody is named, a setting makes no sense, or the record cannot be used.
  """
  c = config
  check_chat_config(c)
  if not c.kind:
    raise UserError("chat.kind is empty, and something is to be asked of a chat model; set it to mesh or endpoint")
  with contextlib.ExitStack() as opened:
    model = c.path if c.kind == "mesh" else c.model
    bear = [name for name in REPLY_SETTINGS[c.kind] if c[name] or name not in OMITTED_IF_UNSET]
    settings = {"seed": seed, "kind": c.kind} | {name: c[name] for name in bear}
    endpoint = None
    if c.kind == "endpoint" and not c.offline:
      endpoint = opened.enter_context(contextlib.closing(_endpoint(c, seed)))
    answers = None if c.offline else on_mesh if endpoint is None else lambda: endpoint
    recorded = RecordedChat(_record(c.record, folder), model, settings, answers)
    opened.enter_context(contextlib.closing(recorded))
    if endpoint is not None:
      endpoint.budget.used = recorded.total_usage()
    yield recorded
    failed = sorted(endpoint.failures.items()) if endpoint is not None else ()
    tried = "".join(f", {count} times {kind}" for kind, count in failed)
    unsaid = f", {n} replies whose tokens are estimated" if (n := recorded.estimated) else ""
    log(f"chat: {recorded.asked} asks to {model}, {recorded.known} answered from {recorded.path}{tried}{unsaid}")


def _endpoint(c: ConfigDict, seed: int) -> Any:
  from score_jax.chat.endpoint import (
    ChatBudget,
    EndpointChat,
    read_endpoint_key,  # the package openai takes half a second
  )

  return EndpointChat(
    c.url,
    c.model,
    key=read_endpoint_key(c.key_env),
    seed=seed,
    top_p=c.top_p,
    concurrency=c.concurrency,
    timeout_s=c.timeout_s,
    patience_s=c.patience_s,
    budget=ChatBudget(c.budget_usd, c.budget_s, tuple(c.usd_per_million)),
    tokens_field=c.tokens_field,
    schema=c.schema,
    extra=json.loads(c.extra or "{}")
    | ({"chat_template_kwargs": parse_template_kwargs(c)} if parse_template_kwargs(c) else {}),
  )


def parse_template_kwargs(c: ConfigDict) -> dict[str, Any]:
  """The variables that the model's chat template is given."""
  return json.loads(c.template_kwargs or "{}")


def check_chat_config(c: ConfigDict) -> None:
  """
  Raises:
    UserError: a setting makes no sense. No value is told that could be a secret put into the wrong place.
  """
  if c.kind not in REQUIRED_SETTINGS:
    raise UserError(f"chat.kind = {c.kind!r}; choose from mesh, endpoint, or leave it empty")
  for name in REQUIRED_SETTINGS[c.kind]:
    if not c[name]:
      raise UserError(f"chat.kind = {c.kind!r} needs chat.{name}; give it")
  if c.kind == "endpoint" and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", c.url):
    raise UserError("chat.url is none: give one such as http://127.0.0.1:8000/v1; a key goes by chat.key_env")
  if not re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)?", c.key_env):
    raise UserError("chat.key_env is no name of an environment variable; give the name of the one that holds the key")
  if c.schema not in ("", "json_schema", "json_object"):
    raise UserError(f"chat.schema = {c.schema!r}; choose json_schema or json_object, or leave it empty")
  if not 0.0 < c.top_p <= 1.0:
    raise UserError(f"chat.top_p = {c.top_p}; give more than 0 and up to 1")
  for name in ("slots", "length", "block", "concurrency", "timeout_s"):
    if c[name] <= 0:
      raise UserError(f"chat.{name} = {c[name]}; give more than 0")
  if c.patience_s < 0:
    raise UserError(f"chat.patience_s = {c.patience_s}; give 0 or more")
  for name in ("extra", "template_kwargs"):
    _check_object(name, c[name])


def _check_object(name: str, text: str) -> None:
  try:
    found: Any = json.loads(text or "{}")
  except ValueError as error:
    raise UserError(f"chat.{name} = {text!r} is no JSON ({error}); give an object such as {{}}") from error
  if not isinstance(found, dict):
    raise UserError(f"chat.{name} = {text!r} is no JSON object; give one such as {{}}")


def _record(path: str, folder: str | os.PathLike[str]) -> pathlib.Path:
  """Where exchanges are kept."""
  if not path and "://" in os.fspath(folder):
    raise UserError(f"no record of exchanges can lie in {os.fspath(folder)}: give chat.record=FILE on a local disk")
  return pathlib.Path(path).expanduser() if path else pathlib.Path(folder) / "chat.sqlite"
