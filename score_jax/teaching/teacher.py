"""What a teacher can do, whoever it is: a model on the mesh, a worked solution (paper, mentored problem solving)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from score_jax.trajectory import Ledger, Question, Step, Trajectory

FindingVerdict = Literal[
  "located",  # the step at which the student first went wrong is named
  "hard",  # the teacher itself does not get there from the question
  "undecided",  # something went wrong, but what was drawn does not say at which step
  "unlocated",  # no step can be named: counted, never guessed
  "quarantined",  # hosts or graders failed all that was drawn to find out
]


@dataclasses.dataclass(frozen=True)
class Finding:
  """Where a failed trajectory first goes wrong, and what it cost to find out."""

  verdict: FindingVerdict
  step: int = -1  # index into the trajectory's steps; -1 unless located
  diagnosis: str = ""
  values: Mapping[str, float] = dataclasses.field(default_factory=dict)  # see Correction.values
  candidates: tuple[Step, ...] = ()  # steps already run from that place, best first, if locating made any
  located: str = ""  # how: see Correction.located; "contradicted": a name that did not hold
  prefix_counts: tuple[
    tuple[int, int, int], ...
  ] = ()  # (steps kept, right, tries) of each prefix that was gone on from
  may_relocate: bool = False  # the next round may name another step, though the trajectory stays as it is
  tried_replacements: tuple[Step, ...] = ()  # replacements of this step from which the student did not succeed
  ledger: Ledger = Ledger()


@dataclasses.dataclass(frozen=True)
class Proposal:
  """The step to stand in the place of the error, really run from the state before it; None: there is none."""

  step: Step | None
  ledger: Ledger = Ledger()
  has_more: bool = False  # asked again, with this one among the finding's `tried`, the teacher may give another


class Teacher(Protocol):
  """All methods take many questions at once, since that is how devices are kept busy."""

  def demonstrate(self, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    """A graded trajectory of its own for each question; `name` keeps the draws of one call from another's."""
    ...

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    """Goes on from each prefix to the end, with the budget of acts of a whole trajectory, and is graded.

    `steps` are those of the prefix and then the teacher's own, `prefix_steps` counts the former, the ledger has what
    going on cost. From the empty prefix it is a demonstration. No question comes twice in one call.
    """
    ...

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    """The earliest error of each failed trajectory."""
    ...

  def correct(self, located: Sequence[tuple[Question, Trajectory, Finding]]) -> list[Proposal]:
    """The replacement of the step that each finding names."""
    ...
