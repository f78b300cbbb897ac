"""What the controls of mentoring learn from: the same failures, mended otherwise, one ingredient missing at a time.

    own_successes       no teacher: other tries of the student's from the question (rejection sampling)
    redrawn             the teacher says where; the student draws the step again
    random_corrections  the teacher writes the step, but not the earliest error's
    teacher_endings     the teacher writes the step and all after it

Each starts from the first attempts of mentoring on the SFT half of its questions,
tries as often as the teacher may correct (the endings: once), and gives at most
as many mended trajectories as mentoring did, so that no arm learns from more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from score_jax.agent.rollout import Request, at_question
from score_jax.errors import UserError
from score_jax.lessons import Lesson, halves, solved, with_unaided
from score_jax.mentor.by_lot import ByLot
from score_jax.mentor.mentoring import Mentored, mentor
from score_jax.run import Run
from score_jax.stages import weights_of
from score_jax.tasks.split import share
from score_jax.teachers import open_teacher
from score_jax.trajectory import Ledger, Question, Trajectory, total

Begun = Sequence[tuple[Question, Trajectory]]


def own_successes(run: Run, name: str) -> Lesson:
  """Rejection sampling: other tries of the student's from the question."""
  cases, failed = _failed(run)
  found, cost = _tried_again(run, name, [(case.question, at_question(case.question)) for case in failed])
  return _mended(run, name, cases, found, cost + _attempts(cases))


def redrawn(run: Run, name: str) -> Lesson:
  """The student draws the step again that the teacher located first."""
  cases, failed = _failed(run)
  found, cost = _tried_again(run, name, _before_the_error(failed))
  return _mended(run, name, cases, found, cost)


def random_corrections(run: Run, name: str) -> Lesson:
  """Mentoring once more from the same attempts, each round with a step named by lot."""
  c, (cases, failed) = run.config, _failed(run)
  weights = weights_of(run, "warm_start")
  again = mentor(
    [case.question for case in failed],
    student=run.student_agent,
    weights=weights,
    teacher=ByLot(open_teacher(run, weights), f"{c.seed}/lot"),
    acts=c.agent.acts,
    corrections=c.mps.corrections,
    tries=1,
    draws=c.mps.draws,
    report=lambda line: run.say(f"{name}: {line}"),
    name=name,
    attempts=[attempt for case in failed if (attempt := case.attempt)],
  )
  unaided = total(case.trajectory.ledger for case in cases if case.outcome == "unaided")
  return _mended(run, name, cases, solved(again), unaided + total(case.ledger for case in again))


def teacher_endings(run: Run, name: str) -> Lesson:
  """The teacher goes on to the end from before the step that it located first."""
  cases, failed = _failed(run)
  ended = open_teacher(run, weights_of(run, "warm_start")).finish(_before_the_error(failed), name=name)
  return _mended(run, name, cases, {t.question_id: t for t in ended if t.right}, total(t.ledger for t in ended))


def _failed(run: Run) -> tuple[list[Mentored], list[Mentored]]:
  """The SFT half of what was mentored, and those of it whose first attempt was wrong.

  Raises:
    UserError: the attempts are not in the workdir.
  """
  cases, _ = halves(run)
  failed = [case for case in cases if case.outcome not in ("unaided", "quarantined")]
  if not all(case.attempt for case in failed):
    folder = run.workdir.root / "trajectories/mps/attempts"
    raise UserError(f"{folder}: first attempts are missing, of a run of an earlier version; give another --workdir")
  return cases, failed


def _before_the_error(failed: Iterable[Mentored]) -> Begun:
  return [(c.question, c.attempt.prefix(c.first_error)) for c in failed if c.attempt and c.first_error is not None]


def _attempts(cases: Iterable[Mentored]) -> Ledger:
  """What the student's first attempts cost."""
  return total((case.attempt or case.trajectory).ledger for case in cases)


def _tried_again(run: Run, name: str, begun: Begun) -> tuple[dict[str, Trajectory], Ledger]:
  """From each prefix the student goes on as often as a teacher may correct.

  Returns:
    By question, the first try that is right, where one is; and what all tries cost.
  """
  c = run.config
  if not c.mps.corrections:
    return {}, Ledger()
  requests = [Request(f"{name}/{q.id}", q, prefix, c.agent.acts, c.mps.corrections) for q, prefix in begun]
  groups = run.student_agent.rollout(weights_of(run, "warm_start"), requests)
  return first_right(groups), total(t.ledger for group in groups for t in group)


def first_right(groups: Iterable[Sequence[Trajectory]]) -> dict[str, Trajectory]:
  """By question, the first right trajectory of each group that has one."""
  return {t.question_id: t for group in groups for t in reversed(group) if t.right}


def at_most(count: int, questions: Iterable[Question], salt: str) -> set[str]:
  """The ids of `count` of the questions, or of all where there are no more, chosen by hash."""
  return {q.id for q in sorted(questions, key=lambda q: share(q, salt))[:count]}


def _mended(run: Run, name: str, cases: Sequence[Mentored], found: Mapping[str, Trajectory], cost: Ledger) -> Lesson:
  """At most as many mended trajectories as SFT learns from, and the unaided ones that it does."""
  chosen = at_most(
    len(solved(cases)), (c.question for c in cases if c.question.id in found), f"{run.config.seed}/mended"
  )
  mended = {question: trajectory for question, trajectory in found.items() if question in chosen}
  lesson = with_unaided(run, name, cases, mended, cost)
  run.workdir.write_part(name, 0, lesson.material)
  return dataclasses.replace(lesson, findings={**lesson.findings, "right": len(found)})
