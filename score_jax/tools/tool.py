"""What a rollout asks of a tool."""

from __future__ import annotations

from typing import Protocol

from score_jax.tools.functions import Offered
from score_jax.tools.outcome import Outcome, Ran


class Tool(Protocol):
  """What runs the code of sessions, as tools/python.py says."""

  @property
  def searches(self) -> bool:
    """Whether code can search."""
    ...

  @property
  def functions(self) -> tuple[Offered, ...]:
    """What else it can call."""
    ...

  def submit(self, session: str, code: str, state: tuple[Ran, ...]) -> None: ...

  def wait(self, timeout_s: float) -> list[tuple[str, Outcome]]: ...

  def close(self, session: str) -> None: ...
