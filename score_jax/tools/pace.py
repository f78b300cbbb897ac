"""How often something may be done."""

from __future__ import annotations

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
