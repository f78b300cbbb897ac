"""Where the short rollouts of RL begin: the verified prefix before the last surviving correction (paper, RL data)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from score_jax.agent.rollout import at_question
from score_jax.mentor.mentoring import Mentored
from score_jax.tasks.split import share
from score_jax.trajectory import Correction, Question, Trajectory


@dataclasses.dataclass(frozen=True)
class Start:
  """A state from which a group of rollouts begins, and what its first step is compared with."""

  question: Question
  trajectory: Trajectory  # the prefix
  correction: Correction | None  # None: outcome reward only
  acts: int  # the horizon, H - (k - 1)


def starts(
  mentored: Iterable[Mentored], *, acts: int, fresh_horizon: bool, keep_unaided: float, keep_hard: float, salt: str
) -> tuple[list[Start], int]:
  """The starting points of some mentored questions, and how many corrections lay beyond the horizon.

  Corrected first thoughts, unaided solves (kept with probability `keep_unaided`) and what could not be taught (kept
  with `keep_hard`) start at the question with the outcome reward alone. With `fresh_horizon` every start has H acts.
  """
  result: list[Start] = []
  beyond = 0
  for case in mentored:
    question = case.question
    last = case.trajectory.corrections[-1] if case.outcome == "solved" else None
    if last is not None and last.step > 0:
      horizon = acts if fresh_horizon else acts - (last.step - 1)
      if horizon < 1:
        beyond += 1
        continue
      result.append(Start(question, case.trajectory.prefix(last.step), last, horizon))
      continue
    keep = {"unaided": keep_unaided, "solved": 1.0, "quarantined": 0.0}.get(case.outcome, keep_hard)
    if share(question, salt) < keep:
      result.append(Start(question, at_question(question), None, acts))
  return result, beyond
