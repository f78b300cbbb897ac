"""Mentored problem solving (MPS), its records, and the RL starts that come from it.

All questions go through a round together (paper, MPS):
  1. The student rolls out. A question with a right answer is done.
  2. The teacher locates the earliest wrong step of each failure.
  3. The teacher writes another step. It is run in the state before the wrong one. If the student does not succeed from
     it, another one is tried, up to `draws` of them.
  4. All later steps are dropped. The student continues with a fresh budget of acts, unless the new step submits.
  5. Steps 2 to 4 repeat, up to the limit of corrections. A correction at or before an earlier one replaces it.
     A right answer verifies the corrections that are left.

`mentor_questions` runs the rounds. `cases_to_json` and `cases_from_json` write and read what became of each question.
`build_rollout_starts` turns the results into RL starts: the verified prefixes before corrections, or the bare question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.model.decoder import Weights
from score_jax.tasks.splits import hash_fraction
from score_jax.teaching.teacher import Finding, Teacher
from score_jax.trajectory import Correction, Ledger, Question, Step, Trajectory, sum_ledgers

MentoringOutcome = Literal[
  "unaided",  # right without a correction
  "solved",  # right with corrections; this verifies those that are left
  "hard",  # the teacher cannot solve it either
  "undecided",  # wrong, but the continuations do not say at which step
  "unlocated",  # no step was named, or no replacement was found
  "not_kept",  # still wrong after the last correction allowed
  "quarantined",  # a host or the grader failed, or a state could not be rebuilt: it is not used
]


@dataclasses.dataclass(frozen=True)
class MentoringRound:
  """One round of one question: what the teacher found, and the lifts of the corrections that were tried."""

  finding: Finding
  # success rate after a correction minus before it, where measured; the rollout that decides is left out
  lifts: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class MentoredQuestion:
  """The result of mentoring on one question."""

  question: Question
  trajectory: Trajectory  # the last one, with the corrections that are left
  outcome: MentoringOutcome
  first_error: int | None  # index of the first step that the teacher located; None: it located none
  ledger: Ledger  # student and teacher together, without what was only measured
  failed_attempt: Trajectory | None = None  # the student's first trajectory, if it was not right
  measurement_ledger: Ledger = Ledger()  # rollouts drawn only to measure the lift of corrections
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
    """Takes the student's new trajectory; the case is closed if it is right (as `right`) or could not be judged."""
    self.trajectory = trajectory
    if trajectory.right:
      self.outcome = right
    elif not trajectory.judged:
      self.outcome = "quarantined"

  def result(self) -> MentoredQuestion:
    outcome, rounds = self.outcome or "not_kept", tuple(self.rounds)
    costs = {"ledger": self.ledger, "measurement_ledger": self.measured}
    return MentoredQuestion(
      self.question, self.trajectory, outcome, self.first_error, failed_attempt=self.attempt, rounds=rounds, **costs
    )


@dataclasses.dataclass
class _Place:
  """The wrong step that a round corrects."""

  case: _Case
  failed: Trajectory  # the trajectory that has the step
  finding: Finding
  made: bool = False  # whether a replacement was found
  redrawn: list[Trajectory] = dataclasses.field(default_factory=list)  # rollouts from before it, to measure lift
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
  """Runs the rounds of mentoring on all questions; one result for each question, in order.

  Args:
    student: the agent that rolls out.
    weights: the student's weights.
    teacher: locates errors and writes the steps that replace them.
    acts: H, the budget of acts of each student rollout.
    corrections: rounds of correction, at most.
    tries: student rollouts after each correction, and as many from before it, to measure its lift. The first judged
      rollout after the correction decides and is not part of the measurement. 1 measures nothing.
    draws: replacements of one step that are tried in a round, at most. The next one is tried if the student does not
      succeed and the teacher has more.
    report: gets one line for each round.
    name: prefix of all request names. Request names seed the draws, so a second mentoring needs another one.
    attempts: the student's first trajectories, if they exist already; their costs are booked all the same.
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
  return [case.result() for case in cases]


def _correct(cases: Sequence[_Case], teacher: Teacher, draws: int, name: str, student: _GoingOn) -> None:
  """One round for the cases that are still wrong; `name` is the prefix of its request names."""
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
  """Tries one replacement of each wrong step; returns the places at which another one can be tried."""
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
  """The steps before the located one, then the replacement; the located step and all after it are dropped."""
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
  """Continues student rollouts after each correction and, to measure its lift, from before it."""

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
  """Takes the first judged rollout as the result; a host failed those before it, those after it measure the lift."""
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
  """Shares of judged rollouts that are right, after and before the correction, and their difference, the lift."""
  judged = {"corrected": [t.right for t in went_on if t.judged], "redrawn": [t.right for t in redrawn if t.judged]}
  shares = {name: sum(right) / len(right) for name, right in judged.items() if right}
  return shares | ({"lift": shares["corrected"] - shares["redrawn"]} if len(shares) == 2 else {})


# Records: trajectories/mps/cases.json has one entry for each question, in the order of the trajectories beside it.


def cases_to_json(cases: Iterable[MentoredQuestion]) -> list[dict[str, Any]]:
  """Outcome and rounds of each question; its trajectories are stored apart."""
  return [
    {
      "question": case.question.id,
      "outcome": case.outcome,
      "first_error": case.first_error,
      "rounds": [_round_to_json(one) for one in case.rounds],
    }
    for case in cases
  ]


def _round_to_json(one: MentoringRound) -> dict[str, Any]:
  """A round in numbers; `drawn` has (steps kept, right, tries) of each prefix that was continued."""
  return {
    "verdict": one.finding.verdict,
    "step": one.finding.step,
    "located": one.finding.located,
    "drawn": one.finding.prefix_counts,
    "replacements": len(one.finding.tried_replacements),
    "lifts": one.lifts,
  }


def cases_from_json(
  data: Iterable[Mapping[str, Any]],
  questions: Iterable[Question],
  trajectories: Iterable[Trajectory],
  failed_attempts: Iterable[Trajectory],
) -> list[MentoredQuestion]:
  """The mentored questions from their records. Ledgers and rounds are not read back.

  Args:
    data: what `cases_to_json` gave.
    questions: by id, those of `data` and perhaps others.
    trajectories: the last one of each case, in the order of `data`.
    failed_attempts: the first ones of the cases that have one.
  """
  by_id, attempts = {q.id: q for q in questions}, {t.question_id: t for t in failed_attempts}
  return [
    MentoredQuestion(
      by_id[c["question"]], trajectory, c["outcome"], c["first_error"], Ledger(), attempts.get(c["question"])
    )
    for c, trajectory in zip(data, trajectories, strict=True)
  ]


def summarize_cases(cases: Sequence[MentoredQuestion]) -> dict[str, Any]:
  """Counts of outcomes, corrections, located steps and lifts, as summary.json and the report show them."""
  outcomes = [case.outcome for case in cases]
  solved = [case for case in cases if case.outcome == "solved"]
  lifts = [lift for case in cases for one in case.rounds for lift in one.lifts]
  return {
    "questions": len(cases),
    "solved_unaided": outcomes.count("unaided"),
    "solved": _histogram(len(case.trajectory.corrections) for case in solved),
    **{name: outcomes.count(name) for name in ("hard", "undecided", "unlocated", "not_kept", "quarantined")},
    "first_error_step": _histogram(case.first_error for case in cases if case.first_error is not None),
    "lift_mean": float(np.mean(lifts)) if lifts else None,
    "lift_n": len(lifts),
  }


def _histogram(values: Iterable[int]) -> dict[str, int]:
  found = list(values)
  return {str(v): found.count(v) for v in sorted(set(found))}


# Where RL starts


@dataclasses.dataclass(frozen=True)
class RolloutStart:
  """A state from which a group of RL rollouts begins, and the correction that their first step is compared with."""

  question: Question
  prefix: Trajectory  # the verified steps before the correction; empty at the question
  correction: Correction | None  # None: the outcome is the only reward
  horizon: int  # acts that are left, H - (k - 1)


#: rl.prefix -> the corrections, in the order of their steps, that get a start; the paper's is "last"
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
  """RL starts of mentored questions, and the number of corrections beyond the horizon (paper, RL data).

  A solved question starts before its correction at step k, with H - (k - 1) acts, or H with `fresh_horizon`. These
  start at the question and have the outcome as their only reward: corrections of the first thought, questions solved
  unaided (kept with probability `keep_unaided`), and questions not solved (kept with `keep_hard`).

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
