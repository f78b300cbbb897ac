"""Scripts from worked solutions: plain, with detours and recoveries (for a teacher), or with slips (for a student).

A teacher must be able to continue a student's steps. A detour is a harmless step that a student might take: it prints a
known value, searches twice or for the wrong thing, uses an undefined name, or makes another plan. The next step is the
right one. A detour is written as the student's step, so that it carries no loss when only the teacher's steps do.
A slip is a wrong computing step that is never noticed. It makes the student's first training text like most text, which
nobody has checked.
"""

from __future__ import annotations

import dataclasses
import random
import re

from score_jax.agent.protocol import Turn
from score_jax.agent.scripted import Script
from score_jax.tasks import word_problems
from score_jax.trajectory import Author, Question


def build_worked_script(question: Question) -> Script:
  """The question's worked solution as a script of the teacher."""
  first, *acts = question.solution
  return [(Turn("first_thought", first[0]), "teacher"), *((Turn("act", t, c), "teacher") for t, c in acts)]


def build_script_with_detours(question: Question, *, share: float, draw: random.Random) -> Script:
  """The worked solution with detours: before each act, and in place of the plan, with probability `share`."""
  (plan, author), *acts = build_worked_script(question)
  script: list[tuple[Turn, Author]] = [
    (Turn("first_thought", _other_plan(plan.thought, draw)), "student") if draw.random() < share else (plan, author)
  ]
  for turn, author in acts:
    if draw.random() < share:
      script.append((_detour(turn, draw), "student"))
    script.append((turn, author))
  return script


def build_script_with_slips(question: Question, *, share: float, draw: random.Random) -> Script:
  """The worked solution in which each computing step is a slip with probability `share`."""
  return [
    (make_slip(turn, draw) if "x = " in turn.code and draw.random() < share else turn, author)
    for turn, author in build_worked_script(question)
  ]


def make_slip(turn: Turn, draw: random.Random) -> Turn:
  """The computing step made wrong: another operator or, half of the time, a missing factor if it has one.

  Raises:
    ValueError: it is not a computing step of a word problem.
  """
  found = re.fullmatch(r"(x = \w+) ([-+*]) (.*)\nprint\(x\)", turn.code)
  if found is None:
    raise ValueError(f"no slip is known for the step {turn.code!r}; it is none of a generated word problem")
  start, operator, rest = found.groups()
  if "*" in rest and draw.random() < 0.5:
    rest = rest.split(" * ")[0]
  else:
    operator = {"+": "-", "-": "+", "*": "+"}[operator]
  return dataclasses.replace(turn, code=f"{start} {operator} {rest}\nprint(x)")


def _other_plan(plan: str, draw: random.Random) -> str:
  """The plan with its parts in another order, and some of them missing."""
  parts = plan.removeprefix("plan: ").split(", ")
  draw.shuffle(parts)
  kept = parts[: draw.randint(1, len(parts))]
  return "plan: " + ", ".join(kept)


def _detour(turn: Turn, draw: random.Random) -> Turn:
  """A harmless step to insert before `turn`."""
  kinds = ["look", "undefined", "wrong search"] + (["twice"] if "web_search" in turn.code else [])
  kind = draw.choice(kinds)
  if kind == "twice":
    return turn
  if kind == "look":
    return Turn("act", "look", "print(x)")
  if kind == "undefined":
    return Turn("act", "add y", "x = x + y\nprint(x)")
  container = draw.choice(sorted(word_problems.CONTAINERS.values()))
  queries = (
    f"{container} of {draw.choice(word_problems.ITEMS)}",
    f"{draw.choice(word_problems.PEOPLE)}'s shop",
    draw.choice(word_problems.TOWNS),
  )
  query = draw.choice(queries)
  return Turn("act", f"look up {query}", f'print(web_search("{query}"))')
