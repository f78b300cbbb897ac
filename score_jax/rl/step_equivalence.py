"""Are two steps, taken from the same state, the same act? Told by what they did, not by how they are written.

| verdict   | when                                                                                              |
|-----------|---------------------------------------------------------------------------------------------------|
| equal     | both ran, what they printed agrees, and both submitted equivalent answers or neither did          |
| different | exactly one raised or is malformed; exactly one submitted; answers or printed values disagree     |
| undecided | anything else: silent or searched in vain, both raised, one prints more, other words, first thoughts |

Printed text agrees when it is the same but for white space, or when all values in it agree (printed.py) and what stands
around them does not contradict: labels of one are among those of the other, units are the same or on one side only.
Two searches agree when they brought the same passages, whose lines are their identity, in whatever order.

What is undecided goes to a `StepJudge` where there is one (step_judge.py), and otherwise earns nothing.
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

#: whether two answers are equivalent; None: that cannot be told
AnswerComparator = Callable[[str, str], bool | None]

_CUT = re.compile(r"\.\.\. \[\d+ characters cut\] \.\.\.")  # sandbox/interface.py


def make_answer_comparator(grader: Grader, question: Question) -> AnswerComparator:
  """Answers to a question are equivalent when its grader gives one full marks where the other is the reference."""

  def same(a: str, b: str) -> bool | None:
    if a.split() == b.split():
      return True
    grades = [grader(dataclasses.replace(question, answer=x, aliases=()), y)[0] for x, y in ((a, b), (b, a))]
    return None if None in grades else 1.0 in grades

  return same


def compare_steps(a: Step, b: Step, same: AnswerComparator) -> StepVerdict:
  """The verdict by execution on two steps from one state."""
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
  one, other = a.observation, b.observation
  if not one.strip() or not other.strip():
    return "undecided"
  if one.split() == other.split():
    return "undecided" if one.strip() == NO_RESULTS else "equal"
  if _CUT.search(one) or _CUT.search(other):
    return "undecided"
  x, y = parse_output(one), parse_output(other)
  if x.text and y.text and calls_web_search(a.code) and calls_web_search(b.code):
    return _passages({*one.splitlines()}, {*other.splitlines()})
  return compare_outputs(x, y)


def calls_web_search(code: str) -> bool:
  """Whether some code calls web_search."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of the parser, about odd literals
      nodes = list(ast.walk(ast.parse(code)))
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return False
  calls = [node.func for node in nodes if isinstance(node, ast.Call)]
  return any(isinstance(called, ast.Name) and called.id == "web_search" for called in calls)


def _passages(a: set[str], b: set[str]) -> StepVerdict:
  if a == b:
    return "equal"
  return "undecided" if a < b or a > b else "different"


def compare_outputs(a: ParsedOutput, b: ParsedOutput) -> StepVerdict:
  """Whether what two steps printed, in other characters, says the same."""
  if not a.values or not b.values:
    return "equal" if a == b else "undecided"
  if len(a.values) != len(b.values):
    return "undecided" if _contained(a.values, b.values) or _share_in_text(a, b) else "different"
  relations = [compare_values(x, y) for x, y in zip(a.values, b.values, strict=True)]
  if all(r == "equal" for r in relations):
    return "equal" if _same_words(a, b) else "undecided"
  if "different" not in relations or a.units != b.units:
    return "undecided"
  if _contained(a.values, b.values) or (a.text != b.text and _share_in_text(a, b)):
    return "undecided"
  return "different"


def _same_words(a: ParsedOutput, b: ParsedOutput) -> bool:
  """Whether nothing around the values contradicts."""
  labels = Counter(a.labels), Counter(b.labels)
  labelled = labels[0] <= labels[1] or labels[1] <= labels[0]
  units = a.units == b.units or not a.units or not b.units
  nested = a.shape == b.shape or not a.shape or not b.shape
  return labelled and units and nested and a.text == b.text


def _contained(a: Sequence[PrintedValue], b: Sequence[PrintedValue]) -> bool:
  """Whether each value of the shorter is, at least to rounding, one of the longer, in whatever order."""
  few, many = sorted((list(a), list(b)), key=len)
  for value in few:
    found = next((o for o in many if type(o) is type(value) and compare_values(value, o) != "different"), None)
    if found is None:
      return False
    many.remove(found)
  return True


def _share_in_text(a: ParsedOutput, b: ParsedOutput) -> bool:
  """Whether there are sentences, and a value in common: the rest may be said in them and be no result."""
  return bool(a.text or b.text) and any(compare_values(x, y) == "equal" for x in a.values for y in b.values)
