"""Functions of one's own that the agent's code can call, from a Python file.

    def roman(number: int) -> str:
      '''The Roman numeral of a number.'''
      ...

The file runs in every session, shut in like the code of the agent: it may import what that may, and its functions
cannot read files or reach the network. (For what needs these there is `web_search`, answered by a server of one's own.)
A prompted teacher is told of every function whose name has no leading underscore: its name, its arguments and the first
line of its docstring.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import pathlib

from score_jax.errors import UserError

MOST_BYTES = 64 << 10  # of a file as it is handed to the sandbox's process: in one argument, of 128 KiB at most
GIVEN = ("web_search", "final_answer_print")


@dataclasses.dataclass(frozen=True)
class Offered:
  """A function as a prompt tells of it."""

  call: str  # its name and arguments: "roman(number: int) -> str"
  about: str  # what it does


@dataclasses.dataclass(frozen=True)
class Functions:
  """What a file brings."""

  source: str = ""
  offered: tuple[Offered, ...] = ()
  path: str = ""


NONE = Functions()


def read(path: str) -> Functions:
  """The functions of a file; none for "".

  Raises:
    UserError: it cannot be read, is no Python, is too long, or a function is not as it should be.
  """
  if not path:
    return NONE
  try:
    source = pathlib.Path(path).expanduser().read_text(encoding="utf-8")
    parsed = ast.parse(source)
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"tools.functions = {path!r} cannot be read ({error}); give a Python file") from error
  except (SyntaxError, ValueError) as error:
    raise UserError(f"tools.functions = {path!r} is no Python ({error}); mend it") from error
  if len(json.dumps(source)) > MOST_BYTES:
    raise UserError(f"tools.functions = {path!r} has more than {MOST_BYTES >> 10} KiB as JSON in ASCII; give less")
  offered = tuple(_offered(path, f) for f in parsed.body if isinstance(f, ast.FunctionDef) and f.name[0] != "_")
  if not offered:
    raise UserError(f"tools.functions = {path!r} defines no function; give one whose name has no leading underscore")
  return Functions(source, offered, path)


def _offered(path: str, function: ast.FunctionDef) -> Offered:
  about = (ast.get_docstring(function) or "").partition("\n")[0].strip()
  where = f"tools.functions = {path!r}: {function.name}, line {function.lineno},"
  if function.name in GIVEN:
    raise UserError(f"{where} has the name of one that is there anyway; give it another")
  if not about:
    raise UserError(f"{where} has no docstring; say in its first line what it does, for that is what a teacher is told")
  returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
  return Offered(f"{function.name}({ast.unparse(function.args)}){returns}", about)
