"""What a teacher's replies must look like: one JSON object of a known form, whose texts are one step and no more.

A reply that is not so is refused with a reason, which is counted, and with what to tell the model before it is asked
again (mentor/asking.py). Nothing is ever read out of prose.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import pydantic

from score_jax.agent.protocol import TAGS, Turn
from score_jax.mentor.teacher import Finding
from score_jax.tasks.one_object import one_object
from score_jax.tools.outcome import plain
from score_jax.trajectory import Kind, Step, Trajectory


class Refused(Exception):
  """A reply that cannot be taken.

  Attributes:
    reason: under which it is counted.
    told: what the model is told before it is asked again; "": asking again would not help.
    instead: what is taken when it was asked often enough; None: nothing.
  """

  def __init__(self, reason: str, told: str, instead: Any = None):
    super().__init__(reason)
    self.reason, self.told, self.instead = reason, told, instead


class Form(pydantic.BaseModel):
  """Exactly its fields, of exactly their types."""

  model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class FirstThought(Form):
  thought: str


class Act(Form):
  thought: str
  code: str


class Location(Form):
  step: int | None
  diagnosis: str


F = TypeVar("F", bound=Form)
P = ParamSpec("P")
T = TypeVar("T")

_TOKEN = re.compile(r"<\|[^|>\s]*\|>")
_LABEL = re.compile(r"^[ \t]*(?:Observation|(?:First )?Thought|Code|Action)[ \t]*:", re.MULTILINE)


def parse(reply: str, form: type[F]) -> F:
  """The object that a reply is, behind any thinking, alone or in one fence.

  Raises:
    Refused: it is none, or not of the form.
  """
  try:
    data = one_object(reply)
  except ValueError as error:
    raise Refused("no_json", f"it is not one JSON object and nothing else ({str(error)[:200]})") from error
  try:
    return form.model_validate(data)
  except pydantic.ValidationError as error:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the reply"
    raise Refused("fields", f"it does not have the fields that were asked for ({where}: {first['msg']})") from error


def turn(kind: Kind, reply: FirstThought | Act) -> Turn:
  """The one turn that a reply writes.

  Raises:
    Refused: a part is empty, it is more than one turn, or its code is no Python.
  """
  thought, code = reply.thought.strip(), reply.code.strip() if isinstance(reply, Act) else ""
  for name, text in (("thought", thought), ("code", code)):
    if not text and (name == "thought" or kind == "act"):
      raise Refused("empty", f'"{name}" is empty')
    if plain(text) != text:
      raise Refused("characters", f'"{name}" has a control character')
    if any(tag in text for tag in TAGS) or _TOKEN.search(text):
      raise Refused("several", f'"{name}" has tags in it; write the bare text of one step')
    if _LABEL.search(text):
      raise Refused("several", f'"{name}" has a line that begins with a label such as "Thought:" or "Observation:"')
  if "```" in thought:
    raise Refused("several", '"thought" has a block of code in it')
  if kind == "act":
    tree(code)
  return Turn(kind, thought, code)


def tree(code: str) -> ast.Module:
  """The code, read.

  Raises:
    Refused: it is no Python.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of escapes such as "\\d"
    try:
      return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
      raise Refused("syntax", f'"code" is no Python ({str(error)[:200]}); write plain code, without fences') from error


def attempt(make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Refused:
  """What `make` gives, or its refusal."""
  try:
    return make(*args, **kwargs)
  except Refused as refused:
    return refused


def repeats_a_mistake(step: Turn | Step, trajectory: Trajectory, finding: Finding) -> bool:
  """Whether a replacement does what stands at its place, or stood there before, or was tried there in vain."""
  k = finding.step
  earlier = (m for c in trajectory.corrections if c.step == k for m in c.mistakes)
  made = Turn(step.kind, step.thought, step.code)
  return any(repeats(made, one) for one in (*trajectory.steps[k : k + 1], *earlier, *finding.tried))


def repeats(made: Turn, step: Step) -> bool:
  """Whether a turn is that step again: its code is the same but for comments and spaces, or its plan is."""
  if made.kind == "first_thought" or step.kind != "act":
    return made.thought.split() == step.thought.split()
  try:
    return ast.dump(tree(made.code)) == ast.dump(tree(step.code))
  except (Refused, RecursionError):  # of a student's code, or of a sum of a thousand terms
    return made.code == step.code
