"""GSM8K, and its worked answers as agent scripts.

Each calculator annotation `<<48/2=24>>` of a worked answer becomes one step of code:

    Natalia sold 48/2 = <<48/2=24>>24 clips in May.
    Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.

    Natalia sold 48/2                                    a1 = 48 / 2;  print(a1)
    Natalia sold 48+24                                   a2 = 48 + a1; print(a2)
    answer                                               final_answer_print(a2)

A plan without numbers comes first. Expressions are parsed, never executed. A worked answer that does not add up gives
no script.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Literal

from score_jax.errors import UserError
from score_jax.tasks import datasets
from score_jax.tasks.datasets import Row, is_blank, make_question_id
from score_jax.trajectory import Question

ANNOTATION_PATTERN = re.compile(r"<<([^<>]*)>>")
NUMBER_PATTERN = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
EXPRESSION_PATTERN = re.compile(r"[\d\s+\-*/().]{1,200}")
OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
}

#: words of a question that bring numbers into its solution
NUMBER_WORDS: dict[str, tuple[int, ...]] = {
  "half halves twice two double doubles doubled pair pairs couple both second": (2,),
  "three thrice triple triples tripled third thirds": (3,),
  "four fourth fourths quarter quarters quadruple quadrupled": (4, 25),
  "five fifth fifths": (5,),
  "six sixth sixths": (6,),
  "seven seventh sevenths week weeks weekly": (7, 52),
  "eight eighth eighths": (8,),
  "nine ninth ninths": (9,),
  "ten tenth tenths decade decades dime dimes": (10,),
  "eleven": (11,),
  "twelve dozen dozens foot feet inch inches": (12,),
  "day days daily hour hours": (24, 60),
  "minute minutes": (60,),
  "month months monthly year years yearly annual annually": (12, 30, 52, 365),
  "percent percentage cent cents hundred": (100,),
}
NUMBERS_OF_WORD = {word: values for words, values in NUMBER_WORDS.items() for word in words.split()}
NUMERAL_PATTERN = re.compile(
  r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
  r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty)\b",
  re.IGNORECASE,
)

PLAN_CHARS = 240  # a plan is cut at the end of the sentence that passes this


@dataclasses.dataclass(frozen=True)
class Annotation:
  """One `<<expression=value>>` and the text that leads up to it."""

  lead_text: str
  expression: ast.expr
  value: Fraction
  stated_decimals: int  # digits after the value's point

  @functools.cached_property
  def operands(self) -> set[Fraction]:
    """The numbers in the expression."""
    constants = (n.value for n in ast.walk(self.expression) if isinstance(n, ast.Constant))
    return {to_exact_fraction(value) for value in constants if isinstance(value, int | float)}


def parse_number(text: str) -> Fraction | None:
  """The number that a text is, with commas between thousands and a currency sign allowed."""
  try:
    return Fraction(text.strip().lstrip("$€£").replace(",", "").rstrip("."))
  except (ValueError, ZeroDivisionError):
    return None


def find_numbers(text: str) -> set[Fraction]:
  """All numbers that stand in a text as digits."""
  return {value for found in NUMBER_PATTERN.findall(text) if (value := parse_number(found)) is not None}


def parse_expression(text: str) -> ast.expr | None:
  """The expression that a text spells once `1,000` is written as 1000 and `5%` as (5/100); None if it is none."""
  clean = re.sub(r"(\d*\.?\d+)\s*%", r"(\1/100)", text.replace(",", ""))
  clean = re.sub(r"(?<![\d.])0+(?=\d)", "", clean.strip())
  if not EXPRESSION_PATTERN.fullmatch(clean):
    return None
  try:
    return ast.parse(clean, mode="eval").body
  except SyntaxError:
    return None


def evaluate_expression(expression: ast.expr, constant: Callable[[int | float], Any]) -> Any:
  """The value of an expression whose numbers are what `constant` makes of them.

  Raises:
    ValueError: it holds something else than numbers, signs and the four operators.
    ZeroDivisionError: it divides by zero.
  """
  match expression:
    case ast.Constant(value=int() | float() as value):
      return constant(value)
    case ast.UnaryOp(op=ast.USub(), operand=operand):
      return -evaluate_expression(operand, constant)
    case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
      return OPERATORS[type(op)](evaluate_expression(left, constant), evaluate_expression(right, constant))
  raise ValueError(f"{ast.unparse(expression)} is not made of numbers and + - * /")


@functools.cache
def to_exact_fraction(value: int | float) -> Fraction:
  """The decimal number that was written, not the nearest binary one."""
  return Fraction(str(value))


def parse_worked_answer(question: str, worked: str, answer: str) -> tuple[tuple[str, str], ...]:
  """(thought, code) pairs of a worked answer, the plan first; empty where it cannot be trusted.

  That is: it has no annotation, one does not evaluate to exactly the value that
  it states, the last value is not the answer, or a number is stated rather than
  computed: an operand is the answer, or an expression is one bare number, and
  neither the question nor an earlier step has it.
  """
  annotations: list[Annotation] = []
  for annotation in _annotations(worked):
    if annotation is None:
      return ()
    annotations.append(annotation)
  final = parse_number(answer)
  if final is None or not annotations or annotations[-1].value != final:
    return ()
  given = find_numbers(question)
  brought = _brought(question)
  acts: list[tuple[str, str]] = []
  for index, annotation in enumerate(annotations):
    earlier = [a.value for a in annotations[:index]]
    new = annotation.operands - {*given, *brought, *earlier}
    if final in new or (new and isinstance(annotation.expression, ast.Constant)):
      return ()
    thought = _thought(annotation, said={*given, *earlier}, secret={annotation.value, final})
    acts.append((thought, _code(annotation, index, earlier, given | brought)))
  return ((_plan(question, worked), ""), *acts, ("answer", f"final_answer_print(a{len(annotations)})"))


def _annotations(worked: str) -> Iterator[Annotation | None]:
  """The annotations in order; None for one that does not evaluate to what it states."""
  for line in worked.splitlines():
    for found in ANNOTATION_PATTERN.finditer(line):
      left, _, right = found[1].partition("=")
      expression, value = parse_expression(left), parse_number(right)
      if expression is None or value is None or not _holds(expression, value):
        yield None
        continue
      decimals = len(right.partition(".")[2].strip())
      yield Annotation(_lead(line[: found.start()]), expression, value, decimals)


def _holds(expression: ast.expr, value: Fraction) -> bool:
  try:
    return evaluate_expression(expression, to_exact_fraction) == value
  except (ValueError, ZeroDivisionError):
    return False


def _lead(before: str) -> str:
  """The sentence at hand up to its `=`; of earlier annotations in it only the results are left."""
  plain = re.sub(r"[\d\s.,+*/()$x×-]*=?\s*[$€£]?\s*<<[^<>]*>>", " ", before)
  sentence = re.split(r"(?<=[.!?;])\s+", plain)[-1]
  return re.sub(r"\s+", " ", sentence).strip(" =$€£")


def _thought(annotation: Annotation, *, said: set[Fraction], secret: set[Fraction]) -> str:
  """The lead, unless it has no words or tells a number that is yet to be computed."""
  told = find_numbers(annotation.lead_text) & (secret - said - annotation.operands)
  if told or not re.search(r"[A-Za-z]", annotation.lead_text):
    return f"work out {ast.unparse(annotation.expression)}"
  return annotation.lead_text


def _code(annotation: Annotation, index: int, earlier: Sequence[Fraction], elsewhere: set[Fraction]) -> str:
  """An assignment to a variable of its own and a print of it.

  Operands that are an earlier step's value become its variable, unless two
  steps have that value or it may come from elsewhere. Where binary floats miss
  the stated value the code rounds to as many decimals as were stated.
  """
  names = {v: f"a{i + 1}" for i, v in enumerate(earlier) if earlier.count(v) == 1 and v not in elsewhere}
  code = ast.unparse(_Named(names).visit(_copy(annotation.expression)))
  computed = evaluate_expression(annotation.expression, lambda value: value)
  if to_exact_fraction(computed) != annotation.value:
    code = f"round({code}, {annotation.stated_decimals})"
  return f"a{index + 1} = {code}\nprint(a{index + 1})"


def _copy(expression: ast.expr) -> ast.expr:
  return ast.parse(ast.unparse(expression), mode="eval").body


class _Named(ast.NodeTransformer):
  """Puts variables in the place of the numbers that they hold."""

  def __init__(self, names: dict[Fraction, str]):
    self._names = names

  def visit_Constant(self, node: ast.Constant) -> ast.expr:
    name = self._names.get(to_exact_fraction(node.value)) if isinstance(node.value, int | float) else None
    return node if name is None else ast.Name(name)


def _brought(question: str) -> set[Fraction]:
  """The numbers that words of the question may bring in, and one, which anything may."""
  found = [NUMBERS_OF_WORD[word] for word in re.findall("[a-z]+", question.lower()) if word in NUMBERS_OF_WORD]
  return {Fraction(1)} | {Fraction(value) for values in found for value in values}


def _plan(question: str, worked: str) -> str:
  """What is worked out, in order: the sentences without signs and numbers; spelled ones that the question has stay."""
  spelled = {n.lower() for n in NUMERAL_PATTERN.findall(question)}
  parts: list[str] = []
  for sentence in re.split(r"\n+|(?<=[.!?;])\s+", ANNOTATION_PATTERN.sub("", worked)):
    words = re.sub(r"[$€£#]?\s*(?:\d[\d,.]*|\.\d+)%?(?:st|nd|rd|th)?", " ", sentence)
    words = re.sub(r"(?<![A-Za-z])[+*/=()×^-]+|[+*/=()×^-]+(?![A-Za-z])|(?<!\S)[xX](?!\S)", " ", words)
    words = NUMERAL_PATTERN.sub(lambda n: n[0] if n[0].lower() in spelled else " ", words)
    words = re.sub(r"\s+([,.;:!?])", r"\1", re.sub(r"\s+", " ", words)).strip(" ,.;:!?")
    if re.search(r"[A-Za-z]{2}", words):
      parts.append(words)
    if sum(map(len, parts)) >= PLAN_CHARS:
      break
  return "plan: " + "; ".join(parts or ["work it out step by step"])


Split = Literal["train", "test"]

HUB_DATASET = "openai/gsm8k:main"


def load_gsm8k(path: str, split: Split, *, knob: str = "tasks.path") -> list[Question]:
  """All questions of a split, in the given order.

  Args:
    path: a folder with train.jsonl and test.jsonl, or what else tasks/datasets.py reads, whose rows have `question` and
      `answer`; "" fetches the dataset openai/gsm8k from the Hugging Face Hub.
    split: which part.
    knob: the config's key that holds the path.

  Raises:
    UserError: there is no such file, a row is not of this form, or the Hub cannot be reached.
  """
  return [_question(row, where) for where, row in datasets.read_rows(path or HUB_DATASET, split=split, knob=knob)]


def _question(row: Row, where: str) -> Question:
  if {"question", "answer"} <= row.keys() and (is_blank(row["question"]) or is_blank(row["answer"])):
    return Question(where, "" if is_blank(row["question"]) else str(row["question"]), "")  # dropped by tasks/splits.py
  try:
    text, (worked, marked, final) = row["question"], row["answer"].rpartition("####")
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(f"{where}: {str(row)[:40]!r} lacks the text fields question and answer; give GSM8K's") from error
  answer = final.strip().replace(",", "").removeprefix("$")
  if not marked or parse_number(answer) is None:
    raise UserError(f"{where}: the answer ends with {final[-40:]!r}, not with '#### ' and a number; give GSM8K's")
  solution = parse_worked_answer(text, worked, answer)
  return Question(
    id=make_question_id(text),
    text=text,
    answer=answer,
    steps=max(0, len(solution) - 1),
    solution=solution,
  )
