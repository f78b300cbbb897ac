"""Locates errors by continuations: a teacher that needs no prompting, and the verification of a step that was named.

V(k) is the chance that a continuation after the first k steps ends right. A judge model (teacher or student) draws
M continuations of each prefix; the grader counts the right ones. The error is the first step over which V falls
(falls.py). No reference answer is shown to a model. Continuations that a host or the grader failed do not count; if all
of a prefix failed, they are drawn once more.

`CounterfactualTeacher.correct` gives one step of the teacher's. It must run and differ from the mistake. If the teacher
is the judge, it is the commonest valid first step of its right continuations; without one, the teacher draws a step.

`verify_located` tests a step that another teacher named:

    confirmed     V falls over this one step: located = "both"
    undecided     V(k) < delta, too few continuations, or hosts failed all of them: the name stays, located = "prompted"
    contradicted  V was high enough to fall and did not by delta: unlocated. No other step is tried, since the
                  diagnosis fits only this one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.model.decoder import Weights
from score_jax.teaching.asking import repeats_a_mistake
from score_jax.teaching.falls import TERMINAL_VALUE, FallTest, ValueEstimate, locate_fall, next_bisection_prefixes
from score_jax.teaching.teacher import Finding, Proposal
from score_jax.trajectory import Ledger, Question, Step, Trajectory, sum_ledgers

PrefixSearch = Literal[
  "every",  # V of all prefixes
  "halving",  # bisection: assumes that V never rises again once it has fallen
]


class CounterfactualTeacher:
  """Locates and corrects by continuations, and demonstrates by its own rollouts."""

  def __init__(
    self,
    agent: Agent,
    weights: Weights,
    *,
    judge: tuple[Agent, Weights],
    continuations: int,
    rule: FallTest,
    acts: int,
    search: PrefixSearch = "every",
  ):
    """
    Args:
      agent: samples the teacher, for demonstrations and corrections.
      judge: samples the continuations that estimate V: the teacher or the student.
      continuations: M, per prefix.
      rule: the test for a fall of V.
      acts: H, the budget of acts of each continuation.
      search: which prefixes get continuations.
    """
    self._agent, self._weights, self._judge = agent, weights, judge
    self.rule, self._search = rule, search
    self._continuations, self._acts = continuations, acts
    self._values: dict[tuple[int, ...], ValueEstimate] = {}

  def demonstrate(self, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    """The teacher's own rollouts, one per question."""
    return self.finish([(q, empty_trajectory(q)) for q in questions], name=name)

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    """The teacher's rollouts from the given prefixes."""
    requests = [RolloutRequest(f"{name}/{q.id}", q, start, self._acts) for q, start in begun]
    return [group[0] for group in self._agent.rollout(self._weights, requests)]

  def estimate_values(
    self, starts: Sequence[tuple[Question, Trajectory]], *, name: str
  ) -> list[tuple[ValueEstimate, Ledger]]:
    """V after each prefix, with its cost; estimates that are known already cost nothing."""
    unknown = {s.context(): (q, s) for q, s in starts if s.context() not in self._values}
    found = self._estimate(unknown, name)
    failed = {context: unknown[context] for context, (value, _) in found.items() if value.success_rate is None}
    for context, (value, cost) in self._estimate(failed, f"{name}/again").items():
      found[context] = value, found[context][1] + cost
    # an estimate without a verdict is not kept: the next round draws it anew
    self._values |= {context: value for context, (value, _) in found.items() if value.success_rate is not None}
    costs = {context: cost for context, (_, cost) in found.items()}
    contexts = [start.context() for _, start in starts]
    return [(self._values.get(c) or found[c][0], costs.pop(c, Ledger())) for c in contexts]

  def _estimate(
    self, starts: dict[tuple[int, ...], tuple[Question, Trajectory]], name: str
  ) -> dict[tuple[int, ...], tuple[ValueEstimate, Ledger]]:
    """V and the cost of the judge's continuations, by context."""
    if not starts:
      return {}
    agent, weights = self._judge
    requests = [
      self._continuation_request(name, q, start, self._acts, self._continuations) for q, start in starts.values()
    ]
    groups = agent.rollout(weights, requests)
    return {c: (_estimate_from(g), sum_ledgers(t.ledger for t in g)) for c, g in zip(starts, groups, strict=True)}

  def _continuation_request(
    self, name: str, question: Question, start: Trajectory, acts: int, copies: int
  ) -> RolloutRequest:
    """A request for continuations. Its name has a hash of the prefix, so each prefix has its own random draws."""
    digest = hashlib.sha256(json.dumps(start.context()).encode()).hexdigest()[:12]
    return RolloutRequest(f"{name}/{question.id}/{digest}", question, start, acts, copies)

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    """Finds the first fall of V in each trajectory; all prefixes of a round are drawn in one call."""
    searches = [_SearchState.at(trajectory) for _, trajectory in failed]
    while wanted := [(i, k) for i, one in enumerate(searches) for k in self._next_prefixes(one)]:
      starts = [(failed[i][0], failed[i][1].prefix(k)) for i, k in wanted]
      for (i, k), (value, cost) in zip(wanted, self.estimate_values(starts, name=name), strict=True):
        searches[i].values[k] = value
        searches[i].cost = searches[i].cost + cost
    return [dataclasses.replace(self._find(one.values, one.count), ledger=one.cost) for one in searches]

  def _next_prefixes(self, state: _SearchState) -> list[int]:
    """The prefixes of a trajectory that need continuations next."""
    if self._search == "halving":
      return next_bisection_prefixes(state.values, state.count, self.rule)
    return [k for k in range(state.count) if k not in state.values]

  def _find(self, values: dict[int, ValueEstimate], count: int) -> Finding:
    """The verdict on a trajectory; V can be estimated at its first `count` prefixes.

    "hard" needs the teacher as judge. With the student as judge, a low V says only that the student fails, which is
    known.
    """
    drawn = tuple((k, v.successes, v.tries) for k, v in sorted(values.items()) if not v.terminal)
    start = values[0].success_rate if 0 in values else None
    shares = {} if start is None else {"start": start}
    if start is not None and self._judge[0].author == "teacher" and not self.rule.can_fall(values[0]):
      return Finding("hard", values=shares, prefix_counts=drawn)
    found, k = locate_fall(values, self.rule, tested=max(count - 1, 1))
    match found:
      case "located":
        return self._make_finding(k, values, drawn)
      case "failed":
        return Finding("quarantined", prefix_counts=drawn)
      case "level":
        return Finding("unlocated", values=shares, prefix_counts=drawn)
      case _:
        return Finding("undecided", values=shares, prefix_counts=drawn)

  def _make_finding(self, k: int, values: dict[int, ValueEstimate], drawn: tuple[tuple[int, int, int], ...]) -> Finding:
    """The finding of step k, with the rates before and after it."""
    before, after = values[k], values[k + 1]
    assert before.success_rate is not None and after.success_rate is not None
    behind = "nothing can follow it" if after.terminal else f"{after.successes} of {after.tries} from after it"
    return Finding(
      "located",
      step=k,
      diagnosis=f"{before.successes} of {before.tries} continuations from before it end right; {behind}",
      values={"before": before.success_rate, "after": after.success_rate},
      candidates=before.first_steps,
      located="counterfactual",
      prefix_counts=drawn,
    )

  def correct(self, located: Sequence[tuple[Question, Trajectory, Finding]]) -> list[Proposal]:
    """One step of the teacher's for each, none that was tried there; None: the drawn step is not valid."""
    known = {i: step for i, (_, t, f) in enumerate(located) if (step := self._known_correction(t, f))}
    asked = [i for i in range(len(located)) if i not in known]
    requests = [self._one_step_request(*located[i]) for i in asked]
    groups = self._agent.rollout(self._weights, requests)
    drawn = {i: trajectory for i, (trajectory,) in zip(asked, groups, strict=True)}
    return [
      Proposal(known[i], has_more=True)
      if i in known
      else Proposal(_first_step_if_valid(drawn[i], trajectory, finding), drawn[i].ledger, has_more=True)
      for i, (_, trajectory, finding) in enumerate(located)
    ]

  def _known_correction(self, trajectory: Trajectory, finding: Finding) -> Step | None:
    """The commonest valid first step of the teacher's right continuations."""
    if self._judge[0].author != "teacher":
      return None
    value = self._values.get(trajectory.context(finding.step))
    steps = finding.candidates or (value.first_steps if value else ())
    return next((step for step in steps if _is_valid_correction(step, trajectory, finding)), None)

  def _one_step_request(self, question: Question, trajectory: Trajectory, finding: Finding) -> RolloutRequest:
    """A request for one step. In the place of a plan one act is drawn after it and dropped."""
    name = f"correct/{len(finding.tried_replacements)}" if finding.tried_replacements else "correct"
    return self._continuation_request(name, question, trajectory.prefix(finding.step), 1, 1)


@dataclasses.dataclass
class _SearchState:
  """The estimates for a failed trajectory so far."""

  count: int  # prefixes that can be continued
  values: dict[int, ValueEstimate]
  cost: Ledger = Ledger()

  @classmethod
  def at(cls, trajectory: Trajectory) -> _SearchState:
    """A search without draws. If no act can follow the last step, V after it is known to be 0.

    At the step limit one can: continuations have a budget of their own.
    """
    steps = len(trajectory.steps)
    return cls(steps + 1, {}) if trajectory.status == "step_limit" else cls(steps, {steps: TERMINAL_VALUE})


def _first_step_if_valid(drawn: Trajectory, trajectory: Trajectory, finding: Finding) -> Step | None:
  """The first step that was drawn, if it is valid."""
  steps = drawn.steps[drawn.prefix_steps :]
  return steps[0] if steps and _is_valid_correction(steps[0], trajectory, finding) else None


def _is_valid_correction(step: Step, trajectory: Trajectory, finding: Finding) -> bool:
  """Whether a step can be the correction: it ran, and repeats neither a mistake nor a step that was tried there."""
  ran = step.kind == "first_thought" or (step.kind == "act" and step.reason == "ok")
  return ran and not repeats_a_mistake(step, trajectory, finding)


def _estimate_from(group: Sequence[Trajectory]) -> ValueEstimate:
  """The estimate of V from a prefix's continuations, with the first steps of the right ones, commonest first."""
  judged = [t for t in group if t.judged]
  right = [t for t in judged if t.right]
  firsts: dict[tuple[str, str], Step] = {}
  order: Counter[tuple[str, str]] = Counter()
  for step in (t.steps[t.prefix_steps] for t in right):
    key = (step.thought, step.code)
    firsts.setdefault(key, step)
    order[key] += 1
  return ValueEstimate(len(right), len(judged), tuple(firsts[key] for key, _ in order.most_common()))


def count_success_by_depth(
  teacher: CounterfactualTeacher, right: Sequence[tuple[Question, Trajectory]]
) -> tuple[dict[str, dict[str, int]], Ledger]:
  """The judge's successes and tries from prefixes of right student trajectories, by number of steps; and the cost.

  A teacher that can continue the student's steps succeeds there as often as after its own.
  """
  prefixes = [(q, t.prefix(k)) for q, t in right for k in range(len(t.steps))]
  table: dict[str, dict[str, int]] = {}
  cost = Ledger()
  for (_, prefix), (value, spent) in zip(prefixes, teacher.estimate_values(prefixes, name="depth"), strict=True):
    row = table.setdefault(str(len(prefix.steps)), {"successes": 0, "tries": 0})
    row["successes"] += value.successes
    row["tries"] += value.tries
    cost = cost + spent
  return table, cost


def require_same_tokens(student: Sequence[str], teacher: Sequence[str]) -> None:
  """Rejects a teacher with another vocabulary than the student's.

  A counterfactual teacher continues the student's tokens; a distillation teacher scores them.
  """
  if list(student) != list(teacher):
    raise UserError(
      "teacher.path and student.path have different tokenizers; this teacher reads the student's very tokens: "
      "give two sizes of one family"
    )


def verify_located(
  findings: Sequence[Finding],
  failed: Sequence[tuple[Question, Trajectory]],
  judge: CounterfactualTeacher,
  *,
  name: str,
) -> list[Finding]:
  """The findings after the test. Each that named a step gets the values `before` and `after`.

  The continuations of all prefixes are drawn in one call.
  """
  named = [(f, q, t) for f, (q, t) in zip(findings, failed, strict=True) if f.verdict == "located"]
  prefixes = [[(q, t.prefix(k)) for k in _prefix_lengths(f.step, t)] for f, q, t in named]
  values = iter(judge.estimate_values([start for starts in prefixes for start in starts], name=name))
  checked: list[Finding] = []
  for (finding, _, _), starts in zip(named, prefixes, strict=True):
    found = [next(values) for _ in starts]
    before, after = [*(value for value, _ in found), TERMINAL_VALUE][:2]
    spent = finding.ledger + sum_ledgers(cost for _, cost in found)
    checked.append(_apply_test(dataclasses.replace(finding, ledger=spent), before, after, judge.rule))
  result = iter(checked)
  return [next(result) if f.verdict == "located" else f for f in findings]


def _prefix_lengths(step: int, trajectory: Trajectory) -> tuple[int, ...]:
  """Numbers of steps kept: before the step and, unless no act can follow it (an answer, the end), after it."""
  last = step + 1 == len(trajectory.steps) and trajectory.status != "step_limit"
  return (step,) if last else (step, step + 1)


def _apply_test(finding: Finding, before: ValueEstimate, after: ValueEstimate, rule: FallTest) -> Finding:
  """The finding after the test: confirmed, undecided (unchanged but for its values) or contradicted."""
  k = finding.step
  values = {k: before, k + 1: after}
  shares = {"before": before.success_rate, "after": after.success_rate}
  tested_finding = dataclasses.replace(
    finding,
    values={name: share for name, share in shares.items() if share is not None},
    prefix_counts=tuple((at, v.successes, v.tries) for at, v in values.items() if not v.terminal),
  )
  if before.success_rate is None or after.success_rate is None or not rule.can_fall(before):
    return tested_finding
  if rule.detects_fall(before, after, tested=1):
    return dataclasses.replace(tested_finding, located="both")
  if not rule.drops_by_delta(before.success_rate, after.success_rate):
    return dataclasses.replace(tested_finding, verdict="unlocated", step=-1, located="contradicted")
  return tested_finding
