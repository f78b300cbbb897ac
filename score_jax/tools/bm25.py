"""An index of passages by BM25: which of them share the rarest words with a query.

Built by bm25s, kept in a folder and memory-mapped from there. A word is a run of letters and digits, case and Unicode
form aside (NFKC); none is left out or cut to its stem (k1 = 0.9, b = 0.4: the usual setting for passages, as in
Anserini). Scripts that put no spaces between words (Chinese, Japanese, Korean, Thai, Lao, Burmese, Khmer) are cut into
pairs of neighbouring characters; a passage is found by its single characters too, where the query has one alone.
"""

from __future__ import annotations

import collections
import logging
import pathlib
import re
import sys
import types
import unicodedata
from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from score_jax.errors import UserError

K1, B = 0.9, 0.4
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
RULES = {
  "k1": K1,
  "b": B,
  "words": _WORD.pattern,
  "undivided": "pairs, and singles in passages",
  "folded": f"NFKC and casefold of Unicode {unicodedata.unidata_version}",
  "bm25s": _bm25s.__version__,
}


class Index:
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
    bm25 = _bm25s.BM25(k1=K1, b=B, csc_backend="scipy")
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

  def best(self, query: str, count: int) -> list[tuple[int, float]]:
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
