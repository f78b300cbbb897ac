"""Literals in code: the texts that code contains, and the literals that it passes to a function as they are."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence

MAX_LITERAL_DIGITS = 400  # a longer integer is not converted to text


def extract_code_texts(code: str) -> Iterator[str]:
  """The code itself, and the value of each literal string in it, with escapes resolved."""
  yield code
  tree = _parse(code)
  if tree is not None:
    for node in ast.walk(tree):
      if isinstance(node, ast.JoinedStr | ast.Constant) and (text := _literal_text(node, {})) is not None:
        yield text


def _parse(code: str) -> ast.Module | None:
  """The syntax tree of the code; None if it is not Python."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the parser warns about escapes such as "\\b"
    try:
      return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
      return None


def has_statements(code: str) -> bool:
  """Whether the code has statements, not only comments. Invalid Python counts as an attempt."""
  tree = _parse(code)
  return bool(tree.body) if tree is not None else bool(code.strip())


def find_submitted_literals(code: str) -> list[str]:
  """The literals that the code submits, as texts; a computed value is not a literal."""
  return find_literals_passed_to(code, "final_answer_print")


def find_literals_passed_to(code: str, function: str) -> list[str]:
  """The literals that the code passes to a function, as texts.

  A name that is assigned once, to a literal, counts as that literal.
  """
  tree = _parse(code)
  if tree is None:
    return []
  assigned: dict[str, ast.expr | None] = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      assigned[node.id] = None if node.id in assigned else _assigned_value(tree, node)
  names = {name: text for name, value in assigned.items() if value is not None and (text := _literal_text(value, {}))}
  calls = [
    node
    for node in ast.walk(tree)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function
  ]
  texts = [
    _literal_text(argument, names) for call in calls for argument in (*call.args, *(k.value for k in call.keywords))
  ]
  return [text for text in texts if text is not None]


def _assigned_value(tree: ast.Module, name: ast.Name) -> ast.expr | None:
  """The expression of the plain assignment to this name; None: it is bound in another way."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Assign) and node.targets == [name]:
      return node.value
  return None


def _literal_text(node: ast.expr, names: dict[str, str]) -> str | None:
  """The text of an expression without computation; None if it computes or is nested too deep."""
  try:
    return _literal(node, names)
  except RecursionError:
    return None


def _literal(node: ast.expr, names: dict[str, str]) -> str | None:
  """As `_literal_text`. A fraction of two literals, or a converted literal such as str(3), is a literal too.

  Raises:
    RecursionError: the expression is nested too deep.
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
    case ast.BinOp(left=left, op=ast.Add(), right=right) if _contains_string(left) or _contains_string(right):
      return _joined([_literal(left, names), _literal(right, names)], "")
    case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
      return _joined([_literal(part, names) for part in parts], ", ")
    case ast.Call(func=ast.Name(id="str" | "int" | "float" | "repr"), args=[value]):
      return _literal(value, names)
    case ast.Call(func=ast.Name(id="Fraction" | "Rational") | ast.Attribute(attr="Fraction" | "Rational"), args=parts):
      return _joined([_literal(part, names) for part in parts], "/")
  return None


def _contains_string(node: ast.expr) -> bool:
  """Whether the expression contains a string."""
  return any(
    isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str))
    for part in ast.walk(node)
  )


def _joined(parts: Sequence[str | None], between: str) -> str | None:
  """The parts as one text; None if one of them is not a literal."""
  texts = [part for part in parts if part is not None]
  return between.join(texts) if len(texts) == len(parts) else None
