"""The leak guard, on a table made by hand and on the reference release's real corrections, each judged by a person."""

from __future__ import annotations

import os
import pathlib

import pytest

from score_jax.teaching.leak import (
  find_dates,
  find_exact_numbers,
  find_step_leak,
  is_answer_supported,
  normalise_symbols,
  parse_answer_forms,
  text_leaks_answer,
)
from score_jax.teaching.literals import find_submitted_literals
from score_jax.teaching.release import read_release
from score_jax.trajectory import Question, Step

DATA = os.environ.get("SCORE_JAX_DATA", "")
RELEASE = pathlib.Path(DATA) / "score_release"
needs_release = pytest.mark.skipif(not DATA or not RELEASE.exists(), reason="SCORE_JAX_DATA has no score_release")

PLAN = Step("first_thought", "find the parts, then put them together")


def leak(
  answer: str,
  thought: str = "go on",
  code: str = "print(x)",
  *,
  question: str = "How much is it?",
  before: tuple[Step, ...] = (PLAN,),
  aliases: tuple[str, ...] = (),
) -> str:
  """Where it leaks; empty where it does not."""
  found = find_step_leak(Question("q", question, answer, aliases=aliases), before, thought, code)
  return found.where if found else ""


FORMS = [
  # the answer, and a text that states it
  ("1680", "there are 1680 of them"),
  ("1680", "there are 1,680 of them"),
  ("1680", "about 1680.0"),
  ("1,680", "1680"),
  ("1680 ways", "so 1680."),
  ("\\boxed{1680}", "giving $1680$"),
  ("The number is \\boxed{1680}.", "= 1680"),
  ("-1680", "it falls to -1680"),
  ("3/8", "the correct value should be 3/8"),  # seen in the release's data
  ("3/8", "the value is \\frac{3}{8}"),
  ("\\dfrac{3}{8}", "3 / 8"),
  ("3/8", "it is 0.375"),
  ("3/8", "it is 37.5%"),
  ("\\frac12", "a half, \\frac{1}{2}"),
  ("1/2", "0.5"),
  ("1/2", "50%"),
  ("1/2", "50 percent"),
  ("50%", "the share is 1/2"),
  ("50%", "50"),
  ("0.5", "\\frac12"),
  ("2/3", "roughly 0.6667"),
  ("2/3", "roughly 0.667"),
  ("1e6", "1,000,000"),
  ("\\boxed{\\dfrac{\\pi}{3}}", "the angle is \\( \\frac{\\pi}{3} \\)."),
  ("\\frac{\\pi}{3}", "it is pi/3"),
  ("2\\sqrt{3}", "so 2*sqrt(3)"),
  ("\\left( \\dfrac{\\sqrt{5} - 1}{2} \\right) R", "h = (\\frac{\\sqrt{5}-1}{2})R"),
  ("t_c = \\frac{ab}{a+b}", "the formula is \\( t_c = \\frac{ab}{a+b} \\). Apply it"),
  ("14:50", "the clock shows 14:50."),
  ("[2, 3]", "m lies in [2,3]"),
  ("May 10, 1947", "he died on 10 May 1947"),
  ("10 May 1947", "on May 10th, 1947"),
  ("1947-05-10", "on May 10, 1947,"),
  ("The Band Perry", "look at the band perry"),
  ("\\boxed{\\text{Chicago Children's Choir}}", "it is the Chicago Childrens Choir"),
  ("北京市", "首都是北京市。"),
]


@pytest.mark.parametrize(("answer", "text"), FORMS)
def test_every_form_of_the_answer_leaks_from_a_thought_or_a_comment(answer: str, text: str) -> None:
  assert leak(answer, thought=text) == "thought"
  assert leak(answer, code=f"# {text}\nprint(x)") == "code"
  assert leak(answer, code=f"x = r'''{text}'''") == "code"


@pytest.mark.parametrize(("answer", "text"), FORMS)
def test_what_the_path_has_is_no_leak(answer: str, text: str) -> None:
  """Printed, written or said by an earlier step; or in the question."""
  for step in (
    Step("act", "t", "c", text, "ok"),
    Step("act", text, "c", "", "ok"),
    Step("act", "t", f"# {text}", "", "ok"),
    Step("act", "t", "c", "", "ok", answer=text),
  ):
    assert leak(answer, thought=text, code=f"# {text}", before=(PLAN, step)) == ""
  assert leak(answer, thought=text, question=f"Is it so that {text}?") == ""


@pytest.mark.parametrize(
  ("answer", "text"),
  [
    ("1680", "there are 40320 / 24 of them"),
    ("1680", "16800 or 11680 or 1680.5 or x1680"),
    ("1680", "it is -1680"),
    ("-1680", "it is 1680"),
    ("3/8", "13/8 or 3/80 or 0.38"),
    ("1/2", "1/20, 11/2, 0.52"),
    ("2/3", "0.67"),
    ("\\sqrt{3}", "the area is \\frac{\\sqrt{3}}{4} s^2 or 2\\sqrt{3}"),
    ("\\frac{\\pi}{3}", "2pi/3 or pi/30"),
    ("May 10, 1947", "May 10, 1946 or June 10, 1947"),
    ("Berlin", "Berliners"),
    ("The Band Perry", "Perry's band"),
    ("14:50", "14:40 and 50 minutes"),
  ],
)
def test_what_only_looks_like_the_answer_is_no_leak(answer: str, text: str) -> None:
  assert leak(answer, thought=text, code=f"# {text}") == ""


def test_computing_the_answer_is_no_leak() -> None:
  assert leak("1680", "divide by the rotations", "n = math.factorial(8) // 24\nprint(n)\nfinal_answer_print(n)") == ""


def test_stating_it_before_it_is_computed_is_one() -> None:
  """What its own code will print excuses nothing."""
  assert leak("1680", "8!/24 is 1680", "print(math.factorial(8) // 24)") == "thought"
  assert leak("1680", "divide", "print(math.factorial(8) // 24)  # should be 1680") == "code"


@pytest.mark.parametrize(
  "code",
  [
    "final_answer_print(12)",
    "final_answer_print('12')",
    'final_answer_print("\\\\boxed{12.0}")',
    "final_answer_print(f'the answer is {12}')",
    "final_answer_print(str(12))",
    "final_answer_print(answer=12)",
    "y = 12\nfinal_answer_print(y)",
    "y = 12\nif True:\n  final_answer_print(f'{y}')",
    "final_answer_print('1' + '2')",
  ],
)
def test_a_short_answer_counts_where_it_is_submitted(code: str) -> None:
  assert leak("12", "there are 12", "x = 12\nprint(x)") == ""
  assert leak("12", "submit", code) == "submission"
  assert leak("12", "submit", code, before=(PLAN, Step("act", "t", "c", "so: 12.0", "ok"))) == ""


@pytest.mark.parametrize(
  "code",
  [
    "final_answer_print(x)",
    "y = 12\ny = y + x\nfinal_answer_print(y)",
    "final_answer_print(5 + 7)",
    "final_answer_print(len(found))",
    "final_answer_print(f'{x}')",
    "print(12)",
    "final_answer(12)",
  ],
)
def test_what_is_computed_is_no_literal(code: str) -> None:
  assert leak("12", "submit", code) == ""


def test_a_fraction_of_literals_is_a_literal() -> None:
  for code in (
    "final_answer_print(1/2)",
    "final_answer_print(Fraction(1, 2))",
    "final_answer_print(sp.Rational(1, 2))",
  ):
    assert leak("1/2", "submit", code) != ""


def test_an_answer_in_the_question_must_have_been_observed_when_it_is_submitted() -> None:
  """An earlier thought that repeats the question is no evidence; what was printed is."""
  question = "Of 10 men, how many are great?"
  repeating = Step("first_thought", "there are 10 men")
  code = 'final_answer_print("\\\\boxed{10}")'
  assert leak("10", code=code, question=question, before=(repeating,)) == "submission"
  assert leak("10", "so all 10", "print(10)", question=question, before=(repeating,)) == ""
  printed = Step("act", "count", "print(len(men))", "10", "ok")
  assert leak("10", code=code, question=question, before=(repeating, printed)) == ""


CHOICE = "Which is it?\nA. External bundle\nB. Bicollateral bundle\nC. Embryonic duct"


def test_a_letter_to_choose_needs_evidence_of_its_option() -> None:
  listed = Step("act", "list", "print(options)", "{'A': 'External', 'B': 'Bicollateral'}", "ok")
  for code in ("final_answer_print('A')", "final_answer_print('A. External bundle')", "final_answer_print('(a)')"):
    assert leak("A", code=code, question=CHOICE, before=(PLAN, listed)) == "submission"
    for shown in ("A", "so it is\nA. External bundle", "rice has an external bundle"):
      printed = Step("act", "look", "print(web_search('rice'))", shown, "ok")
      assert leak("A", code=code, question=CHOICE, before=(PLAN, printed)) == ""
  assert leak("A", code="final_answer_print('B')", question=CHOICE) == ""


def test_a_yes_is_not_guarded() -> None:
  assert leak("yes", "yes, they are", "final_answer_print('yes')") == ""


def test_each_box_and_each_alias_counts() -> None:
  answer = "(1) \\boxed{\\dfrac{\\pi}{3}} (2) \\boxed{2\\sqrt{7}}"
  assert leak(answer, "so 2*sqrt(7)") == "thought"
  assert leak("1680", "Paris it is", aliases=("Paris",)) == "thought"
  printed = Step("act", "t", "c", "pi/3", "ok")
  assert leak(answer, "the angle is pi/3", before=(printed,)) == ""


def test_escapes_in_code_are_read() -> None:
  code = 'final_answer_print(f"\\\\boxed{{\\\\left( \\\\dfrac{{\\\\sqrt{{5}} - 1}}{{2}} \\\\right) R}}")'
  assert leak("\\left(\\dfrac{\\sqrt{5}-1}{2}\\right) R", code=code) == "code"


@pytest.mark.parametrize("code", ["print(", "\x00", "(" * 500])
def test_code_that_is_no_python_is_read_as_text(code: str) -> None:
  assert find_submitted_literals(code) == []
  assert leak("1680", code=f"{code} 1680") == "code"


@pytest.mark.parametrize(
  "code",
  [
    f"x = {'1' * 5000}",
    f"x = 0x{'f' * 5000}\nfinal_answer_print(x)",
    f"final_answer_print(0x{'f' * 5000})",
    "final_answer_print(" + "+".join(["'1'"] * 2000) + ")",
    "x = " + "+".join(["y"] * 3000),
  ],
  ids=["digits", "assigned", "submitted", "long sum of texts", "long sum"],
)
def test_hostile_code_is_read_all_the_same(code: str) -> None:
  assert leak("1680", code=code) == ""
  assert leak("1680", thought=code) == ""
  assert leak("1680", "so 1680", code="print(x)", before=(PLAN, Step("act", code, code, code, "ok"))) == "thought"


def test_release_mistake_9_a_diagnosis_with_the_answer_leaks() -> None:
  question = Question("q", "What is the share?", "3/8")
  assert text_leaks_answer(question, (PLAN,), "the correct value should be 3/8")
  assert text_leaks_answer(question, (PLAN,), "it should print 0.375")
  assert not text_leaks_answer(question, (PLAN,), "it divides by 4 where it should divide by 8")
  assert not text_leaks_answer(
    question, (PLAN, Step("act", "t", "c", "0.375", "ok")), "3/8 was printed, but is not submitted"
  )


def test_forms_one_by_one() -> None:
  assert [str(v) for v, _ in find_exact_numbers("1,680 3/8 0.50 \\frac12 50% -2e3 x3 .5")] == (
    "1680 3/8 1/2 1/2 50 1/2 -2000 1/2".split()
  )
  assert normalise_symbols("\\dfrac{\\sqrt{5} - 1}{2}") == normalise_symbols("(sqrt(5) - 1)/2") == "sqrt5-1/2"
  assert find_dates("10 May 1947, May 10th, 1947 and 1947-05-10") == {(1947, 5, 10)}
  assert (
    parse_answer_forms("12").is_short,
    parse_answer_forms("120").is_short,
    parse_answer_forms("1/2").is_short,
    parse_answer_forms("10 apples").is_short,
  ) == (1, 0, 0, 1)


#: Corrections of the release, by the beginning of the question's id and the step. A person has read all 65 of its 61
#: corrected trajectories: these state the answer, or the text of the option that is the answer, although nothing
#: before them shows it.
LEAKING = {
  ("13aeeb59", 2),  # submits the formula as a literal after solving for something else
  ("b1d61c2e", 1),  # submits 10 with nothing computed
  ("b23204cd", 2),  # 14:50, where 50 minutes were printed
  ("18c9bb8d", 1),  # tries b = 1003 out of nowhere
  ("5a1f4819", 1),  # C(14, 5), which is option D
  ("b40860a7", 0),  # "thaw slumping", which is option A
  ("7e2bb3af", 1),  # sets correct_option = "A"
  ("928dc6a1", 1),  # prints option A
  ("f25bc648", 1),  # prints option G
  ("a93045c2", 3),  # refines Los Angeles to Hollywood, where an observation says only that he lived
  ("9462f462", 2),  # Chicago Children's Choir
  ("2b23413b", 3),  # finds the option by its own text
  ("fd995377", 2),  # May 10, 1947
  ("f72ed1c1", 2),  # "which is 2 units", before it is computed
  ("02b8ce17", 4),  # searches for The Band Perry
  ("fefab3e3", 0),  # the formula in a first thought
  ("feffd55b", 2),  # submits option G
  ("8799b0b3", 2),  # "manually select 'I'"
  ("bbe608f3", 2),  # lists options G and H
  ("90c3e581", 0),  # option E in a first thought
  ("baff2a72", 0),  # option E in a first thought
  ("9707cb56", 2),  # prints option D
  ("708ad15c", 2),  # born in Adelaide
  ("65709e8f", 3),  # submits C
}
#: Those of them that the guard does not see: options named in prose or printed, which stand in the question; a short
#: number in a thought; a word that an observation has in another sense.
MISSED = {
  *(("5a1f4819", 1), ("b40860a7", 0), ("7e2bb3af", 1), ("928dc6a1", 1), ("f25bc648", 1), ("2b23413b", 3)),
  *(("feffd55b", 2), ("8799b0b3", 2), ("bbe608f3", 2), ("90c3e581", 0), ("baff2a72", 0), ("9707cb56", 2)),
  *(("f72ed1c1", 2), ("a93045c2", 3)),
}


@needs_release
def test_on_the_releases_corrections() -> None:
  """Of 65 corrections 24 leak; 10 are flagged, all of them rightly, and 14 are missed."""
  flagged: set[tuple[str, int]] = set()
  corrections = 0
  for kind in ("math", "search"):
    for question, trajectory in read_release(str(RELEASE / f"{kind}_mps_trajectories.jsonl")):
      for one in trajectory.corrections:
        corrections += 1
        said = one.replacement
        if find_step_leak(question, trajectory.steps[: one.step], said.thought, said.code):
          flagged.add((question.id[:8], one.step))
  assert corrections == 65
  assert flagged - LEAKING == set()
  assert LEAKING - flagged == MISSED
  assert (len(LEAKING), len(flagged), len(MISSED)) == (24, 10, 14)


@pytest.mark.parametrize(
  ("code", "expected"),
  [
    ("print('Lima')", False),  # says it, and finds nothing out
    ("town = 'Lima'\nprint(town)", False),
    ("print(web_search('capital of Peru'))", True),
    ("print('Lima' if x else 'Oslo')", True),
  ],
)
def test_a_literal_that_was_printed_supports_no_submission(code: str, expected: bool) -> None:
  asked = Question("q", "What is the capital?", "Lima")
  last = Step("act", "t", "final_answer_print('Lima')", "", "ok", answer="Lima")
  assert is_answer_supported(asked, [PLAN, Step("act", "t", code, "Lima", "ok"), last]) is expected


def test_a_diagnosis_may_hold_a_short_answer_by_accident() -> None:
  """12 stands in many texts; 1680 does not."""
  assert not text_leaks_answer(Question("q", "How much?", "12"), [PLAN], "the 12 in this step was never computed")
  assert text_leaks_answer(Question("q", "How much?", "1680"), [PLAN], "the 1680 in this step was never computed")
