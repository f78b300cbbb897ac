from __future__ import annotations

import itertools
import json
import os
import pathlib
import random
import resource
import signal
import time
from collections.abc import Iterator

import pytest

from score_jax.grading.graders import AimeGrader
from score_jax.grading.math_grader import MathGrader, refusal_reason
from score_jax.trajectory import Question
from tests.grading.hostile_answers import answers

FILES = {"math_500": 500, "math_train_1000": 998, "olymmath_200": 200}  # two golds of MATH's train part are empty
SLOW = "2^{99999999999}+x"  # SymPy works at it for ages
STANDSTILL_S = 300.0  # for which a virtual machine's clock of processor time may stand still while others use it


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
  with MathGrader() as one:
    yield one


def graded(grader: MathGrader, gold: str, answer: str) -> tuple[float | None, str]:
  return grader(Question("q", "How much?", gold), answer)


def gone(pid: int) -> bool:
  return not pathlib.Path(f"/proc/{pid}").exists()


def golds(name: str) -> list[str]:
  if "SCORE_JAX_DATA" not in os.environ:
    pytest.skip(f"SCORE_JAX_DATA names no folder with math/{name}.json")
  text = (pathlib.Path(os.environ["SCORE_JAX_DATA"]) / "math" / f"{name}.json").read_text()
  return [row["answer"] for row in json.loads(text)["examples"]]


@pytest.mark.parametrize(("name", "count"), FILES.items())
def test_every_gold_is_right_as_it_stands_and_dressed_and_no_other_questions_gold_is(
  grader: MathGrader, name: str, count: int
) -> None:
  all_golds = golds(name)
  found = [gold for gold in all_golds if gold.strip()]
  assert len(found) == count
  for gold in found:
    assert graded(grader, gold, gold)[0] == 1.0
    assert graded(grader, gold, f"The answer is ${gold}$.")[0] == 1.0, gold
  assert {graded(grader, gold, gold)[0] for gold in all_golds if not gold.strip()} <= {None}
  others = [(gold, other) for gold, other in zip(found, found[7:] + found[:7], strict=True) if gold != other]
  same = [(gold, other) for gold, other in others if graded(grader, gold, other)[0] == 1.0]
  assert not [(gold, other) for gold, other in same if value(gold) != value(other)]


def value(gold: str) -> str:
  """A gold without its variable and degrees: "x=5" and "5" are not really different."""
  return gold.rpartition("=")[2].replace("^\\circ", "").strip()


def test_the_printed_value_of_every_numeric_gold_is_right(grader: MathGrader) -> None:
  """What Python prints of SymPy's value of a gold, as an expression and as a float."""
  import sympy

  from score_jax.grading import math_values

  rows = sorted({gold for gold in golds("math_500") if not set("_^,;°%$") & set(gold) and "text" not in gold})
  checked = 0
  for gold in rows:
    found = math_values.parse_expression(gold)
    if found is None or found.free_symbols or found.has(sympy.I):
      continue
    assert graded(grader, gold, str(found.doit()))[0] == 1.0, gold
    assert graded(grader, gold, repr(float(found)))[0] == 1.0, gold
    checked += 1
  assert checked > 150


def test_two_hundred_hostile_answers_are_survived_and_wrong(tmp_path: pathlib.Path) -> None:
  marker = tmp_path / "made"
  hostile = answers(str(marker))
  assert len(set(hostile)) >= 200
  before = resident()
  with MathGrader(cpu_s=0.3, wall_s=STANDSTILL_S) as grader:
    for answer in hostile:
      grade, reason = graded(grader, "7", answer)
      assert grade == 0.0, (answer[:80], reason)
      assert reason
      assert reason.isascii()
      assert "\n" not in reason
    assert graded(grader, "7", "14/2")[0] == 1.0
  assert not marker.exists()
  assert resident() - before < 32 << 20


def resident() -> int:
  """Bytes of memory that this process holds."""
  return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def children_s() -> float:
  """Seconds for which the children that have ended computed; the kernel's limit goes by the same clock."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def test_a_hang_is_ended_in_time_and_the_next_honest_answer_is_graded() -> None:
  # so much memory that no processor fills it within the time
  with MathGrader(cpu_s=1.0, wall_s=STANDSTILL_S, memory_mb=4096) as grader:
    assert graded(grader, "x", "x+0")[0] == 1.0
    first = grader.worker_pid
    start, began = time.process_time(), children_s()
    assert graded(grader, "x", SLOW) == (0.0, "the answer took too long to verify")
    assert time.process_time() - start < 0.2
    assert first is not None
    assert gone(first)
    assert 0.9 < children_s() - began < 10  # one child's second, and what it took to load
    assert graded(grader, "x", "x+0")[0] == 1.0
    last = grader.worker_pid
  assert last is not None
  assert gone(last)
  assert grader.worker_pid is None


def test_a_gold_that_hangs_is_the_graders_failure() -> None:
  with MathGrader(cpu_s=0.5, wall_s=STANDSTILL_S) as grader:
    grade, reason = graded(grader, SLOW, "5")
  assert grade is None
  assert "reference" in reason


def test_too_much_memory_is_wrong_and_ends_with_the_answer() -> None:
  with MathGrader(cpu_s=20.0, wall_s=60.0, memory_mb=64) as grader:
    grade, reason = graded(grader, "5", "(10^{10^{10}})!")
    assert (grade, "memory" in reason) == (0.0, True)
    assert graded(grader, "5", "10/2")[0] == 1.0


def test_a_child_that_somebody_kills_is_started_again() -> None:
  with MathGrader() as grader:
    assert graded(grader, "x", "x+0")[0] == 1.0
    assert grader.worker_pid is not None
    os.kill(grader.worker_pid, signal.SIGKILL)
    assert graded(grader, "x", "0+x")[0] == 1.0


def test_a_child_that_gets_no_processor_is_given_up_for_another() -> None:
  with MathGrader(wall_s=0.3) as grader:
    assert graded(grader, "x", "x+0")[0] == 1.0
    assert grader.worker_pid is not None
    os.kill(grader.worker_pid, signal.SIGSTOP)
    assert graded(grader, "x", "0+x") == (1.0, "equal")


def test_a_child_that_cannot_start_is_the_graders_failure(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr("sys.executable", "/bin/false")
  with MathGrader() as grader:
    grade, reason = graded(grader, "x", "x+0")
  assert grade is None
  assert "process" in reason


def test_the_same_answer_has_the_same_grade_in_any_order(grader: MathGrader) -> None:
  pairs = list(
    itertools.product((r"\frac{1}{2}", r"\sqrt{2}", "x+1", "(1,2)"), ("0.5", "1+x", "sqrt(2)", "(1, 2)", "?"))
  )
  first = {pair: graded(grader, *pair) for pair in pairs}
  random.Random(0).shuffle(pairs)
  with MathGrader() as other:
    assert {pair: graded(other, *pair) for pair in pairs} == first


def test_what_is_plainly_no_answer_is_refused_without_a_child() -> None:
  with MathGrader() as grader:
    for answer in ("", "9" * 3000, "(" * 30, "\x00", "\ud800", "1" * 1501):
      assert refusal_reason(answer)
      assert graded(grader, "5", answer)[0] == 0.0
    assert graded(grader, " x ", "x") == (1.0, "the same text")
    assert graded(grader, "", "")[0] is None
    assert grader.worker_pid is None


def test_aime_golds_are_whole_numbers_below_a_thousand() -> None:
  with AimeGrader() as grader:
    for number in (0, 33, 999):
      assert all(graded(grader, gold, str(number))[0] == 1.0 for gold in (str(number), f"{number:03}"))
    assert all(graded(grader, gold, gold)[0] is None for gold in ("1000", "-1", "2.5", "x", ""))
