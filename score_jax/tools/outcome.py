"""What running a piece of code comes to: its outcome, and the text that an agent gets to see of it."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

Reason = Literal[
  "ok",
  "exception",  # the code raised; the observation ends with the line that says what
  "timeout",  # it ran longer than the wall-clock limit
  "memory",  # it wanted more memory than the limit
  "output_limit",  # it printed without end and was stopped
  "process_limit",  # it tried to start a process or thread where none is allowed
  "killed",  # it ended the Python process, or sent what no code may send
  "denied",  # the isolation refused what it tried
  "replay_mismatch",  # re-running the earlier steps gave something else than they gave before
  "host_failure",  # the tool failed, not the code
]

EFFECTS = frozenset(
  {"ok", "exception", "denied", "output_limit"}
)  # after any other reason the state is as before the code

QUERY_CHARS = 10_000  # of a search query, at most
MOST_SEARCHES = 64  # in one step: its time does not run while it waits for one

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_ADDRESS = re.compile(" at 0x[0-9a-fA-F]{6,}")


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What one piece of code came to."""

  reason: Reason
  observation: str
  answer: str | None = None  # what it submitted with final_answer_print
  replayed: bool = False  # earlier steps had to be run again first


@dataclasses.dataclass(frozen=True)
class Ran:
  """An earlier step of a session: its code and what its outcome was."""

  code: str
  observation: str
  reason: Reason


def effective(state: tuple[Ran, ...]) -> tuple[Ran, ...]:
  """The steps of `state` that left something behind; re-running these rebuilds it."""
  return tuple([ran for ran in state if ran.reason in EFFECTS])


def plain(text: str) -> str:
  """`text` with each control character but newline and tab, and each lone surrogate, replaced by U+FFFD."""
  return _CONTROL.sub("\ufffd", text)


def cut(text: str, *, chars: int) -> str:
  """`text`, or where it is longer than `chars` its head and tail around a note of how much is missing."""
  if len(text) <= chars:
    return text
  kept = chars - len(_note(len(text)))
  missing = _note(len(text) - kept)
  return text[: kept // 2] + missing + text[len(text) - (kept - kept // 2) :]


def observe(text: str, *, chars: int) -> str:
  """What an agent sees of what code printed: plain, at most `chars` long, without memory addresses.

  Addresses of printed objects differ from one process to the next and would make every replay of the
  step a mismatch; they read " at 0x0". `observe` of its own result changes nothing.
  """
  if " at 0x" in text:
    text = _ADDRESS.sub(" at 0x0", text)
  return cut(plain(text).rstrip("\n"), chars=chars)


def _note(missing: int) -> str:
  return f"\n... [{missing} characters cut] ...\n"
