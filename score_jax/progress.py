"""Progress: a bar with rate and time left on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

PLAIN_EVERY_S = 15.0


class Progress:
  """Counts up to `total`; a context manager."""

  def __init__(self, what: str, total: int, unit: str):
    self._what, self._total, self._unit = what, total, unit
    self._bar = tqdm(total=total, desc=what, unit=unit, leave=False) if sys.stderr.isatty() else None
    self._done, self._start = 0, time.monotonic()
    self._said = self._start

  def __call__(self, count: int, note: str = "") -> None:
    """`count` more are done."""
    self._done += count
    if self._bar is not None:
      self._bar.set_postfix_str(note, refresh=False)
      self._bar.update(count)
    elif time.monotonic() - self._said >= PLAIN_EVERY_S:
      self._said = time.monotonic()
      rate = self._done / (self._said - self._start)
      left = (self._total - self._done) / rate if rate else 0.0
      print(
        f"  {self._what}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s, {left:.0f} s left {note}", flush=True
      )

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    if self._bar is not None:
      self._bar.close()
