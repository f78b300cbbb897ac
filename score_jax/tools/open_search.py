"""The search that a config asks for."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.mesh import hosts
from score_jax.tools.corpus import Corpus, Fields
from score_jax.tools.retriever import Retriever
from score_jax.tools.search import Document, Search
from score_jax.tools.search_cache import SearchCache

#: kind -> the setting without which it cannot be, and which belongs to no other
KINDS = {"tasks": "", "bm25": "path", "http": "url", "none": ""}
#: settings that change how a result is had and not what it is
MEANS = ("index", "timeout_s", "retries", "per_second", "cache", "offline")
INDEXES = pathlib.Path.home() / ".cache" / "score_jax" / "search"


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
      indexes = pathlib.Path(c.index).expanduser() if c.index else INDEXES
      path = pathlib.Path(c.path).expanduser()
      corpus = opened.enter_context(
        contextlib.closing(Corpus(path, fields=Fields(c.title, c.text), sha256=c.sha256, indexes=indexes))
      )
      yield Search(corpus.index, corpus, top_k=c.top_k, passage_chars=c.passage_chars)
    elif c.kind == "http":
      yield _open_http(c, _cache(c.cache, folder), opened)
    elif c.kind == "tasks" and documents:
      yield Search.of(documents, top_k=c.top_k, passage_chars=c.passage_chars)
    else:
      yield None


def _open_http(c: ConfigDict, cache: pathlib.Path, opened: contextlib.ExitStack) -> SearchCache:
  shape = {"top_k": c.top_k, "passage_chars": c.passage_chars}
  retriever = Retriever(c.url, **shape, timeout_s=c.timeout_s, retries=c.retries, per_second=c.per_second)
  opened.enter_context(contextlib.closing(retriever))
  if not c.offline:
    retriever.prove()
  search = SearchCache(cache, None if c.offline else retriever, retriever=c.url, **shape)
  return opened.enter_context(contextlib.closing(search))


def _cache(path: str, folder: str | os.PathLike[str]) -> pathlib.Path:
  """Where results are kept."""
  if not path and "://" in os.fspath(folder):
    raise UserError(f"no search cache can lie in {os.fspath(folder)}: give tools.search.cache=FILE on a local disk")
  own = f"search-{hosts.index()}.sqlite" if hosts.index() else "search.sqlite"  # no file for several hosts
  return pathlib.Path(path).expanduser() if path else pathlib.Path(folder) / own


def _check(c: ConfigDict) -> None:
  if c.kind not in KINDS:
    raise UserError(f"tools.search.kind = {c.kind!r}; choose from {', '.join(KINDS)}")
  for kind, name in KINDS.items():
    if name and (c.kind == kind) != bool(c[name]):
      value = f"tools.search.{name} = {c[name]!r} with tools.search.kind = {c.kind!r}"
      raise UserError(f"{value}: give {name} for kind {kind!r}, and for no other")
