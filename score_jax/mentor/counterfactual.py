"""A model on the mesh as teacher that is too small to be prompted: it teaches by what would happen if it went on.

From every prefix of a failed student trajectory the teacher goes on M times; the
share that the grader calls right is V(k), k the number of steps kept. The
earliest error is the first step whose V falls by at least delta. No reference
answer is shown to anyone; only the grader is asked. The correction is a first
step of those continuations from before the error that ended right.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence

from score_jax.agent.rollout import Agent, Request, at_question
from score_jax.errors import UserError
from score_jax.mentor.teacher import Finding, Proposal
from score_jax.model.decoder import Weights
from score_jax.trajectory import Ledger, Question, Step, Trajectory, total


@dataclasses.dataclass(frozen=True)
class Value:
  """What the continuations from one prefix came to."""

  right: int  # of them ended right
  tries: int  # were not failed by the environment
  first_steps: tuple[Step, ...] = ()  # of the right ones, the first new steps, commonest first

  @property
  def share(self) -> float:
    return self.right / self.tries if self.tries else 0.0


#: nothing can follow: the answer is submitted, the turn is malformed, or the context is full
ENDED = Value(0, 0)


class CounterfactualTeacher:
  """Locates and corrects by continuations (`locate`), and demonstrates by rolling out itself."""

  def __init__(
    self, agent: Agent, weights: Weights, *, judge: tuple[Agent, Weights], continuations: int, delta: float, acts: int
  ):
    """
    Args:
      agent: the teacher, which demonstrates and writes the corrections.
      judge: whose continuations give V: the teacher's own, or the student's.
      continuations: M.
      delta: how far V must fall at a step for it to be the error.
      acts: H, the budget of every continuation.
    """
    self._agent, self._weights, self._judge = agent, weights, judge
    self.delta = delta
    self._continuations, self._acts = continuations, acts
    self._values: dict[tuple[int, ...], Value] = {}

  def demonstrate(self, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    return self.finish([(q, at_question(q)) for q in questions], name=name)

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    requests = [Request(f"{name}/{q.id}", q, start, self._acts) for q, start in begun]
    return [group[0] for group in self._agent.rollout(self._weights, requests)]

  def values(self, starts: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[tuple[Value, Ledger]]:
    """V after each of some prefixes; what is known already costs nothing."""
    requests: dict[tuple[int, ...], Request] = {}
    for question, start in starts:
      context = start.context()
      if context not in self._values and context not in requests:
        requests[context] = self._request(name, question, start)
    agent, weights = self._judge
    costs: dict[tuple[int, ...], Ledger] = {}
    for context, group in zip(requests, agent.rollout(weights, requests.values()), strict=True):
      self._values[context] = _value(group)
      costs[context] = total(t.ledger for t in group)
    return [(self._values[c], costs.pop(c, Ledger())) for c in (start.context() for _, start in starts)]

  def _request(self, name: str, question: Question, start: Trajectory) -> Request:
    """Continuations of a prefix; another prefix of the same question has another name, and so draws of its own."""
    digest = hashlib.sha256(json.dumps(start.context()).encode()).hexdigest()[:12]
    return Request(f"{name}/{question.id}/{digest}", question, start, self._acts, self._continuations)

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    counts = [len(t.steps) + (t.status == "step_limit") for _, t in failed]
    prefixes = [(q, t.prefix(k)) for (q, t), count in zip(failed, counts, strict=True) for k in range(count)]
    values = iter(self.values(prefixes, name=name))
    findings = []
    for (_, trajectory), count in zip(failed, counts, strict=True):
      known = list(itertools.islice(values, count))
      shares = [value for value, _ in known]
      if trajectory.status != "step_limit":
        shares.append(ENDED)
      findings.append(dataclasses.replace(self._find(shares), ledger=total(cost for _, cost in known)))
    return findings

  def _find(self, values: Sequence[Value]) -> Finding:
    """The earliest step over which V falls by delta."""
    if values[0].share < self.delta:
      return Finding("hard", values={"start": values[0].share})
    for k, (before, after) in enumerate(itertools.pairwise(values)):
      if before.share - after.share >= self.delta:
        return Finding(
          "located",
          step=k,
          diagnosis=f"continuations end right {before.share:.0%} of the time before it, {after.share:.0%} after it",
          values={"before": before.share, "after": after.share},
          candidates=before.first_steps,
          located="counterfactual",
        )
    return Finding("unlocated", values={"start": values[0].share})

  def correct(self, located: Sequence[tuple[Question, Trajectory, Finding]]) -> list[Proposal]:
    """The commonest first step of the teacher's right continuations; the student's own are no correction.

    From where locating did not go on, since another named the step, the teacher does so now.
    """
    if self._judge[0].author == "teacher":
      values = self.values([(q, t.prefix(f.step)) for q, t, f in located], name="correct")
      return [Proposal(next(iter(value.first_steps), None), cost) for value, cost in values]
    requests = [self._request("correct", q, t.prefix(f.step)) for q, t, f in located]
    groups = self._agent.rollout(self._weights, requests)
    return [Proposal(next(iter(_value(g).first_steps), None), total(t.ledger for t in g)) for g in groups]


def _value(group: Sequence[Trajectory]) -> Value:
  """Counts those that the environment did not fail, and orders the first new steps of the right ones."""
  sound = [t for t in group if t.status not in ("tool_failure", "replay_mismatch")]
  right = [t for t in sound if t.right]
  firsts: dict[tuple[str, str], Step] = {}
  order: Counter[tuple[str, str]] = Counter()
  for step in (t.steps[t.prefix_steps] for t in right):
    key = (step.thought, step.code)
    firsts.setdefault(key, step)
    order[key] += 1
  return Value(len(right), len(sound), tuple(firsts[key] for key, _ in order.most_common()))


def success_by_depth(
  teacher: CounterfactualTeacher, right: Sequence[tuple[Question, Trajectory]]
) -> tuple[dict[str, dict[str, int]], Ledger]:
  """How often the judge gets there from the prefixes of trajectories that the student got right, by number of steps.

  A teacher that is at home on the student's paths succeeds from there as often as on its own.
  """
  prefixes = [(q, t.prefix(k)) for q, t in right for k in range(len(t.steps))]
  table: dict[str, dict[str, int]] = {}
  cost = Ledger()
  for (_, prefix), (value, spent) in zip(prefixes, teacher.values(prefixes, name="depth"), strict=True):
    row = table.setdefault(str(len(prefix.steps)), {"successes": 0, "tries": 0})
    row["successes"] += value.right
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
