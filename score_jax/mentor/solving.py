"""The teacher solves a question itself, in words: what it demonstrates in the warm start and to behaviour cloning.

First a plan, then one step at a time, each really run, until it submits or H acts are spent. All questions go through
a round together. Where a reply fails for good the trajectory ends, malformed; where nobody replied it is nobody's
fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from score_jax.agent.protocol import Protocol, Turn
from score_jax.agent.written import act, written_step
from score_jax.mentor.asking import Answer, Asking
from score_jax.mentor.reference import FAILURES
from score_jax.mentor.replies import Act, FirstThought, Refused, attempt, turn
from score_jax.mentor.wording import Wording
from score_jax.tasks.grade import Grader
from score_jax.tools.tool import Tool
from score_jax.trajectory import Author, Ledger, Question, Status, Step, Trajectory, Usage

#: the name under which the ledger books what teaching costs, whichever model answers
TEACHER = "teacher"


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a prompted teacher is asked.

  Attributes:
    acts: H, of a demonstration.
    turn_tokens: the most tokens of one step, as the student's tokenizer counts them.
    reply_tokens: the most tokens of one reply.
  """

  acts: int
  turn_tokens: int
  reply_tokens: int
  first_thought_temperature: float
  step_temperature: float
  locate_temperature: float
  correct_temperature: float


@dataclasses.dataclass(frozen=True)
class Solver:
  """Demonstrates by asking.

  Attributes:
    protocol: of the student, who is to learn from the steps: their text becomes its tokens, once.
  """

  asking: Asking
  wording: Wording
  protocol: Protocol
  tool: Tool
  grader: Grader
  settings: Settings

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    """Goes on from each prefix to the end, by H acts at most, and grades it; from the empty one, it demonstrates."""
    episodes = [_Episode(q, f"{name}/{q.id}", start, [*start.steps]) for q, start in begun]
    self._plan([e for e in episodes if not e.steps])
    for index in range(self.settings.acts):
      if open_ := [e for e in episodes if not e.status]:
        self._act(open_, index)
    for episode in episodes:
      self.tool.close(episode.name)
    return [self._ended(episode) for episode in episodes]

  def turn(self, kind: Literal["first_thought", "act"], reply: FirstThought | Act) -> Turn:
    """The turn that a reply writes.

    Raises:
      Refused: it is none, or one that the student could not write.
    """
    made = turn(kind, reply)
    size = len(self.protocol.turn(made))
    if size > self.settings.turn_tokens:
      raise Refused("long", f"it has {size} tokens, and a step may have {self.settings.turn_tokens}; do less in it")
    return made

  def run(self, turns: Sequence[tuple[Sequence[Step], Turn]], *, sessions: Sequence[str] | None = None) -> list[Step]:
    """Turns as steps, each run in the state that some steps leave; sessions: see agent.written.act."""
    wanted: list[tuple[Sequence[Step], Turn, Author]] = [(steps, made, "teacher") for steps, made in turns]
    return [step for step, _ in act(self.protocol, self.tool, wanted, sessions=sessions)]

  def _plan(self, episodes: Sequence[_Episode]) -> None:
    """The first thought of each."""
    answers = self.asking.all(
      "solve_first_thought",
      [
        (f"{e.name}/first_thought", self.wording.prompt("solve_first_thought", question=e.question.text))
        for e in episodes
      ],
      FirstThought,
      temperature=self.settings.first_thought_temperature,
      take=lambda read: [attempt(self.turn, "first_thought", reply) for _, reply in read],
    )
    for episode, answer in zip(episodes, answers, strict=True):
      if (plan := episode.take(answer)) is not None:
        episode.steps.append(written_step(self.protocol, Step("first_thought", plan.thought, author="teacher")))

  def _act(self, episodes: Sequence[_Episode], index: int) -> None:
    """The next act of each, run in its session."""
    answers = self.asking.all(
      "solve_step",
      [(f"{e.name}/step/{index + 1}", self._next(e, self.settings.acts - index)) for e in episodes],
      Act,
      temperature=self.settings.step_temperature,
      take=lambda read: [attempt(self.turn, "act", reply) for _, reply in read],
    )
    taken = [(episode, episode.take(answer)) for episode, answer in zip(episodes, answers, strict=True)]
    acting = [(episode, made) for episode, made in taken if made is not None]
    ran = self.run([(e.steps, made) for e, made in acting], sessions=[e.name for e, _ in acting])
    for (episode, _), step in zip(acting, ran, strict=True):
      episode.add(step)

  def _next(self, episode: _Episode, left: int) -> str:
    return self.wording.prompt("solve_step", question=episode.question.text, steps=shown(episode.steps), acts_left=left)

  def _ended(self, episode: _Episode) -> Trajectory:
    status = episode.status or "step_limit"
    answer = episode.steps[-1].answer if episode.steps else None
    grade, reason, calls = None if status in FAILURES.values() else 0.0, episode.failed or status, 0
    if status == "answered":
      (grade, reason), calls = self.grader(episode.question, answer or ""), 1
    return dataclasses.replace(
      episode.start,
      prompt_tokens=self.protocol.prompt(episode.question.text),
      steps=tuple(episode.steps),
      status=status,
      answer=answer,
      grade=grade,
      grade_reason=reason,
      name=episode.name,
      prefix_steps=len(episode.start.steps),
      ledger=Ledger({TEACHER: episode.usage}, calls, episode.tool_calls),
    )


@dataclasses.dataclass
class _Episode:
  """A demonstration at work."""

  question: Question
  name: str
  start: Trajectory
  steps: list[Step]
  status: Status | Literal[""] = ""
  failed: str = ""
  usage: Usage = Usage()
  tool_calls: int = 0

  def take(self, answer: Answer[Turn]) -> Turn | None:
    """Books an answer; ends the episode where it has no value."""
    self.usage = self.usage + answer.usage
    if answer.value is None:
      self.status = "tool_failure" if answer.failed == "no_reply" else "bad_format"
      self.failed = f"the teacher's reply failed ({answer.failed})"
    return answer.value

  def add(self, step: Step) -> None:
    """An act that ran; an answer ends the episode, and so does a failure of the tool."""
    self.tool_calls += 1
    if step.reason in FAILURES:
      self.status = FAILURES[step.reason]
      return
    self.steps.append(step)
    if step.answer is not None:
      self.status = "answered"


def shown(steps: Sequence[Step]) -> list[dict[str, Any]]:
  """Steps as a prompt shows them, numbered; step 0 is the plan."""
  return [{"step": index, **_fields(step)} for index, step in enumerate(steps)]


def _fields(step: Step) -> dict[str, str]:
  if step.kind == "first_thought":
    return {"plan": step.thought}
  if step.kind == "malformed":
    return {"malformed": step.thought}
  fields = {"thought": step.thought, "code": step.code, "printed": step.observation}
  if step.reason not in ("ok", "exception"):  # what was raised stands at the end of what was printed
    fields["ended"] = step.reason
  return fields if step.answer is None else {**fields, "submitted": step.answer}
