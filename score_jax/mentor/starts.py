"""Where the short rollouts of RL begin: the verified prefixes before surviving corrections (paper, RL data)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from score_jax.agent.rollout import at_question
from score_jax.errors import UserError
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


#: rl.prefix -> which of the surviving corrections, in the order of their places, have a start: the last is the paper's
PREFIXES = {"last": slice(-1, None), "first": slice(1), "all": slice(None)}


def starts(
  mentored: Iterable[Mentored],
  *,
  acts: int,
  prefix: str,
  fresh_horizon: bool,
  keep_unaided: float,
  keep_hard: float,
  salt: str,
) -> tuple[list[Start], int]:
  """The starting points of some mentored questions, and how many corrections lay beyond the horizon.

  Corrected first thoughts, unaided solves (kept with probability `keep_unaided`) and what could not be taught (kept
  with `keep_hard`) start at the question with the outcome reward alone. With `fresh_horizon` every start has H acts.

  Raises:
    UserError: there is no such `prefix`.
  """
  if prefix not in PREFIXES:
    raise UserError(f"rl.prefix = {prefix!r}; choose from {', '.join(PREFIXES)}")
  result: list[Start] = []
  beyond = 0
  for case in mentored:
    question = case.question
    at_start = Start(question, at_question(question), None, acts)
    if case.outcome != "solved":
      keep = {"unaided": keep_unaided, "quarantined": 0.0}.get(case.outcome, keep_hard)
      result += [at_start] if share(question, salt) < keep else []
      continue
    for correction in case.trajectory.corrections[PREFIXES[prefix]]:
      horizon = acts if fresh_horizon or correction.step == 0 else acts - (correction.step - 1)
      if horizon < 1:
        beyond += 1
      elif correction.step == 0:
        result.append(at_start)
      else:
        result.append(Start(question, case.trajectory.prefix(correction.step), correction, horizon))
  return result, beyond
