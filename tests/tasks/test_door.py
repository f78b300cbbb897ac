"""The command `python -m score_jax.grading`, and the table of graders behind it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time

import pytest

from score_jax.errors import UserError
from score_jax.grading.graders import GRADED_BENCHMARKS, JUDGED_BENCHMARKS, PLAIN_GRADERS, make_grader
from score_jax.trajectory import Question
from tests.grading.hostile_answers import answers


def test_every_benchmark_has_a_grader_that_knows_its_gold() -> None:
  for benchmark in GRADED_BENCHMARKS:
    found = make_grader(benchmark)
    assert found(Question("q", "?", "12"), "12")[0] == 1.0
    if isinstance(found, contextlib.AbstractContextManager):
      found.__exit__(None, None, None)


def test_an_unknown_benchmark_is_refused_with_the_nearest() -> None:
  with pytest.raises(UserError, match=r"'hotpot'.*nearest is hotpotqa"):
    make_grader("hotpot")


@pytest.mark.parametrize("benchmark", [*PLAIN_GRADERS, *JUDGED_BENCHMARKS])
def test_hostile_answers_are_nothing_to_the_graders_without_a_process(benchmark: str) -> None:
  found = make_grader(benchmark)
  for gold in ("7", "Marie Curie, 7"):
    for answer in answers("/nowhere"):
      start = time.process_time()
      grade, reason = found(Question("q", "?", gold), answer)
      assert grade is None or grade < 1.0, answer[:80]
      assert "\n" not in reason
      assert time.process_time() - start < 1.0


def command(benchmark: str, stdin: str | bytes = b"") -> subprocess.CompletedProcess[bytes]:
  data = stdin if isinstance(stdin, bytes) else stdin.encode()
  line = [sys.executable, "-m", "score_jax.grading", f"--benchmark={benchmark}"]
  return subprocess.run(line, input=data, capture_output=True, timeout=120, check=False)


def test_each_line_has_its_reply_whatever_it_is() -> None:
  lines = [
    json.dumps({"answer": "0.5", "gold": r"\frac{1}{2}"}).encode(),
    json.dumps({"answer": "0.6", "gold": r"\frac{1}{2}"}).encode(),
    b"",
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"answer": "x"}',
    b'{"answer": 5, "gold": "5"}',
    b'{"answer": "5", "gold": "5", "aliases": "5"}',
    b'{"answer": "\\ud800", "gold": "5"}',
    json.dumps({"answer": "9" * 1_000_000, "gold": "5"}).encode(),
    b'{"answer": "1/2", "gold": "0.5"}',
  ]
  done = command("math500", b"\n".join(lines))
  assert done.returncode == 0, done.stderr
  replies = [json.loads(line) for line in done.stdout.decode("ascii").splitlines()]
  assert all(reply.keys() == {"grade", "reason"} and reply["reason"] for reply in replies)
  assert [reply["grade"] for reply in replies] == [1.0, 0.0, None, None, None, None, None, None, 0.0, 0.0, 1.0]


def test_a_reply_comes_before_the_next_line_does() -> None:
  line = [sys.executable, "-m", "score_jax.grading", "--benchmark=hotpotqa"]
  with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
    assert process.stdin is not None
    assert process.stdout is not None
    for answer, grade in (("Yes", 1.0), ("no", 0.0)):
      process.stdin.write(json.dumps({"answer": answer, "gold": "yes"}).encode() + b"\n")
      process.stdin.flush()
      assert json.loads(process.stdout.readline())["grade"] == grade
    process.stdin.close()
    assert process.wait(timeout=60) == 0


def test_wrong_usage_ends_with_status_2_and_one_line() -> None:
  done = command("hotpot")
  assert done.returncode == 2
  assert done.stderr.decode().startswith("error: ")
  assert len(done.stderr.splitlines()) == 1


def test_help_shows_how_it_is_used() -> None:
  done = subprocess.run([sys.executable, "-m", "score_jax.grading", "--help"], capture_output=True, check=True)
  assert b"--benchmark=math500" in done.stdout
