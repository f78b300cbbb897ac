"""The code of a worked act, rewritten to run in a student's state, where other names hold the values, or none does."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy

from score_jax.mentor.worked_path import has, numbers, same, value, whole_number
from score_jax.tools.outcome import EFFECTS
from score_jax.trajectory import Step


@dataclasses.dataclass(frozen=True)
class Definition:
  """What a worked act assigned to a name."""

  value: float | None  # as it was printed
  expression: ast.expr
  before: Mapping[str, Definition]  # what the names in the expression stood for


def restated(acts: Sequence[Step], index: int, student: Sequence[Step]) -> str:
  """The code of `acts[index]` with each name that the acts before it assigned replaced.

  By, in this order: a name that the student's own prints show to hold the value,
  preferably the same one; the plain number, where the student has printed it;
  the expression that computes it. Code that needs no change is returned as it is.
  """
  definitions: Mapping[str, Definition] = {}
  for act in acts[:index]:
    definitions = _defined(act, definitions)
  code = acts[index].code
  restate = _Restate(held(student), [n for s in student for n in numbers(s.observation)])
  statements = []
  for statement in ast.parse(code).body:
    own = _assigned([statement])
    simple = isinstance(statement, ast.Assign | ast.Expr)
    restate.definitions = definitions if simple else _without(definitions, own)
    statements.append(restate.visit(deepcopy(statement)))
    definitions = _without(definitions, own)
  return ast.unparse(ast.Module(statements, [])) if restate.changed else code


def held(steps: Iterable[Step]) -> dict[str, float]:
  """The names that some steps leave whose value is certain: their last print showed it; latest last."""
  known: dict[str, float] = {}
  for step in steps:
    if step.kind != "act" or step.reason not in EFFECTS:
      continue
    try:
      body = ast.parse(step.code).body
    except (SyntaxError, ValueError):
      continue  # nothing ran
    for name in _assigned(body):
      known.pop(name, None)
    name, printed = _printed_name(body), whole_number(step.observation)
    if step.reason == "ok" and name is not None and printed is not None:
      known.pop(name, None)
      known[name] = printed
  return known


def _printed_name(body: Sequence[ast.stmt]) -> str | None:
  """The name in a last line of the form print(name)."""
  match body:
    case [*_, ast.Expr(value=ast.Call(func=ast.Name(id="print"), args=[ast.Name(id=name)], keywords=[]))]:
      return name
  return None


def _assigned(body: Sequence[ast.stmt]) -> set[str]:
  """All names that some statements may bind or delete."""
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


def _without(definitions: Mapping[str, Definition], names: set[str]) -> dict[str, Definition]:
  return {name: d for name, d in definitions.items() if name not in names}


def _defined(act: Step, definitions: Mapping[str, Definition]) -> dict[str, Definition]:
  """The definitions after one more worked act; names bound in any other way than `name = expression` have none."""
  body = ast.parse(act.code).body
  after = _without(definitions, _assigned(body))
  for statement in body:
    match statement:
      case ast.Assign(targets=[ast.Name(id=name)], value=expression):
        after[name] = Definition(None, expression, definitions)
        definitions = {**definitions, name: after[name]}
  shown = _printed_name(body)
  if shown in after:
    after[shown] = dataclasses.replace(after[shown], value=value(act))
  return after


class _Restate(ast.NodeTransformer):
  """Replaces the names that `definitions` has."""

  def __init__(self, names: Mapping[str, float], said: Sequence[float]):
    self.definitions: Mapping[str, Definition] = {}
    self.changed = False
    self._names, self._said = names, said

  def visit_Name(self, node: ast.Name) -> ast.expr:
    if not isinstance(node.ctx, ast.Load) or node.id not in self.definitions:
      return node
    definition = self.definitions[node.id]
    if definition.value is not None:
      holding = [name for name, v in self._names.items() if same(v, definition.value)]
      if node.id in holding:
        return node
      self.changed = True
      if holding:
        return ast.Name(holding[-1], ast.Load())
      if has(self._said, definition.value):
        whole = definition.value.is_integer() and abs(definition.value) < 1e15
        return ast.Constant(int(definition.value) if whole else definition.value)
    self.changed = True
    outer, self.definitions = self.definitions, definition.before
    expression = self.visit(deepcopy(definition.expression))
    self.definitions = outer
    return expression
