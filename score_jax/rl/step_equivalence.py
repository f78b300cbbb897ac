"""Whether two steps, run from the same state, do the same. They are compared by their effects, not by their code.

| verdict   | when                                                                                              |
|-----------|---------------------------------------------------------------------------------------------------|
| equal     | both ran, their printed output agrees, and both submitted equivalent answers or neither did       |
| different | exactly one raised or is malformed; exactly one submitted; answers or printed values disagree     |
| undecided | anything else: no output, empty searches, both raised, one prints more, other words, first thoughts |

Printed text agrees when it is the same but for white space. It also agrees when all its values agree
(printed_values.py) and the labels and units do not contradict: the labels of one are among those of the other, and the
units are the same or only one has any. Two searches agree when they found the same passages, in any order; a passage is
identified by its line.
An undecided pair goes to a `StepJudge` if there is one (teaching/judges.py); otherwise it earns nothing.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from score_jax.grading.graders import Grader
from score_jax.rl.printed_values import ParsedOutput, PrintedValue, compare_values, parse_output
from score_jax.search.passages import NO_RESULTS
from score_jax.trajectory import Question, Step

StepVerdict = Literal["equal", "different", "undecided"]

VERDICT_OF_BOOL: dict[bool | None, StepVerdict] = {True: "equal", False: "different", None: "undecided"}

#: whether two answers are equivalent; None: undecided
AnswerComparator = Callable[[str, str], bool | None]

_CUT = re.compile(r"\.\.\. \[\d+ characters cut\] \.\.\.")  # the mark of cut output in sandbox/interface.py


def make_answer_comparator(grader: Grader, question: Question) -> AnswerComparator:
  """The comparator of answers to a question.

  Two answers are equivalent when the grader gives one full marks with the other as reference, in either direction.
  """

  def same(a: str, b: str) -> bool | None:
    if a.split() == b.split():
      return True
    grades = [grader(dataclasses.replace(question, answer=x, aliases=()), y)[0] for x, y in ((a, b), (b, a))]
    return None if None in grades else 1.0 in grades

  return same


def compare_steps(a: Step, b: Step, same: AnswerComparator) -> StepVerdict:
  """The verdict on two steps from one state, from their recorded effects."""
  if (a.kind == "malformed") != (b.kind == "malformed"):
    return "different"
  if a.kind != "act" or b.kind != "act":
    return "undecided"
  fine = [step.reason == "ok" for step in (a, b)]
  if fine != [True, True]:
    return "different" if any(fine) else "undecided"
  if (a.answer is None) != (b.answer is None):
    return "different"
  if a.answer is not None and b.answer is not None:
    alike = same(a.answer, b.answer)
    if not alike or not (a.observation or b.observation):
      return VERDICT_OF_BOOL[alike]
  return _observed(a, b)


def _observed(a: Step, b: Step) -> StepVerdict:
  """The verdict on two acts that ran, from what they printed."""
  one, other = a.observation, b.observation
  if not one.strip() or not other.strip():
    return "undecided"
  if one.split() == other.split():
    return "undecided" if one.strip() == NO_RESULTS else "equal"
  if _CUT.search(one) or _CUT.search(other):
    return "undecided"
  x, y = parse_output(one), parse_output(other)
  if x.text and y.text and calls_web_search(a.code) and calls_web_search(b.code):
    return _compare_passages({*one.splitlines()}, {*other.splitlines()})
  return compare_outputs(x, y)


def calls_web_search(code: str) -> bool:
  """Whether the code calls web_search."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # the parser warns about odd literals
      nodes = list(ast.walk(ast.parse(code)))
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return False
  calls = [node.func for node in nodes if isinstance(node, ast.Call)]
  return any(isinstance(called, ast.Name) and called.id == "web_search" for called in calls)


def _compare_passages(a: set[str], b: set[str]) -> StepVerdict:
  """The verdict on two sets of found passages; undecided if one contains the other."""
  if a == b:
    return "equal"
  return "undecided" if a < b or a > b else "different"


def compare_outputs(a: ParsedOutput, b: ParsedOutput) -> StepVerdict:
  """The verdict on two printed outputs whose characters differ."""
  if not a.values or not b.values:
    return "equal" if a == b else "undecided"
  if len(a.values) != len(b.values):
    return "undecided" if _contained(a.values, b.values) or _prose_shares_a_value(a, b) else "different"
  relations = [compare_values(x, y) for x, y in zip(a.values, b.values, strict=True)]
  if all(r == "equal" for r in relations):
    return "equal" if _context_agrees(a, b) else "undecided"
  if "different" not in relations or a.units != b.units:
    return "undecided"
  if _contained(a.values, b.values) or (a.text != b.text and _prose_shares_a_value(a, b)):
    return "undecided"
  return "different"


def _context_agrees(a: ParsedOutput, b: ParsedOutput) -> bool:
  """Whether labels, units, nesting and text around the values do not contradict."""
  labels = Counter(a.labels), Counter(b.labels)
  labelled = labels[0] <= labels[1] or labels[1] <= labels[0]
  units = a.units == b.units or not a.units or not b.units
  nested = a.shape == b.shape or not a.shape or not b.shape
  return labelled and units and nested and a.text == b.text


def _contained(a: Sequence[PrintedValue], b: Sequence[PrintedValue]) -> bool:
  """Whether each value of the shorter list occurs in the longer one, up to rounding, in any order."""
  few, many = sorted((list(a), list(b)), key=len)
  for value in few:
    found = next((o for o in many if type(o) is type(value) and compare_values(value, o) != "different"), None)
    if found is None:
      return False
    many.remove(found)
  return True


def _prose_shares_a_value(a: ParsedOutput, b: ParsedOutput) -> bool:
  """Whether there is prose and a common value. Then the other values may be part of the prose and no results."""
  return bool(a.text or b.text) and any(compare_values(x, y) == "equal" for x in a.values for y in b.values)
