"""The paper's teacher: a chat model that is asked in words (prompts/), over whatever backend answers.

  demonstrate   a first thought, then one step at a time (solving.py)
  locate        one call: the question, the reference answer, the numbered steps, how it ended -> step and diagnosis
  correct       a second call: the question, the steps before, the wrong step, the diagnosis -> that one step

The second call shows neither the reference answer nor what came after the wrong step, and what could carry the answer
into it, the diagnosis, has passed the leak guard (leak.py); so has the step itself. A step is run in the state before
it; one that does not run is asked for again, as is one that repeats the mistake or is longer than a turn of the
student may be. Everything that is asked, refused replies too, is paid for in the ledger.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from score_jax.agent.protocol import Protocol, Turn
from score_jax.agent.rollout import at_question
from score_jax.chat.exchange import Chat
from score_jax.mentor.asking import Asking
from score_jax.mentor.confirmed import confirmed
from score_jax.mentor.counterfactual import CounterfactualTeacher
from score_jax.mentor.leak import step_leak, text_leak
from score_jax.mentor.reference import FAILURES
from score_jax.mentor.replies import Act, FirstThought, Location, Refused, attempt, repeats_a_mistake
from score_jax.mentor.solving import TEACHER, Settings, Solver, shown
from score_jax.mentor.teacher import Finding, Proposal
from score_jax.mentor.wording import Wording
from score_jax.tasks.grade import Grader
from score_jax.tools.tool import Tool
from score_jax.trajectory import Ledger, Question, Status, Step, Trajectory

Locate = Literal["prompted", "counterfactual", "both"]
Case = tuple[Question, Trajectory, Finding]

ENDED: dict[Status, str] = {
  "answered": "it submitted an answer, which is wrong",
  "step_limit": "it used all its steps without submitting an answer",
  "context_full": "the text grew too long before an answer was submitted",
  "bad_format": "the last step broke off, or is not of the form that a step must have; no answer was submitted",
}
LEAKS = "it states a result that neither the question nor an earlier step shows"


class PromptedTeacher:
  """Demonstrates, locates and corrects by asking."""

  def __init__(
    self,
    chat: Chat,
    wording: Wording,
    protocol: Protocol,
    tool: Tool,
    grader: Grader,
    settings: Settings,
    *,
    locate_by: Locate = "prompted",
    judge: CounterfactualTeacher | None = None,
  ):
    """
    Args:
      protocol: of the student, who is to learn from the steps: their text becomes its tokens, once.
      locate_by: who names the wrong step: the model; the judge's continuations; or the model, with the judge asked
        whether it is so (confirmed.py).
      judge: whose continuations are looked at; needed unless `locate_by` is "prompted".
    """
    self._wording, self._settings, self._locate_by, self._judge = wording, settings, locate_by, judge
    self._asking = Asking(chat, tokens=settings.reply_tokens)
    self._solver = Solver(self._asking, wording, protocol, tool, grader, settings)
    self._named: Counter[str] = Counter()

  def counts(self) -> dict[str, Any]:
    """What became of what was asked, and of the steps that were named."""
    replies = {kind: dict(sorted(counts.items())) for kind, counts in sorted(self._asking.counts.items())}
    return {"teacher_replies": replies, "located": dict(sorted(self._named.items()))}

  def demonstrate(self, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    return self.finish([(q, at_question(q)) for q in questions], name=name)

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    """Goes on from each prefix as it would by itself."""
    return self._solver.finish(begun, name=name)

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    if self._locate_by == "prompted" or self._judge is None:
      findings = self._ask_where(failed, name)
    elif self._locate_by == "counterfactual":
      findings = self._judge.locate(failed, name=name)
    else:
      findings = confirmed(self._ask_where(failed, name), failed, self._judge, name=name)
    self._named.update(finding.located or finding.verdict for finding in findings)
    return findings

  def _ask_where(self, failed: Sequence[tuple[Question, Trajectory]], name: str) -> list[Finding]:
    """What the model names; unlocated where it names nothing that can be taken, or there is no step at all."""
    places = [i for i, (_, t) in enumerate(failed) if t.steps]
    answers = self._asking.all(
      "locate",
      [(f"{name}/locate/{failed[i][0].id}", self._where(*failed[i])) for i in places],
      Location,
      temperature=self._settings.locate_temperature,
      take=lambda read: [attempt(_located, *failed[places[i]], reply) for i, reply in read],
    )
    findings = [Finding("unlocated")] * len(failed)
    for i, answer in zip(places, answers, strict=True):
      found = answer.value or Finding("unlocated")
      findings[i] = dataclasses.replace(found, ledger=Ledger({TEACHER: answer.usage}))
    return findings

  def _where(self, question: Question, trajectory: Trajectory) -> str:
    return self._wording.prompt(
      "locate",
      question=question.text,
      reference=question.answer,
      steps=shown(trajectory.steps),
      status=ENDED.get(trajectory.status, trajectory.status),
    )

  def correct(self, located: Sequence[Case]) -> list[Proposal]:
    proposals: dict[int, Proposal] = {}
    for first in (True, False):
      places = [i for i, (_, _, finding) in enumerate(located) if (finding.step == 0) is first]
      proposals |= dict(zip(places, self._replaced([located[i] for i in places], first), strict=True))
    return [proposals[i] for i in range(len(located))]

  def _replaced(self, located: Sequence[Case], first: bool) -> list[Proposal]:
    """Replacements of first thoughts, or of acts."""
    kind = "correct_first_thought" if first else "correct"
    runs: Counter[int] = Counter()
    answers = self._asking.all(
      kind,
      [(f"correct/{q.id}/{t.name}/{f.step}", self._instead(kind, q, t, f)) for q, t, f in located],
      FirstThought if first else Act,
      temperature=self._settings.correct_temperature,
      take=lambda read: self._run(located, read, runs),
    )
    return [Proposal(a.value, Ledger({TEACHER: a.usage}, tool_calls=runs[i])) for i, a in enumerate(answers)]

  def _instead(self, kind: str, question: Question, trajectory: Trajectory, finding: Finding) -> str:
    *before, wrong = shown(trajectory.steps[: finding.step + 1])
    steps = {"steps": before} if kind == "correct" else {}
    return self._wording.prompt(kind, question=question.text, wrong=wrong, diagnosis=finding.diagnosis, **steps)

  def _run(
    self, located: Sequence[Case], read: Sequence[tuple[int, FirstThought | Act]], runs: Counter[int]
  ) -> list[Step | Refused]:
    """The replies as steps, run where they are acts; those that cannot stand are refused."""
    made = [(i, attempt(self._fitting, located[i], reply)) for i, reply in read]
    fit = [(i, one) for i, one in made if isinstance(one, Turn)]
    steps = iter(self._solver.run([(located[i][1].steps[: located[i][2].step], one) for i, one in fit]))
    runs.update(i for i, one in fit if one.kind == "act")
    return [one if isinstance(one, Refused) else _that_ran(next(steps)) for _, one in made]

  def _fitting(self, case: Case, reply: FirstThought | Act) -> Turn:
    """The turn that a reply writes in the place of the error.

    Raises:
      Refused: it is none, repeats a mistake, or states the answer.
    """
    question, trajectory, k = case[0], case[1], case[2].step
    made = self._solver.turn("act" if k else "first_thought", reply)
    if repeats_a_mistake(made, trajectory, case[2]):
      raise Refused("same", "it does the same as the step that went wrong")
    if step_leak(question, trajectory.steps[:k], made.thought, made.code):
      raise Refused("leak", f"{LEAKS}; do not state it, let code compute or look it up and print it")
    return made


def _located(question: Question, trajectory: Trajectory, reply: Location) -> Finding:
  """
  Raises:
    Refused: there is no such step, the diagnosis is empty, or it states the answer: then, in the end, the step is
      taken without it.
  """
  count, diagnosis = len(trajectory.steps), reply.diagnosis.strip()
  if reply.step is None:
    return Finding("unlocated", diagnosis=diagnosis)
  if not 0 <= reply.step < count:
    raise Refused("range", f"there is no step {reply.step}; they are numbered 0 to {count - 1}")
  if not diagnosis:
    raise Refused("empty", '"diagnosis" is empty')
  if text_leak(question, trajectory.steps[: reply.step + 1], diagnosis):
    told = f"its diagnosis cannot be shown to who rewrites the step: {LEAKS}; say what to do without any result"
    raise Refused("leak", told, instead=Finding("located", reply.step, located="prompted"))
  return Finding("located", reply.step, diagnosis, located="prompted")


def _that_ran(step: Step) -> Step | Refused:
  """The step, or why it cannot stand: it raised, or the tool's host failed, which asking again does not mend."""
  if step.reason in FAILURES:
    return Refused("tool", "")
  if step.kind == "act" and step.reason != "ok":
    return Refused("raised", f"its code did not run: {step.reason}, {step.observation[-300:]!r}")
  return step
