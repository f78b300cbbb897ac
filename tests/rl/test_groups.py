"""What a group earns, what leaves it, and why it may have no signal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from score_jax.rl.reward import (
  EXCLUDED_REASONS,
  NO_SIGNAL_REASONS,
  ScoredRollout,
  StepComparator,
  TierRewards,
  excluded_reason,
  measure_groups,
  no_signal_reason,
  score_groups,
)
from score_jax.rl.step_equivalence import compare_steps
from score_jax.teaching.mentoring import RolloutStart
from score_jax.trajectory import Correction, Question, Status, Step, Trajectory


def SAME(_: RolloutStart) -> StepComparator:
  """By execution."""
  return lambda a, b: compare_steps(a, b, str.__eq__)


TIERS = TierRewards(final=1.0, key=0.5, avoid=0.1)
PLAN = Step("first_thought", "plan", tokens=(1, 2))
TEACHERS = Step("act", "right", "print(4)", "4", "ok", None, "teacher", (5, 6))
MISTAKE = Step("act", "wrong", "print(5)", "5", "ok", None, "student", (7, 8))
PREFIX = Trajectory("q", "2 + 2?", (9, 9), (PLAN,), prefix_steps=1)
START = RolloutStart(Question("q", "2 + 2?", "4"), PREFIX, Correction(1, (MISTAKE,), TEACHERS), 7)


def rollout(observation: str, status: Status = "answered", *, grade: float | None = 0.0) -> Trajectory:
  """After the prefix a first new step that shows `observation`, and a last one that submits."""
  new = (
    Step("act", "mine", "…", observation, "ok", None, "student", (3, 4, 5), (-1.0,) * 3),
    Step("act", "submit", "…", "", "ok", "4", "student", (6,), (-1.0,)),
  )
  return Trajectory("q", "2 + 2?", (9, 9), (PLAN, *new), status, "4", grade, prefix_steps=1)


def scored_group(group: list[Trajectory], scale: str = "group_std", tiers: TierRewards = TIERS) -> list[ScoredRollout]:
  (found,) = score_groups([START], [group], tiers, SAME, scale=scale)
  return found


def test_a_group_is_scored_by_tier_and_normalised() -> None:
  group = [
    rollout("7", grade=1.0),  # right
    rollout("4"),  # does what the teacher's step does
    rollout("6"),  # neither the teacher's step nor the mistake
    rollout("5"),  # the mistake
  ]
  scored = scored_group(group)
  assert [s.tier for s in scored] == ["final", "key", "avoid", "none"]
  assert [s.reward for s in scored] == [1.0, 0.5, 0.1, 0.0]
  assert [s.trajectory for s in scored] == group
  assert {s.tokens for s in scored} == {4}, "the prefix carries no loss"
  # mean 0.4; squares 0.36, 0.01, 0.09, 0.16: deviation 0.3937
  np.testing.assert_allclose([s.advantage for s in scored], np.array([0.6, 0.1, -0.3, -0.4]) / 0.155**0.5, rtol=1e-6)
  plain = scored_group(group, "none")
  np.testing.assert_allclose([s.advantage for s in plain], [0.6, 0.1, -0.3, -0.4], rtol=1e-6)


def test_what_its_host_failed_leaves_the_group() -> None:
  failed = [
    rollout("4", "tool_failure", grade=None),
    rollout("4", "replay_mismatch", grade=None),
    rollout("4", grade=None),  # the grader failed
  ]
  sound = [rollout("7", grade=1.0), rollout("5", "step_limit")]
  scored = scored_group([failed[0], sound[0], failed[1], sound[1], failed[2]], "none")
  assert [s.trajectory for s in scored] == sound
  assert [s.advantage for s in scored] == [0.5, -0.5], "the mean is over those that are left"
  assert scored_group(failed) == []


def test_a_group_without_signal_has_no_advantage() -> None:
  for observation, grade in (("7", 1.0), ("5", 0.0), ("6", 0.0)):
    scored = scored_group([rollout(observation, grade=grade)] * 5)
    assert [s.advantage for s in scored] == [0.0] * 5


def test_a_malformed_turn_is_learnt_from() -> None:
  """It was drawn and earned nothing: its tokens carry the rollout's advantage, what was given carries none."""
  broken = Step("malformed", "<thought> 2", tokens=(7, 8, 9), logprobs=(-0.5, -1.0, -2.0))
  cut = Trajectory("q", "2 + 2?", (9, 9), (PLAN, broken), "bad_format", grade=0.0, prefix_steps=1)
  _, scored = scored_group([rollout("7", grade=1.0), cut])
  assert (scored.tier, scored.advantage, scored.tokens) == ("none", -1.0, 3)
  sample = scored.to_example()
  assert sample.tokens.tolist() == [9, 9, 1, 2, 7, 8, 9]
  assert sample.loss_mask.tolist() == [0, 0, 0, 0, 1, 1, 1]
  assert sample.sampling_logprobs.tolist() == [0, 0, 0, 0, -0.5, -1.0, -2.0]
  assert sample.advantage == -1.0


RIGHT, KEY, AVOID, WRONG = rollout("7", grade=1.0), rollout("4"), rollout("6"), rollout("5")
HOST, REPLAY = rollout("4", "tool_failure", grade=None), rollout("4", "replay_mismatch", grade=None)
UNGRADED = rollout("4", grade=None)


def test_whose_failure_it_is() -> None:
  """The host's, the start's, the grader's; but code that runs out of its time is the agent's own doing."""
  assert [excluded_reason(t) for t in (HOST, REPLAY, UNGRADED)] == list(EXCLUDED_REASONS)
  slow = Step("act", "mine", "while True: pass", "", "timeout", None, "student", (3, 4), (-1.0,) * 2)
  spent = Trajectory("q", "2 + 2?", (9, 9), (PLAN, slow), "step_limit", grade=0.0, prefix_steps=1)
  assert excluded_reason(spent) is None
  found = scored_group([spent, RIGHT, UNGRADED])
  assert [(s.tier, s.reward) for s in found] == [("none", 0.0), ("final", 1.0)]


@pytest.mark.parametrize("failed", [HOST, REPLAY, UNGRADED], ids=EXCLUDED_REASONS)
def test_a_failure_is_never_a_nothing(failed: Trajectory) -> None:
  """Two right and one failed: as a 0 it would be taught against with -1.41, and the others get 0.71."""
  found = scored_group([RIGHT, failed, RIGHT])
  assert [s.trajectory for s in found] == [RIGHT, RIGHT]
  assert [s.advantage for s in found] == [0.0, 0.0]
  assert no_signal_reason(found) == "right"


@pytest.mark.parametrize(
  ("group", "tiers", "expected"),
  [
    ([RIGHT, RIGHT], TIERS, "right"),
    ([WRONG, WRONG, WRONG], TIERS, "wrong"),
    ([KEY, KEY], TIERS, "key"),
    ([AVOID, AVOID], TIERS, "avoid"),
    ([RIGHT], TIERS, "few"),
    ([RIGHT, HOST, UNGRADED], TIERS, "few"),
    ([HOST], TIERS, "few"),
    ([], TIERS, "few"),
    ([KEY, WRONG, AVOID], TierRewards(1.0, 0.0, 0.0), "equal_pay"),
    ([KEY, WRONG], TIERS, None),
    ([RIGHT, WRONG, HOST], TierRewards(1.0, 0.0, 0.0), None),
  ],
)
@pytest.mark.parametrize("scale", ["group_std", "batch_std", "none"])
def test_why_a_group_has_no_signal(
  group: list[Trajectory], tiers: TierRewards, expected: str | None, scale: str
) -> None:
  """It has none exactly where all its advantages are exactly 0, whatever else the step holds."""
  found, other = score_groups([START, START], [group, [RIGHT, WRONG]], tiers, SAME, scale=scale)
  assert no_signal_reason(found) == expected
  assert all(s.advantage == 0.0 for s in found) == (expected is not None)
  assert all(s.advantage != 0.0 for s in other)


def test_the_scale_of_a_step_looks_at_all_its_groups() -> None:
  """Centred ±0.5 and ±0.25: squares 0.5 and 0.125 over 4 rollouts give 0.3953 for both."""
  first, second = score_groups([START] * 2, [[RIGHT, WRONG], [KEY, WRONG]], TIERS, SAME, scale="batch_std")
  deviation = (0.625 / 4) ** 0.5
  np.testing.assert_allclose([s.advantage for s in first], np.array([0.5, -0.5]) / deviation, rtol=1e-6)
  np.testing.assert_allclose([s.advantage for s in second], np.array([0.25, -0.25]) / deviation, rtol=1e-6)


def test_a_step_is_told_in_shares_by_cause() -> None:
  """Five groups of 14 rollouts: one has a signal; three rollouts were failed."""
  drawn = [[RIGHT, WRONG, HOST], [RIGHT, RIGHT], [WRONG] * 4, [KEY, KEY, UNGRADED], [AVOID, REPLAY]]
  found: dict[str, Any] = measure_groups(drawn, score_groups([START] * 5, drawn, TIERS, SAME, scale="group_std"))
  assert found["no_signal_groups"] == pytest.approx(4 / 5)
  causes = {name: found[f"no_signal_{name}"] for name in NO_SIGNAL_REASONS}
  assert causes == {"few": 0.2, "right": 0.2, "wrong": 0.2, "key": 0.2, "avoid": 0.0, "equal_pay": 0.0}
  assert {name: found[f"left_{name}"] for name in EXCLUDED_REASONS} == dict.fromkeys(EXCLUDED_REASONS, 1 / 14)
  assert found["reward_mean"] == pytest.approx((3 * 1.0 + 2 * 0.5 + 0.1) / 11)
  assert found["accuracy"] == found["tier_final"] == pytest.approx(3 / 11)
  assert found["generated_tokens"] == 11 * 4


def test_of_nothing_there_is_no_share() -> None:
  """Where hosts failed every rollout, no reward, accuracy or tier is told; they all left, and no group has a signal."""
  drawn = [[HOST, HOST], [UNGRADED]]
  found = measure_groups(drawn, score_groups([START] * 2, drawn, TIERS, SAME, scale="none"))
  told = {"no_signal_groups", *(f"no_signal_{n}" for n in NO_SIGNAL_REASONS), *(f"left_{n}" for n in EXCLUDED_REASONS)}
  assert found.keys() == told | {"generated_tokens", "rollouts"}
  assert (found["left_tool_failure"], found["no_signal_few"], found["generated_tokens"]) == (2 / 3, 1.0, 0)
  assert measure_groups([], []) == {"generated_tokens": 0, "rollouts": 0}
