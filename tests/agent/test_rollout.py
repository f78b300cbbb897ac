"""The loop's logic with scripted turns; then the same loop on a real sampler, whose results depend on nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from score_jax.agent.protocol import Turn
from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.model.decoder import Weights
from score_jax.trajectory import (
  Correction,
  Ledger,
  Question,
  Trajectory,
  Usage,
  trajectory_from_json,
  trajectory_to_json,
)
from tests.agent.scripted import LOGPROB, SHAPE, Stage, act, plan, question, said, submit

COUNT = act("x = 5 + 7\nprint(x)")


def asked(*names: str, acts: int = 8, copies: int = 1) -> list[RolloutRequest]:
  return [RolloutRequest(f"test/{n}", q, empty_trajectory(q), acts, copies) for n in names for q in [question(name=n)]]


def one(agent: Agent, weights: Weights, request: RolloutRequest) -> Trajectory:
  [[trajectory]] = agent.rollout(weights, [request])
  return trajectory


def test_a_right_answer(stage: Stage) -> None:
  weights = stage.in_turn(plan(), COUNT, submit())
  [request] = asked("q")
  trajectory = one(stage.agent(), weights, request)
  assert (trajectory.status, trajectory.answer, trajectory.grade, trajectory.right) == ("answered", "12", 1.0, True)
  assert trajectory.name == "test/q/0"
  assert (trajectory.question_id, trajectory.question) == ("q", question().text)
  assert [s.answer for s in trajectory.steps] == [None, None, "12"]
  assert [(s.kind, s.thought, s.code, s.observation, s.reason, s.author) for s in trajectory.steps] == [
    ("first_thought", "plan: add", "", "", "", "student"),
    ("act", "add", "x = 5 + 7\nprint(x)", "12", "ok", "student"),
    ("act", "answer", "final_answer_print(x)", "", "ok", "student"),
  ]
  assert trajectory_from_json(trajectory_to_json(trajectory)) == trajectory


def test_the_context_is_what_the_protocol_spells(stage: Stage) -> None:
  p = stage.protocol
  trajectory = one(stage.agent(), stage.in_turn(plan(), COUNT, submit()), *asked("q"))
  assert trajectory.context() == (
    *p.encode_prompt(question().text),
    *p.encode_turn(plan()),
    *p.encode_observation(None),
    *p.encode_turn(COUNT),
    *p.encode_observation("12"),
    *p.encode_turn(submit()),
    *p.encode_observation(""),
  )
  for step in trajectory.steps:
    assert step.logprobs == (LOGPROB,) * len(step.tokens)


def test_the_ledger_counts_tokens_and_calls(stage: Stage) -> None:
  trajectory = one(stage.agent(), stage.in_turn(plan(), COUNT, submit()), *asked("q"))
  usage = trajectory.ledger.of("student")
  first, second, last = trajectory.steps
  assert usage.generated == sum(len(s.tokens) for s in trajectory.steps)
  read = [len(trajectory.prompt_tokens), len(first.observation_tokens), len(second.observation_tokens)]
  assert usage.read == sum(read)
  assert usage.scored == 0
  weights = 2.0 * SHAPE.parameters * (usage.generated + usage.read)
  attention = 4.0 * 8 * len(trajectory.context()) * (usage.generated + usage.read)
  assert weights < usage.flops < weights + attention
  assert set(trajectory.ledger.models) == {"student"}
  assert (trajectory.ledger.tool_calls, trajectory.ledger.grader_calls) == (2, 1)
  assert last.observation_tokens  # which the model never read


def test_the_ledger_counts_the_flops_of_each_token_at_its_place(stage: Stage) -> None:
  """Of one layer with one head of 8: 4 * 8 for each token that a token sees, itself included, and 2 a weight.

  A sum over all tokens here, of middle ones there: to a token each.
  """
  trajectory = one(stage.agent(), stage.in_turn(plan(), COUNT, submit()), *asked("q"))
  usage, seen = (
    trajectory.ledger.of("student"),
    len(trajectory.context()) - len(trajectory.steps[-1].observation_tokens),
  )
  assert usage.generated + usage.read == seen
  assert seen > 100
  exact = sum(2.0 * SHAPE.parameters + 4.0 * 8 * place for place in range(1, seen + 1))
  assert abs(usage.flops - exact) <= 4.0 * 8 * seen


def test_a_wrong_answer_is_graded_with_a_reason(stage: Stage) -> None:
  trajectory = one(stage.agent(), stage.in_turn(plan(), submit("'13'")), *asked("q"))
  assert (trajectory.status, trajectory.answer, trajectory.grade) == ("answered", "13", 0.0)
  assert trajectory.grade_reason == "13 is not 12"


def test_a_failed_grader_gives_no_grade(stage: Stage) -> None:
  request = RolloutRequest("test/q", question("twelve"), empty_trajectory(question("twelve")), 8)
  trajectory = one(stage.agent(), stage.in_turn(plan(), submit("12")), request)
  assert (trajectory.status, trajectory.grade, trajectory.right) == ("answered", None, False)


def test_an_exception_is_seen_and_recovered_from(stage: Stage) -> None:
  def says(name: str, text: str):
    if "NameError: name 'y' is not defined" in text:
      return COUNT if "Observation: 12" not in text else submit()
    return act("print(y)") if said(text) else plan()

  trajectory = one(stage.agent(), stage.weights(says), *asked("q"))
  assert [s.reason for s in trajectory.steps] == ["", "exception", "ok", "ok"]
  assert trajectory.right


def test_the_budget_of_acts(stage: Stage) -> None:
  trajectory = one(
    stage.agent(), stage.weights(lambda name, text: COUNT if said(text) else plan()), *asked("q", acts=3)
  )
  assert (trajectory.status, trajectory.acts, len(trajectory.steps)) == ("step_limit", 3, 4)
  assert (trajectory.grade, trajectory.grade_reason, trajectory.answer) == (0.0, "step_limit", None)


def test_an_answer_in_the_last_act_counts(stage: Stage) -> None:
  assert one(stage.agent(), stage.in_turn(plan(), COUNT, submit()), *asked("q", acts=2)).right


def test_a_malformed_turn_ends_the_trajectory(stage: Stage) -> None:
  p = stage.protocol
  malformed = [
    p.encode_turn(COUNT)[1:],  # no opening tag
    (*p.encode_turn(COUNT)[:-2], p.stop_token),  # no closing tag
    p.encode_turn(plan()),  # a plan where an act belongs
    (p.stop_token,),
  ]
  for tokens in malformed:
    trajectory = one(stage.agent(), stage.in_turn(plan(), tokens), *asked("q"))
    assert (trajectory.status, len(trajectory.steps), trajectory.grade) == ("bad_format", 2, 0.0)
    broken = trajectory.steps[1]
    assert (broken.kind, broken.tokens, broken.author) == ("malformed", tuple(tokens), "student")
    assert len(broken.logprobs) == len(tokens)
    assert (broken.thought, broken.code, broken.observation_tokens) == (p.decode(tokens), "", ())
    assert trajectory.ledger.of("student").generated == len(p.encode_turn(plan())) + len(tokens)
    assert trajectory.ledger.tool_calls == 0
  assert [s.kind for s in one(stage.agent(), stage.in_turn(COUNT), *asked("q")).steps] == ["malformed"]


def test_a_turn_may_take_so_many_tokens(stage: Stage) -> None:
  size = len(stage.protocol.encode_turn(COUNT))
  weights = stage.in_turn(plan(), COUNT, submit())
  assert one(stage.agent(turn_tokens=size), weights, *asked("q")).status == "answered"
  short = one(stage.agent(turn_tokens=size - 1), weights, *asked("q"))
  assert (short.status, [s.kind for s in short.steps]) == ("bad_format", ["first_thought", "malformed"])
  assert short.steps[1].tokens == stage.protocol.encode_turn(COUNT)[:-1]


@pytest.mark.parametrize("decode", [1, 3, 64])
def test_how_many_tokens_a_call_draws_makes_no_difference(stage: Stage, decode: int) -> None:
  weights = stage.in_turn(plan(), COUNT, submit())
  trajectory = one(stage.agent(decode=decode), weights, *asked("q"))
  usual = one(stage.agent(), weights, *asked("q"))
  assert trajectory.steps == usual.steps


def test_the_context_fills_at_every_place(stage: Stage) -> None:
  """Whatever the room, a trajectory never outgrows the context, and a turn that is cut off is on record as such."""
  weights = stage.in_turn(plan(), COUNT, submit())
  whole = one(stage.agent(), weights, *asked("q"))
  ends = [len(whole.context(n)) for n in range(4)]
  for length in range(ends[0] - 1, ends[3] + 2):
    trajectory = one(stage.agent(length=length), weights, *asked("q"))
    full = length < ends[3] - len(whole.steps[2].observation_tokens)
    assert trajectory.status == ("context_full" if full else "answered")
    whole_steps = [s for s in trajectory.steps if s.kind != "malformed"]
    assert whole_steps == list(whole.steps[: len(whole_steps)])
    for cut in trajectory.steps[len(whole_steps) :]:
      tokens = whole.steps[len(whole_steps)].tokens
      assert cut.tokens == tokens[: len(cut.tokens)] and len(cut.tokens) < len(tokens)
    unread = len(trajectory.steps[-1].observation_tokens) if trajectory.steps else ends[0]
    assert len(trajectory.context()) - unread <= length
    assert trajectory.grade == (0.0 if full else 1.0)


def test_a_failing_tool_is_nobodys_fault(stage: Stage) -> None:
  trajectory = one(stage.agent(), stage.in_turn(plan(), act("web_search('broken')")), *asked("q"))
  assert (trajectory.status, trajectory.grade, len(trajectory.steps)) == ("tool_failure", None, 1)


def given_prefix(stage: Stage) -> Trajectory:
  """A plan and two acts, the second of which sets what will be dropped."""
  dropped = act("x = 100\nleaked = 5\nprint(x)")
  return one(stage.agent(), stage.in_turn(plan(), COUNT, dropped, submit()), *asked("q"))


def test_going_on_from_a_prefix_the_dropped_steps_have_left_nothing(stage: Stage) -> None:
  whole = given_prefix(stage)
  look = act("print(x, 'leaked' in globals())")
  weights = stage.weights(lambda name, text: submit() if "12 False" in text else look)
  trajectory = one(stage.agent(), weights, RolloutRequest("on", question(), whole.prefix(2), 8))
  assert trajectory.steps[:2] == whole.steps[:2]
  assert trajectory.steps[2].observation == "12 False"
  assert (trajectory.answer, trajectory.right) == ("12", True)
  assert (trajectory.prefix_steps, trajectory.acts) == (2, 2)
  assert trajectory.context(2) == whole.context(2)


def test_a_prefix_costs_what_is_read_of_it_and_its_acts_are_free(stage: Stage) -> None:
  whole = given_prefix(stage)
  weights = stage.weights(lambda name, text: COUNT)
  trajectory = one(stage.agent(), weights, RolloutRequest("on", question(), whole.prefix(3), 2))
  assert (trajectory.status, trajectory.acts, len(trajectory.steps)) == ("step_limit", 2, 5)
  usage = trajectory.ledger.of("student")
  assert usage.generated == 2 * len(stage.protocol.encode_turn(COUNT))
  assert usage.read == len(whole.context(3)) + len(trajectory.steps[3].observation_tokens)
  assert trajectory.ledger.tool_calls == 2


def test_going_on_right_after_the_question(stage: Stage) -> None:
  whole = given_prefix(stage)
  again = one(
    stage.agent(), stage.in_turn(plan(), COUNT, submit()), RolloutRequest("on", question(), whole.prefix(0), 8)
  )
  assert (again.steps[0].kind, again.right, again.prefix_steps) == ("first_thought", True, 0)
  assert again.prompt_tokens == whole.prompt_tokens


def test_a_prefix_keeps_its_corrections(stage: Stage) -> None:
  whole = given_prefix(stage)
  correction = Correction(1, (), whole.steps[1], verified="")
  start = dataclasses.replace(whole.prefix(2), corrections=(correction,))
  trajectory = one(
    stage.agent(), stage.weights(lambda name, text: submit()), RolloutRequest("on", question(), start, 8)
  )
  assert trajectory.corrections == (correction,)


@pytest.mark.parametrize("answer", ["12", "13"])
def test_a_start_whose_last_step_submits_has_ended(stage: Stage, answer: str) -> None:
  start = one(stage.agent(), stage.in_turn(plan(), submit(answer)), *asked("q")).prefix(2)
  [group] = stage.agent().rollout(stage.in_turn(), [RolloutRequest("on", question(), start, 8, 2)])
  for trajectory in group:
    assert (trajectory.status, trajectory.answer, trajectory.right) == ("answered", answer, answer == "12")
    assert (trajectory.steps, trajectory.acts, trajectory.prefix_steps) == (start.steps, 0, 2)
    assert trajectory.ledger == Ledger({"student": Usage()}, grader_calls=1)


def test_a_state_that_cannot_be_rebuilt_is_quarantined(stage: Stage) -> None:
  whole = given_prefix(stage)
  steps = (whole.steps[0], dataclasses.replace(whole.steps[1], observation="13"))
  start = dataclasses.replace(whole.prefix(2), steps=steps)
  trajectory = one(
    stage.agent(), stage.weights(lambda name, text: submit()), RolloutRequest("on", question(), start, 8)
  )
  assert (trajectory.status, trajectory.grade, trajectory.answer) == ("replay_mismatch", None, None)
  assert trajectory.steps == steps


def test_a_group_reads_its_prompt_once(stage: Stage) -> None:
  def says(name: str, text: str):
    return [plan(), act(f"x = {name[-1]}\nprint(x)"), submit()][said(text)]

  [group] = stage.agent().rollout(stage.weights(says), asked("q", copies=4))
  assert [t.answer for t in group] == ["0", "1", "2", "3"]
  assert [t.name for t in group] == [f"test/q/{i}" for i in range(4)]
  prompts = [len(group[0].prompt_tokens), 0, 0, 0]
  observations = [sum(len(s.observation_tokens) for s in t.steps[:2]) for t in group]
  assert [t.ledger.of("student").read for t in group] == [p + o for p, o in zip(prompts, observations, strict=True)]


def test_a_group_goes_on_from_a_prefix_with_a_session_for_each(stage: Stage) -> None:
  whole = given_prefix(stage)

  weights = stage.weights(lambda name, text: act(f"x += {name[-1]}\nprint(x)"))
  [group] = stage.agent().rollout(weights, [RolloutRequest("on", question(), whole.prefix(2), 2, 4)])
  assert [[s.observation for s in t.steps[2:]] for t in group] == [
    ["12", "12"],
    ["13", "14"],
    ["14", "16"],
    ["15", "18"],
  ]


def test_more_requests_than_slots_come_back_in_order(stage: Stage) -> None:
  """Trajectories of different lengths free their slots at different times; groups wait until they fit."""
  names = [f"q{i}" for i in range(7)]

  def says(name: str, text: str):
    acts = int(name.split("/")[1][1:]) % 4 + 1
    return plan() if not said(text) else COUNT if said(text) < acts else submit(repr(name))

  requests = asked(*names, copies=2)
  requests.insert(3, dataclasses.replace(asked("q7")[0], copies=3))
  ended: list[int] = []
  groups = stage.agent(slots=3).rollout(stage.weights(says), requests, progress=lambda count, _: ended.append(count))
  assert [[t.answer for t in group] for group in groups] == [
    [f"{r.name}/{i}" for i in range(r.copies)] for r in requests
  ]
  assert ended == [1] * 17


def test_a_group_that_can_never_fit_is_refused(stage: Stage) -> None:
  with pytest.raises(UserError, match=r"a group of 4 .* sampler\.slots is 3"):
    stage.agent(slots=3).rollout(stage.in_turn(plan()), asked("q", copies=4))


def test_two_requests_of_one_name_are_refused(stage: Stage) -> None:
  with pytest.raises(ValueError, match="two requests are named 'test/q'"):
    stage.agent().rollout(stage.in_turn(plan()), asked("q", "q"))


def test_a_rollout_that_broke_off_leaves_nothing_to_the_next(stage: Stage) -> None:
  def breaks(name: str, text: str) -> Turn:
    if said(text) == 2:
      raise RuntimeError("the device is gone")
    return plan() if not said(text) else COUNT if "/fast/" in name else act("import time\ntime.sleep(1)")

  slow, fast = asked("slow", "fast")
  with pytest.raises(RuntimeError, match="the device is gone"):
    stage.agent(turn_tokens=128).rollout(
      stage.weights(breaks), [slow, fast]
    )  # as the fast one goes on, while the other's tool works
  assert one(stage.agent(), stage.in_turn(plan(), COUNT, submit()), slow).right


def test_nothing_asked_nothing_done(stage: Stage) -> None:
  assert stage.agent().rollout(stage.in_turn(), []) == []


def test_steps_bear_their_author(stage: Stage) -> None:
  trajectory = one(stage.agent("teacher"), stage.in_turn(plan(), COUNT, submit()), *asked("q"))
  assert {s.author for s in trajectory.steps} == {"teacher"}
  assert set(trajectory.ledger.models) == {"teacher"}


# On a real sampler


def drawn(groups: Sequence[Sequence[Trajectory]]) -> dict[str, Trajectory]:
  return {t.name: t for group in groups for t in group}


def test_what_is_drawn_depends_on_the_request_alone(real: tuple[Agent, Weights]) -> None:
  """Not on its mates, slot and order, nor on what was done before it: tokens, log-probabilities, costs, bit for bit."""
  agent, weights = real
  questions = [Question(f"q{i}", f"add {i}", "12") for i in range(40)]
  requests = [RolloutRequest(f"r{q.id}", q, empty_trajectory(q), 2 + i % 3, 1 + i % 2) for i, q in enumerate(questions)]
  together = drawn(agent.rollout(weights, requests))
  assert {t.status for t in together.values()} == {"bad_format", "context_full", "step_limit"}
  assert len({t.context() for t in together.values()}) > len(questions)
  assert any(s.reason == "ok" and s.logprobs for t in together.values() for s in t.steps)
  backwards = drawn(agent.rollout(weights, requests[::-1]))
  assert backwards == together
  for some in (requests[3:4], requests[7:8], requests[25:]):  # the last as after a restart
    assert all(together[name] == trajectory for name, trajectory in drawn(agent.rollout(weights, some)).items())


def test_another_seed_name_or_copy_draws_something_else(real: tuple[Agent, Weights]) -> None:
  agent, weights = real
  asked = Question("q", "add 7", "12")
  request = RolloutRequest("r", asked, empty_trajectory(asked), 2, 8)

  def contexts(agent: Agent, request: RolloutRequest) -> list[tuple[int, ...]]:
    return [t.context() for t in agent.rollout(weights, [request])[0]]

  usual = contexts(agent, request)
  assert len(set(usual)) > 1
  assert contexts(agent, dataclasses.replace(request, name="s")) != usual
  assert contexts(dataclasses.replace(agent, seed=4), request) != usual


def test_going_on_depends_on_the_prefix_alone(real: tuple[Agent, Weights]) -> None:
  agent, weights = real
  questions = [Question(f"p{i}", f"add {i}", "12") for i in range(30)]
  whole = agent.rollout(weights, [RolloutRequest(q.id, q, empty_trajectory(q), 2) for q in questions])
  starts = [(q, t.prefix(2)) for q, (t,) in zip(questions, whole, strict=True) if len(t.steps) >= 2]
  assert len(starts) >= 3
  requests = [RolloutRequest(f"on/{q.id}", q, start, 2, 2) for q, start in starts]
  groups = agent.rollout(weights, requests)
  assert drawn(groups) == drawn(agent.rollout(weights, requests[::-1]))
  assert all(t.context(2) == start.context() for group, (_, start) in zip(groups, starts, strict=True) for t in group)
