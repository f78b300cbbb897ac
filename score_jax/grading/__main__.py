"""Grades answers from standard input, one JSON object a line.

    python -m score_jax.grading --benchmark=math500

reads lines {"answer": "...", "gold": "..."} ("question" and a list "aliases" are optional). It writes one line
{"grade": 1.0, "reason": "equal"} for each. A grade lies in [0, 1]. A grade of null means that the grader failed or
abstained; such items are counted apart. Exit status: 0 at the end of standard input, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from score_jax.errors import UserError
from score_jax.grading.graders import GRADED_BENCHMARKS, Grader, open_grader
from score_jax.trajectory import Question


def grade_lines(lines: Iterable[bytes], grader: Grader) -> Iterator[str]:
  """Yields the output line of each input line that is not blank."""
  for line in lines:
    if line.strip():
      grade, reason = _grade_line(line, grader)
      yield json.dumps({"grade": grade, "reason": reason})


def _grade_line(line: bytes, grader: Grader) -> tuple[float | None, str]:
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
  return grader(question, data["answer"])


def main(arguments: list[str]) -> int:
  """The command; its exit status is 0, or 2 for wrong usage."""
  parser = argparse.ArgumentParser(
    prog="python -m score_jax.grading",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--benchmark", required=True, help=", ".join(GRADED_BENCHMARKS))
  chosen = parser.parse_args(arguments).benchmark
  try:
    with open_grader(chosen) as grader:
      for reply in grade_lines(sys.stdin.buffer, grader):
        print(reply, flush=True)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
