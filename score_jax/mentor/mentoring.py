"""Mentored problem solving: the student acts, the teacher changes only the earliest error, the student goes on.

All questions go through a round together (paper, MPS):
  1. the student rolls out; what is graded right is done;
  2. the teacher names the earliest step of each failure that needs correction;
  3. it supplies that step, which really runs in the state before it;
  4. all after it is dropped and the student goes on with a fresh budget of acts, unless that step submits;
  5. from 2. again, up to the limit of corrections. A correction at or before an
     earlier one replaces it; success validates those that survive.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from score_jax.agent.rollout import Agent, Request, at_question
from score_jax.mentor.teacher import Finding, Teacher
from score_jax.model.decoder import Weights
from score_jax.trajectory import Correction, Ledger, Question, Step, Trajectory, total

Outcome = Literal[
  "unaided",  # the student got there alone
  "solved",  # with corrections, all that survive validated by success
  "hard",  # the teacher does not get there itself
  "unlocated",  # no step could be named, or no replacement found
  "not_kept",  # still wrong after the last correction allowed
  "quarantined",  # a host failed or a state could not be rebuilt: nobody's fault, nothing learnt
]


@dataclasses.dataclass(frozen=True)
class Mentored:
  """What became of one question."""

  question: Question
  trajectory: Trajectory
  outcome: Outcome
  first_error: int | None  # step of the first error located, if one was
  ledger: Ledger  # of student and teacher together; what decides the outcome, and nothing else
  attempt: Trajectory | None = None  # the student's first, where it was not right
  measured: Ledger = Ledger()  # of what was drawn only to measure the lift of corrections


@dataclasses.dataclass
class _Case:
  """A question on its way through the rounds."""

  question: Question
  trajectory: Trajectory
  outcome: Outcome | None = None
  first_error: int | None = None
  ledger: Ledger = Ledger()
  measured: Ledger = Ledger()
  attempt: Trajectory | None = None

  def settle(self, trajectory: Trajectory, right: Outcome) -> None:
    """Takes the student's new trajectory; done when it is right or unsound."""
    self.trajectory = trajectory
    self.ledger = self.ledger + trajectory.ledger
    if trajectory.right:
      self.outcome = right
    elif trajectory.status in ("tool_failure", "replay_mismatch") or trajectory.grade is None:
      self.outcome = "quarantined"


def mentor(
  questions: Sequence[Question],
  *,
  student: Agent,
  weights: Weights,
  teacher: Teacher,
  acts: int,
  corrections: int,
  tries: int,
  report: Callable[[str], None],
  name: str = "mps",
  attempts: Sequence[Trajectory] | None = None,
) -> list[Mentored]:
  """Runs the rounds.

  Args:
    weights: the student's.
    acts: H, the budget of every student rollout.
    corrections: the most rounds of correction.
    tries: student rollouts after each correction, and as many from before it, to measure its lift; the first of those
      after it is the one that goes on. 1 measures none.
    report: told of each round in a line.
    name: of its draws, which keeps them from another mentoring's.
    attempts: the student's first trajectories, where they are there already; their costs are booked all the same.
  """
  if attempts is None:
    starts = [Request(f"{name}/{q.id}", q, at_question(q), acts) for q in questions]
    attempts = [group[0] for group in student.rollout(weights, starts)]
  cases = [_Case(q, at_question(q)) for q in questions]
  for case, attempt in zip(cases, attempts, strict=True):
    case.settle(attempt, "unaided")
    case.attempt = None if attempt.right else attempt
  for round_ in range(1, corrections + 1):
    open_ = [c for c in cases if c.outcome is None]
    report(f"round {round_}: {len(open_)} of {len(cases)} questions need correction")
    if not open_:
      break
    _correct(open_, student, weights, teacher, acts, tries, f"{name}/{round_}")
  return [
    Mentored(c.question, c.trajectory, c.outcome or "not_kept", c.first_error, c.ledger, c.attempt, c.measured)
    for c in cases
  ]


def _correct(
  cases: Sequence[_Case], student: Agent, weights: Weights, teacher: Teacher, acts: int, tries: int, name: str
) -> None:
  """One round, of that name, for the cases that are still wrong."""
  findings = teacher.locate([(c.question, c.trajectory) for c in cases], name=name)
  located: list[tuple[_Case, Finding]] = []
  for case, finding in zip(cases, findings, strict=True):
    case.ledger = case.ledger + finding.ledger
    if finding.verdict == "located":
      located.append((case, finding))
      case.first_error = finding.step if case.first_error is None else case.first_error
    else:
      case.outcome = finding.verdict
  proposals = teacher.correct([(c.question, c.trajectory, f) for c, f in located])
  pending: list[tuple[_Case, Trajectory]] = []
  for (case, finding), proposal in zip(located, proposals, strict=True):
    case.ledger = case.ledger + proposal.ledger
    if proposal.step is None:
      case.outcome = "unlocated"
    else:
      pending.append((case, corrected(case.trajectory, finding, proposal.step)))
  _go_on(pending, student, weights, acts, tries, name)


def corrected(trajectory: Trajectory, finding: Finding, replacement: Step) -> Trajectory:
  """The verified prefix with the replacement at its end; what stood there and after it is dropped."""
  k = finding.step
  earlier = [c for c in trajectory.corrections if c.step == k]
  mistakes = tuple(m for c in earlier for m in c.mistakes)
  mistakes += tuple(s for s in trajectory.steps[k : k + 1] if s.author == "student")
  correction = Correction(k, mistakes, replacement, finding.diagnosis, values=finding.values, located=finding.located)
  prefix = trajectory.prefix(k)
  return dataclasses.replace(
    prefix,
    steps=(*prefix.steps, replacement),
    prefix_steps=k + 1,
    corrections=(*prefix.corrections, correction),
  )


def _go_on(
  pending: Sequence[tuple[_Case, Trajectory]], student: Agent, weights: Weights, acts: int, tries: int, name: str
) -> None:
  """The student goes on from each correction, and, to measure its lift, from before it."""
  after = [Request(f"{name}/after/{c.question.id}", c.question, t, acts, tries) for c, t in pending]
  redrawn = tries if tries > 1 else 0
  before = [
    Request(f"{name}/before/{c.question.id}", c.question, t.prefix(t.prefix_steps - 1), acts, redrawn)
    for c, t in pending
    if redrawn
  ]
  groups = student.rollout(weights, [*after, *before])
  for index, (case, start) in enumerate(pending):
    ours, theirs = groups[index], groups[len(pending) + index] if redrawn else []
    lift = _lift(ours, theirs) if redrawn else {}
    case.measured = case.measured + total(t.ledger for t in (*ours[1:], *theirs))
    verified = "student_success" if ours[0].right else ""
    marked = [
      dataclasses.replace(
        c, verified=verified, values={**c.values, **(lift if c.step == start.prefix_steps - 1 else {})}
      )
      for c in start.corrections
    ]
    case.settle(dataclasses.replace(ours[0], corrections=tuple(marked)), "solved")


def _lift(corrected_: Sequence[Trajectory], redrawn: Sequence[Trajectory]) -> dict[str, float]:
  shares = [sum(t.right for t in group) / len(group) for group in (corrected_, redrawn)]
  return {"corrected": shares[0], "redrawn": shares[1], "lift": shares[0] - shares[1]}
