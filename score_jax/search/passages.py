"""Documents and BM25 search over them.

bm25s builds the index, which can be memory-mapped from a folder. A word is a run of letters and digits, after NFKC and
case folding; there are no stop words and no stemming (k1 = 0.9, b = 0.4: the usual setting for passages, as in
Anserini). Scripts without spaces between words (Chinese, Japanese, Korean, Thai, Lao, Burmese, Khmer) are cut into
pairs of neighbouring characters; a query of one character finds passages that have it. `format_results` is what the
agent's `web_search` prints.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import pathlib
import re
import sys
import types
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Self

import numpy as np

from score_jax.errors import UserError
from score_jax.sandbox.interface import replace_control_chars

BM25_K1, BM25_B = 0.9, 0.4
#: characters of scripts without spaces between words, and Hangul, whose spaces are often left out
_UNDIVIDED = (
  "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Burmese, Khmer
  "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff"  # Hangul
  "\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31f0-\u31ff"
  "\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and Han
)
_WORD = re.compile(f"([{_UNDIVIDED}]+)|[^\\W{_UNDIVIDED}]+")


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

#: what decides an index beside the passages; indexes made by other rules do not pass for it
INDEX_RULES = {
  "k1": BM25_K1,
  "b": BM25_B,
  "words": _WORD.pattern,
  "undivided": "pairs, and singles in passages",
  "folded": f"NFKC and casefold of Unicode {unicodedata.unidata_version}",
  "bm25s": _bm25s.__version__,
}


class BM25Index:
  """The words of numbered passages. May be asked from several threads at once."""

  def __init__(self, bm25: Any):
    """`bm25`: what bm25s made or loaded."""
    self._bm25 = bm25
    self._vocabulary: dict[str, int] = bm25.vocab_dict
    self._count: int = bm25.scores["num_docs"]
    # Views without the class np.memmap, whose every slice costs as much as a short posting list.
    self._scores, self._passages, self._bounds = (np.asarray(bm25.scores[n]) for n in ("data", "indices", "indptr"))

  @classmethod
  def build(cls, texts: Iterable[str]) -> Self:
    """Indexes texts, the first of which becomes number 0; the same texts give the same index.

    Raises:
      UserError: there is no word in them.
    """
    vocabulary: dict[str, int] = {}
    numbers = [[vocabulary.setdefault(word, len(vocabulary)) for word in _terms(text)] for text in texts]
    if not vocabulary:
      raise UserError(f"search has {len(numbers)} documents and no word in them: give it some text")
    bm25 = _bm25s.BM25(k1=BM25_K1, b=BM25_B, csc_backend="scipy")
    bm25.index((numbers, vocabulary), create_empty_token=False, show_progress=False)
    return cls(bm25)

  @classmethod
  def load(cls, folder: pathlib.Path) -> Self:
    """Maps what `save` wrote; nothing but the vocabulary is read before it is needed.

    Raises:
      OSError, ValueError, KeyError: files are missing or damaged.
    """
    return cls(_bm25s.BM25.load(folder, mmap=True, show_progress=False))

  def save(self, folder: pathlib.Path) -> None:
    self._bm25.save(folder, show_progress=False)

  def __len__(self) -> int:
    """How many passages there are."""
    return self._count

  def find_best(self, query: str, count: int) -> list[tuple[int, float]]:
    """The best passages and their scores, best first; equally good ones in their order. At most `count`."""
    scores = np.zeros(self._count, np.float32)
    for word, times in collections.Counter(_asked(query)).items():
      number = self._vocabulary.get(word)
      if number is not None:
        start, end = self._bounds[number], self._bounds[number + 1]
        np.add.at(scores, self._passages[start:end], self._scores[start:end] * np.float32(times))
    found = np.flatnonzero(scores >= _least(scores, count))
    order = found[np.argsort(-scores[found], kind="stable")[:count]]
    return [(int(i), float(scores[i])) for i in order]


def _least(scores: np.ndarray, count: int) -> np.float32:
  """The score of the last of the best `count`, or the smallest above zero where fewer have any."""
  smallest = np.finfo(np.float32).tiny
  if count >= len(scores):
    return smallest
  return max(smallest, np.partition(scores, -count)[-count])


def _terms(text: str) -> list[str]:
  """What a passage is found by: its words; of undivided scripts the characters and their pairs."""
  found: list[str] = []
  for run in _WORD.finditer(_folded(text)):
    found += [*run[0], *_pairs(run[0])] if run[1] else [run[0]]
  return found


def _asked(query: str) -> list[str]:
  """What is looked for: words; of undivided scripts the pairs, or a character that stands alone."""
  found: list[str] = []
  for run in _WORD.finditer(_folded(query)):
    found += (run[1] and _pairs(run[1])) or [run[0]]
  return found


def _folded(text: str) -> str:
  """The text in one case and one Unicode form."""
  if text.isascii():
    return text.lower()
  return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _pairs(run: str) -> list[str]:
  return [run[i : i + 2] for i in range(len(run) - 1)]


NO_RESULTS = "no results"
_FEWEST_CHARS = 20


@dataclasses.dataclass(frozen=True)
class Document:
  """What a search can find."""

  title: str
  text: str

  @classmethod
  def from_contents(cls, contents: str) -> Self:
    """A document from one text whose first line is its title, in quotes or not."""
    title, _, text = contents.partition("\n")
    title = title.strip()
    quoted = len(title) > 1 and title[0] == title[-1] == '"'
    return cls(title[1:-1] if quoted else title, text)

  @property
  def contents(self) -> str:
    """The text that `from_contents` reads."""
    return f'"{" ".join(self.title.split())}"\n{self.text}'


class PassageStore(Protocol):
  """Documents by number: a list, or a corpus on the disk."""

  def __getitem__(self, number: int, /) -> Document: ...


class SearchFailed(Exception):
  """No answer could be had, through no fault of the query. It ends the code that asked with reason host_failure."""


class BM25Search:
  """Finds the documents that share the rarest words with a query; titles and texts count alike.

  May be called from several threads at once. What it gives hangs on the documents, the query and its settings alone.
  """

  def __init__(self, index: BM25Index, passages: PassageStore, *, top_k: int, passage_chars: int):
    """A search gives at most `top_k` of the passages, and at most `passage_chars` characters of one, title included.

    Raises:
      UserError: a setting makes no sense.
    """
    check_result_limits(top_k=top_k, passage_chars=passage_chars)
    self._index, self._passages, self._top_k, self._passage_chars = index, passages, top_k, passage_chars

  @classmethod
  def from_documents(cls, documents: Sequence[Document], *, top_k: int, passage_chars: int) -> Self:
    """Indexes documents in memory.

    Raises:
      UserError: there is no word in them, or a setting makes no sense.
    """
    index = BM25Index.build(build_index_text(document) for document in documents)
    return cls(index, documents, top_k=top_k, passage_chars=passage_chars)

  def __call__(self, query: str) -> str:
    """The best documents, best first, one a line as "title: text"; equally good ones in the order given."""
    found = find_passages(self._index, self._passages, query, self._top_k)
    return format_results([document for document, _ in found], chars=self._passage_chars)


def find_passages(index: BM25Index, passages: PassageStore, query: str, count: int) -> list[tuple[Document, float]]:
  """At most `count` passages with their scores, best first."""
  return [(passages[number], score) for number, score in index.find_best(query, count)]


def build_index_text(document: Document) -> str:
  """The text that a document is found by."""
  return f"{document.title} {document.text}"


def format_results(documents: Iterable[Document], *, chars: int) -> str:
  """Documents as an agent sees them: a line each, cut to `chars` characters."""
  lines = [to_single_line(f"{document.title}: {document.text}") for document in documents]
  cut = [line if len(line) <= chars else line[: chars - 1].rstrip() + "…" for line in lines]
  return "\n".join(cut) or NO_RESULTS


def to_single_line(text: str) -> str:
  """Text as it is sent, shown and remembered: plain, on one line, with single spaces."""
  return replace_control_chars(" ".join(text.split()))


def check_result_limits(*, top_k: int, passage_chars: int) -> None:
  """
  Raises:
    UserError: a setting of what a search gives makes no sense.
  """
  if top_k < 1:
    raise UserError(f"tools.search.top_k={top_k} finds nothing: give at least 1")
  if passage_chars < _FEWEST_CHARS:
    raise UserError(f"tools.search.passage_chars={passage_chars} is too few: give at least {_FEWEST_CHARS}")
