"""The chat model that a config asks for."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from score_jax.chat.exchange import Backend
from score_jax.chat.record import Recorded
from score_jax.errors import UserError

#: kind -> the settings without which it cannot be
KINDS = {"": (), "mesh": ("path",), "endpoint": ("url", "model")}
#: settings that change how a reply is had and not what it is
MEANS = (
  *("url", "key_env", "tokens_field", "concurrency", "timeout_s", "patience_s"),
  *("budget_s", "budget_usd", "usd_per_million", "record", "offline"),
)
#: kind -> settings that bear on the replies, beside the model
BEAR = {
  "mesh": ("top_p", "dtype", "slots", "length", "template_kwargs"),
  "endpoint": ("top_p", "schema", "extra", "template_kwargs"),
}
#: those that came later: where they say nothing, a record from before holds the same exchanges
LATER = ("template_kwargs",)


@contextlib.contextmanager
def open_chat(
  config: ConfigDict,
  folder: str | os.PathLike[str],
  *,
  seed: int,
  on_mesh: Callable[[], Backend],
  say: Callable[[str], None],
) -> Iterator[Recorded]:
  """Who answers, with the record of what was said.

  Args:
    config: the group `chat`.
    folder: the run's; there lies the record, unless the config names another.
    on_mesh: loads the model of kind mesh; called when something is asked that the record does not hold.
    say: told in the end what was asked.

  Raises:
    UserError: nobody is named, a setting makes no sense, or the record cannot be used.
  """
  c = config
  check(c)
  if not c.kind:
    raise UserError("chat.kind is empty, and something is to be asked of a chat model; set it to mesh or endpoint")
  with contextlib.ExitStack() as opened:
    model = c.path if c.kind == "mesh" else c.model
    bear = [name for name in BEAR[c.kind] if c[name] or name not in LATER]
    settings = {"seed": seed, "kind": c.kind} | {name: c[name] for name in bear}
    endpoint = None
    if c.kind == "endpoint" and not c.offline:
      endpoint = opened.enter_context(contextlib.closing(_endpoint(c, seed)))
    answers = None if c.offline else on_mesh if endpoint is None else lambda: endpoint
    recorded = Recorded(_record(c.record, folder), model, settings, answers)
    opened.enter_context(contextlib.closing(recorded))
    if endpoint is not None:
      endpoint.budget.used = recorded.used()
    yield recorded
    failed = sorted(endpoint.failures.items()) if endpoint is not None else ()
    tried = "".join(f", {count} times {kind}" for kind, count in failed)
    unsaid = f", {n} replies whose tokens are estimated" if (n := recorded.estimated) else ""
    say(f"chat: {recorded.asked} asks to {model}, {recorded.known} answered from {recorded.path}{tried}{unsaid}")


def _endpoint(c: ConfigDict, seed: int) -> Any:
  from score_jax.chat.budget import Budget
  from score_jax.chat.endpoint import Endpoint, key_of  # the package openai takes half a second

  return Endpoint(
    c.url,
    c.model,
    key=key_of(c.key_env),
    seed=seed,
    top_p=c.top_p,
    concurrency=c.concurrency,
    timeout_s=c.timeout_s,
    patience_s=c.patience_s,
    budget=Budget(c.budget_usd, c.budget_s, tuple(c.usd_per_million)),
    tokens_field=c.tokens_field,
    schema=c.schema,
    extra=json.loads(c.extra or "{}") | ({"chat_template_kwargs": switches(c)} if switches(c) else {}),
  )


def switches(c: ConfigDict) -> dict[str, Any]:
  """The variables that the model's chat template is given."""
  return json.loads(c.template_kwargs or "{}")


def check(c: ConfigDict) -> None:
  """
  Raises:
    UserError: a setting makes no sense. No value is told that could be a secret put into the wrong place.
  """
  if c.kind not in KINDS:
    raise UserError(f"chat.kind = {c.kind!r}; choose from mesh, endpoint, or leave it empty")
  for name in KINDS[c.kind]:
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
