"""The paper's teacher: a chat model that is prompted (teaching/prompts/). Any chat backend can serve it.

  demonstrate, finish   a first thought, then one step at a time; each step is run (`PromptedSolver`)
  locate                one call: question, reference answer, numbered steps, status -> step and diagnosis
  correct               one call: question, earlier steps, wrong step, diagnosis -> the new step

The call of `correct` shows neither the reference answer nor later steps. The diagnosis and the new step must pass the
leak guard (leak.py). A new step that does not run, repeats the mistake or is too long is asked for again. Each
reply is booked in the ledger, invalid ones too.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from score_jax.agent.protocol import AgentProtocol, Turn
from score_jax.agent.rollout import empty_trajectory
from score_jax.agent.scripted import run_turns, tokenize_step
from score_jax.chat.interface import ChatModel
from score_jax.grading.graders import Grader
from score_jax.sandbox.interface import Tool
from score_jax.teaching.asking import (
  Act,
  AskResult,
  FirstThought,
  InvalidReply,
  Location,
  PromptTemplates,
  StructuredChat,
  catch_invalid_reply,
  repeats_a_mistake,
  turn_from_reply,
)
from score_jax.teaching.counterfactual import CounterfactualTeacher, verify_located
from score_jax.teaching.leak import find_step_leak, text_leaks_answer
from score_jax.teaching.teacher import Finding, Proposal
from score_jax.teaching.worked_solution import TOOL_FAILURE_STATUS
from score_jax.trajectory import Author, Ledger, Question, Status, Step, Trajectory, Usage

#: the ledger's key for the cost of teaching, whichever model answers
TEACHER_LEDGER_KEY = "teacher"


@dataclasses.dataclass(frozen=True)
class PromptedTeacherConfig:
  """Limits and temperatures of a prompted teacher.

  Attributes:
    acts: H, the budget of acts of a demonstration.
    turn_tokens: the limit of one step, in tokens of the student's tokenizer.
    reply_tokens: the limit of one reply, in tokens of the teacher.
  """

  acts: int
  turn_tokens: int
  reply_tokens: int
  first_thought_temperature: float
  step_temperature: float
  locate_temperature: float
  correct_temperature: float


@dataclasses.dataclass(frozen=True)
class PromptedSolver:
  """Solves questions by prompting: first a plan, then one act at a time, each run, until an answer or H acts.

  All questions go through a round together. A trajectory ends malformed if no valid reply came, and as a tool failure
  if no reply came at all.

  Attributes:
    protocol: the student's. It tokenizes each step once, since the student learns from it.
  """

  asking: StructuredChat
  wording: PromptTemplates
  protocol: AgentProtocol
  tool: Tool
  grader: Grader
  settings: PromptedTeacherConfig

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    """Continues each prefix by at most H acts and grades the result. From the empty prefix it is a demonstration."""
    episodes = [_Episode(q, f"{name}/{q.id}", start, [*start.steps]) for q, start in begun]
    self._plan([e for e in episodes if not e.steps])
    for index in range(self.settings.acts):
      if open_ := [e for e in episodes if not e.status]:
        self._act(open_, index)
    for episode in episodes:
      self.tool.close(episode.name)
    return [self._to_trajectory(episode) for episode in episodes]

  def turn_within_limit(self, kind: Literal["first_thought", "act"], reply: FirstThought | Act) -> Turn:
    """The turn of a reply, checked against the student's limit of tokens.

    Raises:
      InvalidReply: it is no turn, or longer than a turn of the student may be.
    """
    made = turn_from_reply(kind, reply)
    size = len(self.protocol.encode_turn(made))
    if size > self.settings.turn_tokens:
      raise InvalidReply(
        "long", f"it has {size} tokens, and a step may have {self.settings.turn_tokens}; do less in it"
      )
    return made

  def run_teacher_turns(
    self, turns: Sequence[tuple[Sequence[Step], Turn]], *, sessions: Sequence[str] | None = None
  ) -> list[Step]:
    """The teacher's turns as steps, each run after the given steps; sessions: see `run_turns` (agent/scripted.py)."""
    wanted: list[tuple[Sequence[Step], Turn, Author]] = [(steps, made, "teacher") for steps, made in turns]
    return [step for step, _ in run_turns(self.protocol, self.tool, wanted, sessions=sessions)]

  def _plan(self, episodes: Sequence[_Episode]) -> None:
    """Asks for the first thought of each episode."""
    answers = self.asking.ask_until_valid(
      "solve_first_thought",
      [
        (f"{e.name}/first_thought", self.wording.render_prompt("solve_first_thought", question=e.question.text))
        for e in episodes
      ],
      FirstThought,
      temperature=self.settings.first_thought_temperature,
      take=lambda read: [catch_invalid_reply(self.turn_within_limit, "first_thought", reply) for _, reply in read],
    )
    for episode, answer in zip(episodes, answers, strict=True):
      if (plan := episode.take(answer)) is not None:
        episode.steps.append(tokenize_step(self.protocol, Step("first_thought", plan.thought, author="teacher")))

  def _act(self, episodes: Sequence[_Episode], index: int) -> None:
    """Asks for the next act of each episode and runs it in the episode's session."""
    answers = self.asking.ask_until_valid(
      "solve_step",
      [(f"{e.name}/step/{index + 1}", self._step_prompt(e, self.settings.acts - index)) for e in episodes],
      Act,
      temperature=self.settings.step_temperature,
      take=lambda read: [catch_invalid_reply(self.turn_within_limit, "act", reply) for _, reply in read],
    )
    taken = [(episode, episode.take(answer)) for episode, answer in zip(episodes, answers, strict=True)]
    acting = [(episode, made) for episode, made in taken if made is not None]
    ran = self.run_teacher_turns([(e.steps, made) for e, made in acting], sessions=[e.name for e, _ in acting])
    for (episode, _), step in zip(acting, ran, strict=True):
      episode.add(step)

  def _step_prompt(self, episode: _Episode, left: int) -> str:
    return self.wording.render_prompt(
      "solve_step", question=episode.question.text, steps=steps_to_prompt_data(episode.steps), acts_left=left
    )

  def _to_trajectory(self, episode: _Episode) -> Trajectory:
    """The graded trajectory of an episode. Grade None: a host failed."""
    status = episode.status or "step_limit"
    answer = episode.steps[-1].answer if episode.steps else None
    grade, reason, calls = None if status in TOOL_FAILURE_STATUS.values() else 0.0, episode.failed or status, 0
    if status == "answered":
      (grade, reason), calls = self.grader(episode.question, answer or ""), 1
    return dataclasses.replace(
      episode.start,
      prompt_tokens=self.protocol.encode_prompt(episode.question.text),
      steps=tuple(episode.steps),
      status=status,
      answer=answer,
      grade=grade,
      grade_reason=reason,
      name=episode.name,
      prefix_steps=len(episode.start.steps),
      ledger=Ledger({TEACHER_LEDGER_KEY: episode.usage}, calls, episode.tool_calls),
    )


@dataclasses.dataclass
class _Episode:
  """A demonstration in progress."""

  question: Question
  name: str
  start: Trajectory
  steps: list[Step]
  status: Status | Literal[""] = ""
  failed: str = ""
  usage: Usage = Usage()
  tool_calls: int = 0

  def take(self, answer: AskResult[Turn]) -> Turn | None:
    """Books the cost of an answer; ends the episode if it has no value."""
    self.usage = self.usage + answer.usage
    if answer.value is None:
      self.status = "tool_failure" if answer.failed == "no_reply" else "bad_format"
      self.failed = f"the teacher's reply failed ({answer.failed})"
    return answer.value

  def add(self, step: Step) -> None:
    """Adds an act that ran. An answer or a failure of the tool ends the episode."""
    self.tool_calls += 1
    if step.reason in TOOL_FAILURE_STATUS:
      self.status = TOOL_FAILURE_STATUS[step.reason]
      return
    self.steps.append(step)
    if step.answer is not None:
      self.status = "answered"


def steps_to_prompt_data(steps: Sequence[Step]) -> list[dict[str, Any]]:
  """Numbered steps as data for prompts; step 0 is the plan."""
  return [{"step": index, **_fields(step)} for index, step in enumerate(steps)]


def _fields(step: Step) -> dict[str, str]:
  if step.kind == "first_thought":
    return {"plan": step.thought}
  if step.kind == "malformed":
    return {"malformed": step.thought}
  fields = {"thought": step.thought, "code": step.code, "printed": step.observation}
  if step.reason not in ("ok", "exception"):  # an exception is visible at the end of the printed text
    fields["ended"] = step.reason
  return fields if step.answer is None else {**fields, "submitted": step.answer}


LocateMethod = Literal["prompted", "counterfactual", "both"]
LocatedCase = tuple[Question, Trajectory, Finding]

STATUS_DESCRIPTIONS: dict[Status, str] = {
  "answered": "it submitted an answer, which is wrong",
  "step_limit": "it used all its steps without submitting an answer",
  "context_full": "the text grew too long before an answer was submitted",
  "bad_format": "the last step broke off, or is not of the form that a step must have; no answer was submitted",
}
LEAK_FEEDBACK = "it states a result that neither the question nor an earlier step shows"


class PromptedTeacher:
  """Demonstrates, locates and corrects by prompting a chat model."""

  def __init__(
    self,
    chat: ChatModel,
    wording: PromptTemplates,
    protocol: AgentProtocol,
    tool: Tool,
    grader: Grader,
    settings: PromptedTeacherConfig,
    *,
    locate_by: LocateMethod = "prompted",
    judge: CounterfactualTeacher | None = None,
  ):
    """
    Args:
      protocol: the student's. It tokenizes each step once, since the student learns from it.
      locate_by: how the wrong step is found: by the model, by the judge's continuations, or by the model and then
        tested with the judge (`verify_located`).
      judge: draws the continuations; needed unless `locate_by` is "prompted".
    """
    self._wording, self._settings, self._locate_by, self._judge = wording, settings, locate_by, judge
    self._asking = StructuredChat(chat, tokens=settings.reply_tokens)
    self._solver = PromptedSolver(self._asking, wording, protocol, tool, grader, settings)
    self._named: Counter[str] = Counter()

  def counts(self) -> dict[str, Any]:
    """Counts of replies by kind, and of located steps by how they were located."""
    replies = {kind: dict(sorted(counts.items())) for kind, counts in sorted(self._asking.counts.items())}
    return {"teacher_replies": replies, "located": dict(sorted(self._named.items()))}

  def demonstrate(self, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    return self.finish([(q, empty_trajectory(q)) for q in questions], name=name)

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    """Continues each prefix; see `PromptedSolver.finish`."""
    return self._solver.finish(begun, name=name)

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    """Locates by the method `locate_by`."""
    if self._locate_by == "prompted" or self._judge is None:
      findings = self._ask_where(failed, name)
    elif self._locate_by == "counterfactual":
      findings = self._judge.locate(failed, name=name)
    else:
      findings = verify_located(self._ask_where(failed, name), failed, self._judge, name=name)
    self._named.update(finding.located or finding.verdict for finding in findings)
    return findings

  def _ask_where(self, failed: Sequence[tuple[Question, Trajectory]], name: str) -> list[Finding]:
    """The step that the model names; unlocated if no reply is valid, or the trajectory has no step."""
    places = [i for i, (_, t) in enumerate(failed) if t.steps]
    answers = self._asking.ask_until_valid(
      "locate",
      [(f"{name}/locate/{failed[i][0].id}", self._locate_prompt(*failed[i])) for i in places],
      Location,
      temperature=self._settings.locate_temperature,
      take=lambda read: [catch_invalid_reply(_finding_from_reply, *failed[places[i]], reply) for i, reply in read],
    )
    findings = [Finding("unlocated")] * len(failed)
    for i, answer in zip(places, answers, strict=True):
      found = answer.value or Finding("unlocated")
      findings[i] = dataclasses.replace(found, ledger=Ledger({TEACHER_LEDGER_KEY: answer.usage}))
    return findings

  def _locate_prompt(self, question: Question, trajectory: Trajectory) -> str:
    """The prompt that asks for the wrong step; it shows the reference answer."""
    return self._wording.render_prompt(
      "locate",
      question=question.text,
      reference=question.answer,
      steps=steps_to_prompt_data(trajectory.steps),
      status=STATUS_DESCRIPTIONS.get(trajectory.status, trajectory.status),
    )

  def correct(self, located: Sequence[LocatedCase]) -> list[Proposal]:
    """Asks for a replacement of each located step and runs it."""
    proposals: dict[int, Proposal] = {}
    for first in (True, False):
      places = [i for i, (_, _, finding) in enumerate(located) if (finding.step == 0) is first]
      proposals |= dict(zip(places, self._ask_for_replacements([located[i] for i in places], first), strict=True))
    return [proposals[i] for i in range(len(located))]

  def _ask_for_replacements(self, located: Sequence[LocatedCase], first: bool) -> list[Proposal]:
    """Replacements of first thoughts (`first`), or of acts. The two kinds have different prompts and schemas."""
    kind = "correct_first_thought" if first else "correct"
    runs: Counter[int] = Counter()
    answers = self._asking.ask_until_valid(
      kind,
      [(f"correct/{q.id}/{t.name}/{f.step}", self._correct_prompt(kind, q, t, f)) for q, t, f in located],
      FirstThought if first else Act,
      temperature=self._settings.correct_temperature,
      take=lambda read: self._run_replacements(located, read, runs),
    )
    return [Proposal(a.value, Ledger({TEACHER_LEDGER_KEY: a.usage}, tool_calls=runs[i])) for i, a in enumerate(answers)]

  def _correct_prompt(self, kind: str, question: Question, trajectory: Trajectory, finding: Finding) -> str:
    """The prompt that asks for a replacement; it shows neither the reference answer nor later steps."""
    *before, wrong = steps_to_prompt_data(trajectory.steps[: finding.step + 1])
    steps = {"steps": before} if kind == "correct" else {}
    return self._wording.render_prompt(kind, question=question.text, wrong=wrong, diagnosis=finding.diagnosis, **steps)

  def _run_replacements(
    self, located: Sequence[LocatedCase], read: Sequence[tuple[int, FirstThought | Act]], runs: Counter[int]
  ) -> list[Step | InvalidReply]:
    """The replies as steps, acts after running them; an InvalidReply for each that is not a valid correction."""
    made = [(i, catch_invalid_reply(self._check_replacement, located[i], reply)) for i, reply in read]
    fit = [(i, one) for i, one in made if isinstance(one, Turn)]
    steps = iter(self._solver.run_teacher_turns([(located[i][1].steps[: located[i][2].step], one) for i, one in fit]))
    runs.update(i for i, one in fit if one.kind == "act")
    return [one if isinstance(one, InvalidReply) else _check_ran(next(steps)) for _, one in made]

  def _check_replacement(self, case: LocatedCase, reply: FirstThought | Act) -> Turn:
    """The turn that a reply gives in the place of the error.

    Raises:
      InvalidReply: it is no turn, repeats a mistake, or leaks the answer.
    """
    question, trajectory, k = case[0], case[1], case[2].step
    made = self._solver.turn_within_limit("act" if k else "first_thought", reply)
    if repeats_a_mistake(made, trajectory, case[2]):
      raise InvalidReply("same", "it does the same as the step that went wrong")
    if find_step_leak(question, trajectory.steps[:k], made.thought, made.code):
      raise InvalidReply("leak", f"{LEAK_FEEDBACK}; do not state it, let code compute or look it up and print it")
    return made


def _finding_from_reply(question: Question, trajectory: Trajectory, reply: Location) -> Finding:
  """The finding of a reply.

  Raises:
    InvalidReply: there is no such step, or the diagnosis is empty or leaks the answer. After the last attempt a step
      whose diagnosis leaks is used without the diagnosis.
  """
  count, diagnosis = len(trajectory.steps), reply.diagnosis.strip()
  if reply.step is None:
    return Finding("unlocated", diagnosis=diagnosis)
  if not 0 <= reply.step < count:
    raise InvalidReply("range", f"there is no step {reply.step}; they are numbered 0 to {count - 1}")
  if not diagnosis:
    raise InvalidReply("empty", '"diagnosis" is empty')
  if text_leaks_answer(question, trajectory.steps[: reply.step + 1], diagnosis):
    feedback = (
      f"its diagnosis cannot be shown to who rewrites the step: {LEAK_FEEDBACK}; say what to do without any result"
    )
    raise InvalidReply("leak", feedback, instead=Finding("located", reply.step, located="prompted"))
  return Finding("located", reply.step, diagnosis, located="prompted")


def _check_ran(step: Step) -> Step | InvalidReply:
  """The step if it ran, else an InvalidReply. After a failure of the tool's host, asking again would not help."""
  if step.reason in TOOL_FAILURE_STATUS:
    return InvalidReply("tool", "")
  if step.kind == "act" and step.reason != "ok":
    return InvalidReply("raised", f"its code did not run: {step.reason}, {step.observation[-300:]!r}")
  return step
