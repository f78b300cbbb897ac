"""A model on the mesh as teacher that is too small to be prompted: it teaches by what would happen if it went on.

From prefixes of a failed student trajectory the judge, which is the teacher itself or the student, goes on M times; the
share that the grader calls right is drawn of V(k), k the number of steps kept. The earliest error is the first step
over which V falls (falls.py). No reference answer is shown to anyone; only the grader is asked. A continuation that a
host or the grader failed is no sample of V; where all of a prefix were, they are drawn once more.

The correction is one step of the teacher's. Where the teacher's own continuations were judged it is a first step of
those from before the error that ended right, commonest first; else the teacher draws one step. It has to run, and to
differ from the mistake. If the student does not succeed from it, mentoring asks for the next one.

MERGED Whether a step that was named is where it went wrong: by what happens when it is gone on from before and after it.

V(k) is the chance that a continuation after the first k steps ends right (falls.py). A step k is

    confirmed     V falls over it, by a test of this one step: located = "both"
    undecided     V(k) < delta, so there is nothing that could fall; or it fell, and so few draws do not tell that from
                  chance; or hosts failed all of them: the name stands, located = "prompted"
    contradicted  V was high enough to fall and did not by delta: unlocated; the diagnosis speaks of this step and fits
                  no other
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
  "every",  # all prefixes
  "halving",  # those that halving comes to, on the assumption that V never rises again once it has fallen
]


class CounterfactualTeacher:
  """Locates and corrects by continuations (`locate`), and demonstrates by rolling out itself."""

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
      agent: the teacher, which demonstrates and writes the corrections.
      judge: whose continuations give V: the teacher's own, or the student's.
      continuations: M.
      rule: what counts as a fall of V.
      acts: H, the budget of every continuation.
      search: from which prefixes it is gone on.
    """
    self._agent, self._weights, self._judge = agent, weights, judge
    self.rule, self._search = rule, search
    self._continuations, self._acts = continuations, acts
    self._values: dict[tuple[int, ...], ValueEstimate] = {}

  def demonstrate(self, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    return self.finish([(q, empty_trajectory(q)) for q in questions], name=name)

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    requests = [RolloutRequest(f"{name}/{q.id}", q, start, self._acts) for q, start in begun]
    return [group[0] for group in self._agent.rollout(self._weights, requests)]

  def estimate_values(
    self, starts: Sequence[tuple[Question, Trajectory]], *, name: str
  ) -> list[tuple[ValueEstimate, Ledger]]:
    """V after each of some prefixes; what is known already costs nothing."""
    unknown = {s.context(): (q, s) for q, s in starts if s.context() not in self._values}
    found = self._drawn(unknown, name)
    failed = {context: unknown[context] for context, (value, _) in found.items() if value.success_rate is None}
    for context, (value, cost) in self._drawn(failed, f"{name}/again").items():
      found[context] = value, found[context][1] + cost
    # one without a verdict is forgotten: the next round draws it anew
    self._values |= {context: value for context, (value, _) in found.items() if value.success_rate is not None}
    costs = {context: cost for context, (_, cost) in found.items()}
    contexts = [start.context() for _, start in starts]
    return [(self._values.get(c) or found[c][0], costs.pop(c, Ledger())) for c in contexts]

  def _drawn(
    self, starts: dict[tuple[int, ...], tuple[Question, Trajectory]], name: str
  ) -> dict[tuple[int, ...], tuple[ValueEstimate, Ledger]]:
    """What the judge's continuations come to and cost, by context."""
    if not starts:
      return {}
    agent, weights = self._judge
    requests = [self._request(name, q, start, self._acts, self._continuations) for q, start in starts.values()]
    groups = agent.rollout(weights, requests)
    return {c: (_value(g), sum_ledgers(t.ledger for t in g)) for c, g in zip(starts, groups, strict=True)}

  def _request(self, name: str, question: Question, start: Trajectory, acts: int, copies: int) -> RolloutRequest:
    """Continuations of a prefix; another prefix of the same question has another name, and so draws of its own."""
    digest = hashlib.sha256(json.dumps(start.context()).encode()).hexdigest()[:12]
    return RolloutRequest(f"{name}/{question.id}/{digest}", question, start, acts, copies)

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    searches = [_Looked.at(trajectory) for _, trajectory in failed]
    while wanted := [(i, k) for i, one in enumerate(searches) for k in self._next(one)]:
      starts = [(failed[i][0], failed[i][1].prefix(k)) for i, k in wanted]
      for (i, k), (value, cost) in zip(wanted, self.estimate_values(starts, name=name), strict=True):
        searches[i].values[k] = value
        searches[i].cost = searches[i].cost + cost
    return [dataclasses.replace(self._find(one.values, one.count), ledger=one.cost) for one in searches]

  def _next(self, looked: _Looked) -> list[int]:
    """The prefixes of a trajectory that are drawn next."""
    if self._search == "halving":
      return next_bisection_prefixes(looked.values, looked.count, self.rule)
    return [k for k in range(looked.count) if k not in looked.values]

  def _find(self, values: dict[int, ValueEstimate], count: int) -> Finding:
    """The verdict on a trajectory of whose first `count` prefixes V may be drawn.

    "hard" is said of the teacher alone: where the student's continuations are judged, a low V says that the student
    fails, which was known.
    """
    drawn = tuple((k, v.successes, v.tries) for k, v in sorted(values.items()) if not v.terminal)
    start = values[0].success_rate if 0 in values else None
    shares = {} if start is None else {"start": start}
    if start is not None and self._judge[0].author == "teacher" and not self.rule.can_fall(values[0]):
      return Finding("hard", values=shares, prefix_counts=drawn)
    found, k = locate_fall(values, self.rule, tested=max(count - 1, 1))
    match found:
      case "located":
        return self._located(k, values, drawn)
      case "failed":
        return Finding("quarantined", prefix_counts=drawn)
      case "level":
        return Finding("unlocated", values=shares, prefix_counts=drawn)
      case _:
        return Finding("undecided", values=shares, prefix_counts=drawn)

  def _located(self, k: int, values: dict[int, ValueEstimate], drawn: tuple[tuple[int, int, int], ...]) -> Finding:
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
    """One step of the teacher's for each, none of those that were tried there; None: what was drawn cannot stand."""
    known = {i: step for i, (_, t, f) in enumerate(located) if (step := self._known(t, f))}
    asked = [i for i in range(len(located)) if i not in known]
    requests = [self._one_step(*located[i]) for i in asked]
    groups = self._agent.rollout(self._weights, requests)
    drawn = {i: trajectory for i, (trajectory,) in zip(asked, groups, strict=True)}
    return [
      Proposal(known[i], has_more=True)
      if i in known
      else Proposal(_first(drawn[i], trajectory, finding), drawn[i].ledger, has_more=True)
      for i, (_, trajectory, finding) in enumerate(located)
    ]

  def _known(self, trajectory: Trajectory, finding: Finding) -> Step | None:
    """The first step of the teacher's right continuations that can stand there."""
    if self._judge[0].author != "teacher":
      return None
    value = self._values.get(trajectory.context(finding.step))
    steps = finding.candidates or (value.first_steps if value else ())
    return next((step for step in steps if _stands(step, trajectory, finding)), None)

  def _one_step(self, question: Question, trajectory: Trajectory, finding: Finding) -> RolloutRequest:
    """A plan comes with the act after it, which is dropped."""
    name = f"correct/{len(finding.tried_replacements)}" if finding.tried_replacements else "correct"
    return self._request(name, question, trajectory.prefix(finding.step), 1, 1)


@dataclasses.dataclass
class _Looked:
  """What is drawn of a failed trajectory so far."""

  count: int  # of the prefixes that can be gone on from
  values: dict[int, ValueEstimate]
  cost: Ledger = Ledger()

  @classmethod
  def at(cls, trajectory: Trajectory) -> _Looked:
    """Nothing is drawn; where nothing can follow the last step, V is known after it."""
    steps = len(trajectory.steps)
    return cls(steps + 1, {}) if trajectory.status == "step_limit" else cls(steps, {steps: TERMINAL_VALUE})


def _first(drawn: Trajectory, trajectory: Trajectory, finding: Finding) -> Step | None:
  """The first step that was drawn, where it can stand."""
  steps = drawn.steps[drawn.prefix_steps :]
  return steps[0] if steps and _stands(steps[0], trajectory, finding) else None


def _stands(step: Step, trajectory: Trajectory, finding: Finding) -> bool:
  """Whether a step can be the correction: it ran, and it is neither a mistake of that place nor one tried before."""
  ran = step.kind == "first_thought" or (step.kind == "act" and step.reason == "ok")
  return ran and not repeats_a_mistake(step, trajectory, finding)


def _value(group: Sequence[Trajectory]) -> ValueEstimate:
  """Counts those with a verdict, and orders the first new steps of the right ones."""
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
  """How often the judge gets there from the prefixes of trajectories that the student got right, by number of steps.

  A teacher that is at home on the student's paths succeeds from there as often as on its own.
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
  """A counterfactual teacher goes on from the student's very tokens, one that is distilled scores them: their
  vocabularies must be one.

  Raises:
    UserError: they are not.
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
  """The findings, each that names a step with `before` and `after` among its values; all prefixes go on at once."""
  named = [(f, q, t) for f, (q, t) in zip(findings, failed, strict=True) if f.verdict == "located"]
  prefixes = [[(q, t.prefix(k)) for k in _depths(f.step, t)] for f, q, t in named]
  values = iter(judge.estimate_values([start for starts in prefixes for start in starts], name=name))
  checked: list[Finding] = []
  for (finding, _, _), starts in zip(named, prefixes, strict=True):
    found = [next(values) for _ in starts]
    before, after = [*(value for value, _ in found), TERMINAL_VALUE][:2]
    spent = finding.ledger + sum_ledgers(cost for _, cost in found)
    checked.append(_weighed(dataclasses.replace(finding, ledger=spent), before, after, judge.rule))
  result = iter(checked)
  return [next(result) if f.verdict == "located" else f for f in findings]


def _depths(step: int, trajectory: Trajectory) -> tuple[int, ...]:
  """From where it is gone on: before the step and, unless nothing can follow it (an answer, the end), after it."""
  last = step + 1 == len(trajectory.steps) and trajectory.status != "step_limit"
  return (step,) if last else (step, step + 1)


def _weighed(finding: Finding, before: ValueEstimate, after: ValueEstimate, rule: FallTest) -> Finding:
  k = finding.step
  values = {k: before, k + 1: after}
  shares = {"before": before.success_rate, "after": after.success_rate}
  weighed = dataclasses.replace(
    finding,
    values={name: share for name, share in shares.items() if share is not None},
    prefix_counts=tuple((at, v.successes, v.tries) for at, v in values.items() if not v.terminal),
  )
  if before.success_rate is None or after.success_rate is None or not rule.can_fall(before):
    return weighed
  if rule.detects_fall(before, after, tested=1):
    return dataclasses.replace(weighed, located="both")
  if not rule.drops_by_delta(before.success_rate, after.success_rate):
    return dataclasses.replace(weighed, verdict="unlocated", step=-1, located="contradicted")
  return weighed
