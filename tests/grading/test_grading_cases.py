"""Cases aimed at the graders' faults: those of the folder that SCORE_JAX_DATA names, and a table of our own."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator

import pytest

from score_jax.grading.graders import Grader, make_grader
from score_jax.grading.math_grader import MathGrader
from score_jax.trajectory import Question
from tests.grading.aimed_answers import RIGHT, WRONG

LEAST = 0.98  # share of the folder's cases on which the graders have to agree


@pytest.fixture(scope="module")
def graders() -> Iterator[dict[str, Grader]]:
  made = {
    name: make_grader(name) for name in ("math500", "gsm8k", "gsm_hard", "hle", "xbench", "webwalkerqa", "aime24")
  }
  yield made
  for one in made.values():
    if isinstance(one, MathGrader):
      one.close()


def graded(graders: dict[str, Grader], benchmark: str, gold: str, answer: str) -> bool:
  return graders[benchmark](Question("q", "?", gold), answer)[0] == 1.0


def test_the_folders_cases_agree_and_none_is_wrongly_accepted(graders: dict[str, Grader]) -> None:
  if "SCORE_JAX_DATA" not in os.environ:
    pytest.skip("SCORE_JAX_DATA names no folder with cases/grading.jsonl")
  path = pathlib.Path(os.environ["SCORE_JAX_DATA"]) / "cases" / "grading.jsonl"
  cases = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
  found = [(case, graded(graders, case["benchmark"], case["gold"], case["answer"])) for case in cases]
  assert not [case for case, right in found if right and not case["right"]]
  rejected = [case for case, right in found if case["right"] and not right]
  assert len(rejected) <= (1 - LEAST) * len(cases), rejected


def test_the_table_has_a_hundred_and_fifty_cases_and_none_twice() -> None:
  assert len({*RIGHT, *WRONG}) == len(RIGHT) + len(WRONG) >= 150


@pytest.mark.parametrize(("benchmark", "gold", "answer"), RIGHT)
def test_aimed_answers_that_are_right(graders: dict[str, Grader], benchmark: str, gold: str, answer: str) -> None:
  assert graded(graders, benchmark, gold, answer)


@pytest.mark.parametrize(("benchmark", "gold", "answer"), WRONG)
def test_aimed_answers_that_are_wrong(graders: dict[str, Grader], benchmark: str, gold: str, answer: str) -> None:
  assert not graded(graders, benchmark, gold, answer)
