"""Brackets in mathematical text: where one is closed, how deep they are nested, what stands outside of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: the braces of a set, as math_text.tidy writes them; those of LaTeX only group
SET_LEFT, SET_RIGHT = "⦃", "⦄"
OPEN, CLOSE = "([{" + SET_LEFT, ")]}" + SET_RIGHT


def closing(text: str, start: int) -> int:
  """Where the bracket that opens at `start` is closed, by one of any kind; -1 where it is not."""
  depth = 0
  for index in range(start, len(text)):
    depth += (text[index] in OPEN) - (text[index] in CLOSE)
    if depth == 0:
      return index
  return -1


def depth(text: str) -> int:
  """How deep its brackets are nested."""
  deepest = level = 0
  for sign in text:
    level += (sign in OPEN) - (sign in CLOSE)
    deepest = max(deepest, level)
  return deepest


def split(text: str, separator: re.Pattern[str]) -> list[str]:
  """The pieces between the separators that stand in no bracket."""
  pieces, start, level = [], 0, 0
  at = iter(separator.finditer(text))
  found = next(at, None)
  for index, sign in enumerate(text):
    while found is not None and found.start() < index:
      found = next(at, None)
    if found is not None and found.start() == index and level == 0 and index >= start:
      pieces.append(text[start:index])
      start = found.end()
    level += (sign in OPEN) - (sign in CLOSE)
  return [*pieces, text[start:]]


def outside(text: str) -> Iterator[tuple[bool, str]]:
  """The text in pieces, each with whether it stands outside of all brackets."""
  start = index = 0
  while index < len(text):
    end = closing(text, index) if text[index] in OPEN else -1
    if end > index:
      yield True, text[start:index]
      yield False, text[index : end + 1]
      start = index = end + 1
    else:
      index += 1
  yield True, text[start:]
