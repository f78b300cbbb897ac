"""What code says without computing it: the texts that stand in it, and the literals that it submits."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence

MAX_LITERAL_DIGITS = 400  # digits of a number that is read


def extract_code_texts(code: str) -> Iterator[str]:
  """The text of some code, and what each string in it says once its escapes are read."""
  yield code
  tree = _tree(code)
  if tree is not None:
    for node in ast.walk(tree):
      if isinstance(node, ast.JoinedStr | ast.Constant) and (text := _said(node, {})) is not None:
        yield text


def _tree(code: str) -> ast.Module | None:
  """The code, read; None where it is no Python."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of escapes such as "\\b"
    try:
      return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
      return None


def has_statements(code: str) -> bool:
  """Whether the code does anything: some that is no Python tries to, comments do not."""
  tree = _tree(code)
  return bool(tree.body) if tree is not None else bool(code.strip())


def find_submitted_literals(code: str) -> list[str]:
  """The literals that the code submits, as texts; what it computes is none."""
  return find_literals_passed_to(code, "final_answer_print")


def find_literals_passed_to(code: str, function: str) -> list[str]:
  """The literals that the code gives to a function, as texts."""
  tree = _tree(code)
  if tree is None:
    return []
  assigned: dict[str, ast.expr | None] = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      assigned[node.id] = None if node.id in assigned else _value_of(tree, node)
  names = {name: text for name, value in assigned.items() if value is not None and (text := _said(value, {}))}
  calls = [
    node
    for node in ast.walk(tree)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function
  ]
  texts = [_said(argument, names) for call in calls for argument in (*call.args, *(k.value for k in call.keywords))]
  return [text for text in texts if text is not None]


def _value_of(tree: ast.Module, name: ast.Name) -> ast.expr | None:
  """What a plain assignment gives a name."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Assign) and node.targets == [name]:
      return node.value
  return None


def _said(node: ast.expr, names: dict[str, str]) -> str | None:
  """What an expression without computation says; None where it computes, or is nested beyond reading."""
  try:
    return _literal(node, names)
  except RecursionError:
    return None


def _literal(node: ast.expr, names: dict[str, str]) -> str | None:
  """As `_said`; a fraction of two literals, or a literal dressed up, is one.

  Raises:
    RecursionError: it is nested too deep.
  """
  match node:
    case ast.Constant(value=int() as value) if abs(value) >= 10**MAX_LITERAL_DIGITS:
      return None
    case ast.Constant(value=value):
      return str(value)
    case ast.Name(id=name):
      return names.get(name)
    case ast.JoinedStr(values=parts):
      return _joined([_literal(part, names) for part in parts], "")
    case ast.FormattedValue(value=value):
      return _literal(value, names)
    case ast.UnaryOp(op=ast.USub(), operand=value):
      return _joined(["-", _literal(value, names)], "")
    case ast.BinOp(left=left, op=ast.Div(), right=right):
      return _joined([_literal(left, names), _literal(right, names)], "/")
    case ast.BinOp(left=left, op=ast.Add(), right=right) if _text_in(left) or _text_in(right):
      return _joined([_literal(left, names), _literal(right, names)], "")
    case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
      return _joined([_literal(part, names) for part in parts], ", ")
    case ast.Call(func=ast.Name(id="str" | "int" | "float" | "repr"), args=[value]):
      return _literal(value, names)
    case ast.Call(func=ast.Name(id="Fraction" | "Rational") | ast.Attribute(attr="Fraction" | "Rational"), args=parts):
      return _joined([_literal(part, names) for part in parts], "/")
  return None


def _text_in(node: ast.expr) -> bool:
  return any(
    isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str))
    for part in ast.walk(node)
  )


def _joined(parts: Sequence[str | None], between: str) -> str | None:
  texts = [part for part in parts if part is not None]
  return between.join(texts) if len(texts) == len(parts) else None
