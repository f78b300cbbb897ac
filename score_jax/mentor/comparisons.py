"""The first new steps of rollouts against the recorded ones of their place: by execution, then by a judge."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from score_jax.mentor.equivalence import SAID, Verdict, compare, same_answer
from score_jax.mentor.groups import averages
from score_jax.mentor.reward import Same, compared_with
from score_jax.mentor.starts import Start
from score_jax.mentor.step_judge import Opinion, Pair, StepJudge
from score_jax.tasks.grade import Grader
from score_jax.trajectory import Step, Trajectory


class Comparisons:
  """The verdicts of one RL step; the next has its own, so that a run that was stopped asks again what it asked."""

  def __init__(self, grader: Grader, judge: StepJudge | None):
    self._grader, self._judge = grader, judge
    self._opinions: dict[Pair, Opinion] = {}
    self._given: Counter[Verdict] = Counter()

  def judged(
    self, starts: Sequence[Start], groups: Sequence[Sequence[Trajectory]], rule: str
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

    def booked(found: Sequence[Pair], trajectory: Trajectory) -> Trajectory:
      ledger = trajectory.ledger
      for opinion in (unbooked.pop(pair) for pair in found if pair in unbooked):
        ledger = ledger + opinion.ledger
      return dataclasses.replace(trajectory, ledger=ledger)

    return [[booked(found, t) for found, t in group] for group in needed]

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
        verdict = SAID[self._opinions[_pair(start, new, recorded)].same]
      self._given[verdict] += 1
      return verdict

    return same

  def numbers(self) -> dict[str, float]:
    """What came of the comparisons that tiers hung on, as shares of them; empty where there was none."""
    return averages({f"steps_{name}": self._given[name] for name in get_args(Verdict)}, self._given.total())


def _pair(start: Start, new: Step, recorded: Step) -> Pair:
  """The pair, without what is of no concern to anybody's opinion of it."""
  prefix, first, second = start.trajectory.steps, _bare(new), _bare(recorded)
  return Pair(start.question.text, tuple(map(_bare, prefix)), first, second)


def _bare(step: Step) -> Step:
  return dataclasses.replace(step, author="student", tokens=(), logprobs=(), observation_tokens=())
