"""Whether a step that was named is where it went wrong: by what happens when it is gone on from before and after it.

V(k) is the chance that a continuation after the first k steps ends right (falls.py). A step k is

    confirmed     V falls over it, by a test of this one step: located = "both"
    undecided     V(k) < delta, so there is nothing that could fall; or it fell, and so few draws do not tell that from
                  chance; or hosts failed all of them: the name stands, located = "prompted"
    contradicted  V was high enough to fall and did not by delta: unlocated; the diagnosis speaks of this step and fits
                  no other
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from score_jax.mentor.counterfactual import CounterfactualTeacher
from score_jax.mentor.falls import ENDED, Rule, Value
from score_jax.mentor.teacher import Finding
from score_jax.trajectory import Question, Trajectory, total


def confirmed(
  findings: Sequence[Finding],
  failed: Sequence[tuple[Question, Trajectory]],
  judge: CounterfactualTeacher,
  *,
  name: str,
) -> list[Finding]:
  """The findings, each that names a step with `before` and `after` among its values; all prefixes go on at once."""
  named = [(f, q, t) for f, (q, t) in zip(findings, failed, strict=True) if f.verdict == "located"]
  prefixes = [[(q, t.prefix(k)) for k in _depths(f.step, t)] for f, q, t in named]
  values = iter(judge.values([start for starts in prefixes for start in starts], name=name))
  checked: list[Finding] = []
  for (finding, _, _), starts in zip(named, prefixes, strict=True):
    found = [next(values) for _ in starts]
    before, after = [*(value for value, _ in found), ENDED][:2]
    spent = finding.ledger + total(cost for _, cost in found)
    checked.append(_weighed(dataclasses.replace(finding, ledger=spent), before, after, judge.rule))
  result = iter(checked)
  return [next(result) if f.verdict == "located" else f for f in findings]


def _depths(step: int, trajectory: Trajectory) -> tuple[int, ...]:
  """From where it is gone on: before the step and, unless nothing can follow it (an answer, the end), after it."""
  last = step + 1 == len(trajectory.steps) and trajectory.status != "step_limit"
  return (step,) if last else (step, step + 1)


def _weighed(finding: Finding, before: Value, after: Value, rule: Rule) -> Finding:
  k = finding.step
  values = {k: before, k + 1: after}
  shares = {"before": before.share, "after": after.share}
  weighed = dataclasses.replace(
    finding,
    values={name: share for name, share in shares.items() if share is not None},
    drawn=tuple((at, v.right, v.tries) for at, v in values.items() if not v.ended),
  )
  if before.share is None or after.share is None or not rule.reached(before):
    return weighed
  if rule.falls(before, after, tested=1):
    return dataclasses.replace(weighed, located="both")
  if not rule.deep(before.share, after.share):
    return dataclasses.replace(weighed, verdict="unlocated", step=-1, located="contradicted")
  return weighed
