"""What graded tries come to, by hand."""

from __future__ import annotations

import pytest

from score_jax.tasks import statistics
from score_jax.tasks.exam import EvalSet, average_scores, compute_scores, score_tries
from score_jax.trajectory import Question, Status, Trajectory


def tried(question: Question, grade: float | None, answer: str = "x", status: Status = "answered") -> Trajectory:
  return Trajectory(question.id, question.text, (), status=status, answer=answer, grade=grade)


QUESTIONS = [Question(f"q{i}", f"What is {i}?", "the red fox") for i in range(3)]
FIRST, SECOND, THIRD = QUESTIONS


def test_accuracy_is_the_mean_over_questions_of_the_share_that_is_right():
  exam = EvalSet("math500", QUESTIONS, 4)
  limit = [tried(THIRD, 0.0, status="step_limit")] * 4
  groups = [[tried(FIRST, g) for g in (1.0, 0.0, 0.0, 0.0)], [tried(SECOND, 1.0)] * 4, limit]
  found = compute_scores(exam, groups)
  assert (found["accuracy"], found["exact"], found["n"], found["tries"]) == (pytest.approx(5 / 12), 5 / 12, 3, 4)
  expected = statistics.accuracy_interval([[1, 0, 0, 0], [1] * 4, [0] * 4])
  assert (found["low"], found["high"]) == (expected.low, expected.high)
  assert found["pass_at"] == {"1": pytest.approx(5 / 12), "2": pytest.approx(0.5), "4": pytest.approx(2 / 3)}
  assert (found["metric"], found["ungraded"]) == ("accuracy", 0)


def test_the_metric_of_qa_is_f1_and_exact_stands_beside_it():
  """An F1 of 1 need not be exact: the words may stand in another order."""
  exam = EvalSet("hotpotqa", QUESTIONS, 1, "f1")
  groups = [[tried(FIRST, 1.0, "Red fox.")], [tried(SECOND, 1.0, "fox red")], [tried(THIRD, 0.4, "a fox or a hen")]]
  found = compute_scores(exam, groups)
  assert found["accuracy"] == pytest.approx(0.8)
  assert found["exact"] == pytest.approx(1 / 3)
  assert found["pass_at"] == {"1": pytest.approx(1 / 3)}


def test_what_was_not_graded_is_counted_apart_and_is_no_zero():
  exam = EvalSet("math500", QUESTIONS, 2)
  lost = tried(THIRD, None, status="tool_failure")
  groups = [[tried(FIRST, 1.0), tried(FIRST, None)], [tried(SECOND, 0.0), tried(SECOND, 0.0)], [lost, lost]]
  found = compute_scores(exam, groups)
  assert found["ungraded"] == 3
  assert found["accuracy"] == 0.5  # of two questions; with zeros it would be 1/6
  assert found["n"] == 3
  assert found["low"] == statistics.accuracy_interval([[1, 0], [0, 0], [0, 0]]).low
  assert found["high"] == statistics.accuracy_interval([[1, 1], [0, 0], [1, 1]]).high
  assert found["pass_at"] == {"1": 0.5, "2": 0.0}  # of the one question with two graded tries


def test_where_nothing_was_graded_nothing_is_claimed():
  found = compute_scores(EvalSet("hle", [FIRST], 1), [[tried(FIRST, None)]])
  assert (found["accuracy"], found["exact"], found["pass_at"], found["ungraded"]) == (None, None, {"1": None}, 1)
  assert (found["low"], found["high"]) == (0.0, 1.0)


def test_an_average_weighs_benchmarks_the_same():
  large, small = EvalSet("math500", QUESTIONS, 1), EvalSet("hotpotqa", [FIRST], 1, "f1")
  marks = [score_tries(large, [[tried(q, 0.0)] for q in QUESTIONS]), score_tries(small, [[tried(FIRST, 0.5)]])]
  found = average_scores(marks)
  assert (found["accuracy"], found["n"]) == (0.25, 4)
