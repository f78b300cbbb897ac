"""The grader of a run of several processes: the first grades, and all of them get its verdicts."""

from __future__ import annotations

from score_jax.mesh import hosts
from score_jax.tasks.grade import Grader
from score_jax.trajectory import Question


def by_first(grader: Grader) -> Grader:
  """For a grader that has processes of its own and a limit of time, whose verdicts could differ from host to host."""

  def graded(question: Question, answer: str) -> tuple[float | None, str]:
    grade, reason = hosts.from_first("grade", lambda: grader(question, answer))
    return grade, reason

  return graded
