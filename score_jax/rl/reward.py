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

MERGED What a group of rollouts from one start earned, why it may have no signal, and what had to leave it.

MERGED The first new steps of rollouts against the recorded ones of their place: by execution, then by a judge.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from score_jax.errors import UserError
from score_jax.grading.graders import Grader
from score_jax.rl.step_equivalence import VERDICT_OF_BOOL, StepVerdict, compare_steps, make_answer_comparator
from score_jax.teaching.judges import StepJudge, StepOpinion, StepPair
from score_jax.teaching.mentoring import RolloutStart
from score_jax.train.batch import Example, make_example
from score_jax.train.policy_gradient import compute_advantages
from score_jax.trajectory import Correction, Step, Trajectory, count_generated_tokens

Tier = Literal["final", "key", "avoid", "none"]

#: compares a rollout's first new step with one recorded at that place
StepComparator = Callable[[Step, Step], StepVerdict]

REWARD_RULES = ("paper", "release")


@dataclasses.dataclass(frozen=True)
class TierRewards:
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
    if self.rule not in REWARD_RULES:
      raise UserError(f"rl.reward = {self.rule!r}; choose from {', '.join(REWARD_RULES)}")

  def reward(self, tier: Tier) -> float:
    return 0.0 if tier == "none" else float(getattr(self, tier))


def assign_tier(trajectory: Trajectory, correction: Correction | None, rule: str, same: StepComparator) -> Tier:
  """The tier of a rollout from the place of `correction`; without one, outcome only."""
  if trajectory.right:
    return "final"
  recorded = select_recorded_steps(trajectory, correction, rule)
  if not recorded:
    return "none"
  first = trajectory.steps[trajectory.prefix_steps]
  if same(first, recorded[0]) == "equal":
    return "key"
  return "avoid" if all(same(first, mistake) == "different" for mistake in recorded[1:]) else "none"


def select_recorded_steps(trajectory: Trajectory, correction: Correction | None, rule: str) -> tuple[Step, ...]:
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


NoSignalReason = Literal[
  "few",  # fewer than two members are left: nothing to compare
  "right",  # all are right
  "wrong",  # none earned anything
  "key",  # all did what the teacher's step does
  "avoid",  # all did something that is no known mistake
  "equal_pay",  # tiers differ, and pay the same
]
ExcludedReason = Literal[
  "tool_failure",  # the tool's host failed, or its clock ran out before the code had begun
  "replay_mismatch",  # the start's state could not be rebuilt
  "ungraded",  # the grader failed, timed out or abstained
]
NO_SIGNAL_REASONS: tuple[NoSignalReason, ...] = get_args(NoSignalReason)
EXCLUDED_REASONS: tuple[ExcludedReason, ...] = get_args(ExcludedReason)
NO_SIGNAL_REASON_OF_TIER: dict[Tier, NoSignalReason] = {
  "final": "right",
  "none": "wrong",
  "key": "key",
  "avoid": "avoid",
}


@dataclasses.dataclass(frozen=True)
class ScoredRollout:
  """A rollout with what it earned."""

  start: RolloutStart
  trajectory: Trajectory
  tier: Tier
  reward: float
  advantage: float = 0.0

  @property
  def tokens(self) -> int:
    """Tokens that carry loss."""
    return count_generated_tokens(self.trajectory.steps[self.trajectory.prefix_steps :])

  def to_example(self) -> Example:
    """The rollout as a sequence in which what was drawn from the start on carries loss, a malformed turn too."""
    given = self.trajectory.prefix_steps
    return make_example(self.trajectory, carries_loss=lambda index, _: index >= given, advantage=self.advantage)


def excluded_reason(trajectory: Trajectory) -> ExcludedReason | None:
  """What failed a rollout that is not the agent's doing; its own code running out of time is.

  Such a rollout leaves its group. It is never a 0, which would teach that what it did is bad.
  """
  match trajectory.status:
    case "tool_failure" | "replay_mismatch":
      return trajectory.status
    case _:
      return "ungraded" if trajectory.grade is None else None


def score_groups(
  starts: Sequence[RolloutStart],
  groups: Sequence[Sequence[Trajectory]],
  tiers: TierRewards,
  same: Callable[[RolloutStart], StepComparator],
  *,
  scale: str,
) -> list[list[ScoredRollout]]:
  """Rewards and advantages of a step's groups, without the rollouts that something else failed.

  `same` gives, for a start, what compares first steps with the recorded ones of its place.
  """
  earned = [
    [_earned(start, t, tiers, same(start)) for t in group if excluded_reason(t) is None]
    for start, group in zip(starts, groups, strict=True)
  ]
  values = compute_advantages([[s.reward for s in group] for group in earned], scale=scale)
  return [
    [dataclasses.replace(s, advantage=float(a)) for s, a in zip(group, of_group, strict=True)]
    for group, of_group in zip(earned, values, strict=True)
  ]


def _earned(start: RolloutStart, trajectory: Trajectory, tiers: TierRewards, same: StepComparator) -> ScoredRollout:
  name = assign_tier(trajectory, start.correction, tiers.rule, same)
  return ScoredRollout(start, trajectory, name, tiers.reward(name))


def no_signal_reason(group: Sequence[ScoredRollout]) -> NoSignalReason | None:
  """Why all of a group have advantage 0; None: they have not."""
  if len(group) < 2:
    return "few"
  if len({s.reward for s in group}) > 1:
    return None
  if len({s.tier for s in group}) > 1:
    return "equal_pay"
  return NO_SIGNAL_REASON_OF_TIER[group[0].tier]


def measure_groups(
  drawn: Sequence[Sequence[Trajectory]], groups: Sequence[Sequence[ScoredRollout]]
) -> dict[str, float]:
  """What a step's rollouts earned: means over those that are left, and shares; none where there is nothing to share.

  Args:
    drawn: all rollouts of the step, of which `left_…` are shares.
    groups: what is left of them, of which `no_signal_…` are shares.
  """
  scored = [s for group in groups for s in group]
  tiers, silences = Counter(s.tier for s in scored), Counter(no_signal_reason(group) for group in groups)
  failures = Counter(excluded_reason(t) for group in drawn for t in group)
  earned = {
    "reward_mean": sum(s.reward for s in scored),
    "accuracy": sum(s.trajectory.right for s in scored),
    **{f"tier_{name}": tiers[name] for name in ("final", "key", "avoid", "none")},
    "context_full": sum(s.trajectory.status == "context_full" for s in scored),
  }
  silent = {
    "groups": sum(silences[name] for name in NO_SIGNAL_REASONS),
    **{name: silences[name] for name in NO_SIGNAL_REASONS},
  }
  return {
    **divide_sums(earned, len(scored)),
    **divide_sums({f"no_signal_{name}": number for name, number in silent.items()}, len(groups)),
    **divide_sums({f"left_{name}": failures[name] for name in EXCLUDED_REASONS}, failures.total()),
    "rollouts": len(scored),
    "generated_tokens": sum(s.tokens for s in scored),
  }


def divide_sums(sums: Mapping[str, float], count: int) -> dict[str, float]:
  """Each divided by the count; of nothing there are none, since a 0 would say that something was bad."""
  return {name: number / count for name, number in sums.items()} if count else {}


class StepComparisons:
  """The verdicts of one RL step; the next has its own, so that a run that was stopped asks again what it asked."""

  def __init__(self, grader: Grader, judge: StepJudge | None):
    self._grader, self._judge = grader, judge
    self._opinions: dict[StepPair, StepOpinion] = {}
    self._given: Counter[StepVerdict] = Counter()

  def judge_undecided(
    self, starts: Sequence[RolloutStart], groups: Sequence[Sequence[Trajectory]], rule: str
  ) -> list[list[Trajectory]]:
    """Puts what execution leaves undecided to the judge, all at once, and each pair once.

    Returns the groups, with the cost of an opinion on the first rollout that needed it.
    """
    if self._judge is None:
      return [list(group) for group in groups]
    needed = [
      [(self._undecided(start, t, rule), t) for t in group] for start, group in zip(starts, groups, strict=True)
    ]
    pairs = list(dict.fromkeys(pair for group in needed for found, _ in group for pair in found))
    self._opinions = dict(zip(pairs, self._judge(pairs), strict=True))
    unbooked = dict(self._opinions)

    def booked(found: Sequence[StepPair], trajectory: Trajectory) -> Trajectory:
      ledger = trajectory.ledger
      for opinion in (unbooked.pop(pair) for pair in found if pair in unbooked):
        ledger = ledger + opinion.ledger
      return dataclasses.replace(trajectory, ledger=ledger)

    return [[booked(found, t) for found, t in group] for group in needed]

  def _undecided(self, start: RolloutStart, trajectory: Trajectory, rule: str) -> list[StepPair]:
    answers = make_answer_comparator(self._grader, start.question)
    recorded = select_recorded_steps(trajectory, start.correction, rule)
    first = trajectory.steps[trajectory.prefix_steps] if recorded else None
    return [_pair(start, first, r) for r in recorded if first and compare_steps(first, r, answers) == "undecided"]

  def comparator_for(self, start: RolloutStart) -> StepComparator:
    """What compares two steps from the state of a start."""
    answers = make_answer_comparator(self._grader, start.question)

    def same(new: Step, recorded: Step) -> StepVerdict:
      verdict = compare_steps(new, recorded, answers)
      if verdict == "undecided" and self._judge is not None:
        verdict = VERDICT_OF_BOOL[self._opinions[_pair(start, new, recorded)].same]
      self._given[verdict] += 1
      return verdict

    return same

  def metrics(self) -> dict[str, float]:
    """What came of the comparisons that tiers hung on, as shares of them; empty where there was none."""
    return divide_sums({f"steps_{name}": self._given[name] for name in get_args(StepVerdict)}, self._given.total())


def _pair(start: RolloutStart, new: Step, recorded: Step) -> StepPair:
  """The pair, without what is of no concern to anybody's opinion of it."""
  prefix, first, second = start.prefix.steps, _bare(new), _bare(recorded)
  return StepPair(start.question.text, tuple(map(_bare, prefix)), first, second)


def _bare(step: Step) -> Step:
  return dataclasses.replace(step, author="student", tokens=(), logprobs=(), observation_tokens=())
