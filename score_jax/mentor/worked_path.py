"""How far a student has come on a question's worked solution, judged by the values that its code prints.

The worked solution has run, so each of its acts has an observation. Its path is
the list of the last numbers of these; a look-up has none, it is known by its
text. A student is followed act by act:

    raised   the code did not end well
    forward  it prints a value of the path that is at or after the next one not
             reached yet (those before it are then behind the student), or looks
             up what a worked look-up found for the first time
    idle     it prints no number, looks up anything else, prints a value of the
             path that is behind, or, without arithmetic, a number that the
             question or an earlier observation has
    off      it prints another number

Numbers are equal when they agree to six digits. Two things are taken for what
they are not: a wrong value that happens to be on the path passes, and another
right way to the answer is off at its first value that the worked one lacks.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from score_jax.trajectory import Step

Move = Literal["raised", "forward", "idle", "off"]

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?")


def same(a: float | None, b: float | None) -> bool:
  """Equal as numbers, to six digits; two Nones are equal too."""
  if a is None or b is None:
    return a is b
  return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


def has(values: Iterable[float | None], value: float) -> bool:
  return any(same(v, value) for v in values)


def numbers(text: str) -> list[float]:
  """The numbers that stand in a text, in order."""
  found = (float(n.replace(",", "")) for n in NUMBER.findall(text))
  return [n for n in found if math.isfinite(n)]


def whole_number(text: str) -> float | None:
  """The number that the last line of a text is; None where it is anything more or else."""
  line = text.strip().rpartition("\n")[2].strip()
  return next(iter(numbers(line)), None) if NUMBER.fullmatch(line) else None


def looks_up(step: Step) -> bool:
  """Whether the act is a look-up rather than a computation on what one found."""
  return "web_search(" in step.code and whole_number(step.observation) is None


def value(step: Step) -> float | None:
  """The number that an act computes: the last one that it prints."""
  found = [] if looks_up(step) else numbers(step.observation)
  return found[-1] if found else None


def _computes(code: str) -> bool:
  return any(isinstance(node, ast.BinOp | ast.AugAssign) for node in ast.walk(ast.parse(code)))


class Walk:
  """Follows one student along the acts of a worked solution, as those ran."""

  def __init__(self, acts: Sequence[Step], question: str):
    self._acts = acts
    self._values = [value(act) for act in acts]
    self._passed = 0  # this many worked acts are behind the student
    self._found: set[int] = set()  # worked look-ups of which the student has seen the result
    self._said = numbers(question)

  @property
  def next(self) -> int:
    """Index of the worked act that the student needs now; the last one, which submits, when all else is done."""
    ahead = (i for i in range(self._passed, len(self._acts) - 1) if i not in self._found)
    return next(ahead, len(self._acts) - 1)

  def take(self, step: Step) -> Move:
    """The student's next act; a first thought, and what is malformed, is idle."""
    if step.kind != "act":
      return "idle"
    if step.reason != "ok":
      return "raised"
    move = self._look_up(step) if looks_up(step) else self._compute(step)
    self._said += numbers(step.observation)
    return move

  def _look_up(self, step: Step) -> Move:
    found = {i for i, a in enumerate(self._acts) if looks_up(a) and a.observation in step.observation}
    new = found - self._found - set(range(self._passed))
    self._found |= found
    return "forward" if new else "idle"

  def _compute(self, step: Step) -> Move:
    printed = value(step)
    if printed is None:
      return "idle"
    for index in range(self._passed, len(self._acts)):
      if same(self._values[index], printed):
        self._passed = index + 1
        return "forward"
    repeated = has(self._values, printed) or (has(self._said, printed) and not _computes(step.code))
    return "idle" if repeated else "off"
