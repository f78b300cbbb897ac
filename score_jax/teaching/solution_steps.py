"""How far a student has come along a worked solution, and its next act rewritten for the student's state.

The worked solution has been run, so each of its acts has an observation. Its path is the list of the last numbers of
these. A look-up has no number; its observation identifies it. `SolutionProgress` classifies each act of a student:

    raised   the code did not end well
    forward  it prints a value of the path at or after the next one not reached yet (those before it then count as
             passed), or finds the result of a worked look-up for the first time
    idle     it prints no number, looks up anything else, prints a value of the path that is passed, or prints,
             without arithmetic, a number of the question or of an earlier observation
    off      it prints another number

Numbers are equal when they agree to six digits. Two kinds of act are misjudged: a wrong value that happens to be on the
path passes, and another right way to the answer is off at its first value that the worked solution lacks.

`inline_worked_code` rewrites the code of a worked act: other variables of the student hold the values, or none does.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Literal

from score_jax.sandbox.interface import EFFECTIVE_REASONS
from score_jax.trajectory import Step

StepProgress = Literal["raised", "forward", "idle", "off"]

NUMBER_PATTERN = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?")


def numbers_agree(a: float | None, b: float | None) -> bool:
  """Whether two numbers agree to six digits; two Nones agree too."""
  if a is None or b is None:
    return a is b
  return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


def contains_number(values: Iterable[float | None], value: float) -> bool:
  """Whether one of the values agrees with a number."""
  return any(numbers_agree(v, value) for v in values)


def find_numbers(text: str) -> list[float]:
  """The finite numbers in a text, in order."""
  found = (float(n.replace(",", "")) for n in NUMBER_PATTERN.findall(text))
  return [n for n in found if math.isfinite(n)]


def parse_last_line(text: str) -> float | None:
  """The last line of a text as a number; None if it is anything else."""
  line = text.strip().rpartition("\n")[2].strip()
  return next(iter(find_numbers(line)), None) if NUMBER_PATTERN.fullmatch(line) else None


def is_lookup(step: Step) -> bool:
  """Whether the act is a look-up, not a computation with the result of one."""
  return "web_search(" in step.code and parse_last_line(step.observation) is None


def last_printed_number(step: Step) -> float | None:
  """The last number that an act prints, taken as its result; None for a look-up or without numbers."""
  found = [] if is_lookup(step) else find_numbers(step.observation)
  return found[-1] if found else None


def _computes(code: str) -> bool:
  """Whether the code has arithmetic."""
  return any(isinstance(node, ast.BinOp | ast.AugAssign) for node in ast.walk(ast.parse(code)))


class SolutionProgress:
  """Follows one student along the acts of a worked solution that has been run."""

  def __init__(self, acts: Sequence[Step], question: str):
    self._acts = acts
    self._values = [last_printed_number(act) for act in acts]
    self._passed = 0  # number of worked acts that the student has passed
    self._found: set[int] = set()  # indices of worked look-ups whose result the student has seen
    self._seen = find_numbers(question)  # numbers of the question and of all observations

  @property
  def next_act_index(self) -> int:
    """Index of the worked act that the student needs next; the last act, which submits, if all others are done."""
    ahead = (i for i in range(self._passed, len(self._acts) - 1) if i not in self._found)
    return next(ahead, len(self._acts) - 1)

  def advance(self, step: Step) -> StepProgress:
    """Classifies the student's next step and moves on; first thoughts and malformed steps are idle."""
    if step.kind != "act":
      return "idle"
    if step.reason != "ok":
      return "raised"
    move = self._look_up(step) if is_lookup(step) else self._compute(step)
    self._seen += find_numbers(step.observation)
    return move

  def _look_up(self, step: Step) -> StepProgress:
    """Classifies a look-up."""
    found = {i for i, a in enumerate(self._acts) if is_lookup(a) and a.observation in step.observation}
    new = found - self._found - set(range(self._passed))
    self._found |= found
    return "forward" if new else "idle"

  def _compute(self, step: Step) -> StepProgress:
    """Classifies an act that is no look-up."""
    printed = last_printed_number(step)
    if printed is None:
      return "idle"
    for index in range(self._passed, len(self._acts)):
      if numbers_agree(self._values[index], printed):
        self._passed = index + 1
        return "forward"
    repeated = contains_number(self._values, printed) or (
      contains_number(self._seen, printed) and not _computes(step.code)
    )
    return "idle" if repeated else "off"


@dataclasses.dataclass(frozen=True)
class VariableDefinition:
  """An assignment of a worked act to a name."""

  value: float | None  # as printed; None: not printed
  expression: ast.expr
  before: Mapping[str, VariableDefinition]  # definitions of the names in the expression


def inline_worked_code(acts: Sequence[Step], index: int, student: Sequence[Step]) -> str:
  """The code of `acts[index]` with the names that earlier acts assigned replaced for the student's state.

  A name is replaced by the first of these that exists: a name that holds the value by the student's own prints,
  preferably the same one; the plain number, if the student has printed it; the expression that computes it.
  Code that needs no change is returned as it is.
  """
  definitions: Mapping[str, VariableDefinition] = {}
  for act in acts[:index]:
    definitions = _definitions_after(act, definitions)
  code = acts[index].code
  inliner = _NameInliner(known_variables(student), [n for s in student for n in find_numbers(s.observation)])
  statements = []
  for statement in ast.parse(code).body:
    own = _bound_names([statement])
    simple = isinstance(statement, ast.Assign | ast.Expr)
    inliner.definitions = definitions if simple else _without(definitions, own)
    statements.append(inliner.visit(deepcopy(statement)))
    definitions = _without(definitions, own)
  return ast.unparse(ast.Module(statements, [])) if inliner.changed else code


def known_variables(steps: Iterable[Step]) -> dict[str, float]:
  """Names whose value is certain after the steps, since the last line printed it; the latest last."""
  known: dict[str, float] = {}
  for step in steps:
    if step.kind != "act" or step.reason not in EFFECTIVE_REASONS:
      continue
    try:
      body = ast.parse(step.code).body
    except (SyntaxError, ValueError):
      continue  # no Python, so nothing ran
    for name in _bound_names(body):
      known.pop(name, None)
    name, printed = _printed_name(body), parse_last_line(step.observation)
    if step.reason == "ok" and name is not None and printed is not None:
      known.pop(name, None)
      known[name] = printed
  return known


def _printed_name(body: Sequence[ast.stmt]) -> str | None:
  """The name in a last statement of the form print(name); None: it has another form."""
  match body:
    case [*_, ast.Expr(value=ast.Call(func=ast.Name(id="print"), args=[ast.Name(id=name)], keywords=[]))]:
      return name
  return None


def _bound_names(body: Sequence[ast.stmt]) -> set[str]:
  """All names that the statements may bind or delete."""
  names: set[str] = set()
  for node in (n for statement in body for n in ast.walk(statement)):
    match node:
      case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
        names.add(name)
      case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
        names.add(name)
      case ast.alias(name=name, asname=other):
        names.add((other or name).partition(".")[0])
  return names


def _without(definitions: Mapping[str, VariableDefinition], names: set[str]) -> dict[str, VariableDefinition]:
  """The definitions without some names."""
  return {name: d for name, d in definitions.items() if name not in names}


def _definitions_after(act: Step, definitions: Mapping[str, VariableDefinition]) -> dict[str, VariableDefinition]:
  """The definitions after one more worked act. Names bound in another way than `name = expression` have none."""
  body = ast.parse(act.code).body
  after = _without(definitions, _bound_names(body))
  for statement in body:
    match statement:
      case ast.Assign(targets=[ast.Name(id=name)], value=expression):
        after[name] = VariableDefinition(None, expression, definitions)
        definitions = {**definitions, name: after[name]}
  shown = _printed_name(body)
  if shown in after:
    after[shown] = dataclasses.replace(after[shown], value=last_printed_number(act))
  return after


class _NameInliner(ast.NodeTransformer):
  """Replaces the names in `definitions`; `changed` says whether it replaced any."""

  def __init__(self, names: Mapping[str, float], printed: Sequence[float]):
    self.definitions: Mapping[str, VariableDefinition] = {}
    self.changed = False
    self._names, self._printed = names, printed

  def visit_Name(self, node: ast.Name) -> ast.expr:
    """The name, or the name, number or expression that replaces it."""
    if not isinstance(node.ctx, ast.Load) or node.id not in self.definitions:
      return node
    definition = self.definitions[node.id]
    if definition.value is not None:
      holding = [name for name, v in self._names.items() if numbers_agree(v, definition.value)]
      if node.id in holding:
        return node
      self.changed = True
      if holding:
        return ast.Name(holding[-1], ast.Load())
      if contains_number(self._printed, definition.value):
        whole = definition.value.is_integer() and abs(definition.value) < 1e15
        return ast.Constant(int(definition.value) if whole else definition.value)
    self.changed = True
    outer, self.definitions = self.definitions, definition.before
    expression = self.visit(deepcopy(definition.expression))
    self.definitions = outer
    return expression
