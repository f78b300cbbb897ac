"""An SQLite file with one table, safe for several threads and processes and for a kill at any time."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import tempfile

from score_jax.errors import UserError

_LOCK_TIMEOUT_S = 60.0  # how long to wait for other processes that write


def open_table(path: pathlib.Path, table: str, probe: str, *, setting: str) -> sqlite3.Connection:
  """A connection to the file with that table, created where there is none. Threads take turns with the connection.

  Args:
    table: the SQL statement that creates the table.
    probe: a query without parameters that fails on a file with another table.
    setting: the config key of the path, for the error message.
  """
  try:
    if not path.exists():
      _create(path, table)
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


def _create(path: pathlib.Path, table: str) -> None:
  """Creates the file elsewhere and links it into place: two processes that set up one new file would collide."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=".draft-", dir=path.parent) as draft:
    fresh = pathlib.Path(draft) / path.name
    with contextlib.closing(_connect(fresh)) as file:
      file.execute("PRAGMA journal_mode = WAL")
      file.execute(table)
    with contextlib.suppress(FileExistsError):  # another process was faster
      os.link(fresh, path)


def _connect(path: pathlib.Path) -> sqlite3.Connection:
  return sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)
