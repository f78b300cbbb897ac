"""Results of searches in an SQLite file, so that a run replays offline and asks for nothing twice.

The first result of a query that gets into the file is everybody's from then on, whatever the retriever would say
later. Failures are not kept.
"""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Callable
from concurrent.futures import Future

from score_jax.errors import UserError
from score_jax.store import open_table
from score_jax.tools.outcome import cut
from score_jax.tools.search import SearchFailed, canonical

_TABLE = """
CREATE TABLE results (
  retriever TEXT, query TEXT, top_k INTEGER, text TEXT NOT NULL, PRIMARY KEY (retriever, query, top_k)
) WITHOUT ROWID
"""
_READ = "SELECT text FROM results WHERE retriever = ? AND query = ? AND top_k = ?"
_WRITE = "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?)"


class SearchCache:
  """A search whose results are kept. May be called from several threads, and its file used by several processes."""

  def __init__(
    self, path: pathlib.Path, search: Callable[[str], str] | None, *, retriever: str, top_k: int, passage_chars: int
  ):
    """
    Args:
      path: the file, on a local disk; made where there is none, unless offline.
      search: what is asked for what is not in the file; None: nothing is (offline).
      retriever: who answers, such as its URL. Results of one are not given out for another's.
      top_k, passage_chars: how `search` is set; results go by them too.

    Raises:
      UserError: the file cannot be used.
    """
    self._path, self._search = path, search
    self._retriever, self._top_k = f"{retriever} passage_chars={passage_chars}", top_k
    self._lock = threading.Lock()
    self._flying: dict[str, Future[str]] = {}  # what is being searched just now
    if search is None and not path.exists():
      raise UserError(f"tools.search.offline=True, but {path} is not there; give the cache of an earlier run")
    self._file = open_table(
      path, _TABLE, "SELECT retriever, query, top_k, text FROM results", setting="tools.search.cache"
    )

  def close(self) -> None:
    with self._lock:
      self._file.close()

  def __call__(self, query: str) -> str:
    """The result of a query; those who ask the same at the same time wait for one answer.

    Raises:
      SearchFailed: offline, and it is not in the file; or as the search does.
      sqlite3.Error: the file cannot be read or written.
    """
    query = canonical(query)
    with self._lock:
      known = self._read(query)
      if known is not None:
        return known
      if self._search is None:
        raise SearchFailed(
          f"tools.search.offline=True, and {self._path} has no result of {self._retriever} top_k={self._top_k} for "
          f"{cut(query, chars=200)!r}"
        )
      flight = self._flying.get(query)
      mine = flight is None
      if flight is None:
        flight = self._flying[query] = Future()
    if mine:
      self._fly(query, self._search, flight)
    return flight.result()

  def _fly(self, query: str, search: Callable[[str], str], flight: Future[str]) -> None:
    try:
      found = search(query)
      with self._lock:
        self._file.execute(_WRITE, (self._retriever, query, self._top_k, found))
        flight.set_result(self._read(query) or found)
    except BaseException as error:
      flight.set_exception(error)
    finally:
      with self._lock:
        del self._flying[query]

  def _read(self, query: str) -> str | None:
    row = self._file.execute(_READ, (self._retriever, query, self._top_k)).fetchone()
    return row and row[0]
