"""The interface of a teacher: demonstrate, finish, locate an error, correct it (paper, mentored problem solving)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from score_jax.trajectory import Ledger, Question, Step, Trajectory

FindingVerdict = Literal[
  "located",  # the first wrong step is named
  "hard",  # the teacher itself does not solve the question
  "undecided",  # V falls, but the continuations do not show at which step
  "unlocated",  # no step can be named; it is counted, never guessed
  "quarantined",  # hosts or graders failed all continuations
]


@dataclasses.dataclass(frozen=True)
class Finding:
  """The first wrong step of a failed trajectory, and the cost of locating it."""

  verdict: FindingVerdict
  step: int = -1  # index into the trajectory's steps; -1 unless located
  diagnosis: str = ""
  values: Mapping[str, float] = dataclasses.field(default_factory=dict)  # see Correction.values
  candidates: tuple[Step, ...] = ()  # steps that locating already ran in that place, best first
  located: str = ""  # how: see Correction.located; "contradicted": the named step failed its test
  prefix_counts: tuple[tuple[int, int, int], ...] = ()  # (steps kept, right, tries) of each prefix with continuations
  may_relocate: bool = False  # the next round may name another step of the same trajectory
  tried_replacements: tuple[Step, ...] = ()  # replacements of this step after which the student still failed
  ledger: Ledger = Ledger()


@dataclasses.dataclass(frozen=True)
class Proposal:
  """A step to replace the error, run in the state before it; None: there is no valid step."""

  step: Step | None
  ledger: Ledger = Ledger()
  has_more: bool = False  # with this step in the finding's `tried_replacements`, the teacher may give another


class Teacher(Protocol):
  """A source of corrections. All methods take many questions in one call, to keep devices busy."""

  def demonstrate(self, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    """A graded trajectory of the teacher for each question. Each `name` has its own random draws."""
    ...

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    """Continues each prefix with the budget of acts of a whole trajectory; returns graded trajectories.

    `steps` are those of the prefix, then the teacher's own; `prefix_steps` counts the former. The ledger has the cost
    of the continuation. From the empty prefix it is a demonstration. No question may occur twice in one call.
    """
    ...

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    """The earliest error of each failed trajectory."""
    ...

  def correct(self, located: Sequence[tuple[Question, Trajectory, Finding]]) -> list[Proposal]:
    """A replacement for the step that each finding names."""
    ...
