"""A clock that shows the same time whenever the same code asks it, so that honest code can be run again.

A step begins at a fixed instant, each look at the clock moves it on by a microsecond, sleeping by what was slept,
and waiting in vain for files, which is how asyncio sleeps, by what was waited.
"""

from __future__ import annotations

import datetime
import selectors
import time
from typing import Any

CLOCK_START = 1_767_225_600.0  # 2026-01-01 00:00 UTC, where the first step begins
STEP_S = 60.0  # from the beginning of one step to that of the next
_TICK_S = 1e-6

_real_sleep = time.sleep
_real = {name: getattr(time, name) for name in ("gmtime", "localtime", "ctime", "asctime", "strftime")}


class _Clock:
  now = CLOCK_START


def set_step(step: int) -> None:
  """Sets the clock to the beginning of a session's step."""
  _Clock.now = CLOCK_START + STEP_S * step


def _time() -> float:
  _Clock.now += _TICK_S
  return _Clock.now


def _nanoseconds() -> int:
  return int(_time() * 1e9)


def _since_start() -> float:
  return _time() - CLOCK_START


def _nanoseconds_since_start() -> int:
  return int(_since_start() * 1e9)


def _sleep(seconds: float) -> None:
  _real_sleep(seconds)
  _Clock.now += seconds


class _OfDate(type):
  """Objects that C code made are still instances."""

  def __instancecheck__(cls, instance: Any) -> bool:
    return isinstance(instance, cls.__mro__[1])

  def __subclasscheck__(cls, subclass: type) -> bool:
    return issubclass(subclass, cls.__mro__[1])


def _dates() -> tuple[type, type]:
  """datetime.datetime and datetime.date with this clock."""

  class DateTime(datetime.datetime, metaclass=_OfDate):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
      return cls.fromtimestamp(_time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
      return cls.fromtimestamp(_time(), datetime.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> Any:
      return cls.now()

  class Date(datetime.date, metaclass=_OfDate):
    @classmethod
    def today(cls) -> Any:
      return cls.fromtimestamp(_time())

  for made, name in ((DateTime, "datetime"), (Date, "date")):
    made.__name__ = made.__qualname__ = name
    made.__module__ = "datetime"
  return DateTime, Date


def _waiting(select: Any) -> Any:
  """A selector's `select` that moves the clock on when it has waited until its time was over."""

  def select_and_move_on(self: Any, timeout: float | None = None) -> Any:
    found = select(self, timeout)
    if not found and timeout is not None:
      _Clock.now += max(0.0, timeout)
    return found

  return select_and_move_on


def install_clock() -> None:
  """Puts this clock into the modules time and datetime, for good."""
  time.time, time.time_ns, time.sleep = _time, _nanoseconds, _sleep
  for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
    setattr(time, name, _since_start)
    setattr(time, f"{name}_ns", _nanoseconds_since_start)

  def defaulting(convert: Any) -> Any:
    return lambda seconds=None: convert(_time() if seconds is None else seconds)

  for name in ("gmtime", "localtime", "ctime"):
    setattr(time, name, defaulting(_real[name]))
  time.asctime = lambda t=None: _real["asctime"](time.localtime() if t is None else t)
  time.strftime = lambda format, t=None: _real["strftime"](format, time.localtime() if t is None else t)
  datetime.datetime, datetime.date = _dates()
  for selector in (selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector):
    selector.select = _waiting(selector.select)
