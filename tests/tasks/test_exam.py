"""Benchmarks as they are put to models."""

from __future__ import annotations

import pathlib
import random
from typing import Any

import pytest
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.tasks import exam, questions
from score_jax.tasks.benchmarks import AVERAGES, BENCHMARKS
from tests.configs import module
from tests.tasks.sources import write_lines

MATH = [{"question": f"What is {i} and {i}?", "answer": str(2 * i)} for i in range(40)]
QA = [{"id": f"k{i}", "question": f"Who is number {i}?", "answer": f"person {i}"} for i in range(5)]


def config(folder: pathlib.Path, **more: Any) -> ConfigDict:
  c = module("evaluate").get_config()
  c.benchmarks = "math500,hotpotqa"
  c.paths.math500 = write_lines(folder / "math.jsonl", MATH)
  c.paths.hotpotqa = write_lines(folder / "qa.jsonl", QA)
  c.update(more)
  return c


def test_each_benchmark_with_its_tries_metric_and_grader(tmp_path: pathlib.Path) -> None:
  (math, qa), tasks = exam.load_eval_sets(config(tmp_path))
  assert (math.benchmark, len(math.questions), math.tries, math.metric) == ("math500", 40, 4, "accuracy")
  assert (qa.benchmark, len(qa.questions), qa.tries, qa.metric) == ("hotpotqa", 5, 4, "f1")
  assert tasks.test == [*math.questions, *qa.questions]
  seventh = next(q for q in math.questions if q.text == "What is 7 and 7?")
  person = next(q for q in qa.questions if q.answer == "person 3")
  with tasks.grader:  # type: ignore[attr-defined]
    assert tasks.grader(seventh, "28/2")[0] == 1.0  # by value; F1 would be 0
    assert tasks.grader(person, "the person")[0] == pytest.approx(2 / 3)  # by words
  assert "math500: 40 of 40 questions; the paper evaluates 500" in tasks.notes


def test_tries_are_aimes_32_and_others_4_unless_the_config_says_otherwise(tmp_path: pathlib.Path) -> None:
  path = write_lines(tmp_path / "aime.jsonl", [{"problem": "P?", "answer": "204"}])
  c = config(tmp_path, benchmarks="aime24,aime25,math500")
  c.paths.aime24 = c.paths.aime25 = path
  with pytest.raises(UserError, match="benchmarks"):
    exam.load_eval_sets(config(tmp_path, benchmarks=""))
  assert [e.tries for e in exam.load_eval_sets(c)[0]] == [32, 32, 4]
  c.tries = 2
  assert [e.tries for e in exam.load_eval_sets(c)[0]] == [2, 2, 2]


def test_fewer_questions_are_chosen_by_a_hash_whatever_their_order(tmp_path: pathlib.Path) -> None:
  [chosen, _], _ = exam.load_eval_sets(config(tmp_path, limit=4))
  shuffled = random.Random(0).sample(MATH, len(MATH))
  c = config(tmp_path, limit=4)
  c.paths.math500 = write_lines(tmp_path / "other.jsonl", shuffled)
  assert list(exam.load_eval_sets(c)[0][0].questions) == list(chosen.questions)
  assert [q.text for q in chosen.questions] != [row["question"] for row in MATH[:4]]
  longer = exam.load_eval_sets(config(tmp_path, limit=9))[0][0].questions
  assert list(longer[:4]) == list(chosen.questions)
  c.seed = 1
  assert list(exam.load_eval_sets(c)[0][0].questions) != list(chosen.questions)


def test_questions_that_the_model_was_trained_on_are_not_asked(tmp_path: pathlib.Path) -> None:
  c = config(tmp_path)
  known = {q.id for q in exam.load_eval_sets(c)[0][0].questions[:3]}
  (math, _), tasks = exam.load_eval_sets(c, without=known)
  assert len(math.questions) == 37 and not known & {q.id for q in math.questions}
  assert "math500: 3 of 40 questions are such as the model was trained on; left out" in tasks.notes


def test_word_problems_are_none_of_a_recipe_of_the_same_seed(tmp_path: pathlib.Path) -> None:
  [asked], tasks = exam.load_eval_sets(config(tmp_path, benchmarks="word_problems", limit=50))
  quickstart = module("quickstart").get_config()
  trained = questions.load_tasks(quickstart.tasks, seed=quickstart.seed)
  assert len(asked.questions) == 50 and tasks.documents
  assert not {q.id for q in asked.questions} & {q.id for q in (*trained.train, *trained.validation, *trained.test)}


def test_a_name_that_is_none_is_refused_with_the_nearest(tmp_path: pathlib.Path) -> None:
  with pytest.raises(UserError, match=r"benchmarks = 'math50': 'math50' is none; did you mean math500\?"):
    exam.load_eval_sets(config(tmp_path, benchmarks="math50"))


def test_a_file_that_is_not_there_is_refused_by_its_knob(tmp_path: pathlib.Path) -> None:
  c = config(tmp_path)
  c.paths.math500 = str(tmp_path / "none.json")
  with pytest.raises(UserError, match=r"paths\.math500 = .*none\.json"):
    exam.load_eval_sets(c)


def test_the_averages_are_over_the_methods_twelve() -> None:
  named = [name for names in AVERAGES.values() for name in names]
  assert sorted(named) == sorted(BENCHMARKS.keys() - {"gsm_hard"})
  assert module("evaluate").get_config().benchmarks.split(",") == list(AVERAGES["math_qa_average"])
