"""Search over passages: what the code of an agent gets for a query, as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol, Self

from score_jax.errors import UserError
from score_jax.tools.bm25 import Index
from score_jax.tools.outcome import plain

NOTHING = "no results"
_FEWEST_CHARS = 20


@dataclasses.dataclass(frozen=True)
class Document:
  """What a search can find."""

  title: str
  text: str

  @classmethod
  def of_contents(cls, contents: str) -> Self:
    """A document from one text whose first line is its title, in quotes or not."""
    title, _, text = contents.partition("\n")
    title = title.strip()
    quoted = len(title) > 1 and title[0] == title[-1] == '"'
    return cls(title[1:-1] if quoted else title, text)

  @property
  def contents(self) -> str:
    """The text that `of_contents` reads."""
    return f'"{" ".join(self.title.split())}"\n{self.text}'


class Passages(Protocol):
  """Documents by number: a list, or a corpus on the disk."""

  def __getitem__(self, number: int, /) -> Document: ...


class SearchFailed(Exception):
  """No answer could be had, through no fault of the query. It ends the code that asked with reason host_failure."""


class Search:
  """Finds the documents that share the rarest words with a query; titles and texts count alike.

  May be called from several threads at once. What it gives hangs on the documents, the query and its settings alone.
  """

  def __init__(self, index: Index, passages: Passages, *, top_k: int, passage_chars: int):
    """A search gives at most `top_k` of the passages, and at most `passage_chars` characters of one, title included.

    Raises:
      UserError: a setting makes no sense.
    """
    check(top_k=top_k, passage_chars=passage_chars)
    self._index, self._passages, self._top_k, self._passage_chars = index, passages, top_k, passage_chars

  @classmethod
  def of(cls, documents: Sequence[Document], *, top_k: int, passage_chars: int) -> Self:
    """Indexes documents in memory.

    Raises:
      UserError: there is no word in them, or a setting makes no sense.
    """
    index = Index.build(indexed(document) for document in documents)
    return cls(index, documents, top_k=top_k, passage_chars=passage_chars)

  def __call__(self, query: str) -> str:
    """The best documents, best first, one a line as "title: text"; equally good ones in the order given."""
    found = find(self._index, self._passages, query, self._top_k)
    return shown([document for document, _ in found], chars=self._passage_chars)


def find(index: Index, passages: Passages, query: str, count: int) -> list[tuple[Document, float]]:
  """At most `count` passages with their scores, best first."""
  return [(passages[number], score) for number, score in index.best(query, count)]


def indexed(document: Document) -> str:
  """The text that a document is found by."""
  return f"{document.title} {document.text}"


def shown(documents: Iterable[Document], *, chars: int) -> str:
  """Documents as an agent sees them: a line each, cut to `chars` characters."""
  lines = [canonical(f"{document.title}: {document.text}") for document in documents]
  cut = [line if len(line) <= chars else line[: chars - 1].rstrip() + "…" for line in lines]
  return "\n".join(cut) or NOTHING


def canonical(text: str) -> str:
  """Text as it is sent, shown and remembered: plain, on one line, with single spaces."""
  return plain(" ".join(text.split()))


def check(*, top_k: int, passage_chars: int) -> None:
  """
  Raises:
    UserError: a setting of what a search gives makes no sense.
  """
  if top_k < 1:
    raise UserError(f"tools.search.top_k={top_k} finds nothing: give at least 1")
  if passage_chars < _FEWEST_CHARS:
    raise UserError(f"tools.search.passage_chars={passage_chars} is too few: give at least {_FEWEST_CHARS}")
