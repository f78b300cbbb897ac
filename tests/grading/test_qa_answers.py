from __future__ import annotations

import json
import os
import pathlib

import pytest

from score_jax.grading.graders import make_grader
from score_jax.grading.short_answers import exact_match, normalise_answer, token_f1
from score_jax.trajectory import Question

FILES = (
  ("hotpotqa", "hotpotqa_500", 500),
  ("hotpotqa", "hotpotqa_train_1000", 1000),
  ("2wiki", "2wiki_500", 500),
  ("musique", "musique_500", 500),
  ("bamboogle", "bamboogle_125", 125),
)


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("The Beatles!", "beatles"),
    ("  a  cat, AN ape; the-end ", "cat ape theend"),
    ("1,000", "1000"),
    ("Theatre", "theatre"),
    ("", ""),
    ("The", ""),
  ],
)
def test_normalised_by_hand(text: str, expected: str) -> None:
  assert normalise_answer(text) == expected


@pytest.mark.parametrize(
  ("gold", "answer", "expected"),
  [
    ("Coahuila, Mexico", "Mexico", 2 / 3),  # precision 1, recall 1/2
    ("Mexico", "Coahuila, Mexico", 2 / 3),  # precision 1/2, recall 1
    ("the big red dog", "a red cat", 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)),  # 1 of 2, 1 of 3: 0.4
    ("one two three four", "four five six seven eight", 2 * (1 / 5) * (1 / 4) / (1 / 5 + 1 / 4)),  # 2/9
    ("New York New York", "New York", 2 / 3),  # 2 of 2, 2 of 4
    ("New York", "new new new york", 2 / 3),  # repeated words count as often as both have them: 2 of 4, 2 of 2
    ("red", "blue", 0.0),
    ("red", "", 0.0),
  ],
)
def test_f1_by_hand(gold: str, answer: str, expected: float) -> None:
  for script in ("hotpotqa", "squad"):
    assert token_f1(gold, answer, script=script) == pytest.approx(expected)


def test_yes_and_no_have_no_partial_marks_in_hotpotqas_script_and_have_in_squads() -> None:
  for gold, answer in (("yes", "yes it is"), ("no way", "no"), ("noanswer", "noanswer here")):
    assert token_f1(gold, answer, script="hotpotqa") == 0.0
    assert token_f1(gold, answer, script="squad") > 0.0
  assert token_f1("yes", "Yes.", script="hotpotqa") == 1.0


def test_what_normalising_leaves_nothing_of() -> None:
  assert token_f1("A", "the", script="squad") == 1.0
  assert token_f1("A", "the", script="hotpotqa") == 0.0
  assert token_f1("A", "", script="squad") == 0.0
  assert token_f1("+", "+", script="hotpotqa") == 1.0
  assert not exact_match("A", "the")


def test_the_best_alias_counts() -> None:
  question = Question("q", "Where?", "United States of America", aliases=("USA", "the U.S."))
  grade = make_grader("musique")
  assert grade(question, "usa") == (1.0, "exact match")
  assert grade(question, "US") == (1.0, "exact match")
  partial, reason = grade(question, "the States")
  assert partial == pytest.approx(2 * 1 * (1 / 4) / (1 + 1 / 4))
  assert reason == "no exact match, F1 0.40"
  assert grade(Question("q", "Where?", " ", aliases=("USA",)), "USA")[0] == 1.0
  assert grade(Question("q", "Where?", " "), "USA")[0] is None


def test_a_long_answer_is_wrong_at_once() -> None:
  assert make_grader("hotpotqa")(Question("q", "Who?", "x"), "x " * 500_000)[0] == 0.0


@pytest.mark.parametrize(("benchmark", "name", "count"), FILES)
def test_every_gold_has_full_marks_and_no_other_questions_gold_has(benchmark: str, name: str, count: int) -> None:
  if "SCORE_JAX_DATA" not in os.environ:
    pytest.skip(f"SCORE_JAX_DATA names no folder with qa/{name}.json")
  rows = json.loads((pathlib.Path(os.environ["SCORE_JAX_DATA"]) / "qa" / f"{name}.json").read_text())["examples"]
  golds = [row["answer"] for row in rows]
  grade = make_grader(benchmark)
  assert len(golds) == count
  assert {grade(Question("q", "?", gold), gold)[0] for gold in golds} == {1.0}
  for shift in (1, 7, 50):
    pairs = zip(golds, golds[shift:] + golds[:shift], strict=True)
    same = [(g, o) for g, o in pairs if grade(Question("q", "?", g), o)[0] == 1.0]
    assert not [(g, o) for g, o in same if sorted(normalise_answer(g).split()) != sorted(normalise_answer(o).split())]
