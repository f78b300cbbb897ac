from __future__ import annotations

import dataclasses

from score_jax.agent.protocol import AgentProtocol, Turn
from score_jax.agent.scripted import Script, executed_steps, run_scripts, run_turns, tokenize_step, tokenize_trajectory
from score_jax.sandbox.interface import ExecutedStep
from score_jax.sandbox.sandbox import Sandbox
from score_jax.trajectory import Author, Step
from tests.agent import scripted
from tests.agent.scripted import plan, question, submit


def script(*turns: Turn, author: Author = "teacher") -> Script:
  return [(turn, author) for turn in turns]


def test_scripts_are_played_in_the_real_tool_all_at_once(tool: Sandbox) -> None:
  right = script(plan(), scripted.act("x = 5 + 7\nprint(x)"), submit())
  detour: Script = [right[0], (scripted.act("print(y)"), "student"), *right[1:]]
  endless = script(plan(), scripted.act("print(1)"))
  first, second, third = run_scripts([(question(), right), (question(), detour), (question(), endless)], tool)
  assert (first.status, first.answer) == ("answered", "12")
  assert [(s.kind, s.code, s.observation, s.reason) for s in first.steps] == [
    ("first_thought", "", "", ""),
    ("act", "x = 5 + 7\nprint(x)", "12", "ok"),
    ("act", "final_answer_print(x)", "", "ok"),
  ]
  assert [s.author for s in second.steps] == ["teacher", "student", "teacher", "teacher"]
  assert (second.steps[1].reason, second.steps[1].observation) == ("exception", "NameError: name 'y' is not defined")
  assert (second.status, second.answer) == ("answered", "12")
  assert (third.status, third.answer, len(third.steps)) == ("running", None, 2)
  assert [s.answer for s in first.steps] == [None, None, "12"]
  assert first.grade is None
  assert first.context() == ()


def test_what_stands_after_the_answer_is_not_played(tool: Sandbox) -> None:
  [trajectory] = run_scripts([(question(), script(plan(), submit("3"), scripted.act("print(1)")))], tool)
  assert (trajectory.answer, len(trajectory.steps)) == ("3", 2)


def test_no_scripts_no_trajectories(tool: Sandbox) -> None:
  assert run_scripts([], tool) == []
  assert run_scripts([(question(), [])], tool)[0].steps == ()


def test_tokens_are_those_of_the_text(protocol: AgentProtocol, tool: Sandbox) -> None:
  [played] = run_scripts([(question(), script(plan(), scripted.act("print(12)"), submit("12")))], tool)
  trajectory = tokenize_trajectory(protocol, played)
  assert trajectory.context() == (
    *protocol.encode_prompt(played.question),
    *protocol.encode_turn(plan()),
    *protocol.encode_observation(None),
    *protocol.encode_turn(scripted.act("print(12)")),
    *protocol.encode_observation("12"),
    *protocol.encode_turn(submit("12")),
    *protocol.encode_observation(""),
  )
  assert all(s.logprobs == () for s in trajectory.steps)
  textual = [dataclasses.replace(s, tokens=(), observation_tokens=()) for s in trajectory.steps]
  assert textual == list(played.steps)


def test_ran_is_every_step_whose_code_ran() -> None:
  steps = [Step("first_thought", "plan"), Step("act", "a", "x = 1", "", "ok"), Step("act", "b", "y", "no", "exception")]
  assert executed_steps(steps) == (ExecutedStep("x = 1", "", "ok"), ExecutedStep("y", "no", "exception"))


def test_act_runs_each_turn_in_the_state_before_it(protocol: AgentProtocol, tool: Sandbox) -> None:
  given = Step("act", "add", "x = 12\nprint(x)", "12", "ok")
  lost = Step("act", "add", "x = 99\nprint(x)", "99", "ok")
  taken = run_turns(
    protocol,
    tool,
    [
      ([given], scripted.act("print(x + 1)"), "teacher"),
      ([lost], scripted.act("print(x + 1)"), "student"),
      ([], plan(), "teacher"),
      ([given], submit(), "teacher"),
      ([], scripted.act("print(x)"), "student"),
    ],
  )
  steps = [step for step, _ in taken]
  assert [(s.observation, s.reason, s.author) for s in steps] == [
    ("13", "ok", "teacher"),
    ("100", "ok", "student"),
    ("", "", "teacher"),
    ("", "ok", "teacher"),
    ("NameError: name 'x' is not defined", "exception", "student"),
  ]
  assert [s.answer for s in steps] == [None, None, None, "12", None]
  assert [outcome and outcome.answer for _, outcome in taken] == [s.answer for s in steps]
  assert taken[2][1] is None
  assert steps[0] == tokenize_step(protocol, steps[0])
  assert steps[0].tokens == protocol.encode_turn(scripted.act("print(x + 1)"))
  assert steps[0].observation_tokens == protocol.encode_observation("13")
  assert steps[2].observation_tokens == protocol.encode_observation(None)
