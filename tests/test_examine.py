"""Whose records lie in a workdir: those of another identity go, and no others."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from score_jax.examine import Candidate, examine
from score_jax.tasks.exam import Exam
from score_jax.tasks.scores import Groups
from score_jax.trajectory import Question, Trajectory
from score_jax.workdir import Workdir


def test_records_of_another_identity_go_and_those_of_other_benchmarks_stay(tmp_path: pathlib.Path) -> None:
  """Two benchmarks, of which one is examined again by other weights; then all is known."""
  asked: list[str] = []

  def solve(questions: Sequence[Question], tries: int) -> Groups:
    asked.extend(q.id for q in questions)
    return [[Trajectory(q.id, q.text, (), grade=1.0)] * tries for q in questions]

  def examined(benchmark: str, weights: str) -> list[str]:
    """The questions that are asked, of two in two parts."""
    asked.clear()
    exam = Exam(benchmark, [Question(f"{benchmark}{i}", "How many?", "1") for i in range(2)], tries=2)
    examine(Workdir(str(tmp_path)), Candidate("model", solve, weights), exam, part=1, say=lambda _: None)
    return [*asked]

  assert examined("a", "1") == ["a0", "a1"]
  assert examined("b", "1") == ["b0", "b1"]
  assert examined("a", "2") == ["a0", "a1"], "another model of that name"
  assert examined("b", "1") == []
  assert examined("a", "2") == []
