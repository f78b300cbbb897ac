r"""Mathematical answers as text: what only dresses them is taken off, and many spellings become one.

    "The answer is $\dfrac{1}{2}$."  ->  \frac{1}{2}
    "½", "1/2"                       ->  \frac{1}{2}, 1/2
    "sqrt(3)*x**2"                   ->  sqrt(3)*x^2        (tidy)  ->  \sqrt{3}\cdot x^{2}   (latex)

Nothing here computes and nothing is evaluated: text goes in and text comes out.
"""

from __future__ import annotations

import re
import unicodedata

from score_jax.tasks.brackets import SET_LEFT, SET_RIGHT, closing, outside
from score_jax.tasks.math_dress import undressed, visible

CURRENCY = "¤"

SIGNS = str.maketrans(
  {
    **dict.fromkeys("×·⋅∙∗", r"\cdot "),
    **dict.fromkeys("÷∕⁄", "/"),
    **dict.fromkeys("−–‐‑", "-"),
    **dict.fromkeys("°º", r"\degree "),
    **dict.fromkeys("“”„", '"'),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("⟨〈", "("),
    **dict.fromkeys("⟩〉", ")"),
    **dict.fromkeys("¼", r"\frac{1}{4}"),
    **dict.fromkeys("½", r"\frac{1}{2}"),
    **dict.fromkeys("¾", r"\frac{3}{4}"),
    **dict.fromkeys("⅓", r"\frac{1}{3}"),
    **dict.fromkeys("⅔", r"\frac{2}{3}"),
    "√": r"\sqrt ",
    "∛": r"\sqrt[3] ",
    "∞": r"\infty ",
    **dict.fromkeys("∅⌀", r"\emptyset "),
    "≈": r"\approx ",
    "→": r"\to ",
    "∑": r"\sum ",
    "∫": r"\int ",
    "∠": r"\angle ",
    "∪": r"\cup ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "∈": r"\in ",
    "ℝ": r"\mathbb{R}",
    "π": r"\pi ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "γ": r"\gamma ",
    "θ": r"\theta ",
    "λ": r"\lambda ",
    "φ": r"\phi ",
    "ω": r"\omega ",
  }
)
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ", "0123456789-n")
LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh log ln exp max min gcd".split()
INVERSE = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
GREEK = "pi theta alpha beta gamma lambda phi omega".split()

END = r"(?![a-zA-Z])"
#: one spelling for each thing, in this order
SPELLINGS = [
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    (r",\\!\s*", ","),
    (r"\{,\}", ","),
    (r"(?<=\d)\\[, ](?=\d{3}(?!\d))", ""),
    (r"\\\$", CURRENCY),
    (rf"\\(?:left|right|middle|displaystyle|textstyle|limits|[bB]igg?[lr]?){END}\.?", ""),
    (rf"(?<!\\)\\[!,;:> ]|\\(?:quad|qquad){END}|~|[\u00a0\u2009\u202f]", " "),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\[dt]binom", r"\\binom"),
    (r"\\operatorname\*", r"\\operatorname"),
    (
      r"\\(?:operatorname|math(?:rm|bf|it|sf)|text(?:bf|it|rm|normal|sf)|[mh]box|boldsymbol|bm|unit)\s*(?=\{)",
      r"\\text",
    ),
    (r"\\text\s*\{\s*([A-Za-z]|\d+)\s*\}", r"\1"),
    (rf"\\text\s*\{{\s*({'|'.join([*FUNCTIONS, *INVERSE])})\s*\}}", r" \1 "),
    (r"\\text\s*\{\s*,?\s*(and|or)\s*\}", r" \1 "),
    (rf"\\leq?(?:slant)?{END}|<=", r"\\le "),
    (rf"\\geq?(?:slant)?{END}|>=", r"\\ge "),
    (rf"\\neq?{END}|!=", r"\\ne "),
    (rf"\\lt{END}", "<"),
    (rf"\\gt{END}", ">"),
    (rf"\\(?:times|cdot|ast){END}", r"\\cdot "),
    (rf"\\div{END}", "/"),
    (rf"\^\s*(?:\\circ{END}|\{{\s*\\circ\s*\}})|\\(?:text)?degrees?{END}", r"\\degree "),
    (rf"\\(?:lbrace{END}|\{{)", SET_LEFT),
    (rf"\\(?:rbrace{END}|\}})", SET_RIGHT),
    (rf"\\langle{END}", "("),
    (rf"\\rangle{END}", ")"),
    (rf"\\(?:[lr]?vert|mid){END}", "|"),
    (r"\\%", "%"),
    (r"\\\|", "|"),
    (rf"\\colon{END}", ":"),
    (r":\s*=", "="),
    (rf"\\(?:underline(?=\s*\{{)|bf{END}|rm{END})", " "),
    (r"\b(?:negative|minus) infinity\b", "-infinity"),
    (r"\bpositive infinity\b", "infinity"),
    (r"(?<![\w.])(?:np|numpy|sp|sympy|math|mpmath|fractions)\.(?=[A-Za-z])", ""),
    (r"\*\*", "^"),
    (
      r"\{(\d+) ?\\choose ?(\d+)\}|(?<![\w.])(\d+) choose (\d+)",
      lambda n: r"\binom{{{}}}{{{}}}".format(*filter(None, n.groups())),
    ),
    (r"(?<=\d)[jJ]\b", "i"),
    (rf"(?<![\\A-Za-z])(?:infinity|infty|inf|oo){END}", r"\\infty "),
    (r"\s+", " "),
    (r"(?<![\w.,])(?<![\d.] )[1-9]\d{0,2}(?: \d{3})+(?!\d|\s*/|\s*\\frac)", lambda n: n[0].replace(" ", "")),
  )
]
ARGUMENTS = {"frac": 2, "binom": 2, "sqrt": 1}
DEEPEST = 12
UNBRACED = re.compile(
  r"\\(?P<command>frac|binom)(?![A-Za-z])\s*|\\sqrt(?![A-Za-z])\s*(?:\[[^\[\]]*\])?\s*(?![(\s])"
  r"|\^\s*(?=\\(?:frac|sqrt|binom|pi|theta|alpha|beta|lambda|phi|omega)(?![A-Za-z]))|_\s*(?=[A-Za-z\d])"
)
ARGUMENT = re.compile(r"\\(?P<command>[A-Za-z]+)(?:\[[^\[\]]*\])?|[A-Za-z\d]")
WHOLE_ARGUMENT = re.compile(r"\\(?P<command>[A-Za-z]+)(?:\[[^\[\]]*\])?|\d+|[A-Za-z]")
NOTHING = re.compile(
  rf"\\(?:emptyset|varnothing)|{SET_LEFT}\s*{SET_RIGHT}|\{{\s*\}}"
  r"|(?:(?:has|have)\s+)?no\s+solutions?(?:\s+exists?)?|(?:the\s+)?empty\s+set"
  r"|\\text\s*\{\s*(?:no\s+solutions?|(?:the\s+)?empty\s+set)\s*\.?\s*\}",
  re.IGNORECASE,
)
ASSIGNMENT = re.compile(r"[A-Za-z](?:_\w+)?\s*=\s*[^=]+")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def tidy(text: str) -> str:
  """An answer with one spelling for each sign, and without dollars, box, emphasis or "the answer is"."""
  text = visible(text).translate(SIGNS)
  text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ]+", lambda run: f"^{{{run[0].translate(RAISED)}}}", text)
  text = re.sub("[₀-₉]+", lambda run: f"_{{{run[0].translate(LOWERED)}}}", text)
  text = undressed(unicodedata.normalize("NFKC", text))
  text = _single_backslashes(text)
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  if len(lines) > 1 and all(map(ASSIGNMENT.fullmatch, lines)):
    text = ", ".join(lines)
  for pattern, replacement in SPELLINGS:
    text = pattern.sub(replacement, text)
  text = _braced(text.strip())
  return r"\emptyset" if NOTHING.fullmatch(text) else text


def _single_backslashes(text: str) -> str:
  """Commands whose backslash was escaped, as a JSON or Python string shows them; rows of a matrix end with two."""
  if "\\\\begin" in text or "\\begin" not in text:
    return re.sub(r"\\\\(?=[A-Za-z\\(){}\[\],;!%$ ])", r"\\", text)
  return text


def _braced(text: str, level: int = 0) -> str:
  r"""The arguments that TeX takes without braces, in braces: \frac12, \frac\pi4, \sqrt2, x^\frac14, a_n."""
  made, at = [], 0
  for found in UNBRACED.finditer(text):
    if found.start() < at or level > DEEPEST:
      continue
    made.append(text[at : found.end()].rstrip())
    at = found.end()
    for _ in range(ARGUMENTS.get(found["command"] or "", 1)):
      argument, end = _argument(text, at, level, numbers=not found["command"])
      if argument is None:
        break
      made.append(f"{{{argument}}}")
      at = end
  return "".join((*made, text[at:]))


def _argument(text: str, at: int, level: int, *, numbers: bool) -> tuple[str | None, int]:
  """What TeX takes as the argument that starts here, and where it ends; a whole number where `numbers`."""
  at += len(text[at:]) - len(text[at:].lstrip())
  if text.startswith("{", at):
    end = closing(text, at)
    return (None, at) if end < 0 else (_braced(text[at + 1 : end], level + 1), end + 1)
  found = (WHOLE_ARGUMENT if numbers else ARGUMENT).match(text, at)
  if found is None:
    return None, at
  argument, at = found[0], found.end()
  for _ in range(ARGUMENTS.get(found["command"] or "", 0)):
    inner, at = _argument(text, at, level + 1, numbers=False) if level < DEEPEST else (None, at)
    if inner is None:
      return None, at
    argument += f"{{{inner}}}"
  return argument, at


def joined_thousands(text: str) -> str:
  """1,234 as 1234, outside of brackets only: (100,101) are two numbers."""
  pieces = outside(text)
  return "".join(THOUSANDS.sub(lambda n: n[0].replace(",", ""), piece) if out else piece for out, piece in pieces)


def squeezed(text: str) -> str:
  """The text without the spaces that part nothing."""
  return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", re.sub(r"\s+", " ", text.strip()))


def words(text: str) -> str:
  """What is left of a name: small letters and digits; no articles, no marks of \\text, no punctuation."""
  bare = re.sub(r"\\text\b|[^\w\s]|_", " ", text).lower()
  return " ".join(word for word in bare.split() if word not in {"a", "an", "the", "option"} or len(bare.split()) == 1)
