"""What sampling takes: tokens, seconds and how many slots are at work."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import jax

_compilations: list[float] = []  # seconds of each, since this module was imported


def _book(event: str, duration_secs: float, **_: str | int) -> None:
  if event == "/jax/core/compile/backend_compile_duration":
    _compilations.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(_book)


def compile_seconds() -> float:
  """Seconds that this process has compiled so far."""
  return sum(_compilations)


@dataclasses.dataclass
class Meter:
  """Sums over some rollouts; seconds are of the wall clock, as the host sees them."""

  read: int = 0  # tokens prefilled
  drawn: int = 0  # tokens decoded
  calls: int = 0  # of decode
  steps: int = 0  # of decode, each over all slots
  busy: int = 0  # steps, for each slot that drew or held a context which waits for its tool, while requests waited
  places: int = 0  # the same for all slots
  extend_s: float = 0.0
  decode_s: float = 0.0
  host_s: float = 0.0  # the device had nothing to do, and no tool was waited for
  tool_wait_s: float = 0.0  # for tools, while the device had nothing to do or others were about to answer
  sync_s: float = 0.0  # weights to where and what the sampler wants
  compile_s: float = 0.0

  @contextlib.contextmanager
  def timed(self, name: str) -> Iterator[None]:
    """Adds the seconds of what is done within to a field."""
    start = time.perf_counter()
    yield
    setattr(self, name, getattr(self, name) + time.perf_counter() - start)

  def take(self) -> dict[str, float]:
    """The numbers so far; the sums begin again."""
    numbers = self.numbers()
    vars(self).update(vars(Meter()))
    return numbers

  def numbers(self) -> dict[str, float]:
    """For a stage's metrics."""
    return {
      "sampler/extend_tokens_per_s": self.read / self.extend_s if self.extend_s else 0.0,
      "sampler/decode_tokens_per_s": self.drawn / self.decode_s if self.decode_s else 0.0,
      "sampler/occupancy": self.busy / self.places if self.places else 1.0,
      "sampler/host_ms_per_call": 1e3 * self.host_s / max(self.calls, 1),
      **{f"sampler/{name}": getattr(self, name) for name in ("tool_wait_s", "sync_s", "compile_s")},
    }

  def __str__(self) -> str:
    n = self.numbers()
    return (
      f"decode {n['sampler/decode_tokens_per_s']:.0f} tokens/s, extend {n['sampler/extend_tokens_per_s']:.0f}, "
      f"slots {n['sampler/occupancy']:.0%}, host {n['sampler/host_ms_per_call']:.1f} ms a call, "
      f"tools waited for {self.tool_wait_s:.1f} s, sync {self.sync_s:.1f} s, compiling {self.compile_s:.1f} s"
    )
