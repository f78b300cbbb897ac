"""Which starts a step takes, what a group earns, and what of it is trained on."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from score_jax.mentor.equivalence import compare
from score_jax.mentor.reward import Tiers
from score_jax.mentor.starts import Start
from score_jax.reinforce import Scored, order
from score_jax.reinforce import score as score_by
from score_jax.trajectory import Correction, Question, Status, Step, Trajectory

TIERS = Tiers(final=1.0, key=0.5, avoid=0.1)
PLAN = Step("first_thought", "plan", tokens=(1, 2))
TEACHERS = Step("act", "right", "print(4)", "4", "ok", None, "teacher", (5, 6))
MISTAKE = Step("act", "wrong", "print(5)", "5", "ok", None, "student", (7, 8))
PREFIX = Trajectory("q", "2 + 2?", (9, 9), (PLAN,), prefix_steps=1)
START = Start(Question("q", "2 + 2?", "4"), PREFIX, Correction(1, (MISTAKE,), TEACHERS), 7)


def score(start: Start, group: list[Trajectory], tiers: Tiers, *, divide_by_deviation: bool) -> list[Scored]:
  return score_by(start, group, tiers, lambda a, b: compare(a, b, str.__eq__), divide_by_deviation=divide_by_deviation)


def rollout(observation: str, status: Status = "answered", *, grade: float | None = 0.0) -> Trajectory:
  """After the prefix a first new step that shows `observation`, and a last one that submits."""
  new = (
    Step("act", "mine", "…", observation, "ok", None, "student", (3, 4, 5), (-1.0,) * 3),
    Step("act", "submit", "…", "", "ok", "4", "student", (6,), (-1.0,)),
  )
  return Trajectory("q", "2 + 2?", (9, 9), (PLAN, *new), status, "4", grade, prefix_steps=1)


@pytest.mark.parametrize(("count", "prompts", "steps"), [(10, 5, 6), (7, 3, 7), (3, 8, 4), (1, 1, 3)])
def test_each_start_is_taken_once_a_pass(count: int, prompts: int, steps: int) -> None:
  taken = list(order(count, prompts=prompts, steps=steps, seed=1))
  assert [len(indices) for indices in taken] == [prompts] * steps
  flat = [index for indices in taken for index in indices]
  for begin in range(0, len(flat) - count + 1, count):
    assert sorted(flat[begin : begin + count]) == list(range(count))
  assert max(Counter(flat).values()) - min(Counter(flat).values()) <= 1


def test_the_seed_alone_decides_the_order() -> None:
  def taken(steps: int, seed: int) -> list[list[int]]:
    return list(order(50, prompts=8, steps=steps, seed=seed))

  assert taken(20, 1) == taken(20, 1)
  assert taken(20, 1)[:5] == taken(5, 1), "a longer run begins as a shorter one"
  assert taken(20, 1) != taken(20, 2)
  flat = [index for indices in taken(25, 1) for index in indices]
  passes = [flat[i : i + 50] for i in (0, 50, 100)]
  assert passes[0] != passes[1] != passes[2]


def test_a_group_is_scored_by_tier_and_normalised() -> None:
  group = [
    rollout("7", grade=1.0),  # right
    rollout("4"),  # does what the teacher's step does
    rollout("6"),  # neither the teacher's step nor the mistake
    rollout("5"),  # the mistake
  ]
  scored = score(START, group, TIERS, divide_by_deviation=True)
  assert [s.tier for s in scored] == ["final", "key", "avoid", "none"]
  assert [s.reward for s in scored] == [1.0, 0.5, 0.1, 0.0]
  assert [s.trajectory for s in scored] == group
  assert {s.tokens for s in scored} == {4}, "the prefix carries no loss"
  # mean 0.4; squares 0.36, 0.01, 0.09, 0.16: deviation 0.3937
  np.testing.assert_allclose([s.advantage for s in scored], np.array([0.6, 0.1, -0.3, -0.4]) / 0.155**0.5, rtol=1e-6)
  plain = score(START, group, TIERS, divide_by_deviation=False)
  np.testing.assert_allclose([s.advantage for s in plain], [0.6, 0.1, -0.3, -0.4], rtol=1e-6)


def test_what_its_host_failed_leaves_the_group() -> None:
  failed = [
    rollout("4", "tool_failure", grade=None),
    rollout("4", "replay_mismatch", grade=None),
    rollout("4", grade=None),  # the grader failed
  ]
  sound = [rollout("7", grade=1.0), rollout("5", "step_limit")]
  scored = score(START, [failed[0], sound[0], failed[1], sound[1], failed[2]], TIERS, divide_by_deviation=False)
  assert [s.trajectory for s in scored] == sound
  assert [s.advantage for s in scored] == [0.5, -0.5], "the mean is over those that are left"
  assert score(START, failed, TIERS, divide_by_deviation=True) == []


def test_a_group_without_signal_has_no_advantage() -> None:
  for observation, grade in (("7", 1.0), ("5", 0.0), ("6", 0.0)):
    scored = score(START, [rollout(observation, grade=grade)] * 5, TIERS, divide_by_deviation=True)
    assert [s.advantage for s in scored] == [0.0] * 5


def test_a_malformed_turn_is_learnt_from() -> None:
  """It was drawn and earned nothing: its tokens carry the rollout's advantage, what was given carries none."""
  broken = Step("malformed", "<thought> 2", tokens=(7, 8, 9), logprobs=(-0.5, -1.0, -2.0))
  cut = Trajectory("q", "2 + 2?", (9, 9), (PLAN, broken), "bad_format", grade=0.0, prefix_steps=1)
  _, scored = score(START, [rollout("7", grade=1.0), cut], TIERS, divide_by_deviation=True)
  assert (scored.tier, scored.advantage, scored.tokens) == ("none", -1.0, 3)
  sample = scored.sample()
  assert sample.tokens.tolist() == [9, 9, 1, 2, 7, 8, 9]
  assert sample.learnt.tolist() == [0, 0, 0, 0, 1, 1, 1]
  assert sample.sampled.tolist() == [0, 0, 0, 0, -0.5, -1.0, -2.0]
  assert sample.advantage == -1.0
