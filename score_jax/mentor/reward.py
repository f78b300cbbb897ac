"""The tiered reward of short-horizon RL (paper, RL).

| tier  | when                                                                     | default |
|-------|--------------------------------------------------------------------------|---------|
| final | the trajectory ends with a right answer                                  | 1.0     |
| key   | not final, and its first new step is equivalent to the teacher's         | 0.5     |
| avoid | not final, not key, and equivalent to no recorded mistake of that place  | 0.1     |
| none  | otherwise                                                                | 0       |

Ours, beyond the paper: key and avoid need a first new step that parses, runs
without error and does not itself submit; and steps are compared by execution.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from score_jax.trajectory import Correction, Step, Trajectory

Tier = Literal["final", "key", "avoid", "none"]


@dataclasses.dataclass(frozen=True)
class Tiers:
  """What each tier pays; key and avoid at 0 leave the outcome reward."""

  final: float
  key: float
  avoid: float

  def pay(self, tier: Tier) -> float:
    return 0.0 if tier == "none" else float(getattr(self, tier))


def equivalent(a: Step, b: Step) -> bool | None:
  """Whether two steps from one state did the same, by what was observed; None where that does not decide.

  Equal: both ran and printed the same. Different: exactly one is malformed or raised, or both ran and printed
  different things.
  """
  if a.kind != b.kind:
    return False
  if a.kind != "act":
    return None
  fine = [s.reason == "ok" for s in (a, b)]
  if fine == [True, True]:
    return a.observation == b.observation if a.observation and b.observation else None
  return None if fine == [False, False] else False


def tier(trajectory: Trajectory, correction: Correction | None) -> Tier:
  """The tier of a rollout from the place of `correction`; without one, outcome only."""
  if trajectory.right:
    return "final"
  new = trajectory.steps[trajectory.prefix_steps :]
  if correction is None or not new:
    return "none"
  first = new[0]
  submits = len(new) == 1 and trajectory.status == "answered"
  if first.kind != "act" or first.reason != "ok" or submits:
    return "none"
  if equivalent(first, correction.replacement):
    return "key"
  if all(equivalent(first, mistake) is False for mistake in correction.mistakes):
    return "avoid"
  return "none"
