"""Converts trajectories of the method's reference release into ours.

Its files (`*_mps_trajectories.jsonl`) have one record per line: the steps, the teacher's corrections with the mistakes
that they replace, and the verdict. What is changed on the way:

  - labels in thoughts ("First Thought:", "Thought:") are removed;
  - step 0 is the first thought, whatever the record calls it, and has no observation;
  - the printed result of `final_answer_print` is the answer, not an observation;
  - entries of the release's own server errors are no steps: the trajectory gets the status "tool_failure".

`tokenize_trajectory` (agent/scripted.py) makes the tokens from the text, once a tokenizer is chosen.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from score_jax.errors import UserError
from score_jax.sandbox.interface import ExecutedStep, Outcome, Tool, replace_control_chars
from score_jax.tasks.datasets import is_blank, read_utf8
from score_jax.text import parse_json
from score_jax.trajectory import Author, Correction, Question, Status, Step, Trajectory

_LABEL = re.compile(r"^\s*(First Thought|Thought)\s*:\s*")
_ERROR = "Error:"  # the release's observation of code that raised begins so
_PLACE = re.compile(r" \(<string>, line \d+\)$")  # the place of a syntax error
_SILENT = ("", "None", "Execution successful, no output.")  # the release's observations of code that prints nothing


def read_release(path: str) -> Iterator[tuple[Question, Trajectory]]:
  """The question and the trajectory of each record of a file."""
  file = epath.Path(path)
  if not file.exists():
    raise UserError(f"{path} does not exist; give a *_mps_trajectories.jsonl of the reference release")
  for number, line in enumerate(read_utf8(file).split("\n"), start=1):
    if not line.strip():
      continue
    try:
      yield parse_release_record(parse_json(line))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise UserError(
        f"{path}:{number}: no record of mentored problem solving ({type(error).__name__}: {error})"
      ) from error


def parse_release_record(data: Mapping[str, Any]) -> tuple[Question, Trajectory]:
  """The question and the trajectory of one record."""
  task = data["original_task_info"]
  gold = task["true_answer"]
  question = Question(task["id"], task["question"], "" if is_blank(gold) else str(gold).strip())
  entries = [entry for entry in data["steps"] if "thought" in entry]
  corrections = tuple(_correction(one) for one in data["repair_steps"])
  replaced = {c.step for c in corrections}
  steps = tuple(_step(e, i, "teacher" if i in replaced else "student") for i, e in enumerate(entries))
  right = bool(data["evaluation_result"].get("is_correct"))
  answer = steps[-1].answer if steps else None
  status: Status = "answered" if answer is not None else "step_limit"
  if len(entries) < len(data["steps"]):
    status = "tool_failure"
  return question, Trajectory(
    question_id=question.id,
    question=question.text,
    prompt_tokens=(),
    steps=steps,
    status=status,
    answer=answer,
    grade=float(right) if question.answer and status != "tool_failure" else None,
    grade_reason="the release's verdict" if question.answer else "no answer to grade by",
    corrections=corrections,
  )


def _step(entry: Mapping[str, Any], index: int, author: Author) -> Step:
  """One entry of the release as a step."""
  thought, code = _LABEL.sub("", entry["thought"]), entry["code"]
  if index == 0:
    return Step("first_thought", thought, author=author)
  said = replace_control_chars(entry["observation"]).rstrip("\n")
  if entry.get("is_finished", "final_answer_print" in code):
    return Step("act", thought, code, reason="ok", answer=said, author=author)
  return Step("act", thought, code, said, "exception" if said.startswith(_ERROR) else "ok", author=author)


def _correction(one: Mapping[str, Any]) -> Correction:
  """One repair of the release as a correction."""
  index = int(one["mistake_step_index"])
  return Correction(
    step=index,
    mistakes=tuple(_step(entry, index, "student") for entry in one["student_mistake"]),
    replacement=_step(one["teacher_guided_step"], index, "teacher"),
    diagnosis=one["correction_suggestion"],
    verified="recorded" if one["is_valid"] else "",
    located="recorded",
  )


def describe_difference(recorded: Step, outcome: Outcome) -> str:
  """How the outcome of rerunning a recorded step differs from the release's; empty if it does not.

  The release records an exception as "Error: " and its message, without its type.
  """
  if recorded.answer is not None:
    if outcome.answer is None:
      return f"no answer: {outcome.reason}"
    said = "\n".join(filter(None, (outcome.observation, outcome.answer)))
    return "" if said.split() == recorded.answer.split() else "another answer"
  if recorded.observation.startswith(_ERROR):
    message = _PLACE.sub("", recorded.observation.removeprefix(_ERROR).strip())
    if outcome.reason == "ok":
      return "an error there, none here"
    return "" if message in outcome.observation else f"another error: {outcome.reason}"
  if outcome.reason != "ok":
    return f"{outcome.reason} here"
  if not outcome.observation and recorded.observation in _SILENT:
    return ""
  return "" if outcome.observation.split() == recorded.observation.split() else "another observation"


def rerun_acts(trajectories: Sequence[Trajectory], tool: Tool) -> Iterator[tuple[int, int, Outcome]]:
  """Runs the acts of each trajectory in order; yields (trajectory index, step index, outcome) as runs end."""
  left = {str(i): deque(k for k, s in enumerate(t.steps) if s.kind == "act") for i, t in enumerate(trajectories)}
  state: dict[str, tuple[ExecutedStep, ...]] = {name: () for name in left}

  def submit_next(name: str) -> None:
    if left[name]:
      tool.submit(name, trajectories[int(name)].steps[left[name][0]].code, state[name])
    else:
      tool.close(name)

  for name in left:
    submit_next(name)
  while ended := tool.wait(60.0):
    for name, outcome in ended:
      place = left[name].popleft()
      code = trajectories[int(name)].steps[place].code
      state[name] += (ExecutedStep(code, outcome.observation, outcome.reason),)
      yield int(name), place, outcome
      submit_next(name)
