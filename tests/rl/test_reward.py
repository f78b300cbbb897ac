from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from score_jax.errors import UserError
from score_jax.rl.reward import TierRewards, assign_tier, select_recorded_steps
from score_jax.rl.step_equivalence import compare_steps
from score_jax.trajectory import Correction, Status, Step, Trajectory

PLAN = Step("first_thought", "plan: add", tokens=(1,))
GIVEN = Step("act", "look", "print(1)", "1", "ok")


def act(observation: str = "12", reason: str = "ok", code: str = "x") -> Step:
  return Step("act", "add", code, observation, reason)


MALFORMED = Step("malformed", "<thought> 12")
SUBMITS = dataclasses.replace(act("", code="final_answer_print(x)"), answer="12")
TEACHERS = dataclasses.replace(act("12"), author="teacher")
CORRECTION = Correction(2, (act("13"), act("NameError", "exception")), TEACHERS)


def rollout(*new: Step, status: Status = "step_limit", grade: float | None = 0.0) -> Trajectory:
  """A rollout from a prefix of two steps."""
  return Trajectory("q", "How many?", (1,), (PLAN, GIVEN, *new), status, grade=grade, prefix_steps=2)


def same(a: Step, b: Step) -> str:
  return compare_steps(a, b, lambda x, y: x == y)


def earned(trajectory: Trajectory, correction: Correction | None, rule: str = "paper") -> str:
  return assign_tier(trajectory, correction, rule, same)


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
  "has no code": (rollout(act("14", code=""), act("12")), "none"),
  "has comments alone": (rollout(act("14", code="# look\n\n  # again"), act("12")), "none"),
  "prints the teacher's number and more": (rollout(act("11\n12"), act("12")), "avoid"),
  "prints a mistake's number and more": (rollout(act("13\n14"), act("12")), "none"),
  "prints the teacher's number as a float": (rollout(act("12.0"), act("13")), "key"),
  "prints a mistake's number with a label": (rollout(act("Sum: 13"), act("12")), "none"),
  "submits at once, wrongly": (rollout(SUBMITS, status="answered"), "none"),
  "malformed first turn": (rollout(MALFORMED, status="bad_format"), "none"),
  "right but not graded so": (rollout(SUBMITS, status="answered", grade=0.5), "none"),
}


@pytest.mark.parametrize(("trajectory", "expected"), TABLE.values(), ids=TABLE.keys())
def test_the_table_of_tiers(trajectory: Trajectory, expected: str) -> None:
  assert earned(trajectory, CORRECTION) == expected
  assert earned(trajectory, None) == ("final" if expected == "final" else "none")


#: where the release's rule gives something else than the paper's, and why
RELEASE: dict[str, tuple[Trajectory, str, str]] = {
  "unfinished earns nothing": (rollout(act("12"), act("13")), "key", "none"),
  "the context full is unfinished": (rollout(act("12"), status="context_full"), "key", "none"),
  "a malformed turn is unfinished": (rollout(act("14"), MALFORMED, status="bad_format"), "avoid", "none"),
  "an error is paid for being another one": (
    rollout(act("ValueError", "exception"), SUBMITS, status="answered"),
    "none",
    "avoid",
  ),
  "a wrong answer at once too": (rollout(SUBMITS, status="answered"), "none", "avoid"),
  "the second mistake is not known": (rollout(act("15"), SUBMITS, status="answered"), "none", "avoid"),
  "the first mistake is": (rollout(act("13"), SUBMITS, status="answered"), "none", "none"),
  "the teacher's step is as good": (rollout(act("12"), SUBMITS, status="answered"), "key", "key"),
  "right is right": (rollout(act("13"), SUBMITS, status="answered", grade=1.0), "final", "final"),
}


@pytest.mark.parametrize(("trajectory", "paper", "release"), RELEASE.values(), ids=RELEASE.keys())
def test_the_rule_of_the_release(trajectory: Trajectory, paper: str, release: str) -> None:
  correction = Correction(2, (act("13"), act("15")), TEACHERS)
  assert (earned(trajectory, correction), earned(trajectory, correction, "release")) == (paper, release)


def test_an_unknown_rule_is_refused() -> None:
  with pytest.raises(UserError, match=r"rl.reward = 'peper'; choose from paper, release"):
    TierRewards(1.0, 0.5, 0.1, "peper")


def test_what_stays_undecided_is_neither_the_teachers_nor_avoided() -> None:
  """The usual bug takes "not equal" for "different": it pays 0.1 for a step of which nothing is known."""
  for answer, expected in {"equal": "key", "different": "avoid", "undecided": "none"}.items():
    found = assign_tier(rollout(act("…")), CORRECTION, "paper", lambda a, b, said=answer: said)  # type: ignore[misc]
    assert found == expected


def test_undecided_against_the_teachers_step_it_can_still_avoid_the_mistakes() -> None:
  verdicts = {"12": "undecided", "13": "different", "NameError": "different"}
  assert assign_tier(rollout(act("…")), CORRECTION, "paper", lambda a, b: verdicts[b.observation]) == "avoid"  # type: ignore


def test_the_tier_hangs_on_recorded_steps_alone_where_it_hangs_on_any() -> None:
  assert select_recorded_steps(rollout(act("14")), CORRECTION, "paper") == (TEACHERS, *CORRECTION.mistakes)
  answered = rollout(act("14"), SUBMITS, status="answered")
  assert select_recorded_steps(answered, CORRECTION, "release") == (TEACHERS, CORRECTION.mistakes[0])
  right = rollout(act("14"), SUBMITS, status="answered", grade=1.0)
  for settled in (right, rollout(SUBMITS, status="answered"), rollout(MALFORMED), rollout()):
    assert select_recorded_steps(settled, CORRECTION, "paper") == ()


def test_a_first_thought_earns_no_key_or_avoid() -> None:
  trajectory = Trajectory("q", "How many?", (1,), (PLAN, act("12")), "step_limit", grade=0.0)
  assert earned(trajectory, Correction(0, (), PLAN)) == "none"


def test_a_mistake_that_did_not_run_is_avoided_by_what_runs() -> None:
  for mistake in (act("NameError", "exception"), MALFORMED, SUBMITS):
    assert earned(rollout(act("99")), Correction(2, (mistake,), TEACHERS)) == "avoid"


def test_every_recorded_mistake_counts() -> None:
  mistakes = (act("13"), act("14"), act("15"))
  assert [earned(rollout(m), Correction(2, mistakes, TEACHERS)) for m in mistakes] == ["none"] * 3


def test_a_replacement_that_submits_earns_no_key() -> None:
  correction = Correction(2, (act("13"),), SUBMITS)
  assert earned(rollout(act(""), act("12")), correction) == "none"
  assert earned(rollout(act("14")), correction) == "avoid"


def test_tiers_pay_what_they_are_set_to() -> None:
  tiers = TierRewards(final=1.0, key=0.5, avoid=0.1)
  names: tuple[Any, ...] = ("final", "key", "avoid", "none")
  assert [tiers.reward(n) for n in names] == [1.0, 0.5, 0.1, 0.0]
  assert [TierRewards(1.0, 0.0, 0.0).reward(n) for n in names] == [1.0, 0.0, 0.0, 0.0]
