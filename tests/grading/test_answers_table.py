"""Right answers written in other ways, and near misses, for the graders of all benchmarks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from score_jax.grading.graders import GRADED_BENCHMARKS, Grader, make_grader
from score_jax.grading.math_grader import MathGrader
from score_jax.trajectory import Question
from tests.grading.answers_table import RIGHT, WRONG


@pytest.fixture(scope="module")
def graders() -> Iterator[dict[str, Grader]]:
  made = {benchmark: make_grader(benchmark) for benchmark in GRADED_BENCHMARKS}
  yield made
  for one in made.values():
    if isinstance(one, MathGrader):
      one.close()


def test_the_tables_have_a_hundred_rows_each_and_all_benchmarks() -> None:
  for table in (RIGHT, WRONG):
    assert len(set(table)) == len(table) >= 100
    assert {benchmark for benchmark, _, _ in table} == {*GRADED_BENCHMARKS}


@pytest.mark.parametrize(("benchmark", "gold", "answer"), RIGHT)
def test_other_ways_of_writing_the_gold_are_right(
  graders: dict[str, Grader], benchmark: str, gold: str, answer: str
) -> None:
  assert graders[benchmark](Question("q", "?", gold), answer)[0] == 1.0


@pytest.mark.parametrize(("benchmark", "gold", "answer"), WRONG)
def test_near_misses_are_not_right(graders: dict[str, Grader], benchmark: str, gold: str, answer: str) -> None:
  grade, reason = graders[benchmark](Question("q", "?", gold), answer)
  assert grade != 1.0
  assert reason
  assert "\n" not in reason
