"""Whose records lie in a workdir: those of another identity go, and no others."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from score_jax.evaluate import EvaluatedModel, run_benchmark
from score_jax.runtime.workdir import Workdir
from score_jax.tasks.exam import EvalSet, TryGroups
from score_jax.trajectory import Question, Trajectory


def test_records_of_another_identity_go_and_those_of_other_benchmarks_stay(tmp_path: pathlib.Path) -> None:
  """Two benchmarks, of which one is examined again by other weights; then all is known."""
  asked: list[str] = []

  def solve(questions: Sequence[Question], tries: int) -> TryGroups:
    asked.extend(q.id for q in questions)
    return [[Trajectory(q.id, q.text, (), grade=1.0)] * tries for q in questions]

  def examined(benchmark: str, weights: str) -> list[str]:
    """The questions that are asked, of two in two parts."""
    asked.clear()
    exam = EvalSet(benchmark, [Question(f"{benchmark}{i}", "How many?", "1") for i in range(2)], tries=2)
    run_benchmark(Workdir(str(tmp_path)), EvaluatedModel("model", solve, weights), exam, part=1, log=lambda _: None)
    return [*asked]

  assert examined("a", "1") == ["a0", "a1"]
  assert examined("b", "1") == ["b0", "b1"]
  assert examined("a", "2") == ["a0", "a1"], "another model of that name"
  assert examined("b", "1") == []
  assert examined("a", "2") == []
