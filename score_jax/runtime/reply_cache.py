"""An SQLite file of one table, for several threads and processes, which a kill at any time leaves whole."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import tempfile

from score_jax.errors import UserError

_PATIENCE_S = 60.0  # with other processes that write


def open_table(path: pathlib.Path, table: str, probe: str, *, setting: str) -> sqlite3.Connection:
  """The file with that table, made where there is none. Threads share the connection one at a time.

  Args:
    table: the statement that makes it.
    probe: a query without parameters that a file of another kind cannot answer.
    setting: the key of the config that gives the path, for the error.

  Raises:
    UserError: the file cannot be used.
  """
  try:
    if not path.exists():
      _make(path, table)
    file = _connect(path)
    try:
      file.execute("PRAGMA synchronous = NORMAL")
      file.execute(probe).fetchone()
    except BaseException:
      file.close()
      raise
  except (OSError, sqlite3.Error) as error:
    raise UserError(f"{setting}={str(path)!r} cannot be used ({error}); give a file on a local disk") from error
  return file


def _make(path: pathlib.Path, table: str) -> None:
  """Makes the file beside its place: two that set up the same new file at once get in each other's way."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=".draft-", dir=path.parent) as draft:
    fresh = pathlib.Path(draft) / path.name
    with contextlib.closing(_connect(fresh)) as file:
      file.execute("PRAGMA journal_mode = WAL")
      file.execute(table)
    with contextlib.suppress(FileExistsError):  # another process was faster
      os.link(fresh, path)


def _connect(path: pathlib.Path) -> sqlite3.Connection:
  return sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
