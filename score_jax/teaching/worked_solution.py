"""A teacher without a model: it follows the question's worked solution (GSM8K, generated word problems).

`ReferenceTeacher` demonstrates the worked solution, and compares the student's printed values with it to locate and
correct errors (`SolutionProgress` in solution_steps.py). It costs no tokens. It is exact where the worked solution is
the only way to the answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from score_jax.agent.protocol import AgentProtocol, Turn
from score_jax.agent.scripted import run_scripts, run_turns, tokenize_trajectory
from score_jax.grading.graders import Grader
from score_jax.sandbox.interface import Outcome, Tool
from score_jax.teaching.demonstrations import build_worked_script
from score_jax.teaching.solution_steps import SolutionProgress, inline_worked_code, last_printed_number, numbers_agree
from score_jax.teaching.teacher import Finding, Proposal
from score_jax.trajectory import Ledger, Question, Status, Step, Trajectory

#: reason of a step that the tool's host failed -> status of the trajectory
TOOL_FAILURE_STATUS: dict[str, Status] = {"host_failure": "tool_failure", "replay_mismatch": "replay_mismatch"}

DIAGNOSES = {
  "raised": "The code of this step ends in an error instead of a result.",
  "off": "This step computes a value that does not lie on the way to the answer.",
  "early": "This step submits an answer although something is still to be worked out.",
  "wrong": "All is worked out by now, but this step submits something else.",
  "format": "What comes here is not a turn of the required form.",
  "idle": "This step adds nothing to what is known already.",
}


class ReferenceTeacher:
  """Demonstrates, locates and corrects by the worked solutions of the questions."""

  def __init__(self, protocol: AgentProtocol, tool: Tool, grader: Grader):
    self._protocol, self._tool, self._grader = protocol, tool, grader

  def demonstrate(self, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    """The worked solutions, run and graded. A question without one gets a trajectory without steps, graded 0."""
    played = self._graded(questions)
    return [
      dataclasses.replace(tokenize_trajectory(self._protocol, t), name=f"{name}/{q.id}")
      for q, t in zip(questions, played, strict=True)
    ]

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    """Continues each prefix with the rest of the worked solution, each act rewritten for its state and run.

    An act that does not compute its value is the last. The status is then "step_limit", as without a solution.
    """
    solutions = self._played([question for question, _ in begun])
    steps = [list(prefix.steps) for _, prefix in begun]
    going = [i for i, solution in enumerate(solutions) if solution.steps]
    for _ in range(max((len(solution.steps) for solution in solutions), default=0)):
      taken = self._run_next_acts([(begun[i][0], steps[i], solutions[i]) for i in going])
      for i, (step, _) in zip(going, taken, strict=True):
        steps[i].append(step)
      going = [i for i, (step, holds) in zip(going, taken, strict=True) if holds and step.answer is None]
    return [
      self._finished(question, prefix, tuple(done), name, solution.ledger)
      for (question, prefix), done, solution in zip(begun, steps, solutions, strict=True)
    ]

  def _finished(
    self, question: Question, prefix: Trajectory, steps: tuple[Step, ...], name: str, cost: Ledger
  ) -> Trajectory:
    """The graded trajectory of a prefix and the steps after it. `steps` includes the prefix."""
    answer = steps[-1].answer if steps else None
    calls = sum(s.kind == "act" for s in steps[len(prefix.steps) :])
    ended = dataclasses.replace(
      prefix,
      prompt_tokens=self._protocol.encode_prompt(question.text),
      steps=steps,
      status="step_limit" if answer is None else "answered",
      answer=answer,
      name=f"{name}/{question.id}",
      prefix_steps=len(prefix.steps),
      ledger=cost + Ledger(tool_calls=calls),
    )
    return self._grade(question, ended)

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    """The earliest error of each failed trajectory.

    It is the first act that raised, computed a value off the path, or submitted the wrong answer. Without one it is
    the malformed last step, or the first idle act if the budget of acts is spent or the context is full. A first
    thought is never an error.
    "hard": there is no worked solution, or it does not earn full marks. "unlocated": no step can be named, or the
    environment failed. Diagnoses state no numbers, so they cannot leak the answer.
    """
    solutions = self._graded([question for question, _ in failed])
    return [
      dataclasses.replace(_find(question, trajectory, solution), ledger=solution.ledger)
      for (question, trajectory), solution in zip(failed, solutions, strict=True)
    ]

  def correct(self, located: Sequence[tuple[Question, Trajectory, Finding]]) -> list[Proposal]:
    """The worked act that the student needs at step `finding.step`, rewritten for the student's state and run.

    If only the answer is left, the act submits the value that the student's own code computed. None if the act does
    not compute its value in that state, or there is no worked solution.
    """
    solutions = self._played([question for question, _, _ in located])
    taken = iter(
      self._run_next_acts(
        [(q, t.steps[: f.step], s) for (q, t, f), s in zip(located, solutions, strict=True) if s.steps]
      )
    )
    proposals = []
    for solution in solutions:
      step, holds = next(taken) if solution.steps else (None, False)
      ledger = solution.ledger + Ledger(tool_calls=int(step is not None and step.kind == "act"))
      proposals.append(Proposal(step if holds else None, ledger))
    return proposals

  def _run_next_acts(self, wanted: Sequence[tuple[Question, Sequence[Step], Trajectory]]) -> list[tuple[Step, bool]]:
    """Runs the next worked act after each prefix of steps; also returns whether it computed its value."""
    following = [_next_worked_turn(*one) for one in wanted]
    pairs = zip(wanted, following, strict=True)
    taken = run_turns(self._protocol, self._tool, [(steps, turn, "teacher") for (_, steps, _), (turn, _) in pairs])
    return [
      (step, _computed_its_number(step, outcome, n)) for (step, outcome), (_, n) in zip(taken, following, strict=True)
    ]

  def _played(self, questions: Sequence[Question]) -> list[Trajectory]:
    """The worked solutions, run but not graded; no steps for a question without one."""
    played = iter(run_scripts([(q, build_worked_script(q)) for q in questions if q.solution], self._tool))
    trajectories = [next(played) if q.solution else Trajectory(q.id, q.text, ()) for q in questions]
    return [dataclasses.replace(t, ledger=Ledger(tool_calls=t.acts)) for t in trajectories]

  def _graded(self, questions: Sequence[Question]) -> list[Trajectory]:
    return [self._grade(q, t) for q, t in zip(questions, self._played(questions), strict=True)]

  def _grade(self, question: Question, played: Trajectory) -> Trajectory:
    """Grades a trajectory; it stays ungraded after a failure of the tool's host."""
    failure = next((TOOL_FAILURE_STATUS[s.reason] for s in played.steps if s.reason in TOOL_FAILURE_STATUS), None)
    if failure is not None:
      return dataclasses.replace(played, status=failure)
    if played.answer is None:
      return dataclasses.replace(played, grade=0.0, grade_reason="no worked solution that submits an answer")
    grade, reason = self._grader(question, played.answer)
    return dataclasses.replace(played, grade=grade, grade_reason=reason, ledger=played.ledger + Ledger(grader_calls=1))


def _find(question: Question, trajectory: Trajectory, solution: Trajectory) -> Finding:
  """The finding on one failed trajectory."""
  if solution.grade is None or trajectory.grade is None:
    return Finding("unlocated")
  if not solution.right:
    return Finding("hard")
  progress = SolutionProgress(solution.steps[1:], question.text)
  idle: int | None = None
  for index, step in enumerate(trajectory.steps):
    done = progress.next_act_index == len(solution.steps) - 2
    move = progress.advance(step)
    if move in ("raised", "off"):
      return _at(index, move)
    if trajectory.status == "answered" and index == len(trajectory.steps) - 1:
      return _at(index, "wrong" if done else "early")
    if move == "idle" and step.kind == "act" and idle is None:
      idle = index
  if trajectory.status == "bad_format":
    return _at(len(trajectory.steps) - 1, "format")
  if idle is not None:
    return _at(idle, "idle")
  return Finding("unlocated")


def _at(step: int, diagnosis: str) -> Finding:
  """The finding that names a step, with a fixed diagnosis."""
  return Finding("located", step, DIAGNOSES[diagnosis], located="reference")


def _next_worked_turn(question: Question, steps: Sequence[Step], solution: Trajectory) -> tuple[Turn, float | None]:
  """The turn that the student needs after `steps`, and the number that it must print (None: no number)."""
  if not steps:
    return Turn("first_thought", solution.steps[0].thought), None
  acts = solution.steps[1:]
  progress = SolutionProgress(acts, question.text)
  for step in steps:
    progress.advance(step)
  following = acts[progress.next_act_index]
  return Turn("act", following.thought, inline_worked_code(acts, progress.next_act_index, steps)), last_printed_number(
    following
  )


def _computed_its_number(step: Step, outcome: Outcome | None, number: float | None) -> bool:
  """Whether the step computed its number; a first thought always counts."""
  return outcome is None or (outcome.reason == "ok" and numbers_agree(last_printed_number(step), number))
