"""What a group of rollouts from one start earned, why it may have no signal, and what had to leave it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from score_jax.mentor.reward import Same, Tier, Tiers, tier
from score_jax.mentor.starts import Start
from score_jax.train.batch import Sample, sample
from score_jax.train.policy_gradient import advantages
from score_jax.trajectory import Trajectory, generated_tokens

Silence = Literal[
  "few",  # fewer than two members are left: nothing to compare
  "right",  # all are right
  "wrong",  # none earned anything
  "key",  # all did what the teacher's step does
  "avoid",  # all did something that is no known mistake
  "equal_pay",  # tiers differ, and pay the same
]
Failure = Literal[
  "tool_failure",  # the tool's host failed, or its clock ran out before the code had begun
  "replay_mismatch",  # the start's state could not be rebuilt
  "ungraded",  # the grader failed, timed out or abstained
]
SILENCES: tuple[Silence, ...] = get_args(Silence)
FAILURES: tuple[Failure, ...] = get_args(Failure)
SAME: dict[Tier, Silence] = {"final": "right", "none": "wrong", "key": "key", "avoid": "avoid"}


@dataclasses.dataclass(frozen=True)
class Scored:
  """A rollout with what it earned."""

  start: Start
  trajectory: Trajectory
  tier: Tier
  reward: float
  advantage: float = 0.0

  @property
  def tokens(self) -> int:
    """Tokens that carry loss."""
    return generated_tokens(self.trajectory.steps[self.trajectory.prefix_steps :])

  def sample(self) -> Sample:
    """The rollout as a sequence in which what was drawn from the start on carries loss, a malformed turn too."""
    given = self.trajectory.prefix_steps
    return sample(self.trajectory, carries_loss=lambda index, _: index >= given, advantage=self.advantage)


def failure(trajectory: Trajectory) -> Failure | None:
  """What failed a rollout that is not the agent's doing; its own code running out of time is.

  Such a rollout leaves its group. It is never a 0, which would teach that what it did is bad.
  """
  match trajectory.status:
    case "tool_failure" | "replay_mismatch":
      return trajectory.status
    case _:
      return "ungraded" if trajectory.grade is None else None


def score(
  starts: Sequence[Start],
  groups: Sequence[Sequence[Trajectory]],
  tiers: Tiers,
  same: Callable[[Start], Same],
  *,
  scale: str,
) -> list[list[Scored]]:
  """Rewards and advantages of a step's groups, without the rollouts that something else failed.

  `same` gives, for a start, what compares first steps with the recorded ones of its place.
  """
  earned = [
    [_earned(start, t, tiers, same(start)) for t in group if failure(t) is None]
    for start, group in zip(starts, groups, strict=True)
  ]
  values = advantages([[s.reward for s in group] for group in earned], scale=scale)
  return [
    [dataclasses.replace(s, advantage=float(a)) for s, a in zip(group, of_group, strict=True)]
    for group, of_group in zip(earned, values, strict=True)
  ]


def _earned(start: Start, trajectory: Trajectory, tiers: Tiers, same: Same) -> Scored:
  name = tier(trajectory, start.correction, tiers.rule, same)
  return Scored(start, trajectory, name, tiers.pay(name))


def silence(group: Sequence[Scored]) -> Silence | None:
  """Why all of a group have advantage 0; None: they have not."""
  if len(group) < 2:
    return "few"
  if len({s.reward for s in group}) > 1:
    return None
  if len({s.tier for s in group}) > 1:
    return "equal_pay"
  return SAME[group[0].tier]


def numbers(drawn: Sequence[Sequence[Trajectory]], groups: Sequence[Sequence[Scored]]) -> dict[str, float]:
  """What a step's rollouts earned: means over those that are left, and shares; none where there is nothing to share.

  Args:
    drawn: all rollouts of the step, of which `left_…` are shares.
    groups: what is left of them, of which `no_signal_…` are shares.
  """
  scored = [s for group in groups for s in group]
  tiers, silences = Counter(s.tier for s in scored), Counter(silence(group) for group in groups)
  failures = Counter(failure(t) for group in drawn for t in group)
  earned = {
    "reward_mean": sum(s.reward for s in scored),
    "accuracy": sum(s.trajectory.right for s in scored),
    **{f"tier_{name}": tiers[name] for name in ("final", "key", "avoid", "none")},
    "context_full": sum(s.trajectory.status == "context_full" for s in scored),
  }
  silent = {"groups": sum(silences[name] for name in SILENCES), **{name: silences[name] for name in SILENCES}}
  return {
    **averages(earned, len(scored)),
    **averages({f"no_signal_{name}": number for name, number in silent.items()}, len(groups)),
    **averages({f"left_{name}": failures[name] for name in FAILURES}, failures.total()),
    "rollouts": len(scored),
    "generated_tokens": sum(s.tokens for s in scored),
  }


def averages(sums: Mapping[str, float], count: int) -> dict[str, float]:
  """Each divided by the count; of nothing there are none, since a 0 would say that something was bad."""
  return {name: number / count for name, number in sums.items()} if count else {}
