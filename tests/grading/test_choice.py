from __future__ import annotations

import pytest

from score_jax.grading.judge import Judge
from score_jax.grading.short_answers import JudgeFallback, parse_choice_letter
from score_jax.trajectory import Question


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("B", "B"),
    ("b", "B"),
    ("(B)", "B"),
    ("[b]", "B"),
    ("B.", "B"),
    ("B) Paris", "B"),
    ("B: the sum of A and C", ""),
    ("B. Paris", "B"),
    ("**B**", "B"),
    ("$\\boxed{\\text{(B)}}$", "B"),
    ("Option B", "B"),
    ("answer: B", "B"),
    ("The correct answer is (B).", "B"),
    ("The answer is: **D**", "D"),
    ("A or B", ""),
    ("A, B", ""),
    ("A/B", ""),
    ("A and not B", ""),
    ("AB", ""),
    ("Between", ""),
    ("I do not know", ""),
    ("5", ""),
    ("", ""),
  ],
)
def test_letter_by_hand(text: str, expected: str) -> None:
  assert parse_choice_letter(text) == expected


def test_a_letter_needs_no_judge() -> None:
  judged = JudgeFallback(Judge(_never, _answer))
  assert judged(Question("q", "?", "B"), "The answer is B.") == (1.0, "chose B")
  assert judged(Question("q", "?", "(B)"), "C")[0] == 0.0
  assert judged(Question("q", "?", "B"), "A or B")[0] == 0.0


def _never(prompt: str, attempt: int) -> str:
  raise AssertionError("a judge was asked")


def _answer(question: Question, answer: str) -> str:
  return answer


@pytest.mark.parametrize(
  ("gold", "answer", "grade"),
  [
    ("Marie Curie", "  marie   CURIE.", 1.0),
    ("东京大学", "「东京大学」", 1.0),
    ("1,200", "1200.0", 1.0),
    ("1200", "1201", 0.0),
    ("5 km", "5 miles", 0.0),
    ("5 km", "5 kilometers", 1.0),
    ("Marie Curie", "", 0.0),
    ("Marie Curie", "x" * 3000, 0.0),
  ],
)
def test_texts_and_numbers_need_no_judge(gold: str, answer: str, grade: float) -> None:
  assert JudgeFallback(Judge(_never, _answer))(Question("q", "?", gold), answer)[0] == grade


def test_without_a_judge_other_words_are_neither_right_nor_wrong() -> None:
  grade, reason = JudgeFallback(None)(Question("q", "?", "Marie Curie"), "Madame Curie")
  assert grade is None
  assert "judge" in reason


def test_with_a_judge_other_words_are_its_business() -> None:
  judged = JudgeFallback(Judge(lambda prompt, attempt: '{"verdict": "right", "reason": "the same person"}', _answer))
  assert judged(Question("q", "?", "Marie Curie"), "Madame Curie")[0] == 1.0
