"""Pairs of steps from one state, labelled by hand: are they the same act?

    equal        they find out the same thing, however it is written
    different    what they find out, or what becomes of the episode, is not the same
    undecidable  what was printed does not tell; a reader of code and thoughts may know better

Some are traps on purpose: equal numbers of different quantities, errors that print what is right, formats that hide a
difference. The labels were written before the comparison was first run on them, and none was changed since.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from score_jax.agent.protocol import Turn
from score_jax.agent.scripted import run_scripts
from score_jax.grading.graders import open_grader
from score_jax.rl.step_equivalence import StepVerdict, compare_steps, make_answer_comparator
from score_jax.sandbox.sandbox import Sandbox
from score_jax.search.passages import BM25Search, Document
from score_jax.trajectory import Question

Truth = Literal["equal", "different", "undecidable"]


@dataclasses.dataclass(frozen=True)
class Paraphrase:
  """Two pieces of code that run after `setup`."""

  id: str
  truth: Truth
  one: str
  other: str
  setup: str = ""


#: what web_search finds, by the rarest words of a query
DOCUMENTS = (
  Document("Mill Bridge", "The Mill Bridge crosses the Arne at Oldham Ferry. It was built by Ida Krull in 1874."),
  Document("Ida Krull", "Ida Krull was an engineer of bridges. She was born at Tessen and died at Marlow in 1911."),
  Document("Tessen", "Tessen is a town of weavers on the river Warn, with 4,310 people in 1900."),
  Document("Arne", "The Arne is a river 112 km long. It rises in the Grey Fells and ends in the Solder Sea."),
  Document("Grey Fells", "The Grey Fells are hills of slate. Their highest top is Long Man, 913 m."),
)

FIGS = "figs = 5\nmore = 7\nboxes = 4"
TRIANGLE = "import math\na, b = 3.0, 4.0"
ROOTS = "import sympy as sp\nx = sp.symbols('x')"
DATA = "data = [4, 8, 15, 16, 23, 42]"
ODDS = "from math import comb"

PARAPHRASES = (
  # Names, formulas, ways
  Paraphrase("rename", "equal", "total = figs + more\nprint(total)", "n = figs + more\nprint(n)", FIGS),
  Paraphrase("inline", "equal", "total = figs + more\nprint(total)", "print(figs + more)", FIGS),
  Paraphrase("commute", "equal", "print(figs * boxes + more)", "print(more + boxes * figs)", FIGS),
  Paraphrase("loop", "equal", "print(figs * boxes)", "n = 0\nfor _ in range(boxes):\n  n += figs\nprint(n)", FIGS),
  Paraphrase(
    "sum-mean", "equal", "print(sum(data) / len(data))", "import statistics\nprint(statistics.mean(data))", DATA
  ),
  Paraphrase("hypot", "equal", "print(math.sqrt(a**2 + b**2))", "print(math.hypot(a, b))", TRIANGLE),
  Paraphrase(
    "heron",
    "equal",
    "print(a * b / 2)",
    "c = 5.0\ns = (a + b + c) / 2\nprint(math.sqrt(s * (s - a) * (s - b) * (s - c)))",
    TRIANGLE,
  ),
  Paraphrase(
    "comb-loop",
    "equal",
    "print(comb(10, 3))",
    "p = 1\nfor i in range(3):\n  p = p * (10 - i) // (i + 1)\nprint(p)",
    ODDS,
  ),
  Paraphrase("float-noise", "equal", "print(0.1 + 0.2)", "print(0.3)"),
  Paraphrase("int-float", "equal", "print(84 // 2)", "print(84 / 2)"),
  Paraphrase(
    "bisection",
    "equal",
    "print(2 ** 0.5)",
    "lo, hi = 1, 2\nwhile hi - lo > 1e-12:\n  m = (lo + hi) / 2\n  lo, hi = (m, hi) if m*m < 2 else (lo, m)\nprint(m)",
  ),
  Paraphrase(
    "helper",
    "equal",
    "print(sum(d for d in data if d % 2 == 0))",
    "def even(n):\n  return n % 2 == 0\nprint(sum(filter(even, data)))",
    DATA,
  ),
  # Formats
  Paraphrase("f-string", "equal", "print(figs + more)", "print(f'Total: {figs + more}')", FIGS),
  Paraphrase("f-string-is", "equal", "print(figs + more)", "print(f'The number of figs is {figs + more}.')", FIGS),
  Paraphrase("two-labels", "equal", "print('Total:', figs + more)", "print(f'Sum = {figs + more}')", FIGS),
  Paraphrase("longer-label", "equal", "print('Total:', figs + more)", "print('Total figs:', figs + more)", FIGS),
  Paraphrase("unit", "equal", "print(figs + more)", "print(figs + more, 'figs')", FIGS),
  Paraphrase("unit-label", "equal", "print(f'Tom has {figs + more} figs')", "print(figs + more)", FIGS),
  Paraphrase("money", "equal", "print(f'${12.5:.2f}')", "print(12.5)"),
  Paraphrase("thousands", "equal", "print(f'{1234567:,}')", "print(1234567)"),
  Paraphrase("percent", "equal", "print(f'{0.125 * 100}%')", "print(0.125 * 100)"),
  Paraphrase("percent-share", "equal", "print(f'{0.125 * 100}%')", "print(0.125)"),
  Paraphrase("km-m", "equal", "km = 5\nprint(f'{km} km')", "km = 5\nprint(f'{km * 1000} m')"),
  Paraphrase("more-digits", "equal", "print(math.pi * a * a)", "print(f'{math.pi * a * a:.9f}')", TRIANGLE),
  Paraphrase("two-digits", "equal", "print(math.pi * a * a)", "print(f'{math.pi * a * a:.2f}')", TRIANGLE),
  Paraphrase("round-4", "equal", "print(2 / 7)", "print(round(2 / 7, 4))"),
  Paraphrase("scientific", "equal", "print(12345.678)", "print(f'{12345.678:e}')"),
  Paraphrase("blank-lines", "equal", "print('a  =', 12)\nprint()", "print('a =', 12)"),
  Paraphrase("repr", "equal", "name = 'Tessen'\nprint(name)", "name = 'Tessen'\nprint([name])"),
  Paraphrase("case", "equal", "print('Marlow')", "print('MARLOW')"),
  Paraphrase("answer-is", "equal", "print('B')", "print('The correct option is B.')"),
  Paraphrase("yes-true", "equal", "print(97 % 2 == 1)", "print('Yes' if 97 % 2 else 'No')"),
  Paraphrase("words", "equal", "print('There is no such number')", "print('No number like that exists')"),
  Paraphrase("per-line", "equal", "print(figs, more)", "print(figs)\nprint(more)", FIGS),
  Paraphrase("named-pair", "equal", "print(f'x = {figs}, y = {more}')", "print((figs, more))", FIGS),
  # Kinds of numbers and containers
  Paraphrase("sympy-float", "equal", "print(sp.sqrt(3))", "print(3 ** 0.5)", ROOTS),
  Paraphrase("sympy-rational", "equal", "print(sp.Rational(1, 3))", "print(1 / 3)", ROOTS),
  Paraphrase("fraction", "equal", "from fractions import Fraction\nprint([Fraction(1, 4)])", "print([0.25])"),
  Paraphrase("evalf", "equal", "print(sp.pi / 3)", "print((sp.pi / 3).evalf())", ROOTS),
  Paraphrase("factored", "equal", "print(sp.factor(x**2 - 1))", "print(x**2 - 1)", ROOTS),
  Paraphrase("expanded", "equal", "print(sp.expand((x + 2)**3))", "print(x**3 + 6*x**2 + 12*x + 8)", ROOTS),
  Paraphrase(
    "solve-list", "equal", "print(sp.solve(x**2 - 5*x + 6, x))", "print(sorted(sp.solveset(x**2 - 5*x + 6, x)))", ROOTS
  ),
  Paraphrase("solveset", "equal", "print(sp.solve(x**2 - 5*x + 6, x))", "print(sp.solveset(x**2 - 5*x + 6, x))", ROOTS),
  Paraphrase("first-of-list", "equal", "print(sp.solve(2*x - 9, x))", "print(sp.solve(2*x - 9, x)[0])", ROOTS),
  Paraphrase(
    "list-tuple", "equal", "print([d for d in data if d > 10])", "print(tuple(d for d in data if d > 10))", DATA
  ),
  Paraphrase("set-order", "equal", "print({3, 1, 2})", "s = set()\nfor n in (2, 3, 1):\n  s.add(n)\nprint(s)"),
  Paraphrase("list-set", "equal", "print([12, 5, 9])", "print({12, 5, 9})"),
  Paraphrase("string-set", "equal", "print(sorted({'pear', 'fig'}))", "print({'pear', 'fig'})"),
  Paraphrase("dict-order", "equal", "print({'a': 1, 'b': 2})", "print({'b': 2, 'a': 1})"),
  Paraphrase("numpy", "equal", "import numpy as np\nprint(np.array(data) * 2)", "print([d * 2 for d in data])", DATA),
  Paraphrase("numpy-scalar", "equal", "import numpy as np\nprint([np.float64(2.5)])", "print([2.5])"),
  Paraphrase("join", "equal", "print(', '.join(map(str, data)))", "print(data)", DATA),
  Paraphrase(
    "order-of-prints",
    "equal",
    "print('min:', min(data))\nprint('max:', max(data))",
    "print('max:', max(data))\nprint('min:', min(data))",
    DATA,
  ),
  Paraphrase("date", "equal", "print('24 December 1991')", "print('December 24, 1991')"),
  Paraphrase("time", "equal", "print(f'{14}:{50}')", "print('14 h 50 min')"),
  # More or less is printed
  Paraphrase("intermediate", "undecidable", "print(figs + more)", "print(figs)\nprint(figs + more)", FIGS),
  Paraphrase("chatty", "undecidable", "print(figs + more)", "print('Let me add them up')\nprint(figs + more)", FIGS),
  Paraphrase("equation", "equal", "print(figs + more)", "print(f'{figs} + {more} = {figs + more}')", FIGS),
  Paraphrase("part-only", "undecidable", "print(min(data))\nprint(max(data))", "print(max(data))", DATA),
  Paraphrase("silent-both", "undecidable", "total = figs + more", "n = figs + more", FIGS),
  Paraphrase("silent-other", "undecidable", "total = figs + more", "total = figs - more", FIGS),
  Paraphrase("silent-one", "undecidable", "total = figs + more", "total = figs + more\nprint(total)", FIGS),
  Paraphrase("comment-only", "undecidable", "# nothing to do", "pass"),
  Paraphrase("long-list", "undecidable", "print(list(range(2000)))", "print([*range(1999), 7])"),
  # The same by luck, or to the eye
  Paraphrase("luck-sum-product", "undecidable", "print(2 + 2)", "print(2 * 2)"),
  Paraphrase("luck-min-len", "undecidable", "few = [2, 9]\nprint(min(few))", "few = [2, 9]\nprint(len(few))"),
  Paraphrase(
    "luck-labelled", "undecidable", "few = [2, 9]\nprint('min:', min(few))", "few = [2, 9]\nprint('count:', len(few))"
  ),
  Paraphrase("luck-hard-coded", "undecidable", "print(figs + more)", "print(12)", FIGS),
  Paraphrase("luck-true", "undecidable", "print(97 % 2 == 1)", "print(97 > 100 or True)"),
  Paraphrase("rounded-early", "undecidable", "print(round(17 / 3))", "print(17 / 3)"),
  Paraphrase("nested", "undecidable", "print([[1], [2, 3]])", "print([[1, 2], [3]])"),
  # Other results
  Paraphrase("sign", "different", "print(figs - more)", "print(more - figs)", FIGS),
  Paraphrase("operation", "different", "print(figs + more)", "print(figs * more)", FIGS),
  Paraphrase("off-by-one", "different", "print(sum(range(10)))", "print(sum(range(11)))"),
  Paraphrase("label-same", "different", "print('Total:', figs + more)", "print('Total:', figs * more)", FIGS),
  Paraphrase("label-other", "different", "print('Total:', figs + more)", "print('Rest =', more - figs)", FIGS),
  Paraphrase("truncated", "different", "print(int(17 / 3))", "print(17 / 3)"),
  Paraphrase("big-integers", "different", "print(10**12)", "print(10**12 + 1)"),
  Paraphrase("small-floats", "different", "print(1.5e-7)", "print(2.5e-7)"),
  Paraphrase("degrees", "different", "print(math.sin(math.radians(30)))", "print(math.sin(30))", TRIANGLE),
  Paraphrase("root", "different", "print(sp.sqrt(3))", "print(2 * sp.sqrt(3))", ROOTS),
  Paraphrase("abs", "different", "print(sp.Abs(x))", "print(x)", ROOTS),
  Paraphrase(
    "other-roots", "different", "print(sp.solve(x**2 - 5*x + 6, x))", "print(sp.solve(x**2 - 5*x + 4, x))", ROOTS
  ),
  Paraphrase("swapped", "different", "print((figs, more))", "print((more, figs))", FIGS),
  Paraphrase(
    "empty-list", "different", "print([d for d in data if d > 50])", "print([d for d in data if d > 40])", DATA
  ),
  Paraphrase("true-false", "different", "print(97 % 2 == 1)", "print(97 % 2 == 0)"),
  Paraphrase("option", "different", "print('B')", "print('C')"),
  Paraphrase("option-text", "different", "print('This aligns with option A.')", "print('This aligns with option C.')"),
  Paraphrase("not-prime", "different", "print('91 is prime')", "print('91 is not prime')"),
  Paraphrase("inequality", "different", "print(x > 3)", "print(x >= 3)", ROOTS),
  Paraphrase("place", "different", "print('Tessen')", "print('Marlow')"),
  # Errors and answers
  Paraphrase("raises", "different", "print(figs + more)", "print(figs + mroe)", FIGS),
  Paraphrase("raises-late", "different", "print(figs + more)", "print(figs + more)\nprint(1 / 0)", FIGS),
  Paraphrase("prints-an-error", "different", "print(\"NameError: name 'y' is not defined\")", "print(y)"),
  Paraphrase("both-raise", "undecidable", "print(1 / 0)", "print(mroe)"),
  Paraphrase("same-raise", "undecidable", "print(1 / 0)", "print(2 / 0)"),
  Paraphrase("submit-or-print", "different", "print(figs + more)", "final_answer_print(figs + more)", FIGS),
  Paraphrase("submit-same", "equal", "final_answer_print(figs + more)", "final_answer_print(12.0)", FIGS),
  Paraphrase("submit-boxed", "equal", "final_answer_print(figs + more)", "final_answer_print('\\\\boxed{12}')", FIGS),
  Paraphrase("submit-other", "different", "final_answer_print(figs + more)", "final_answer_print(figs * more)", FIGS),
  Paraphrase(
    "submit-after-print",
    "equal",
    "final_answer_print(figs + more)",
    "n = figs + more\nprint(n)\nfinal_answer_print(n)",
    FIGS,
  ),
  # Searches
  Paraphrase("search-same-query", "equal", "print(web_search('Ida Krull'))", "r = web_search('Ida Krull')\nprint(r)"),
  Paraphrase(
    "search-rewords",
    "equal",
    "print(web_search('Ida Krull bridges'))",
    "print(web_search('who was the engineer Ida Krull'))",
  ),
  Paraphrase(
    "search-order", "equal", "print(web_search('Grey Fells slate Arne'))", "print(web_search('Arne rises river Grey'))"
  ),
  Paraphrase("search-other", "different", "print(web_search('Ida Krull'))", "print(web_search('Tessen weavers'))"),
  Paraphrase("search-overlap", "different", "print(web_search('Mill Bridge Ida'))", "print(web_search('Ida Tessen'))"),
  Paraphrase("search-vain", "undecidable", "print(web_search('quasar'))", "print(web_search('Zanzibar'))"),
  Paraphrase("search-vain-or-not", "different", "print(web_search('quasar'))", "print(web_search('Tessen weavers'))"),
  Paraphrase(
    "search-more",
    "undecidable",
    "print(web_search('Grey Fells slate'))",
    "print(web_search('Grey Fells slate'))\nprint(web_search('Tessen weavers'))",
  ),
  Paraphrase(
    "search-heading",
    "equal",
    "print(web_search('Tessen weavers'))",
    "print('Results:')\nprint(web_search('Tessen weavers'))",
  ),
  Paraphrase("search-silent", "undecidable", "r = web_search('Ida Krull')", "r = web_search('Tessen')"),
  Paraphrase(
    "search-extract",
    "equal",
    "r = web_search('Ida Krull')\nprint(r.split('Marlow in ')[1][:4])",
    "r = web_search('Krull engineer')\nimport re\nprint(re.findall(r'\\d{4}', r)[0])",
  ),
  Paraphrase(
    "search-or-not", "different", "print(web_search('Tessen weavers'))", "print('Ida Krull was born at Tessen')"
  ),
)

#: what a comparison that never errs would say
EXPECTED: dict[Truth, StepVerdict] = {"equal": "equal", "different": "different", "undecidable": "undecided"}


def compared(isolation: str) -> Iterator[tuple[Paraphrase, StepVerdict]]:
  """Runs every pair in the sandbox, each piece of code in a session of its own, and compares what it did."""
  limits = {"timeout_s": 20.0, "memory_mb": 512, "files_mb": 16, "output_chars": 4096}
  search = BM25Search.from_documents(DOCUMENTS, top_k=2, passage_chars=400)
  with (
    Sandbox(isolation=isolation, workers=2, sessions=16, search=search, **limits) as tool,
    open_grader("math500") as grader,
  ):
    acts = [(p, code) for p in PARAPHRASES for code in (p.one, p.other)]
    question = Question("", "", "12")
    scripts = [
      (question, [*([(Turn("act", "", p.setup), "student")] if p.setup else []), (Turn("act", "", code), "student")])
      for p, code in acts
    ]
    steps = [trajectory.steps[-1] for trajectory in run_scripts(scripts, tool)]
    for paraphrase, one, other in zip(PARAPHRASES, steps[::2], steps[1::2], strict=True):
      yield paraphrase, compare_steps(one, other, make_answer_comparator(grader, question))
