"""Search over a collection of documents, by BM25."""

from __future__ import annotations

import dataclasses
import logging
import re
import sys
import types
from collections.abc import Sequence

import numpy as np

from score_jax.errors import UserError

_WORD = re.compile(r"\w+")


def _import_bm25s() -> types.ModuleType:
  """bm25s, imported as if there were no JAX.

  It would run a JAX program when imported, which takes the accelerators before `jax.distributed` is set up and
  starts JAX in processes that never need it; only its `retrieve` uses that, which we do not.
  """
  lax = sys.modules.get("jax.lax")
  sys.modules["jax.lax"] = None  # pyright: ignore[reportArgumentType]
  try:
    import bm25s
  finally:
    del sys.modules["jax.lax"]
    if lax is not None:
      sys.modules["jax.lax"] = lax
  return bm25s


_bm25s = _import_bm25s()
logging.getLogger("bm25s").setLevel(logging.WARNING)  # it reports every index it builds


@dataclasses.dataclass(frozen=True)
class Document:
  """What a search can find."""

  title: str
  text: str


class Search:
  """Finds the documents that share the rarest words with a query.

  Titles and texts count alike; a word is a run of letters and digits in lower case, none is left out or cut to
  its stem (k1 = 0.9, b = 0.4: the usual setting for passages, as in Anserini).
  """

  def __init__(self, documents: Sequence[Document], *, top_k: int):
    """Indexes the documents; a search gives at most `top_k` of them.

    Raises:
      UserError: there is no document, or top_k is less than 1.
    """
    if top_k < 1:
      raise UserError(f"search.top_k={top_k} finds nothing: give at least 1")
    words = [_words(f"{document.title} {document.text}") for document in documents]
    if not any(words):
      raise UserError(f"search has {len(words)} documents and no word in them: give it some text")
    self._lines = [" ".join(f"{document.title}: {document.text}".split()) for document in documents]
    self._top_k = top_k
    self._index = _bm25s.BM25(k1=0.9, b=0.4)
    self._index.index(words, show_progress=False)

  def __call__(self, query: str) -> str:
    """The best documents, best first, one a line as "title: text"; equally good ones in the order given."""
    known = self._index.get_tokens_ids(_words(query))
    if not known:
      return "no results"
    scores = self._index.get_scores_from_ids(known)
    found = np.flatnonzero(scores > 0)
    best = found[np.argsort(-scores[found], kind="stable")[: self._top_k]]
    return "\n".join([self._lines[i] for i in best]) or "no results"


def _words(text: str) -> list[str]:
  return _WORD.findall(text.lower())
