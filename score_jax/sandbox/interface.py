"""What the sandbox shares with its callers: the Tool protocol, outcomes of code, and user functions.

An `Outcome` has a reason, the observation that the agent sees, and the answer that it submitted. `format_observation`
makes the observation: control characters replaced, memory addresses removed, long text cut in the middle.

`load_functions` reads a Python file of functions that the agent's code can call:

    def roman(number: int) -> str:
      '''The Roman numeral of a number.'''
      ...

The file runs in every session under the same isolation as the agent's code, so it reads no files and reaches no
network. (For what needs these there is `web_search`, answered by a server of the user's own.) A prompted teacher sees
each function whose name has no leading underscore: its name, its arguments and the first line of its docstring.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import pathlib
import re
from typing import Literal, Protocol

from score_jax.errors import UserError


class Tool(Protocol):
  """What runs the code of sessions, as sandbox/sandbox.py says."""

  @property
  def can_search(self) -> bool:
    """Whether code can search."""
    ...

  @property
  def functions(self) -> tuple[FunctionDoc, ...]:
    """What else it can call."""
    ...

  def submit(self, session: str, code: str, state: tuple[ExecutedStep, ...]) -> None: ...

  def wait(self, timeout_s: float) -> list[tuple[str, Outcome]]: ...

  def close(self, session: str) -> None: ...


OutcomeReason = Literal[
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

EFFECTIVE_REASONS = frozenset(
  {"ok", "exception", "denied", "output_limit"}
)  # after any other reason the state is as before the code

MAX_QUERY_CHARS = 10_000  # of a search query, at most
MAX_SEARCHES_PER_STEP = 64  # in one step: its time does not run while it waits for one

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_ADDRESS = re.compile(" at 0x[0-9a-fA-F]{6,}")


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What one piece of code came to."""

  reason: OutcomeReason
  observation: str
  answer: str | None = None  # what it submitted with final_answer_print
  replayed: bool = False  # earlier steps had to be run again first


@dataclasses.dataclass(frozen=True)
class ExecutedStep:
  """An earlier step of a session: its code and what its outcome was."""

  code: str
  observation: str
  reason: OutcomeReason


def keep_effective(state: tuple[ExecutedStep, ...]) -> tuple[ExecutedStep, ...]:
  """The steps of `state` that left something behind; re-running these rebuilds it."""
  return tuple([ran for ran in state if ran.reason in EFFECTIVE_REASONS])


def replace_control_chars(text: str) -> str:
  """`text` with each control character but newline and tab, and each lone surrogate, replaced by U+FFFD."""
  return _CONTROL.sub("\ufffd", text)


def truncate_middle(text: str, *, chars: int) -> str:
  """`text`, or where it is longer than `chars` its head and tail around a note of how much is missing."""
  if len(text) <= chars:
    return text
  kept = chars - len(_note(len(text)))
  missing = _note(len(text) - kept)
  return text[: kept // 2] + missing + text[len(text) - (kept - kept // 2) :]


def format_observation(text: str, *, chars: int) -> str:
  """What an agent sees of what code printed: plain, at most `chars` long, without memory addresses.

  Addresses of printed objects differ from one process to the next and would make every replay of the
  step a mismatch; they read " at 0x0". A second call changes nothing.
  """
  if " at 0x" in text:
    text = _ADDRESS.sub(" at 0x0", text)
  return truncate_middle(replace_control_chars(text).rstrip("\n"), chars=chars)


def _note(missing: int) -> str:
  return f"\n... [{missing} characters cut] ...\n"


MAX_SOURCE_BYTES = 64 << 10  # of a file as it is handed to the sandbox's process: in one argument, of 128 KiB at most
RESERVED_NAMES = ("web_search", "final_answer_print")


@dataclasses.dataclass(frozen=True)
class FunctionDoc:
  """A function as a prompt tells of it."""

  call: str  # its name and arguments: "roman(number: int) -> str"
  about: str  # what it does


@dataclasses.dataclass(frozen=True)
class UserFunctions:
  """What a file brings."""

  source: str = ""
  offered: tuple[FunctionDoc, ...] = ()
  path: str = ""


NO_FUNCTIONS = UserFunctions()


def load_functions(path: str) -> UserFunctions:
  """The functions of a file; none for "".

  Raises:
    UserError: it cannot be read, is no Python, is too long, or a function is not as it should be.
  """
  if not path:
    return NO_FUNCTIONS
  try:
    source = pathlib.Path(path).expanduser().read_text(encoding="utf-8")
    parsed = ast.parse(source)
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"tools.functions = {path!r} cannot be read ({error}); give a Python file") from error
  except (SyntaxError, ValueError) as error:
    raise UserError(f"tools.functions = {path!r} is no Python ({error}); mend it") from error
  if len(json.dumps(source)) > MAX_SOURCE_BYTES:
    raise UserError(
      f"tools.functions = {path!r} has more than {MAX_SOURCE_BYTES >> 10} KiB as JSON in ASCII; give less"
    )
  offered = tuple(_offered(path, f) for f in parsed.body if isinstance(f, ast.FunctionDef) and f.name[0] != "_")
  if not offered:
    raise UserError(f"tools.functions = {path!r} defines no function; give one whose name has no leading underscore")
  return UserFunctions(source, offered, path)


def _offered(path: str, function: ast.FunctionDef) -> FunctionDoc:
  about = (ast.get_docstring(function) or "").partition("\n")[0].strip()
  where = f"tools.functions = {path!r}: {function.name}, line {function.lineno},"
  if function.name in RESERVED_NAMES:
    raise UserError(f"{where} has the name of one that is there anyway; give it another")
  if not about:
    raise UserError(f"{where} has no docstring; say in its first line what it does, for that is what a teacher is told")
  returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
  return FunctionDoc(f"{function.name}({ast.unparse(function.args)}){returns}", about)
