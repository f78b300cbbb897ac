"""How often something may be done, and how long a server asks to be left alone."""

from __future__ import annotations

import datetime
import email.utils
import threading
from collections.abc import Callable


class Pace:
  """Lets callers through one by one, evenly spaced, in the order in which they come. For any number of threads."""

  def __init__(self, per_second: float, *, clock: Callable[[], float], wait: Callable[[float], None]):
    """`per_second`: callers, at most; 0: as they come. `clock` tells seconds, `wait` lets that many pass."""
    self._apart = 1.0 / per_second if per_second else 0.0
    self._clock, self._wait = clock, wait
    self._lock = threading.Lock()
    self._next = clock()

  def keep(self) -> None:
    """Returns when it is the caller's turn."""
    with self._lock:
      now = self._clock()
      turn = max(self._next, now)
      self._next = turn + self._apart
    if turn > now:
      self._wait(turn - now)


def asked_pause(retry_after: str) -> float | None:
  """The seconds that a header Retry-After asks for, given as a number or as a date; None when it says nothing."""
  if retry_after.isascii() and retry_after.isdigit():
    return float(retry_after)
  try:
    until = email.utils.parsedate_to_datetime(retry_after)
  except ValueError:
    return None
  if until.tzinfo is None:
    until = until.replace(tzinfo=datetime.UTC)
  return max(0.0, (until - datetime.datetime.now(datetime.UTC)).total_seconds())
