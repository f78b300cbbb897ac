"""Where the short rollouts of RL begin: the verified prefixes before surviving corrections (paper, RL data).

MERGED Mentored problem solving: the student acts, the teacher changes only the earliest error, the student goes on.

All questions go through a round together (paper, MPS):
  1. the student rolls out; what is graded right is done;
  2. the teacher names the earliest step of each failure that needs correction;
  3. it supplies that step, which really runs in the state before it, and another one if the student does not succeed
     from it (`draws`);
  4. all after it is dropped and the student goes on with a fresh budget of acts, unless that step submits;
  5. from 2. again, up to the limit of corrections. A correction at or before an
     earlier one replaces it; success validates those that survive.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.model.decoder import Weights
from score_jax.tasks.splits import hash_fraction
from score_jax.teaching.teacher import Finding, Teacher
from score_jax.trajectory import Correction, Ledger, Question, Step, Trajectory, sum_ledgers


@dataclasses.dataclass(frozen=True)
class RolloutStart:
  """A state from which a group of rollouts begins, and what its first step is compared with."""

  question: Question
  prefix: Trajectory  # the prefix
  correction: Correction | None  # None: outcome reward only
  horizon: int  # the horizon, H - (k - 1)


#: rl.prefix -> which of the surviving corrections, in the order of their places, have a start: the last is the paper's
PREFIX_CHOICES = {"last": slice(-1, None), "first": slice(1), "all": slice(None)}


def build_rollout_starts(
  mentored: Iterable[MentoredQuestion],
  *,
  acts: int,
  prefix: str,
  fresh_horizon: bool,
  keep_unaided: float,
  keep_hard: float,
  salt: str,
) -> tuple[list[RolloutStart], int]:
  """The starting points of some mentored questions, and how many corrections lay beyond the horizon.

  Corrected first thoughts, unaided solves (kept with probability `keep_unaided`) and what could not be taught (kept
  with `keep_hard`) start at the question with the outcome reward alone. With `fresh_horizon` every start has H acts.

  Raises:
    UserError: there is no such `prefix`.
  """
  if prefix not in PREFIX_CHOICES:
    raise UserError(f"rl.prefix = {prefix!r}; choose from {', '.join(PREFIX_CHOICES)}")
  result: list[RolloutStart] = []
  beyond = 0
  for case in mentored:
    question = case.question
    at_start = RolloutStart(question, empty_trajectory(question), None, acts)
    if case.outcome != "solved":
      keep = {"unaided": keep_unaided, "quarantined": 0.0}.get(case.outcome, keep_hard)
      result += [at_start] if hash_fraction(question, salt) < keep else []
      continue
    for correction in case.trajectory.corrections[PREFIX_CHOICES[prefix]]:
      horizon = acts if fresh_horizon or correction.step == 0 else acts - (correction.step - 1)
      if horizon < 1:
        beyond += 1
      elif correction.step == 0:
        result.append(at_start)
      else:
        result.append(RolloutStart(question, case.trajectory.prefix(correction.step), correction, horizon))
  return result, beyond


MentoringOutcome = Literal[
  "unaided",  # the student got there alone
  "solved",  # with corrections, all that survive validated by success
  "hard",  # the teacher does not get there itself
  "undecided",  # something went wrong, but what was drawn does not say at which step
  "unlocated",  # no step could be named, or no replacement found
  "not_kept",  # still wrong after the last correction allowed
  "quarantined",  # a host failed or a state could not be rebuilt: nobody's fault, nothing learnt
]


@dataclasses.dataclass(frozen=True)
class MentoringRound:
  """What one round found on a question, and what the corrections that it tried came to."""

  finding: Finding
  lifts: tuple[float, ...] = ()  # of each correction for which it was measured, without the try that decides


@dataclasses.dataclass(frozen=True)
class MentoredQuestion:
  """What became of one question."""

  question: Question
  trajectory: Trajectory
  outcome: MentoringOutcome
  first_error: int | None  # step of the first error located, if one was
  ledger: Ledger  # of student and teacher together; what decides the outcome, and nothing else
  failed_attempt: Trajectory | None = None  # the student's first, where it was not right
  measurement_ledger: Ledger = Ledger()  # of what was drawn only to measure the lift of corrections
  rounds: tuple[MentoringRound, ...] = ()


@dataclasses.dataclass
class _Case:
  """A question on its way through the rounds."""

  question: Question
  trajectory: Trajectory
  outcome: MentoringOutcome | None = None
  first_error: int | None = None
  ledger: Ledger = Ledger()
  measured: Ledger = Ledger()
  attempt: Trajectory | None = None
  rounds: list[MentoringRound] = dataclasses.field(default_factory=list)

  def settle(self, trajectory: Trajectory, right: MentoringOutcome) -> None:
    """Takes the student's new trajectory; done when it is right or unsound."""
    self.trajectory = trajectory
    if trajectory.right:
      self.outcome = right
    elif not trajectory.judged:
      self.outcome = "quarantined"

  def done(self) -> MentoredQuestion:
    outcome = self.outcome or "not_kept"
    return MentoredQuestion(
      self.question,
      self.trajectory,
      outcome,
      self.first_error,
      self.ledger,
      self.attempt,
      self.measured,
      tuple(self.rounds),
    )


@dataclasses.dataclass
class _Place:
  """The step of a case that a round corrects."""

  case: _Case
  failed: Trajectory  # which has the step
  finding: Finding
  made: bool = False  # some replacement of it was found
  redrawn: list[Trajectory] = dataclasses.field(default_factory=list)  # from before it, to measure lift
  lifts: list[float] = dataclasses.field(default_factory=list)


def mentor_questions(
  questions: Sequence[Question],
  *,
  student: Agent,
  weights: Weights,
  teacher: Teacher,
  acts: int,
  corrections: int,
  tries: int,
  draws: int = 1,
  report: Callable[[str], None],
  name: str = "mps",
  attempts: Sequence[Trajectory] | None = None,
) -> list[MentoredQuestion]:
  """Runs the rounds.

  Args:
    weights: the student's.
    acts: H, the budget of every student rollout.
    corrections: the most rounds of correction.
    tries: student rollouts after each correction, and as many from before it, to measure its lift; of those after it
      the first that is judged goes on, and is no part of the measurement. 1 measures none.
    draws: the most replacements of one step that are tried in one round, as long as the student does not succeed and
      the teacher has more.
    report: told of each round in a line.
    name: of its draws, which keeps them from another mentoring's.
    attempts: the student's first trajectories, where they are there already; their costs are booked all the same.
  """
  if attempts is None:
    starts = [RolloutRequest(f"{name}/{q.id}", q, empty_trajectory(q), acts) for q in questions]
    attempts = [group[0] for group in student.rollout(weights, starts)]
  cases = [_Case(q, empty_trajectory(q)) for q in questions]
  for case, attempt in zip(cases, attempts, strict=True):
    case.ledger = case.ledger + attempt.ledger
    case.settle(attempt, "unaided")
    case.attempt = None if attempt.right else attempt
  for round_ in range(1, corrections + 1):
    open_ = [c for c in cases if c.outcome is None]
    report(f"round {round_}: {len(open_)} of {len(cases)} questions need correction")
    if not open_:
      break
    _correct(open_, teacher, draws, f"{name}/{round_}", _GoingOn(student, weights, acts, tries))
  return [case.done() for case in cases]


def _correct(cases: Sequence[_Case], teacher: Teacher, draws: int, name: str, student: _GoingOn) -> None:
  """One round, of that name, for the cases that are still wrong."""
  findings = teacher.locate([(c.question, c.trajectory) for c in cases], name=name)
  places: list[_Place] = []
  for case, finding in zip(cases, findings, strict=True):
    case.ledger = case.ledger + finding.ledger
    if finding.verdict == "located":
      places.append(_Place(case, case.trajectory, finding))
      case.first_error = finding.step if case.first_error is None else case.first_error
    else:
      case.outcome = finding.verdict
      case.rounds.append(MentoringRound(finding))
  open_ = places
  for draw in range(draws):
    open_ = _replace(open_, teacher, student, name if draw == 0 else f"{name}/draw{draw}")
  for place in places:
    place.case.rounds.append(MentoringRound(place.finding, tuple(place.lifts)))
    if not place.made and not place.finding.may_relocate:
      place.case.outcome = "unlocated"


def _replace(places: Sequence[_Place], teacher: Teacher, student: _GoingOn, name: str) -> list[_Place]:
  """The student goes on from one replacement of each step; those of which another can be tried."""
  proposals = teacher.correct([(p.case.question, p.failed, p.finding) for p in places])
  pending: list[tuple[_Place, Trajectory]] = []
  for place, proposal in zip(places, proposals, strict=True):
    place.case.ledger = place.case.ledger + proposal.ledger
    if proposal.step is not None:
      pending.append((place, apply_correction(place.failed, place.finding, proposal.step)))
      place.finding = dataclasses.replace(
        place.finding, tried_replacements=(*place.finding.tried_replacements, proposal.step)
      )
      place.made = True
  student(pending, name)
  return [p for p, proposal in zip(places, proposals, strict=True) if proposal.has_more and p.case.outcome is None]


def apply_correction(trajectory: Trajectory, finding: Finding, replacement: Step) -> Trajectory:
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


@dataclasses.dataclass(frozen=True)
class _GoingOn:
  """The student goes on from each correction, and, to measure its lift, from before it."""

  student: Agent
  weights: Weights
  acts: int
  tries: int

  def __call__(self, pending: Sequence[tuple[_Place, Trajectory]], name: str) -> None:
    after = [
      RolloutRequest(f"{name}/after/{p.case.question.id}", p.case.question, t, self.acts, self.tries)
      for p, t in pending
    ]
    unmeasured = [(p, t) for p, t in pending if self.tries > 1 and not p.redrawn]
    before = [
      RolloutRequest(
        f"{name}/before/{p.case.question.id}", p.case.question, t.prefix(t.prefix_steps - 1), self.acts, self.tries
      )
      for p, t in unmeasured
    ]
    groups = self.student.rollout(self.weights, [*after, *before])
    for (place, _), redrawn in zip(unmeasured, groups[len(pending) :], strict=True):
      place.redrawn = redrawn
      place.case.measured = place.case.measured + sum_ledgers(t.ledger for t in redrawn)
    for (place, start), went_on in zip(pending, groups, strict=False):
      _settle(place, start, went_on)


def _settle(place: _Place, start: Trajectory, went_on: Sequence[Trajectory]) -> None:
  """The first try that is judged decides; those before it were failed by a host, those after it measure."""
  case = place.case
  decides = next((i for i, t in enumerate(went_on) if t.judged), 0)
  measures = went_on[decides + 1 :]
  case.ledger = case.ledger + sum_ledgers(t.ledger for t in went_on[: decides + 1])
  case.measured = case.measured + sum_ledgers(t.ledger for t in measures)
  values = _lift(measures, place.redrawn)
  if "lift" in values:
    place.lifts.append(values["lift"])
  verified = "student_success" if went_on[decides].right else ""
  marked = [
    dataclasses.replace(
      c, verified=verified, values={**c.values, **(values if c.step == start.prefix_steps - 1 else {})}
    )
    for c in start.corrections
  ]
  case.settle(dataclasses.replace(went_on[decides], corrections=tuple(marked)), "solved")


def _lift(went_on: Sequence[Trajectory], redrawn: Sequence[Trajectory]) -> dict[str, float]:
  """The shares that are right and their difference; of no judged try there is none."""
  judged = {"corrected": [t.right for t in went_on if t.judged], "redrawn": [t.right for t in redrawn if t.judged]}
  shares = {name: sum(right) / len(right) for name, right in judged.items() if right}
  return shares | ({"lift": shares["corrected"] - shares["redrawn"]} if len(shares) == 2 else {})
