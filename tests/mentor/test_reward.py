from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from score_jax.mentor.reward import Tiers, equivalent, tier
from score_jax.trajectory import Correction, Status, Step, Trajectory

PLAN = Step("first_thought", "plan: add", tokens=(1,))
GIVEN = Step("act", "look", "print(1)", "1", "ok")


def act(observation: str = "12", reason: str = "ok", code: str = "x") -> Step:
  return Step("act", "add", code, observation, reason)


MALFORMED = Step("malformed", "<thought> 12")
SUBMITS = act("", code="final_answer_print(x)")
TEACHERS = dataclasses.replace(act("12"), author="teacher")
CORRECTION = Correction(2, (act("13"), act("NameError", "exception")), TEACHERS)


def rollout(*new: Step, status: Status = "step_limit", grade: float | None = 0.0) -> Trajectory:
  """A rollout from a prefix of two steps."""
  return Trajectory("q", "How many?", (1,), (PLAN, GIVEN, *new), status, grade=grade, prefix_steps=2)


@pytest.mark.parametrize(
  ("a", "b", "same"),
  [
    (act("12"), act("12"), True),
    (act("12", code="a"), act("12", code="b"), True),
    (act("12"), act("13"), False),
    (act("12"), act("12 "), False),
    (act(""), act(""), None),
    (act("12"), act(""), None),
    (act("12"), act("NameError", "exception"), False),
    (act("NameError"), act("NameError", "exception"), False),
    (act(""), act("", "timeout"), False),
    (act("NameError", "exception"), act("NameError", "exception"), None),
    (act("NameError", "exception"), act("", "timeout"), None),
    (PLAN, PLAN, None),
    (PLAN, act("12"), False),
    (MALFORMED, MALFORMED, None),
    (MALFORMED, act("12"), False),
    (MALFORMED, PLAN, False),
  ],
)
def test_equivalence_is_told_by_what_was_observed(a: Step, b: Step, same: bool | None) -> None:
  assert equivalent(a, b) is same
  assert equivalent(b, a) is same


TABLE: dict[str, tuple[Trajectory, str]] = {
  "right": (rollout(act("1"), SUBMITS, status="answered", grade=1.0), "final"),
  "right at once": (rollout(SUBMITS, status="answered", grade=1.0), "final"),
  "right after the teacher's step": (rollout(act("12"), SUBMITS, status="answered", grade=1.0), "final"),
  "teacher's step, then wrong": (rollout(act("12"), SUBMITS, status="answered"), "key"),
  "teacher's step, unfinished": (rollout(act("12"), act("13")), "key"),
  "teacher's step, context full": (rollout(act("12"), status="context_full"), "key"),
  "something new": (rollout(act("14"), SUBMITS, status="answered"), "avoid"),
  "something new, malformed later": (rollout(act("14"), MALFORMED, status="bad_format"), "avoid"),
  "a recorded mistake": (rollout(act("13"), SUBMITS, status="answered"), "none"),
  "a mistake, then the teacher's step": (rollout(act("13"), act("12")), "none"),
  "prints nothing: not told from the teacher's or a mistake": (rollout(act(""), act("12")), "none"),
  "raises": (rollout(act("NameError", "exception"), act("12")), "none"),
  "raises with the teacher's text": (rollout(act("12", "exception"), act("12")), "none"),
  "runs too long": (rollout(act("12", "timeout")), "none"),
  "submits the teacher's number, wrongly": (rollout(act("12"), status="answered"), "none"),
  "submits at once, wrongly": (rollout(SUBMITS, status="answered"), "none"),
  "malformed first turn": (rollout(MALFORMED, status="bad_format"), "none"),
  "right but not graded so": (rollout(SUBMITS, status="answered", grade=0.5), "none"),
}


@pytest.mark.parametrize(("trajectory", "expected"), TABLE.values(), ids=TABLE.keys())
def test_the_table_of_tiers(trajectory: Trajectory, expected: str) -> None:
  assert tier(trajectory, CORRECTION) == expected
  assert tier(trajectory, None) == ("final" if expected == "final" else "none")


def test_a_first_thought_earns_no_key_or_avoid() -> None:
  trajectory = Trajectory("q", "How many?", (1,), (PLAN, act("12")), "step_limit", grade=0.0)
  assert tier(trajectory, Correction(0, (), PLAN)) == "none"


def test_a_mistake_that_did_not_run_is_avoided_by_what_runs() -> None:
  for mistake in (act("NameError", "exception"), MALFORMED):
    assert tier(rollout(act("99")), Correction(2, (mistake,), TEACHERS)) == "avoid"


def test_every_recorded_mistake_counts() -> None:
  mistakes = (act("13"), act("14"), act("15"))
  assert [tier(rollout(m), Correction(2, mistakes, TEACHERS)) for m in mistakes] == ["none"] * 3


def test_a_replacement_that_submits_earns_no_key() -> None:
  correction = Correction(2, (act("13"),), SUBMITS)
  assert tier(rollout(act(""), act("12")), correction) == "none"
  assert tier(rollout(act("14")), correction) == "avoid"


def test_tiers_pay_what_they_are_set_to() -> None:
  tiers = Tiers(final=1.0, key=0.5, avoid=0.1)
  names: tuple[Any, ...] = ("final", "key", "avoid", "none")
  assert [tiers.pay(n) for n in names] == [1.0, 0.5, 0.1, 0.0]
  assert [Tiers(1.0, 0.0, 0.0).pay(n) for n in names] == [1.0, 0.0, 0.0, 0.0]
