"""The search of a run, chosen by `tools.search.kind`; results of a server are cached.

`open_search` gives a callable for any number of threads: BM25 over a corpus file or over the documents of the tasks, or
a retrieval server behind `SearchCache`. The cache is an SQLite file, so a run can be replayed offline and no query is
sent twice. The first stored result of a query stays; failures are not stored.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.runtime import processes
from score_jax.runtime.reply_cache import open_table
from score_jax.sandbox.interface import truncate_middle
from score_jax.search.corpus import Corpus, PassageFields
from score_jax.search.passages import BM25Search, Document, SearchFailed, to_single_line
from score_jax.search.retriever import Retriever

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
    query = to_single_line(query)
    with self._lock:
      known = self._read(query)
      if known is not None:
        return known
      if self._search is None:
        raise SearchFailed(
          f"tools.search.offline=True, and {self._path} has no result of {self._retriever} top_k={self._top_k} for "
          f"{truncate_middle(query, chars=200)!r}"
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


#: kind -> the setting without which it cannot be, and which belongs to no other
REQUIRED_SETTINGS = {"tasks": "", "bm25": "path", "http": "url", "none": ""}
DEFAULT_INDEX_DIR = pathlib.Path.home() / ".cache" / "score_jax" / "search"


@contextlib.contextmanager
def open_search(
  config: ConfigDict, documents: Sequence[Document], folder: str | os.PathLike[str]
) -> Iterator[Callable[[str], str] | None]:
  """What answers `web_search`: a callable for any number of threads, or None where there is no search.

  It raises SearchFailed or OSError when it has no answer and the query is not at fault.

  Args:
    config: the group `tools.search`.
    documents: what the tasks bring.
    folder: the run's; there lies the cache, unless the config names another.

  Raises:
    UserError: a setting makes no sense, a file is not as it should be, or no retriever answers.
  """
  c = config
  _check(c)
  with contextlib.ExitStack() as opened:
    if c.kind == "bm25":
      indexes = pathlib.Path(c.index).expanduser() if c.index else DEFAULT_INDEX_DIR
      path = pathlib.Path(c.path).expanduser()
      corpus = opened.enter_context(
        contextlib.closing(Corpus(path, fields=PassageFields(c.title, c.text), sha256=c.sha256, indexes=indexes))
      )
      yield BM25Search(corpus.index, corpus, top_k=c.top_k, passage_chars=c.passage_chars)
    elif c.kind == "http":
      yield _open_http(c, _cache(c.cache, folder), opened)
    elif c.kind == "tasks" and documents:
      yield BM25Search.from_documents(documents, top_k=c.top_k, passage_chars=c.passage_chars)
    else:
      yield None


def _open_http(c: ConfigDict, cache: pathlib.Path, opened: contextlib.ExitStack) -> SearchCache:
  shape = {"top_k": c.top_k, "passage_chars": c.passage_chars}
  retriever = Retriever(c.url, **shape, timeout_s=c.timeout_s, retries=c.retries, per_second=c.per_second)
  opened.enter_context(contextlib.closing(retriever))
  if not c.offline:
    retriever.check_server()
  search = SearchCache(cache, None if c.offline else retriever, retriever=c.url, **shape)
  return opened.enter_context(contextlib.closing(search))


def _cache(path: str, folder: str | os.PathLike[str]) -> pathlib.Path:
  """Where results are kept."""
  if not path and "://" in os.fspath(folder):
    raise UserError(f"no search cache can lie in {os.fspath(folder)}: give tools.search.cache=FILE on a local disk")
  own = (
    f"search-{processes.process_index()}.sqlite" if processes.process_index() else "search.sqlite"
  )  # no file for several hosts
  return pathlib.Path(path).expanduser() if path else pathlib.Path(folder) / own


def _check(c: ConfigDict) -> None:
  if c.kind not in REQUIRED_SETTINGS:
    raise UserError(f"tools.search.kind = {c.kind!r}; choose from {', '.join(REQUIRED_SETTINGS)}")
  for kind, name in REQUIRED_SETTINGS.items():
    if name and (c.kind == kind) != bool(c[name]):
      value = f"tools.search.{name} = {c[name]!r} with tools.search.kind = {c.kind!r}"
      raise UserError(f"{value}: give {name} for kind {kind!r}, and for no other")
