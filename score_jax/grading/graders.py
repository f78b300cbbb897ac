"""Graders: is an answer right? Each says why, and one that fails says so instead of "wrong".

    python -m score_jax.grading.graders --benchmark=math500

reads lines {"answer": "...", "gold": "..."} on standard input ("question" and a list "aliases" may be added), and
writes a line {"grade": 1.0, "reason": "equal"} to each as it comes. A grade lies in [0, 1]; null: the grader failed or
abstains, which is no grade, and such items are counted apart. Exit status: 0 when standard input ends, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from score_jax.errors import UserError
from score_jax.grading.judge import Judge
from score_jax.grading.math_grader import MathGrader
from score_jax.grading.numbers import grade_approximate_number, grade_free_form_number, grade_number, is_aime_answer
from score_jax.grading.short_answers import JudgeFallback, grade_gaia, grade_hotpotqa, grade_squad
from score_jax.trajectory import Question

#: (question, submitted answer) -> (grade in [0, 1], or None when the grader failed; reason); it may be a context
#: manager, to be left when it is needed no more
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
#: what the mean of a benchmark's grades is: the share that is right, or the mean token F1
Metric = Literal["accuracy", "f1"]
F1_BENCHMARKS = ("hotpotqa", "2wiki", "musique", "bamboogle")
JUDGED_BENCHMARKS = ("webwalkerqa", "hle", "xbench")
GRADED_BENCHMARKS = (*MATH_GRADERS, *PLAIN_GRADERS, *JUDGED_BENCHMARKS)


def make_grader(benchmark: str, judge: Judge | None = None) -> Grader:
  """The grader of a benchmark.

  Args:
    benchmark: its name.
    judge: says of answers to webwalkerqa, hle and xbench what comparing texts cannot; without it those get None.

  Raises:
    UserError: there is no such benchmark.
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
  """What a benchmark's scripts report of its grades."""
  return "f1" if benchmark in F1_BENCHMARKS else "accuracy"


@contextlib.contextmanager
def open_grader(benchmark: str, judge: Judge | None = None) -> Iterator[Grader]:
  """The grader of a benchmark, whose process ends with the block."""
  found = make_grader(benchmark, judge)
  with contextlib.ExitStack() as stack:
    if isinstance(found, MathGrader):
      stack.enter_context(found)
    yield found


def grade_lines(lines: Iterable[bytes], graded: Grader) -> Iterator[str]:
  """The line of output to each line of input that is not blank."""
  for line in lines:
    if line.strip():
      grade, reason = _graded(line, graded)
      yield json.dumps({"grade": grade, "reason": reason})


def _graded(line: bytes, graded: Grader) -> tuple[float | None, str]:
  try:
    data = json.loads(line)
  except (ValueError, RecursionError) as error:
    return None, f"the line is no JSON ({type(error).__name__})"
  if not isinstance(data, dict) or not all(isinstance(data.get(name), str) for name in ("answer", "gold")):
    return None, 'the line is no object with the texts "answer" and "gold"'
  aliases: Any = data.get("aliases", [])
  if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
    return None, '"aliases" is no list of texts'
  question = Question("", str(data.get("question", "")), data["gold"], aliases=tuple(aliases))
  return graded(question, data["answer"])


def main(arguments: list[str]) -> int:
  """The command; its exit status is 0, or 2 for wrong usage."""
  parser = argparse.ArgumentParser(
    prog="python -m score_jax.grading.graders",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--benchmark", required=True, help=", ".join(GRADED_BENCHMARKS))
  chosen = parser.parse_args(arguments).benchmark
  try:
    with open_grader(chosen) as found:
      for reply in grade_lines(sys.stdin.buffer, found):
        print(reply, flush=True)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
