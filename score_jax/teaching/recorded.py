"""Teachers that do not look for the error: one replays recorded corrections, one corrects a random step.

`RecordedTeacher` reads a .jsonl file, or a folder with *.jsonl in it or in its subfolders. Each line is one correction:

    {"question_id": "q1", "step": 2, "thought": "add 7", "code": "x = 5 + 7\\nprint(x)", "diagnosis": "it takes away"}

"question" (the text) can replace the id. "prefix", a list of [thought, code], restricts the correction to that prefix.
"diagnosis" is optional. A line may also be one of our trajectories. Its corrections are used with their prefixes. It is
a demonstration if it is right and all its steps are the teacher's. Steps are run again in the student's state; one
that fails or leaks the answer (leak.py) is not used. No model is called, so it costs no tokens.

`RandomStepTeacher` names a random step and lets another teacher correct it (ablation: does *earliest* matter?).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from score_jax import text
from score_jax.agent.protocol import AgentProtocol, Turn
from score_jax.agent.scripted import run_turns
from score_jax.errors import UserError
from score_jax.grading.graders import Grader
from score_jax.sandbox.interface import Tool
from score_jax.tasks.datasets import read_utf8
from score_jax.tasks.splits import hash_fraction
from score_jax.teaching.leak import find_step_leak
from score_jax.teaching.teacher import Finding, Proposal, Teacher
from score_jax.teaching.worked_solution import ReferenceTeacher
from score_jax.trajectory import Author, Ledger, Question, Step, Trajectory, trajectory_from_json

ThoughtAndCode = tuple[str, str]  # thought and code


@dataclasses.dataclass(frozen=True)
class RecordedCorrection:
  """A correction from a file."""

  step: int
  replacement: ThoughtAndCode
  diagnosis: str = ""
  prefix: tuple[ThoughtAndCode, ...] | None = None  # None: any prefix

  def fits(self, trajectory: Trajectory) -> bool:
    """Whether the trajectory has another step at this place, after the same prefix."""
    steps = trajectory.steps
    if self.step >= len(steps) or _thought_and_code(steps[self.step]) == self.replacement:
      return False
    return self.prefix is None or tuple(map(_thought_and_code, steps[: self.step])) == self.prefix


class RecordedTeacher:
  """Demonstrates, locates and corrects by records."""

  def __init__(self, path: str, protocol: AgentProtocol, tool: Tool, grader: Grader):
    """Reads all records; `path` is a file or a folder."""
    self._records: dict[str, list[RecordedCorrection]] = {}
    self._demonstrations: dict[str, tuple[ThoughtAndCode, ...]] = {}
    self._protocol, self._tool = protocol, tool
    self._player = ReferenceTeacher(protocol, tool, grader)
    self._counts: Counter[str] = Counter()
    for where, line in _read_lines(path):
      try:
        self._read(text.parse_json(line), line)
      except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
          f"{where}: no recorded correction ({type(error).__name__}: {error}); "
          "a line has question_id or question, step, thought and code"
        ) from error

  def _read(self, data: dict[str, Any], line: str) -> None:
    """Adds the record of one line."""
    if "schema" in data:
      self._read_trajectory(trajectory_from_json(line))
      return
    if unknown := data.keys() - {"question_id", "question", "step", "thought", "code", "diagnosis", "prefix"}:
      raise ValueError(f"the key {sorted(unknown)[0]!r} is unknown")
    step, replacement = data["step"], (data["thought"], data["code"])
    prefix = None if data.get("prefix") is None else tuple((t, c) for t, c in data["prefix"])
    question = data["question_id" if "question_id" in data else "question"]
    texts = (question, *replacement, data.get("diagnosis") or "", *(text for turn in prefix or () for text in turn))
    if type(step) is not int or step < 0 or not all(isinstance(text, str) for text in texts):
      raise ValueError("step is a number from 0 on; question, thought, code, diagnosis and prefix are texts")
    if prefix is not None and len(prefix) != step:
      raise ValueError(f"a prefix of {len(prefix)} steps before step {step}")
    self._keep(question, RecordedCorrection(step, replacement, data.get("diagnosis") or "", prefix))

  def _read_trajectory(self, trajectory: Trajectory) -> None:
    """Adds the corrections of a trajectory, and the trajectory as a demonstration if it is one."""
    steps = tuple(map(_thought_and_code, trajectory.steps))
    for one in trajectory.corrections:
      record = RecordedCorrection(one.step, _thought_and_code(one.replacement), one.diagnosis, steps[: one.step])
      self._keep(trajectory.question_id, record)
    if trajectory.right and all(step.author == "teacher" for step in trajectory.steps):
      self._demonstrations.setdefault(trajectory.question_id, steps)

  def _keep(self, question: str, record: RecordedCorrection) -> None:
    self._records.setdefault(question, []).append(record)

  def counts(self) -> dict[str, Any]:
    """Counts of how corrections were found and used."""
    return {"recorded": dict(sorted(self._counts.items()))}

  def demonstrate(self, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    """The recorded demonstrations, run again. A question without one gets a trajectory without steps, graded 0."""
    solved = [dataclasses.replace(q, solution=self._demonstrations.get(q.id, ())) for q in questions]
    return self._player.demonstrate(solved, name=name)

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    """The rest of the recorded demonstrations that begin with these prefixes; other prefixes end there, graded 0."""
    played = self.demonstrate([question for question, _ in begun], name=name)
    return [_append_rest(prefix, whole) for (_, prefix), whole in zip(begun, played, strict=True)]

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    """The earliest recorded step that fits; unlocated if none does."""
    return [self._find(question, trajectory) for question, trajectory in failed]

  def _find(self, question: Question, trajectory: Trajectory) -> Finding:
    """The finding on one trajectory."""
    records = self._records_of(question)
    fitting = [record for record in records if record.fits(trajectory)]
    self._counts["located" if fitting else "another prefix" if records else "no record"] += 1
    if not fitting:
      return Finding("unlocated")
    first = min(fitting, key=lambda record: record.step)
    return Finding("located", first.step, first.diagnosis, located="recorded")

  def _records_of(self, question: Question) -> list[RecordedCorrection]:
    """The records of a question, by its id or by its text."""
    return [*self._records.get(question.id, ()), *self._records.get(question.text, ())]

  def correct(self, located: Sequence[tuple[Question, Trajectory, Finding]]) -> list[Proposal]:
    """The recorded steps, run again; None without a record, as for a step that another teacher named."""
    found = [self._record(question, trajectory, finding.step) for question, trajectory, finding in located]
    wanted: list[tuple[Sequence[Step], Turn, Author]] = []
    for (_, trajectory, finding), record in zip(located, found, strict=True):
      if record is not None:
        thought, code = record.replacement
        turn = Turn("act" if finding.step else "first_thought", thought, code if finding.step else "")
        wanted.append((trajectory.steps[: finding.step], turn, "teacher"))
    taken = iter(run_turns(self._protocol, self._tool, wanted))
    return [
      Proposal(None) if record is None else self._proposal(question, trajectory.steps[: finding.step], next(taken)[0])
      for (question, trajectory, finding), record in zip(located, found, strict=True)
    ]

  def _record(self, question: Question, trajectory: Trajectory, step: int) -> RecordedCorrection | None:
    """The record for this step that fits the trajectory."""
    return next((r for r in self._records_of(question) if r.step == step and r.fits(trajectory)), None)

  def _proposal(self, question: Question, before: Sequence[Step], step: Step) -> Proposal:
    return Proposal(self._step_if_usable(question, before, step), Ledger(tool_calls=int(step.kind == "act")))

  def _step_if_usable(self, question: Question, before: Sequence[Step], step: Step) -> Step | None:
    """The step, if it ran and does not leak the answer."""
    leaks = find_step_leak(question, before, step.thought, step.code) is not None
    ran = step.kind == "first_thought" or step.reason == "ok"
    self._counts["leaks" if leaks else "corrected" if ran else "did not run"] += 1
    return step if ran and not leaks else None


def _thought_and_code(step: Step) -> ThoughtAndCode:
  return step.thought, step.code


def _append_rest(prefix: Trajectory, whole: Trajectory) -> Trajectory:
  """The prefix with the rest of a trajectory that begins like it; the prefix alone, graded 0, if it does not."""
  given = len(prefix.steps)
  begins = tuple(map(_thought_and_code, whole.steps[:given])) == tuple(map(_thought_and_code, prefix.steps))
  ended = whole if begins else dataclasses.replace(whole, steps=(), status="step_limit", answer=None, grade=0.0)
  return dataclasses.replace(
    ended, steps=(*prefix.steps, *ended.steps[given:]), prefix_steps=given, corrections=prefix.corrections
  )


def _read_lines(path: str) -> Iterator[tuple[str, str]]:
  """(file:line, text) of each line that is not blank."""
  root = epath.Path(path)
  files = sorted([*root.glob("*.jsonl"), *root.glob("*/*.jsonl")]) if path and root.is_dir() else [root]
  if not path or not files or not files[0].exists():
    raise UserError(f"teacher.path = {path!r}: no file of recorded corrections, nor a folder with *.jsonl; give one")
  for file in files:
    for number, line in enumerate(read_utf8(file).split("\n"), start=1):
      if line.strip():
        yield f"{file}:{number}", line


#: the diagnosis of a random step
RANDOM_STEP_DIAGNOSIS = "This step is to be written anew."


class RandomStepTeacher:
  """Locates a random step; another teacher demonstrates and corrects.

  A seeded hash of question and round chooses the step, each with equal chance.
  """

  def __init__(self, teacher: Teacher, salt: str):
    self._salt = salt
    self.demonstrate, self.finish, self._correct = teacher.demonstrate, teacher.finish, teacher.correct

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    """Names a random step of each trajectory."""
    return [self._name(question, trajectory, name) for question, trajectory in failed]

  def _name(self, question: Question, trajectory: Trajectory, name: str) -> Finding:
    """The random step of one trajectory."""
    if not trajectory.steps:
      return Finding("unlocated")
    step = int(hash_fraction(question, f"{self._salt}/{name}") * len(trajectory.steps))
    return Finding("located", step, RANDOM_STEP_DIAGNOSIS, may_relocate=True)

  def correct(self, located: Sequence[tuple[Question, Trajectory, Finding]]) -> list[Proposal]:
    """The other teacher's corrections."""
    return self._correct(located)
