"""Trajectories out of turns that were written, not sampled: played in the real environment, then tokenised once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import cast

from score_jax.agent.protocol import AgentProtocol, Turn
from score_jax.sandbox.interface import ExecutedStep, Outcome, OutcomeReason, Tool
from score_jax.trajectory import Author, Question, Step, Trajectory

Script = Sequence[tuple[Turn, Author]]  # what is said and done, in order, and by whom


def executed_steps(steps: Iterable[Step]) -> tuple[ExecutedStep, ...]:
  """The Python state that these steps leave, as what ran to make it."""
  return tuple(ExecutedStep(s.code, s.observation, cast(OutcomeReason, s.reason)) for s in steps if s.reason)


def run_scripts(scripts: Sequence[tuple[Question, Script]], tool: Tool) -> list[Trajectory]:
  """Plays each script, all at once; the trajectories hold text and what the tool really answered, no tokens yet."""
  done: list[list[Step]] = [[] for _ in scripts]

  def advance(index: int, outcome: Outcome | None) -> None:
    """Books the outcome of the act at hand, then goes on to the next one."""
    _, script = scripts[index]
    if outcome is not None:
      turn, author = script[len(done[index])]
      done[index].append(_step(turn, author, outcome))
    while (outcome is None or outcome.answer is None) and len(done[index]) < len(script):
      turn, author = script[len(done[index])]
      if turn.kind == "act":
        tool.submit(str(index), turn.code, executed_steps(done[index]))
        return
      done[index].append(_step(turn, author, None))
    tool.close(str(index))

  for index in range(len(scripts)):
    advance(index, None)
  while finished := tool.wait(60.0):
    for session, outcome in finished:
      advance(int(session), outcome)
  answers = [steps[-1].answer if steps else None for steps in done]
  return [
    Trajectory(q.id, q.text, (), tuple(steps), "running" if answer is None else "answered", answer)
    for (q, _), steps, answer in zip(scripts, done, answers, strict=True)
  ]


def _step(turn: Turn, author: Author, outcome: Outcome | None) -> Step:
  """A written turn and what the tool said to it."""
  seen = (outcome.observation, outcome.reason, outcome.answer) if outcome else ("", "", None)
  return Step(turn.kind, turn.thought, turn.code, *seen, author)


def tokenize_trajectory(protocol: AgentProtocol, trajectory: Trajectory) -> Trajectory:
  """The same trajectory with the tokens of its text; for text that has none, once."""
  return dataclasses.replace(
    trajectory,
    prompt_tokens=protocol.encode_prompt(trajectory.question),
    steps=tuple(tokenize_step(protocol, s) for s in trajectory.steps),
  )


def tokenize_step(protocol: AgentProtocol, step: Step) -> Step:
  """A step with the tokens of its text."""
  observation = None if step.kind == "first_thought" else step.observation
  return dataclasses.replace(
    step,
    tokens=protocol.encode_turn(Turn(step.kind, step.thought, step.code)),
    observation_tokens=protocol.encode_observation(observation),
  )


def run_turns(
  protocol: AgentProtocol,
  tool: Tool,
  wanted: Sequence[tuple[Sequence[Step], Turn, Author]],
  *,
  sessions: Sequence[str] | None = None,
) -> list[tuple[Step, Outcome | None]]:
  """Takes one written turn after each of some prefixes, in the state that they leave; with what the tool said.

  A first thought runs nothing: its outcome is None.

  Args:
    sessions: of the tool, which the caller keeps for further turns and closes; None: each turn has its own, for once.
  """
  names = [f"act/{index}" for index in range(len(wanted))] if sessions is None else sessions
  outcomes: dict[str, Outcome] = {}
  for name, (steps, turn, _) in zip(names, wanted, strict=True):
    if turn.kind == "act":
      tool.submit(name, turn.code, executed_steps(steps))
  while finished := tool.wait(60.0):
    outcomes.update(finished)
  result: list[tuple[Step, Outcome | None]] = []
  for name, (_, turn, author) in zip(names, wanted, strict=True):
    outcome = outcomes.get(name)
    if sessions is None:
      tool.close(name)
    result.append((tokenize_step(protocol, _step(turn, author, outcome)), outcome))
  return result
