"""The leak guard: a teacher that knows the reference answer must not write it into the student's step.

A corrected step leaks when the reference answer, or an equal form of it, stands in it although nothing before it
produced it: neither the question nor an earlier step's thought, code, observation. What the step's own code prints
excuses nothing that is written in it: a thought that states a number before it is computed leaks, and so does a
comment, or a literal that is submitted. Computing the answer is no leak.

  - Answers under three characters (12, C), and answers that stand in the question, are in too many texts by accident:
    they count only where a literal is submitted with final_answer_print. An answer that stands in the question must
    then have been observed; that an earlier thought repeats the question is no evidence. A letter to choose is
    observed when a line of an observation is that letter, or when its option's text is observed.
  - yes, no, true and false say too little for a text to be their source: they are not guarded.

Which forms of an answer are known stands in answer_forms.py. Not seen: an expression rearranged, a number in words, a
paraphrase, and a step that names the answer's option in prose where the options stand in the question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from score_jax.mentor.answer_forms import Target, targets
from score_jax.mentor.literals import literals_of, submitted, written
from score_jax.tasks.choice import letter
from score_jax.trajectory import Question, Step

Where = Literal["thought", "code", "submission"]


@dataclasses.dataclass(frozen=True)
class Leak:
  """A form of the answer, and where it stands."""

  where: Where
  form: str


def step_leak(question: Question, before: Sequence[Step], thought: str, code: str) -> Leak | None:
  """The first leak of a step that is to follow `before`; None: there is none."""
  for one in targets(question):
    standing = one.stands_in(question.text)
    if not standing and _seen(one, before):
      continue
    if not one.short and not standing:
      if one.stands_in(thought):
        return Leak("thought", one.text)
      if any(map(one.stands_in, written(code))):
        return Leak("code", one.text)
    if any(map(one.submitted_as, submitted(code))) and not _observed(one, before):
      return Leak("submission", one.text)
  return None


def text_leak(question: Question, before: Sequence[Step], text: str) -> bool:
  """Whether a text about the step after `before`, such as a diagnosis, states the answer."""
  return any(
    not one.short and one.stands_in(text) and not one.stands_in(question.text) and not _seen(one, before)
    for one in targets(question)
  )


def supported(question: Question, steps: Sequence[Step]) -> bool | None:
  """Whether a right answer, submitted by the last of `steps`, was computed, observed or given; None: it cannot be told.

  A literal is supported where the question says it, or an observation before it that code did not just print as a
  literal. A letter to choose, which the question says of necessity, has to be observed. An answer that code computes
  is supported; a name that one step gave a literal, and no other step anything, is that literal. yes, no, true and
  false, and a literal in no form that is known, tell nothing.
  """
  *before, last = steps
  wanted = targets(question)
  literals = submitted(last.code) or submitted("\n".join(step.code for step in steps if step.reason == "ok"))
  if not literals:
    return True if wanted else None
  found = [one for one in wanted if any(map(one.submitted_as, literals))]
  if not found:
    return None
  shown = [step for step in before if step.observation]
  return any(
    (not one.letter and one.stands_in(question.text))
    or _observed(one, [s for s in shown if not any(map(one.submitted_as, literals_of(s.code, "print")))])
    for one in found
  )


def _seen(one: Target, before: Iterable[Step]) -> bool:
  """Whether the path has produced it: said, written or observed."""
  return any(
    one.stands_in(text)
    for step in before
    for text in (step.thought, *written(step.code), step.observation, step.answer or "")
  )


def _observed(one: Target, before: Sequence[Step]) -> bool:
  """Whether running the path's code has shown it."""
  for step in before:
    if one.letter:
      lines = step.observation.splitlines()
      shown = any(letter(line) == one.letter for line in lines)
      if shown or (one.option is not None and one.option.stands_in(step.observation)):
        return True
    elif one.stands_in(step.observation):
      return True
  return False
