"""The tiered reward of short-horizon RL (paper, RL).

| tier  | when                                                                     | default |
|-------|--------------------------------------------------------------------------|---------|
| final | the trajectory ends with a right answer                                  | 1.0     |
| key   | not final, and its first new step is equivalent to the teacher's         | 0.5     |
| avoid | not final, not key, and equivalent to no recorded mistake of that place  | 0.1     |
| none  | otherwise                                                                | 0       |

Departures from the paper, under the rule "paper": key and avoid need a first new step that parses, has code, runs
without error and does not itself submit; steps are compared by execution (equivalence.py), and what stays undecided
counts neither as the teacher's step nor as another than a mistake.

The rule "release" is the reference release's: only the first recorded mistake counts, a rollout that does not submit
an answer gets nothing whatever its first step was, and the first step need not have run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from score_jax.errors import UserError
from score_jax.mentor.equivalence import Verdict
from score_jax.trajectory import Correction, Step, Trajectory

Tier = Literal["final", "key", "avoid", "none"]

#: compares a rollout's first new step with one recorded at that place
Same = Callable[[Step, Step], Verdict]

RULES = ("paper", "release")


@dataclasses.dataclass(frozen=True)
class Tiers:
  """What each tier pays, and by which rule it is earned; key and avoid at 0 leave the outcome reward."""

  final: float
  key: float
  avoid: float
  rule: str = "paper"

  def __post_init__(self) -> None:
    """
    Raises:
      UserError: there is no such rule.
    """
    if self.rule not in RULES:
      raise UserError(f"rl.reward = {self.rule!r}; choose from {', '.join(RULES)}")

  def pay(self, tier: Tier) -> float:
    return 0.0 if tier == "none" else float(getattr(self, tier))


def tier(trajectory: Trajectory, correction: Correction | None, rule: str, same: Same) -> Tier:
  """The tier of a rollout from the place of `correction`; without one, outcome only."""
  if trajectory.right:
    return "final"
  recorded = compared_with(trajectory, correction, rule)
  if not recorded:
    return "none"
  first = trajectory.steps[trajectory.prefix_steps]
  if same(first, recorded[0]) == "equal":
    return "key"
  return "avoid" if all(same(first, mistake) == "different" for mistake in recorded[1:]) else "none"


def compared_with(trajectory: Trajectory, correction: Correction | None, rule: str) -> tuple[Step, ...]:
  """The recorded steps on which the tier hangs, the teacher's first; none where it does not hang on them."""
  new = trajectory.steps[trajectory.prefix_steps :]
  if correction is None or trajectory.right or not new or new[0].kind != "act":
    return ()
  if rule == "release":
    return (correction.replacement, *correction.mistakes[:1]) if trajectory.status == "answered" else ()
  sound = new[0].reason == "ok" and new[0].answer is None and _has_code(new[0].code)
  return (correction.replacement, *correction.mistakes) if sound else ()


def _has_code(code: str) -> bool:
  """Whether there is more than comments."""
  return any(line.strip() and not line.lstrip().startswith("#") for line in code.splitlines())
