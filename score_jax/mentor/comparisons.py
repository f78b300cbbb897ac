"""The first new steps of rollouts against the recorded ones of their place: by execution, then by a judge."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from score_jax.mentor.equivalence import SAID, Verdict, compare, same_answer
from score_jax.mentor.reward import Same, compared_with
from score_jax.mentor.starts import Start
from score_jax.mentor.step_judge import Opinion, Pair, StepJudge
from score_jax.tasks.grade import Grader
from score_jax.trajectory import Step, Trajectory


class Comparisons:
  """The verdicts of one RL step; a new one is made for the next, so that a restarted run asks what it asked."""

  def __init__(self, grader: Grader, judge: StepJudge | None):
    self._grader, self._judge = grader, judge
    self._opinions: dict[str, Opinion] = {}
    self.verdicts: Counter[Verdict] = Counter()  # that `of` has given

  def judged(
    self, starts: Sequence[Start], groups: Sequence[Sequence[Trajectory]], rule: str
  ) -> list[list[Trajectory]]:
    """Puts what execution leaves undecided to the judge, all at once, and each pair once.

    Returns the groups, with the cost of an opinion on the first rollout that needed it.
    """
    if self._judge is None:
      return [list(group) for group in groups]
    by_rollout = [
      [(self._undecided(start, t, rule), t) for t in group] for start, group in zip(starts, groups, strict=True)
    ]
    pairs = {pair.digest: pair for group in by_rollout for found, _ in group for pair in found}
    self._opinions = dict(zip(pairs, self._judge([*pairs.values()]), strict=True))
    unbooked = dict(self._opinions)

    def booked(found: Sequence[Pair], trajectory: Trajectory) -> Trajectory:
      ledger = trajectory.ledger
      for pair in found:
        if pair.digest in unbooked:
          ledger = ledger + unbooked.pop(pair.digest).ledger
      return dataclasses.replace(trajectory, ledger=ledger)

    return [[booked(found, t) for found, t in group] for group in by_rollout]

  def _undecided(self, start: Start, trajectory: Trajectory, rule: str) -> list[Pair]:
    answers = same_answer(self._grader, start.question)
    recorded = compared_with(trajectory, start.correction, rule)
    first = trajectory.steps[trajectory.prefix_steps] if recorded else None
    return [_pair(start, first, r) for r in recorded if first and compare(first, r, answers) == "undecided"]

  def of(self, start: Start) -> Same:
    """What compares two steps from the state of a start."""
    answers = same_answer(self._grader, start.question)

    def same(new: Step, recorded: Step) -> Verdict:
      verdict = compare(new, recorded, answers)
      if verdict == "undecided" and self._judge is not None:
        verdict = SAID[self._opinions[_pair(start, new, recorded).digest].same]
      self.verdicts[verdict] += 1
      return verdict

    return same


def _pair(start: Start, new: Step, recorded: Step) -> Pair:
  return Pair(start.question.text, start.trajectory.steps, new, recorded)
