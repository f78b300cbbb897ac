"""A teacher that corrects, but who does not look for the error: the step is named by lot."""

from __future__ import annotations

from collections.abc import Sequence

from score_jax.mentor.teacher import Finding, Proposal, Teacher
from score_jax.tasks.split import share
from score_jax.trajectory import Question, Trajectory

#: in the place of a diagnosis
BY_LOT = "This step is to be written anew."


class ByLot:
  """Another teacher, whose `locate` a seeded hash of question and round stands in for: each step is as likely."""

  def __init__(self, teacher: Teacher, salt: str):
    self._salt = salt
    self.demonstrate, self.finish, self._correct = teacher.demonstrate, teacher.finish, teacher.correct

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    return [self._name(question, trajectory, name) for question, trajectory in failed]

  def _name(self, question: Question, trajectory: Trajectory, name: str) -> Finding:
    if not trajectory.steps:
      return Finding("unlocated")
    step = int(share(question, f"{self._salt}/{name}") * len(trajectory.steps))
    return Finding("located", step, BY_LOT, another=True)

  def correct(self, located: Sequence[tuple[Question, Trajectory, Finding]]) -> list[Proposal]:
    return self._correct(located)
