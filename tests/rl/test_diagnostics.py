"""What is measured on a step's rollouts, against values counted by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from score_jax.rl.diagnostics import (
  estimate_kl,
  is_right_answer_supported,
  is_truncated,
  measure_entropies,
  measure_first_step_diversity,
  measure_lengths,
  measure_logprob_change,
  measure_rollouts,
  probe_pass_rate,
)
from score_jax.train.batch import Example
from score_jax.trajectory import Kind, Question, Status, Step, Trajectory

TAGS = {90: "<first_thought>", 91: "</first_thought>", 92: "<thought>", 93: "</thought>", 94: "<code>", 95: "</code>"}
QUESTION = Question("q", "Seven boxes of 12 and one of 30: how many?", "114")
PLAN = Step("first_thought", "plan", tokens=(90, 1, 91, 99), logprobs=(-5.0, -0.5, -5.0, -5.0))


def act(code: str, observation: str = "", *, thought: str = "so", tokens: int = 4, kind: Kind = "act") -> Step:
  return Step(kind, thought, code, observation, "ok", None, "student", (7,) * tokens, (-1.0,) * tokens)


def rollout(*steps: Step, status: Status = "answered", grade: float = 1.0, given: int = 0) -> Trajectory:
  return Trajectory("q", QUESTION.text, (1, 2), steps, status, None, grade, prefix_steps=given)


SUBMIT = act("final_answer_print(x)")


def test_lengths_are_of_what_was_drawn() -> None:
  """Right: 4 + 4 and 4 tokens, the plan that was given not counted; wrong: 20."""
  right = [rollout(PLAN, act("x = 1"), SUBMIT, given=1), rollout(SUBMIT)]
  wrong = rollout(act("x", tokens=20), status="step_limit", grade=0.0)
  assert measure_lengths([*right, wrong]) == {"length_right": 6.0, "length_wrong": 20.0, "length_ratio": 20 / 6}
  assert measure_lengths(right) == {"length_right": 6.0}


def test_what_a_limit_ended() -> None:
  long = rollout(act("", tokens=64, kind="malformed"), status="bad_format", grade=0.0)
  short = rollout(act("", tokens=9, kind="malformed"), status="bad_format", grade=0.0)
  ended: list[Status] = ["answered", "step_limit", "context_full"]
  assert [is_truncated(t, 64) for t in (long, short)] == [True, False]
  assert [is_truncated(rollout(SUBMIT, status=s), 64) for s in ended] == [False, True, True]


def test_entropy_is_told_of_thought_and_of_code_apart() -> None:
  """Thought: 0.5, 1, 2; code: 0.1, 0.3; tags, ends of turns and what was given do not count."""
  drawn = Step(
    "act",
    "t",
    "c",
    tokens=(92, 1, 2, 93, 94, 3, 4, 95, 99),
    logprobs=(-9.0, -1.0, -2.0, -9.0, -9.0, -0.1, -0.3, -9.0, -9.0),
  )
  given = Step("act", "t", "c", tokens=(92, 1, 93), logprobs=(-9.0, -100.0, -9.0))
  found = measure_entropies([rollout(PLAN, drawn), rollout(given, drawn, given=1)], TAGS)
  assert found == pytest.approx({"entropy_thought": (0.5 + 3.0 + 3.0) / 5, "entropy_code": 0.2})
  assert measure_entropies([rollout(act("x"))], TAGS) == {}, "a turn without tags is neither"


def test_entropy_estimates_that_of_what_was_drawn_from() -> None:
  """Draws of p = (0.7, 0.2, 0.1): 0.8018 nats."""
  p = np.array([0.7, 0.2, 0.1])
  tokens = np.random.default_rng(0).choice(3, size=20_000, p=p)
  step = Step("act", "", "", tokens=(94, *tokens.tolist()), logprobs=(0.0, *np.log(p)[tokens].tolist()))
  exact = -sum(x * math.log(x) for x in p)
  assert measure_entropies([rollout(step)], TAGS)["entropy_code"] == pytest.approx(exact, abs=0.02)


def test_distinct_first_steps() -> None:
  """The first that was drawn: 0 where all are the same, 1 where no two are."""

  def group(*codes: str) -> list[Trajectory]:
    return [rollout(PLAN, act(code), SUBMIT, given=1) for code in codes]

  assert measure_first_step_diversity(group("a", "a", "a", "a", "a")) == 0.0
  assert measure_first_step_diversity(group("a", "b", "c", "d", "e")) == 1.0
  assert measure_first_step_diversity(group("a", "b", "a", "a", "a")) == 0.25
  assert measure_first_step_diversity(group("a")) is None


GUESS = act("final_answer_print(114)")
SUPPORT = [
  # an answer that nothing produced
  (False, [GUESS]),
  (False, [act("print('thinking')", "thinking"), GUESS]),
  (False, [act("print(114)", "114"), GUESS]),  # a literal that was printed is none the better for it
  (False, [act("x = 114\nprint(x)", "114"), GUESS]),
  (False, [act("total = 114"), act("final_answer_print(total)")]),
  (False, [act("final_answer_print('114')", thought="seven times 12 and 30 is 114")]),
  (False, [act("y = 7 * 12 + 30"), GUESS]),  # computed, and not looked at
  # one that was computed, observed or found
  (True, [act("final_answer_print(7 * 12 + 30)")]),
  (True, [act("x = 7 * 12 + 30"), SUBMIT]),
  (True, [act("print(7 * 12 + 30)", "114"), GUESS]),
  (True, [act("print(search('boxes'))", "Boxes: there are 114 in all."), GUESS]),
  (True, [act("print(7 * 12 + 30)", "114"), act("print(114)", "114"), GUESS]),
]


@pytest.mark.parametrize(("expected", "steps"), SUPPORT)
def test_what_supports_a_right_answer(expected: bool, steps: list[Step]) -> None:
  assert is_right_answer_supported(QUESTION, rollout(PLAN, *steps)) is expected
  assert is_right_answer_supported(QUESTION, rollout(PLAN, *steps, grade=0.0)) is None, "a wrong one is another matter"


def test_the_question_supports_what_it_says_but_not_a_letter_to_choose() -> None:
  either = Question("q", "Who was first, Ada or Charles?", "Ada")
  assert is_right_answer_supported(either, rollout(act("final_answer_print('Ada')"))) is True
  choice = Question("q", "Which is prime?\nA. 8\nB. 13\nC. 21", "B")
  assert is_right_answer_supported(choice, rollout(act("final_answer_print('B')"))) is False
  assert (
    is_right_answer_supported(
      choice, rollout(act("print(primes(30))", "2, 3, 5, 7, 11, 13"), act("final_answer_print('B')"))
    )
    is True
  )
  closed = Question("q", "Is 13 prime?", "yes")
  assert is_right_answer_supported(closed, rollout(act("final_answer_print('yes')"))) is None, "nothing can be told"


def test_all_of_a_step() -> None:
  """Two groups of healthy rollouts, and two in which all that can go wrong in one does."""
  fine = [rollout(PLAN, act(f"x = {i} * 3"), SUBMIT) for i in range(3)]
  found = measure_rollouts([(QUESTION, fine), (QUESTION, fine)], TAGS, turn_tokens=64)
  assert found["length_right"] == 12.0
  assert [found[name] for name in ("cut_off", "bad_format", "code_free", "unsupported_right")] == [0.0] * 4
  assert found["distinct_first_steps"] == 0.0, "all had the same plan"
  assert found["entropy_thought"] == 0.5

  broken = rollout(PLAN, act("", tokens=64, kind="malformed"), status="bad_format", grade=0.0)
  idle = rollout(PLAN, act("# let me think"), act("  "), act("for"), status="step_limit", grade=0.0)
  guess = rollout(PLAN, GUESS)
  found = measure_rollouts([(QUESTION, [broken, idle]), (QUESTION, [guess, fine[0]])], TAGS, turn_tokens=64)
  assert found["bad_format"] == 0.25
  assert found["cut_off"] == 0.5
  assert found["code_free"] == 2 / 6, "code that is no Python is code; a comment is none"
  assert found["unsupported_right"] == 0.5
  assert measure_rollouts([], TAGS, turn_tokens=64) == {}


def test_the_probe() -> None:
  """pass@2 of three questions, and the mean of six tries."""
  right, wrong = rollout(SUBMIT), rollout(SUBMIT, grade=0.0)
  found = probe_pass_rate([[right, wrong], [wrong, wrong], [right, right]])
  assert found == pytest.approx({"probe_pass": 2 / 3, "probe_mean": 0.5})


def test_the_probe_leaves_out_what_a_host_failed() -> None:
  """Of the second question one of two tries is known, which says nothing of pass@2."""
  right, wrong = rollout(SUBMIT), rollout(SUBMIT, grade=0.0)
  lost = dataclasses.replace(wrong, status="tool_failure", grade=None)
  ungraded = dataclasses.replace(wrong, grade=None)
  found = probe_pass_rate([[right, wrong], [wrong, lost], [ungraded, lost]])
  assert found == pytest.approx({"probe_pass": 1.0, "probe_mean": 1 / 3})
  assert probe_pass_rate([[lost]]) == {}


def sample_of(sampled: list[float], learnt: list[int]) -> Example:
  n = len(sampled)
  return Example(np.arange(n, dtype=np.int32), np.array(learnt, np.float32), np.array(sampled, np.float32))


def test_divergence_and_change_are_over_learnt_tokens() -> None:
  """log p other - log p drawn: -1, 0 and 0.5; k3 is e^-1 - 1 + 1, 0 and e^0.5 - 1.5."""
  samples = [sample_of([0.0, -1.0, -2.0], [0, 1, 1]), sample_of([-0.7, -0.5], [0, 1])]
  other = [np.array([-9.0, -2.0, -2.0], np.float32), np.array([0.0, 0.0], np.float32)]
  k3 = [math.exp(-1), 0.0, math.exp(0.5) - 1.5]
  assert estimate_kl(samples, other) == pytest.approx(sum(k3) / 3)
  assert measure_logprob_change(samples, other) == pytest.approx(-0.5 / 3)
  nothing = [sample_of([0.0], [0])]
  assert estimate_kl(nothing, [np.zeros(1)]) is None
  assert measure_logprob_change(nothing, [np.zeros(1)]) is None


def test_divergence_is_that_of_the_distributions() -> None:
  """Draws of p = (0.7, 0.3) against q = (0.4, 0.6): 0.7 log(7/4) + 0.3 log(1/2) = 0.1838 nats."""
  p, q = np.array([0.7, 0.3]), np.array([0.4, 0.6])
  tokens = np.random.default_rng(0).choice(2, size=50_000, p=p)
  drawn = sample_of(np.log(p)[tokens].tolist(), [1] * len(tokens))
  exact = float(np.sum(p * np.log(p / q)))
  assert estimate_kl([drawn], [np.log(q)[tokens].astype(np.float32)]) == pytest.approx(exact, abs=0.005)
