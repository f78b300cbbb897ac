"""Runs the leak guard over the reference release's records and lists what it flags.

python benchmarks/leak.py --records=DIR/math_mps_trajectories.jsonl --records=DIR/search_mps_trajectories.jsonl
python benchmarks/leak.py --records=… --all        the corrections that are not flagged too, to be read by a person

Beside the teacher's corrections it looks at their diagnoses, as who corrects would see them, and at the student's own
steps, which nobody told the answer: what is flagged of those was guessed, known or worked out in the head.
"""

from __future__ import annotations

import argparse
import time

from score_jax.teaching.leak import find_step_leak, text_leaks_answer
from score_jax.teaching.release import read_release
from score_jax.trajectory import Correction, Question


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--records", required=True, action="append", help="a file of the release's mentored trajectories")
  parser.add_argument("--all", action="store_true", help="list all corrections")
  args = parser.parse_args()
  start, records = time.monotonic(), [pair for path in args.records for pair in read_release(path)]
  steps = {"teacher": 0, "student": 0, "diagnosis": 0}
  flagged = dict(steps)
  for question, trajectory in records:
    for one in trajectory.corrections:
      said, before = one.replacement, trajectory.steps[: one.step]
      found = find_step_leak(question, before, said.thought, said.code)
      told = text_leaks_answer(question, (*before, *one.mistakes[-1:]), one.diagnosis)
      for kind, leaks in (("teacher", found is not None), ("diagnosis", told)):
        steps[kind] += 1
        flagged[kind] += leaks
      if found is not None or args.all:
        show(question, one, f"{found.where} states {found.form!r}" if found else "not flagged")
    for index, step in enumerate(trajectory.steps):
      if step.author == "student":
        steps["student"] += 1
        flagged["student"] += find_step_leak(question, trajectory.steps[:index], step.thought, step.code) is not None
  print(
    f"{len(records)} records, {time.monotonic() - start:.1f} s: flagged {flagged['teacher']} of {steps['teacher']} "
    f"corrections, {flagged['diagnosis']} of {steps['diagnosis']} diagnoses, "
    f"{flagged['student']} of {steps['student']} steps of the student's own"
  )


def show(question: Question, one: Correction, verdict: str) -> None:
  print(f"--- {question.id} step {one.step}, answer {question.answer!r}: {verdict}")
  print(f"    {one.replacement.thought}")
  for line in one.replacement.code.splitlines():
    print(f"    | {line}")


if __name__ == "__main__":
  main()
