"""Rewards and advantages of rollouts: tiers, groups, and step comparisons (paper, RL).

| tier  | when                                                                     | default |
|-------|--------------------------------------------------------------------------|---------|
| final | the trajectory ends with a right answer                                  | 1.0     |
| key   | not final, and its first new step is equivalent to the teacher's         | 0.5     |
| avoid | not final, not key, and equivalent to no recorded mistake of that place  | 0.1     |
| none  | otherwise                                                                | 0       |

The rule "paper" departs from the paper. Key and avoid need a first new step that parses, has code, runs without error
and does not itself submit. Steps are compared by execution (step_equivalence.py). An undecided comparison counts
neither as equal to the teacher's step nor as different from a mistake.
The rule "release" is the reference release's. Only the first recorded mistake counts. A rollout without a submitted
answer earns nothing, whatever its first step was. The first step need not have run.

`assign_tier` gives the tier of one rollout. `StepComparisons` compares a rollout's first new step with the recorded
steps: by execution first, then by a judge where the result is undecided. `score_groups` turns tiers into rewards and
advantages. `no_signal_reason` says why all advantages of a group are 0; `excluded_reason` why a rollout left its group.
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
  """The reward of each tier, and the rule that assigns tiers. With key = avoid = 0 it is the plain outcome reward."""

  final: float
  key: float
  avoid: float
  rule: str = "paper"

  def __post_init__(self) -> None:
    """Rejects an unknown rule."""
    if self.rule not in REWARD_RULES:
      raise UserError(f"rl.reward = {self.rule!r}; choose from {', '.join(REWARD_RULES)}")

  def reward(self, tier: Tier) -> float:
    """The reward of a tier."""
    return 0.0 if tier == "none" else float(getattr(self, tier))


def assign_tier(trajectory: Trajectory, correction: Correction | None, rule: str, same: StepComparator) -> Tier:
  """The tier of a rollout that starts before the step of `correction`. Without a correction: "final" or "none"."""
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
  """The recorded steps that decide the tier, the teacher's first; empty if the tier does not depend on them."""
  new = trajectory.steps[trajectory.prefix_steps :]
  if correction is None or trajectory.right or not new or new[0].kind != "act":
    return ()
  if rule == "release":
    return (correction.replacement, *correction.mistakes[:1]) if trajectory.status == "answered" else ()
  sound = new[0].reason == "ok" and new[0].answer is None and _has_code(new[0].code)
  return (correction.replacement, *correction.mistakes) if sound else ()


def _has_code(code: str) -> bool:
  """Whether the code has a line that is neither blank nor a comment."""
  return any(line.strip() and not line.lstrip().startswith("#") for line in code.splitlines())


NoSignalReason = Literal[
  "few",  # fewer than two members are left: nothing to compare
  "right",  # all are right
  "wrong",  # none earned anything
  "key",  # all are equivalent to the teacher's step
  "avoid",  # all differ from the recorded mistakes
  "equal_pay",  # tiers differ, but their rewards are equal
]
ExcludedReason = Literal[
  "tool_failure",  # the tool's host failed, or the time limit passed before the code began
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
  """A rollout with its tier, reward and advantage."""

  start: RolloutStart
  trajectory: Trajectory
  tier: Tier
  reward: float
  advantage: float = 0.0

  @property
  def tokens(self) -> int:
    """Number of tokens that carry loss."""
    return count_generated_tokens(self.trajectory.steps[self.trajectory.prefix_steps :])

  def to_example(self) -> Example:
    """The rollout as a training example: all tokens generated after the prefix carry loss, also of a malformed turn."""
    given = self.trajectory.prefix_steps
    return make_example(self.trajectory, carries_loss=lambda index, _: index >= given, advantage=self.advantage)


def excluded_reason(trajectory: Trajectory) -> ExcludedReason | None:
  """Why a rollout leaves its group: a failure that is not the agent's. None: it stays.

  A timeout of the agent's own code is the agent's failure. An excluded rollout never counts as reward 0: that would
  teach that its steps were bad.
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
  """Scores the groups of one RL step: tier, reward and advantage of each rollout, without the excluded ones.

  Args:
    same: returns, for a start, the comparator of first steps with the recorded ones.
    scale: how advantages are scaled within a group (rl.scale).
  """
  earned = [
    [_score_rollout(start, t, tiers, same(start)) for t in group if excluded_reason(t) is None]
    for start, group in zip(starts, groups, strict=True)
  ]
  values = compute_advantages([[s.reward for s in group] for group in earned], scale=scale)
  return [
    [dataclasses.replace(s, advantage=float(a)) for s, a in zip(group, of_group, strict=True)]
    for group, of_group in zip(earned, values, strict=True)
  ]


def _score_rollout(
  start: RolloutStart, trajectory: Trajectory, tiers: TierRewards, same: StepComparator
) -> ScoredRollout:
  name = assign_tier(trajectory, start.correction, tiers.rule, same)
  return ScoredRollout(start, trajectory, name, tiers.reward(name))


def no_signal_reason(group: Sequence[ScoredRollout]) -> NoSignalReason | None:
  """Why all advantages of a group are 0; None: they are not."""
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
  """Metrics of one RL step's rollouts: mean reward, accuracy, shares of tiers and of reasons.

  Args:
    drawn: all rollouts of the step. `left_REASON` is a share of the excluded ones.
    groups: the rollouts that stayed. `no_signal_REASON` is a share of these groups.
  """
  scored = [s for group in groups for s in group]
  tiers, reasons = Counter(s.tier for s in scored), Counter(no_signal_reason(group) for group in groups)
  failures = Counter(excluded_reason(t) for group in drawn for t in group)
  earned = {
    "reward_mean": sum(s.reward for s in scored),
    "accuracy": sum(s.trajectory.right for s in scored),
    **{f"tier_{name}": tiers[name] for name in ("final", "key", "avoid", "none")},
    "context_full": sum(s.trajectory.status == "context_full" for s in scored),
  }
  no_signal = {
    "groups": sum(reasons[name] for name in NO_SIGNAL_REASONS),
    **{name: reasons[name] for name in NO_SIGNAL_REASONS},
  }
  return {
    **divide_sums(earned, len(scored)),
    **divide_sums({f"no_signal_{name}": number for name, number in no_signal.items()}, len(groups)),
    **divide_sums({f"left_{name}": failures[name] for name in EXCLUDED_REASONS}, failures.total()),
    "rollouts": len(scored),
    "generated_tokens": sum(s.tokens for s in scored),
  }


def divide_sums(sums: Mapping[str, float], count: int) -> dict[str, float]:
  """Each sum divided by the count. Empty if the count is 0, since a logged 0 would look like a bad value."""
  return {name: number / count for name, number in sums.items()} if count else {}


class StepComparisons:
  """Step comparisons of one RL step.

  Each RL step has its own, so that a resumed run asks the judge the same questions again.
  """

  def __init__(self, grader: Grader, judge: StepJudge | None):
    self._grader, self._judge = grader, judge
    self._opinions: dict[StepPair, StepOpinion] = {}
    self._verdict_counts: Counter[StepVerdict] = Counter()

  def judge_undecided(
    self, starts: Sequence[RolloutStart], groups: Sequence[Sequence[Trajectory]], rule: str
  ) -> list[list[Trajectory]]:
    """Asks the judge about all pairs that execution leaves undecided, in one call, each pair once.

    Returns the groups. The cost of each opinion is booked on the first rollout that needed it.
    """
    if self._judge is None:
      return [list(group) for group in groups]
    needed = [
      [(self._undecided_pairs(start, t, rule), t) for t in group] for start, group in zip(starts, groups, strict=True)
    ]
    pairs = list(dict.fromkeys(pair for group in needed for wanted, _ in group for pair in wanted))
    self._opinions = dict(zip(pairs, self._judge(pairs), strict=True))
    unbooked = dict(self._opinions)

    def book(wanted: Sequence[StepPair], trajectory: Trajectory) -> Trajectory:
      ledger = trajectory.ledger
      for opinion in (unbooked.pop(pair) for pair in wanted if pair in unbooked):
        ledger = ledger + opinion.ledger
      return dataclasses.replace(trajectory, ledger=ledger)

    return [[book(wanted, t) for wanted, t in group] for group in needed]

  def _undecided_pairs(self, start: RolloutStart, trajectory: Trajectory, rule: str) -> list[StepPair]:
    """The pairs of one rollout that decide its tier and that execution leaves undecided."""
    answers = make_answer_comparator(self._grader, start.question)
    recorded = select_recorded_steps(trajectory, start.correction, rule)
    first = trajectory.steps[trajectory.prefix_steps] if recorded else None
    return [_make_pair(start, first, r) for r in recorded if first and compare_steps(first, r, answers) == "undecided"]

  def comparator_for(self, start: RolloutStart) -> StepComparator:
    """The comparator of two steps from the state of a start."""
    answers = make_answer_comparator(self._grader, start.question)

    def same(new: Step, recorded: Step) -> StepVerdict:
      verdict = compare_steps(new, recorded, answers)
      if verdict == "undecided" and self._judge is not None:
        verdict = VERDICT_OF_BOOL[self._opinions[_make_pair(start, new, recorded)].same]
      self._verdict_counts[verdict] += 1
      return verdict

    return same

  def metrics(self) -> dict[str, float]:
    """Share of each verdict among the comparisons that decided tiers; empty without comparisons."""
    return divide_sums(
      {f"steps_{name}": self._verdict_counts[name] for name in get_args(StepVerdict)}, self._verdict_counts.total()
    )


def _make_pair(start: RolloutStart, new: Step, recorded: Step) -> StepPair:
  """The pair as the judge's key: without authors and tokens, which do not affect an opinion."""
  prefix, first, second = start.prefix.steps, _bare(new), _bare(recorded)
  return StepPair(start.question.text, tuple(map(_bare, prefix)), first, second)


def _bare(step: Step) -> Step:
  """The step without its author and tokens."""
  return dataclasses.replace(step, author="student", tokens=(), logprobs=(), observation_tokens=())
