"""The grader of each benchmark. A grader returns a grade in [0, 1] and a reason.

A grade of None means that the grader failed or abstained; such items are counted apart, never as wrong.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator
from typing import Literal

from score_jax.errors import UserError
from score_jax.grading.judge import Judge
from score_jax.grading.math_grader import MathGrader
from score_jax.grading.numbers import grade_approximate_number, grade_free_form_number, grade_number, is_aime_answer
from score_jax.grading.short_answers import JudgeFallback, grade_gaia, grade_hotpotqa, grade_squad
from score_jax.trajectory import Question

#: (question, submitted answer) -> (grade in [0, 1], or None when the grader failed; reason); it may be a context
#: manager, to be closed after use
Grader = Callable[[Question, str], tuple[float | None, str]]


class AimeGrader(MathGrader):
  """AIME: whole numbers from 0 to 999, written in any way."""

  def __call__(self, question: Question, answer: str) -> tuple[float | None, str]:
    if not is_aime_answer(question.answer):
      return None, f"the reference answer {question.answer[:40]!r} is no whole number from 0 to 999"
    return super().__call__(question, answer)


MATH_GRADERS: dict[str, Callable[[], Grader]] = {
  "aime24": AimeGrader,
  "aime25": AimeGrader,
  "math500": MathGrader,
  "olymmath": MathGrader,
}
PLAIN_GRADERS: dict[str, Grader] = {
  "word_problems": grade_number,
  "gsm8k": grade_free_form_number,
  "gsm_hard": grade_approximate_number,
  "hotpotqa": grade_hotpotqa,
  "2wiki": grade_hotpotqa,
  "musique": grade_squad,
  "bamboogle": grade_squad,
  "gaia": grade_gaia,
}
#: the meaning of a mean grade: the share of right answers, or the mean token F1
Metric = Literal["accuracy", "f1"]
F1_BENCHMARKS = ("hotpotqa", "2wiki", "musique", "bamboogle")
JUDGED_BENCHMARKS = ("webwalkerqa", "hle", "xbench")
GRADED_BENCHMARKS = (*MATH_GRADERS, *PLAIN_GRADERS, *JUDGED_BENCHMARKS)


def make_grader(benchmark: str, judge: Judge | None = None) -> Grader:
  """The grader of a benchmark.

  Args:
    benchmark: its name.
    judge: grades what text comparison cannot decide for webwalkerqa, hle and xbench; without it those get None.
  """
  if benchmark in MATH_GRADERS:
    return MATH_GRADERS[benchmark]()
  if benchmark in PLAIN_GRADERS:
    return PLAIN_GRADERS[benchmark]
  if benchmark in JUDGED_BENCHMARKS:
    return JudgeFallback(judge)
  nearest = difflib.get_close_matches(benchmark, GRADED_BENCHMARKS, n=1, cutoff=0.0)[0]
  raise UserError(f"benchmark {benchmark!r} has no grader; the nearest is {nearest} of {', '.join(GRADED_BENCHMARKS)}")


def get_metric(benchmark: str) -> Metric:
  """The metric that a benchmark's own scripts report."""
  return "f1" if benchmark in F1_BENCHMARKS else "accuracy"


@contextlib.contextmanager
def open_grader(benchmark: str, judge: Judge | None = None) -> Iterator[Grader]:
  """Context manager: the grader of a benchmark; its worker process ends with the block."""
  grader = make_grader(benchmark, judge)
  with contextlib.ExitStack() as stack:
    if isinstance(grader, MathGrader):
      stack.enter_context(grader)
    yield grader
