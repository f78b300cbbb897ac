from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score_jax.tasks.splits import normalise_question

MARKS = st.text(alphabet="ab1.,'!:?\\_^()= ²₁é\u0301ß$-½", max_size=14)


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("Tom has 14 plums.", "tom has 14 plums"),
    ("  tom  HAS,14\nplums!", "tom has 14 plums"),
    ("Ann’s “big” dogs: two; so…", "ann s big dogs two so"),
    ("Ünï code x²", "ünï code x ^ 2"),
    ("3½ cups, 1.5 or .5", "3 1 / 2 cups 1.5 or .5"),
    ("f'(x) and the letter 'f'", "f' ( x ) and the letter f"),
    (r"\( \frac{1}{2} \, x \) and $5\%$", r"\frac { 1 } { 2 } x and 5 %"),
    ("5! and (n+1)!", "5 ! and ( n + 1 ) !"),
    ("", ""),
    ("?!", ""),
  ],
)
def test_the_form_has_the_words_and_the_marks_of_formulas(text: str, expected: str) -> None:
  assert normalise_question(text) == expected


@pytest.mark.parametrize(
  ("one", "other"),
  [
    ("12 + 5", "12 - 5"),
    ("12 * 5", "12 / 5"),
    ("(x-3)^2", "(x+3)^2"),
    ("3 > 2", "3 < 2"),
    ("x ≤ 2", "x ≥ 2"),
    ("x = 2", "x != 2"),
    ("xs = 2", "xs != 2"),
    ("x ∈ A", "x ∉ A"),
    ("x = -5", "x = 5"),
    ("x = −5", "x = 5"),
    ("1.5", "15"),
    ("1.5", "1 5"),
    (".5", "5"),
    ("x^2", "x2"),
    ("x²", "x2"),
    ("x²", "x³"),
    ("x²⁺¹", "x² + 1"),
    ("x₁ + 2", "x1 + 2"),
    ("2(x + 1)", "2x + 1"),
    ("[0, 1)", "(0, 1]"),
    ("(1, 2)", "(12)"),
    ("|x|", "x"),
    ("f'(x)", "f(x)"),
    ("f''(x)", "f'(x)"),
    ("5!", "5"),
    ("n! + 1", "n + 1"),
    ("5%", "5"),
    ("3:4", "34"),
    ("AB:CD", "AB CD"),
    ("3½", "31/2"),
    (r"\sqrt{2}", "sqrt 2"),
    (r"\{1, 2\}", "1, 2"),
    ("a·b", "a b"),
    ("√4", "4"),
    ("x⃗", "x"),
    ("कि", "की"),  # vowel signs alone differ
  ],
)
def test_other_mathematics_has_another_form(one: str, other: str) -> None:
  assert normalise_question(f"What is {one}?") != normalise_question(f"What is {other}?")


@pytest.mark.parametrize(
  ("one", "other"),
  [
    ("What is x+1?", "what is  X + 1"),
    ("Who was there?", "Who was there !"),
    ('He said "yes".', "He said “yes”"),
    ("Ann's pens", "Ann’s pens"),
    ("the letter 'a'", "the letter “a”"),
    ("f’(x)", "f′(x)"),
    ("x − 1", "x - 1"),
    ("x² + 1", "x^2 + 1"),
    ("x₁₂", "x_12"),
    ("½", "1/2"),
    ("$x + 1$", r"\(x + 1\)"),
    ("ＡＢ１２", "ab12"),
    ("東京はどこ？", "東京はどこ"),
    ("Straße", "STRASSE"),
    ("pl\u200bums", "plums"),
    (unicodedata.normalize("NFD", "München"), unicodedata.normalize("NFC", "München")),
  ],
)
def test_another_spelling_has_the_same_form(one: str, other: str) -> None:
  assert normalise_question(one) == normalise_question(other)


@settings(deadline=None)
@given(st.text(max_size=12) | MARKS)
def test_the_form_is_its_own_form(text: str) -> None:
  assert normalise_question(normalise_question(text)) == normalise_question(text)
