"""What asking may cost, in money and in time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from score_jax.errors import UserError
from score_jax.trajectory import Usage


@dataclasses.dataclass
class Budget:
  """Sums up what was spent.

  Attributes:
    usd: what all replies may cost; 0: no limit. Those on their way when it is spent still come, and cost.
    seconds: how long may be asked, on the wall's clock, from the first ask of this process on; 0: no limit.
    prices: USD for a million tokens, (prompt, reply).
    used: tokens so far, those of earlier starts included.
  """

  usd: float
  seconds: float
  prices: Sequence[float]
  used: Usage = Usage()
  clock: Callable[[], float] = time.monotonic
  began: float | None = None

  def __post_init__(self) -> None:
    """
    Raises:
      UserError: there is a limit and no price, or a number is below 0.
    """
    if min(self.usd, self.seconds, *self.prices) < 0 or len(self.prices) != 2:
      raise UserError("chat.budget_usd, chat.budget_s and both of chat.usd_per_million must not be less than 0")
    if self.usd and not any(self.prices):
      raise UserError(f"chat.budget_usd = {self.usd:g} needs prices: give chat.usd_per_million=(prompt, reply)")

  @property
  def spent(self) -> float:
    """USD."""
    return (self.used.read * self.prices[0] + self.used.generated * self.prices[1]) / 1e6

  def over(self) -> str:
    """Why no more may be asked; empty while it may."""
    if self.began is None:
      self.began = self.clock()
    if self.usd and self.spent >= self.usd:
      return f"over budget: {self.spent:.4g} USD spent of chat.budget_usd = {self.usd:g}; raise it to go on"
    if self.seconds and self.clock() - self.began >= self.seconds:
      return f"over budget: chat.budget_s = {self.seconds:g} s have passed; start again, or raise it, to go on"
    return ""
