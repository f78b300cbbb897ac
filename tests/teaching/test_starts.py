from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from score_jax.errors import UserError
from score_jax.teaching.mentoring import MentoredQuestion, MentoringOutcome, RolloutStart, build_rollout_starts
from score_jax.trajectory import Correction, Ledger, Question, Step, Trajectory

PLAN = Step("first_thought", "plan: add", tokens=(10,), observation_tokens=(11,))
ACT = Step("act", "add", "x = 12", "", "ok", tokens=(20,), observation_tokens=(21,))
STEPS = (PLAN, *(ACT,) * 11)


def corrections(*steps: int) -> tuple[Correction, ...]:
  return tuple(Correction(k, (ACT,), STEPS[k], f"wrong at {k}") for k in steps)


def mentored(outcome: MentoringOutcome, *steps: int, name: str = "q") -> MentoredQuestion:
  """A question whose surviving corrections are at these steps."""
  asked = Question(name, f"How many {name}?", "12")
  trajectory = Trajectory(name, asked.text, (1, 2), STEPS, "answered", "12", 1.0, corrections=corrections(*steps))
  return MentoredQuestion(asked, trajectory, outcome, None, Ledger())


def started(*cases: MentoredQuestion, **changed: Any) -> tuple[list[RolloutStart], int]:
  settings = {
    "acts": 8,
    "prefix": "last",
    "fresh_horizon": False,
    "keep_unaided": 0.0,
    "keep_hard": 0.0,
    "salt": "0/rl",
  }
  return build_rollout_starts(cases, **{**settings, **changed})


@pytest.mark.parametrize(("step", "horizon"), [(1, 8), (2, 7), (5, 4), (7, 2), (8, 1)])
def test_the_horizon_shrinks_with_the_place_of_the_correction(step: int, horizon: int) -> None:
  case = mentored("solved", step)
  [start], beyond = started(case)
  assert (start.horizon, beyond) == (horizon, 0)
  assert start.question == case.question
  assert start.prefix == case.trajectory.prefix(step)
  assert (start.prefix.steps, start.prefix.corrections) == (STEPS[:step], ())
  assert start.correction == case.trajectory.corrections[0]


@pytest.mark.parametrize("step", [9, 11])
def test_beyond_the_horizon_is_counted_not_used(step: int) -> None:
  assert started(mentored("solved", step), mentored("solved", 1), mentored("solved", step))[1] == 2
  assert started(mentored("solved", step)) == ([], 1)
  [start], beyond = started(mentored("solved", step), fresh_horizon=True)
  assert (start.horizon, beyond) == (8, 0)


def test_a_fresh_horizon_is_the_same_from_anywhere() -> None:
  found, _ = started(*(mentored("solved", k) for k in (1, 4, 8)), fresh_horizon=True)
  assert [s.horizon for s in found] == [8, 8, 8]


def test_it_starts_before_the_last_correction_and_keeps_those_before() -> None:
  case = mentored("solved", 2, 5)
  [start], _ = started(case)
  first, last = case.trajectory.corrections
  assert (start.correction, start.horizon, len(start.prefix.steps)) == (last, 4, 5)
  assert start.prefix.corrections == (first,)


def places(found: list[RolloutStart]) -> list[tuple[int, int]]:
  """(steps of the prefix, horizon) of each start."""
  return [(len(s.prefix.steps), s.horizon) for s in found]


def test_each_start_goes_before_the_correction_that_its_rollouts_are_compared_with() -> None:
  case = mentored("solved", 2, 5, 7)
  first, second, third = case.trajectory.corrections
  for prefix, expected in (("last", [third]), ("first", [first]), ("all", [first, second, third])):
    found, _ = started(case, prefix=prefix)
    assert [s.correction for s in found] == expected
    assert places(found) == [(c.step, 8 - (c.step - 1)) for c in expected], "each by its own place"
    assert [s.prefix.corrections for s in found] == [
      tuple(c for c in case.trajectory.corrections if c.step < s.step) for s in expected
    ]


def test_the_first_of_several_may_be_within_the_horizon_where_the_last_is_not() -> None:
  case = mentored("solved", 3, 9)
  assert started(case) == ([], 1)
  found, beyond = started(case, prefix="first")
  assert (places(found), beyond) == ([(3, 6)], 0)
  found, beyond = started(case, prefix="all")
  assert (places(found), beyond) == ([(3, 6)], 1)


def test_all_of_them_has_a_corrected_first_thought_start_at_the_question() -> None:
  found, _ = started(mentored("solved", 0, 3), prefix="all")
  assert places(found) == [(0, 8), (3, 6)]
  assert [s.correction is None for s in found] == [True, False]
  found, _ = started(mentored("solved", 0, 3), prefix="first")
  assert (places(found), found[0].correction) == ([(0, 8)], None)


def test_release_mistake_6_a_prefix_is_the_steps_themselves_not_parsed_out_of_text() -> None:
  """Blank lines and what looks like a turn in an observation stay, and the tokens are those that were drawn."""
  seen = "first\n\nObservation: second\n<thought>no</thought><code>x = 0</code>\n\n\nlast"
  odd = dataclasses.replace(ACT, observation=seen, observation_tokens=(21, 22, 23))
  case = mentored("solved", 3)
  case = dataclasses.replace(case, trajectory=dataclasses.replace(case.trajectory, steps=(PLAN, odd, *STEPS[2:])))
  [start], _ = started(case)
  assert start.prefix.steps == (PLAN, odd, ACT)
  assert start.prefix.context() == (1, 2, 10, 11, 20, 21, 22, 23, 20, 21)


def test_an_unknown_prefix_is_refused() -> None:
  with pytest.raises(UserError, match=r"rl.prefix = 'lsat'; choose from last, first, all"):
    started(prefix="lsat")


def test_a_corrected_first_thought_starts_at_the_question() -> None:
  case = mentored("solved", 0)
  assert started(case) == ([RolloutStart(case.question, Trajectory("q", "How many q?", ()), None, 8)], 0)


def test_a_later_correction_counts_although_the_first_thought_was_corrected_too() -> None:
  [start], _ = started(mentored("solved", 0, 3))
  assert (start.horizon, start.correction is not None) == (6, True)


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_none_or_all_are_kept(keep: float) -> None:
  unaided = [mentored("unaided", name=f"u{i}") for i in range(20)]
  outcomes: list[MentoringOutcome] = ["hard", "unlocated", "not_kept"]
  hard = [mentored(outcome, name=f"h{i}") for i in range(20) for outcome in outcomes]
  for changed, expected in (
    ({"keep_unaided": keep}, unaided),
    ({"keep_hard": keep}, hard),
  ):
    found, beyond = started(*unaided, *hard, **changed)
    assert [s.question for s in found] == ([c.question for c in expected] if keep else [])
    assert beyond == 0
    for start in found:
      assert (start.correction, start.horizon, start.prefix.steps) == (None, 8, ())


def test_about_as_many_as_asked_are_kept_and_always_the_same() -> None:
  cases = [mentored("unaided", name=f"u{i}") for i in range(400)]
  kept = [s.question.id for s in started(*cases, keep_unaided=0.25)[0]]
  assert 70 < len(kept) < 130
  assert kept == [s.question.id for s in started(*cases, keep_unaided=0.25)[0]]
  assert kept != [s.question.id for s in started(*cases, keep_unaided=0.25, salt="1/rl")[0]]


def test_a_not_kept_one_starts_at_the_question_although_it_was_corrected() -> None:
  [start], _ = started(mentored("not_kept", 3), keep_hard=1.0)
  assert (start.correction, start.prefix.steps, start.horizon) == (None, (), 8)


def test_the_quarantined_are_never_used() -> None:
  assert started(mentored("quarantined", 2), keep_unaided=1.0, keep_hard=1.0) == ([], 0)
