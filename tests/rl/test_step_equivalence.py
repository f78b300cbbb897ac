"""Are two steps the same act: the table of verdicts, labelled paraphrases that really run, the release's mistakes."""

from __future__ import annotations

import os
import pathlib
from collections import Counter

import pytest

from score_jax.grading.numbers import grade_number
from score_jax.grading.short_answers import grade_hotpotqa
from score_jax.rl.step_equivalence import StepVerdict, compare_steps, make_answer_comparator
from score_jax.trajectory import Question, Step
from tests.configs import module
from tests.rl.paraphrases import compared

DATA = os.environ.get("SCORE_JAX_DATA", "")
RELEASE = pathlib.Path(DATA) / "score_release"

QUESTION = Question("q", "How many?", "12", aliases=("a dozen",))
PLAN = Step("first_thought", "plan: add")
MALFORMED = Step("malformed", "<thought> 12")
FOUND = "Oak: a tree\nElm: another tree"
SEARCH = "print(web_search('trees'))"


def act(observation: str = "12", reason: str = "ok", code: str = "x", answer: str | None = None) -> Step:
  return Step("act", "add", code, observation, reason, answer)


def verdict(a: Step, b: Step) -> StepVerdict:
  found = compare_steps(a, b, make_answer_comparator(grade_number, QUESTION))
  assert compare_steps(b, a, make_answer_comparator(grade_number, QUESTION)) == found
  return found


@pytest.mark.parametrize(
  ("a", "b", "expected"),
  [
    (act("12"), act("12"), "equal"),
    (act("12", code="a"), act("12 \n", code="b"), "equal"),
    (act("12"), act("Sum: 12"), "equal"),
    (act("12"), act("13"), "different"),
    (act(""), act(""), "undecided"),
    (act("12"), act(""), "undecided"),
    (act("12"), act(" \n"), "undecided"),
    (act("12"), act("11\n12"), "undecided"),
    (act("3.14"), act("2\n3.14159"), "undecided"),  # one is among the other's, rounded
    (act("3.15"), act("2\n3.14159"), "different"),
    (act("5\n12"), act("7\n12"), "different"),
    (act("5\n12"), act("12\n5"), "undecided"),
    (act("After 3 days: 5 and 12"), act("12 of 9 in all"), "undecided"),  # sentences that share a value
    (act("min: 5"), act("count: 5"), "undecided"),
    (act("5 km"), act("5000 m"), "undecided"),
    (act("5 km"), act("6 km"), "different"),
    (act("12\n... [900 characters cut] ...\n13"), act("12\n... [900 characters cut] ...\n14"), "undecided"),
    (act("12"), act("NameError", "exception"), "different"),
    (act("NameError"), act("NameError", "exception"), "different"),
    (act(""), act("", "timeout"), "different"),
    (act("NameError", "exception"), act("NameError", "exception"), "undecided"),
    (act("NameError", "exception"), act("", "timeout"), "undecided"),
    (PLAN, PLAN, "undecided"),
    (PLAN, act("12"), "undecided"),
    (MALFORMED, MALFORMED, "undecided"),
    (MALFORMED, act("12"), "different"),
    (MALFORMED, act("NameError", "exception"), "different"),
    (act("", answer="12"), act("", answer="12.0"), "equal"),
    (act("", answer="12"), act("", answer="13"), "different"),
    (act("", answer="twelve"), act("", answer=" twelve "), "equal"),
    (act("", answer="twelve"), act("", answer="12"), "undecided"),  # the grader needs a number for reference
    (act("12"), act("", answer="12"), "different"),
    (act(""), act("", answer="12"), "different"),
    (act("12", answer="12"), act("12", answer="12"), "equal"),
    (act("11", answer="12"), act("10", answer="12"), "different"),
    (act("12", answer="12"), act("", answer="12"), "undecided"),
    (act(FOUND, code=SEARCH), act("Elm: another tree\nOak: a tree", code=SEARCH), "equal"),
    (act(FOUND, code=SEARCH), act("Oak: a tree", code=SEARCH), "undecided"),
    (act(FOUND, code=SEARCH), act("Oak: a tree\nAsh: a third", code=SEARCH), "different"),
    (act(FOUND, code="print(t)"), act("Elm: another tree\nOak: a tree", code="print(t)  # web_search"), "undecided"),
    (act("no results", code=SEARCH), act("no results", code=SEARCH), "undecided"),
  ],
)
def test_the_table_of_verdicts(a: Step, b: Step, expected: StepVerdict) -> None:
  assert verdict(a, b) == expected


def test_answers_are_compared_by_the_grader_and_aliases_are_no_answers_of_the_other() -> None:
  same = make_answer_comparator(grade_hotpotqa, Question("q", "Where?", "Marlow", aliases=("Tessen",)))
  assert same("The Marlow!", "marlow") is True
  assert same("Marlow", "Tessen") is False
  assert make_answer_comparator(lambda question, answer: (None, "down"), QUESTION)("12", "13") is None


@pytest.mark.parametrize(
  ("one", "other"),
  [
    ("It is not true that x is prime", "true"),
    ("The verdict true would be wrong here", "The verdict would be wrong here"),
    ("equal", "equally wrong"),
    ("12", "112"),
    ("B", "Both of them"),
  ],
)
def test_release_mistake_8_a_verdict_is_never_a_substring(one: str, other: str) -> None:
  assert verdict(act(one), act(other)) != "equal"


def test_the_paraphrases_labelled_by_hand() -> None:
  """113 pairs of which no two are called equal that are not, nor different that are the same.

  The four that print the same by luck are equal to anyone who sees what they print; code alone tells them apart.
  """
  found = list(compared("bubblewrap"))
  table = Counter((p.truth, v) for p, v in found)
  assert table == {
    ("equal", "equal"): 51,
    ("equal", "undecided"): 13,
    ("different", "different"): 23,
    ("different", "undecided"): 6,
    ("undecidable", "undecided"): 16,
    ("undecidable", "equal"): 4,
  }
  luck = {"luck-sum-product", "luck-min-len", "luck-hard-coded", "luck-true"}
  assert {p.id for p, v in found if (p.truth, v) == ("undecidable", "equal")} == luck


@pytest.mark.skipif(not DATA or not RELEASE.exists(), reason="SCORE_JAX_DATA has no score_release")
def test_no_recorded_mistake_of_the_release_is_called_its_correction() -> None:
  """But one, whose code is its correction's to the letter: what the release held against it was the thought."""
  script = module("equivalence", "benchmarks")
  found = dict(script.mistakes(RELEASE))
  assert Counter(found.values()) == {"different": 52, "undecided": 20, "equal": 1}
  assert {place for place, verdict in found.items() if verdict == "equal"} == script.SAME_ACT
  assert {found[place] for place in script.SAME_PLACE} == {"different"}, "as the graders have it"
