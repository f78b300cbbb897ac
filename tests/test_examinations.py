"""Records of an examination are taken for that examination alone: its weights, questions, tries and parts."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import pytest

from score_jax.evaluate import EvaluatedModel, run_benchmark
from score_jax.runtime.workdir import Workdir
from score_jax.tasks.exam import EvalSet
from score_jax.trajectory import Question, Trajectory

QUESTIONS = [Question(f"q{i}", f"What is {i} + 1?", str(i + 1)) for i in range(5)]
EXAM = EvalSet("own", QUESTIONS, 2, "accuracy")


def tried(q: Question, number: int) -> Trajectory:
  return Trajectory(q.id, q.text, (1,), status="answered", grade=float(number == 0), name=f"eval/{q.id}/{number}")


@dataclasses.dataclass
class Examined:
  """A model whose tries are counted."""

  workdir: Workdir
  asked: list[tuple[list[str], int]] = dataclasses.field(default_factory=list)

  def solve(self, questions: Sequence[Question], tries: int) -> list[list[Trajectory]]:
    self.asked.append(([q.id for q in questions], tries))
    return [
      [
        Trajectory(q.id, q.text, (1,), status="answered", grade=float(i == 0), name=f"eval/{q.id}/{i}")
        for i in range(tries)
      ]
      for q in questions
    ]

  def __call__(self, exam: EvalSet = EXAM, *, weights: str = "a" * 64, part: int = 2) -> list[list[str]]:
    """The names of the tries that an examination comes to, by question."""
    candidate = EvaluatedModel("model", self.solve, weights)
    return [[t.name for t in group] for group in run_benchmark(self.workdir, candidate, exam, part=part, log=print)]


@pytest.fixture
def examined(tmp_path: pathlib.Path) -> Examined:
  found = Examined(Workdir(str(tmp_path)))
  assert found() == [[f"eval/q{i}/0", f"eval/q{i}/1"] for i in range(5)]
  assert found.asked == [(["q0", "q1"], 2), (["q2", "q3"], 2), (["q4"], 2)]
  found.asked.clear()
  return found


def test_the_same_again_is_read(examined: Examined) -> None:
  assert examined() == [[f"eval/q{i}/0", f"eval/q{i}/1"] for i in range(5)]
  assert examined.asked == []


@pytest.mark.parametrize("tries", [1, 3, 4])
def test_another_number_of_tries_is_another_examination(examined: Examined, tries: int) -> None:
  found = examined(dataclasses.replace(EXAM, tries=tries))
  assert found == [[f"eval/q{i}/{k}" for k in range(tries)] for i in range(5)]
  assert examined.asked == [(["q0", "q1"], tries), (["q2", "q3"], tries), (["q4"], tries)]


def test_other_weights_questions_or_parts_are_other_examinations(examined: Examined) -> None:
  examined(weights="b" * 64)
  assert len(examined.asked) == 3
  examined(weights="b" * 64, part=4)
  assert [len(names) for names, _ in examined.asked[3:]] == [4, 1]
  fewer = dataclasses.replace(EXAM, questions=QUESTIONS[1:])
  assert [group[0] for group in examined(fewer, weights="b" * 64, part=4)] == [f"eval/q{i}/0" for i in range(1, 5)]
  assert examined.asked[5:] == [(["q1", "q2", "q3", "q4"], 2)]
