"""What was printed, read as values, and when two values agree."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from score_jax.rl.printed_values import (
  EMPTY_CONTAINER,
  Formula,
  Number,
  ParsedOutput,
  PrintedValue,
  Word,
  compare_values,
  parse_output,
)


def numbers(text: str) -> list[float]:
  found = [v for v in parse_output(text).values if isinstance(v, Number)]
  assert len(found) == len(parse_output(text).values)
  return [float(v.value) for v in found]


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("42", [42]),
    ("-2.5e3", [-2500]),
    ("1,234,567", [1234567]),
    ("$12.50", [12.5]),
    ("12%", [12]),
    ("Total: 42 apples", [42]),
    ("The sum is 7.", [7]),
    ("x = 3, y = 1/2", [3, 0.5]),
    ("3 4.5", [3, 4.5]),
    ("[1 2 3]", [1, 2, 3]),
    ("[np.float64(2.5), np.int64(3)]", [2.5, 3]),
    ("Fraction(3, 4)", [0.75]),
    ("{3, 1, 2}", [1, 2, 3]),
    ("Matrix([[1, 2], [3, 4]])", [1, 2, 3, 4]),
    ("2*sqrt(3)/3", [2 / math.sqrt(3)]),
    ("-cos(pi/3)", [-0.5]),
    ("2**100", [2.0**100]),
    ("a line\n5", [5]),
  ],
)
def test_numbers_are_read(text: str, expected: list[float]) -> None:
  assert numbers(text) == pytest.approx(expected, rel=1e-12)


def test_labels_units_and_text_are_told_apart() -> None:
  assert parse_output("Total cost: 42 apples") == ParsedOutput(
    (Number(Fraction(42), True, 0),), "", ("total", "cost"), ("apples",)
  )
  assert parse_output("There are 3 of them").text == ("there", "are", "of", "them")
  assert parse_output("x >= 3").text == ("x", ">", "=")
  assert parse_output("91 is not prime").text == ("is", "not", "prime")
  assert parse_output("The answer is Paris.") == ParsedOutput((Word("paris"),), "", ("the", "answer"))
  assert parse_output("New York") == ParsedOutput((), text=("new", "york"))
  assert parse_output("[]").values == parse_output("set()").values == (EMPTY_CONTAINER,)
  assert [parse_output(text).shape for text in ("[1, 2]", "[(1, 2), (3,)]", "[[1], [2, 3]]")] == [
    "",
    "(..)(.)",
    "(.)(..)",
  ]


HOSTILE = (
  "9**9**9",
  "2**(10**9)",
  "1e999",
  "(" * 500 + ")" * 500,
  "1+" * 400 + "1",
  "-" * 900 + "1",
  "__import__('os').system('true')",
  "[].__class__.__mro__",
  "(lambda: 1)()",
  "exp(exp(exp(99)))",
  "1/0",
  "log(0)",
  "'\\x00' + 1",
  "{**{}}",
  "5 if x else 6",
  "\ud800 = 3",
)


@pytest.mark.parametrize("text", HOSTILE, ids=[str(i) for i in range(len(HOSTILE))])
def test_nothing_that_was_printed_is_run_or_raises(text: str) -> None:
  found = parse_output(text)
  assert all(isinstance(v, Number | Word | Formula) for v in found.values)
  for value in found.values:
    assert compare_values(value, value) == "equal"


@given(st.text(alphabet="0123456789.,:=+-*/()[]{}'\"eExI %$\n is", max_size=60), st.text(max_size=30))
def test_any_text_is_read_and_compares_alike_both_ways(a: str, b: str) -> None:
  for x in parse_output(a).values:
    assert compare_values(x, x) == "equal"
    for y in (*parse_output(a).values, *parse_output(b).values):
      assert compare_values(x, y) == compare_values(y, x)


def value(text: str) -> PrintedValue:
  (found,) = parse_output(text).values
  return found


@pytest.mark.parametrize(
  ("a", "b", "expected"),
  [
    ("12", "12.0", "equal"),
    ("0.30000000000000004", "0.3", "equal"),
    ("1000000000000", "1000000000001", "different"),  # whole numbers have no tolerance
    ("1234567.0", "1234568.0", "different"),  # nor have floats that are whole, but for float noise
    ("4.999999999999", "5", "equal"),
    ("0.123456789", "0.123456700", "equal"),  # 7.2e-7 relative
    ("0.123456789", "0.123456000", "different"),  # 6.4e-6
    ("1e-7", "2e-7", "different"),
    ("1e-12", "0", "equal"),  # absolute
    ("3.14", "3.14159265", "undecided"),  # a format, or an error
    ("3.15", "3.14159265", "different"),
    ("6", "5.656", "undecided"),
    ("5", "5.656", "different"),
    ("1/3", "0.3333333333333333", "equal"),
    ("1/3", "333333/1000000", "different"),  # ratios are exact
    ("sqrt(2)", "1.4142135623730951", "equal"),
    ("sqrt(2)", "1.41", "undecided"),
    ("sqrt(2)", "sqrt(3)", "different"),
    ("pi", "3.141592653589793", "equal"),
    ("(x + 1)**2", "x**2 + 2*x + 1", "equal"),
    ("x + 1", "y + 1", "different"),
    ("sqrt(x**2)", "1*x", "undecided"),  # they agree where x is positive
    ("2 + 3*I", "2 - 3*I", "different"),
    ("x + 1", "10**400", "different"),
    ("Paris", "paris", "equal"),
    ("Paris", "Rome", "different"),
    ("True", "False", "different"),
    ("True", "Yes", "undecided"),
    ("True", "1", "undecided"),
    ("B", "2", "undecided"),
    ("[]", "3", "different"),
    ("None", "3", "different"),
    ("None", "[]", "undecided"),
  ],
)
def test_how_two_values_stand_to_each_other(a: str, b: str, expected: str) -> None:
  assert compare_values(value(a), value(b)) == compare_values(value(b), value(a)) == expected
