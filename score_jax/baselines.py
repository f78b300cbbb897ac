"""What the baselines learn from: the teacher's whole trajectories, and questions without prefixes (arms.py)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

from score_jax.agent.rollout import at_question
from score_jax.lessons import Lesson, budget, halves, mentored_questions, right_of, verified_starts, with_room
from score_jax.mentor.starts import Start
from score_jax.run import Run
from score_jax.teachers import open_teacher
from score_jax.trajectory import Question, Trajectory


def questions_of_prefixes(run: Run, name: str) -> Lesson:
  """The question of each start that `rl` has, in the same order and as often: they differ by their horizon alone.

  With rl.prefix = all a question comes as often as it has starts.
  """
  lesson = verified_starts(run, name)
  return dataclasses.replace(lesson, material=[_at(run, start.question) for start in lesson.material])


def questions_for_rl(run: Run, name: str) -> Lesson:
  """All questions of RL's half of the mentored ones, those too that `rl` leaves out, such as most of the unaided."""
  _, cases = halves(run)
  return with_room(run, name, [_at(run, case.question) for case in cases])


def all_mentored_questions(run: Run, name: str) -> Lesson:
  """Every question that mentoring had."""
  return with_room(run, name, [_at(run, question) for question in mentored_questions(run)])


def _at(run: Run, question: Question) -> Start:
  """A whole rollout, rewarded by its outcome."""
  return Start(question, at_question(question), None, run.config.agent.acts)


def _demonstrations(run: Run) -> Iterator[Trajectory]:
  """The teacher's trajectories of all training questions, round after round; rounds stay in the workdir."""
  for number in itertools.count():
    shown = run.workdir.read_part("demonstrations", number)
    if not shown:
      shown = open_teacher(run, run.student.weights).demonstrate(run.tasks.train, name=f"bc/{number}")
      run.workdir.write_part("demonstrations", number, shown)
    yield from shown


def all_demonstrations(run: Run, name: str) -> Lesson:
  """One demonstration of every training question."""
  return right_of(run, name, list(itertools.islice(_demonstrations(run), len(run.tasks.train))))


def bought_demonstrations(run: Run, name: str) -> Lesson:
  """Demonstrations for the teacher tokens of what the stage goes by."""
  return _bought(run, name, _demonstrations(run))


def planned_demonstrations(run: Run, name: str) -> Lesson:
  """The same, but after the first round they go on from the first thought of their question's first right one."""
  return _bought(run, name, _going_on_from_plans(run, name))


def _going_on_from_plans(run: Run, name: str) -> Iterator[Trajectory]:
  questions, teacher = run.tasks.train, open_teacher(run, run.student.weights)
  plans: dict[str, Trajectory] = {}
  for number in itertools.count():
    if number == 0:
      shown = list(itertools.islice(_demonstrations(run), len(questions)))
    else:
      begun = [(q, plans.get(q.id, at_question(q))) for q in questions]
      shown = teacher.finish(begun, name=f"{name}/{number}")
    yield from shown
    plans = {t.question_id: t.prefix(1) for t in shown if t.right} | plans


def _bought(run: Run, name: str, shown: Iterator[Trajectory]) -> Lesson:
  """The first trajectories that the budget of teacher tokens pays for; one a question, where teaching costs none."""
  tokens = budget(run, name, "teacher")
  bought = (
    within(tokens, shown, idle=len(run.tasks.train)) if tokens else list(itertools.islice(shown, len(run.tasks.train)))
  )
  lesson = right_of(run, name, bought)
  return dataclasses.replace(lesson, findings={**lesson.findings, "token_budget": tokens})


def within(tokens: int, shown: Iterable[Trajectory], *, idle: int) -> list[Trajectory]:
  """The first trajectories that so many teacher tokens pay for; none after `idle` in a row that cost nothing."""
  result: list[Trajectory] = []
  spent = free = 0
  for trajectory in shown:
    cost = trajectory.ledger.of("teacher").generated
    spent, free = spent + cost, 0 if cost else free + 1
    if spent > tokens or free > idle:
      break
    result.append(trajectory)
  return result
