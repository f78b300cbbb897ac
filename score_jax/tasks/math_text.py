r"""Mathematical answers as text: what only dresses them is taken off, and many spellings become one.

    "The answer is $\dfrac{1}{2}$."  ->  \frac{1}{2}
    "½", "1/2"                       ->  \frac{1}{2}, 1/2
    "sqrt(3)*x**2"                   ->  sqrt(3)*x^2        (tidy)  ->  \sqrt{3}\cdot x^{2}   (latex)

Nothing here computes and nothing is evaluated: text goes in and text comes out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

SET_LEFT, SET_RIGHT, CURRENCY = "⦃", "⦄", "¤"
OPEN, CLOSE = "([{" + SET_LEFT, ")]}" + SET_RIGHT

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
    (r"(?<![\w.])(?:np|numpy|sp|sympy|math|mpmath|fractions)\.(?=[A-Za-z])", ""),
    (r"\*\*", "^"),
    (r"(?<=\d)[jJ]\b", "i"),
    (r"\s+", " "),
  )
]
DRESS = re.compile(
  r"(?:####|(?:so|thus|hence|therefore)?\W{0,3}(?:the|my)?\s*(?:final\s+|correct\s+)?(?:answer|result|solution)\s*"
  r"(?:(?:is|are|equals)\b\s*:?|:|=)|(?:it|this|that|the(?:\s+[a-z]+){1,4})\s+(?:is|are)\b|=)\s*",
  re.IGNORECASE,
)
PAIRS = (("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"), ('"', '"'), ("'", "'"))
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def closing(text: str, start: int) -> int:
  """Where the bracket that opens at `start` is closed, by one of any kind; -1 where it is not."""
  depth = 0
  for index in range(start, len(text)):
    depth += (text[index] in OPEN) - (text[index] in CLOSE)
    if depth == 0:
      return index
  return -1


def depth(text: str) -> int:
  """How deep its brackets are nested."""
  deepest = level = 0
  for sign in text:
    level += (sign in OPEN) - (sign in CLOSE)
    deepest = max(deepest, level)
  return deepest


def split(text: str, separator: re.Pattern[str]) -> list[str]:
  """The pieces between the separators that stand in no bracket."""
  pieces, start, level = [], 0, 0
  at = iter(separator.finditer(text))
  found = next(at, None)
  for index, sign in enumerate(text):
    while found is not None and found.start() < index:
      found = next(at, None)
    if found is not None and found.start() == index and level == 0 and index >= start:
      pieces.append(text[start:index])
      start = found.end()
    level += (sign in OPEN) - (sign in CLOSE)
  return [*pieces, text[start:]]


def outside(text: str) -> Iterator[tuple[bool, str]]:
  """The text in pieces, each with whether it stands outside of all brackets."""
  start = index = 0
  while index < len(text):
    end = closing(text, index) if text[index] in OPEN else -1
    if end > index:
      yield True, text[start:index]
      yield False, text[index : end + 1]
      start = index = end + 1
    else:
      index += 1
  yield True, text[start:]


def tidy(text: str) -> str:
  """An answer with one spelling for each sign, and without dollars, box, emphasis or "the answer is"."""
  text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ]+", lambda run: f"^{{{run[0].translate(RAISED)}}}", text.translate(SIGNS))
  text = re.sub("[₀-₉]+", lambda run: f"_{{{run[0].translate(LOWERED)}}}", text)
  text = unicodedata.normalize("NFKC", text).strip()
  for _ in range(6):
    bare = _undressed(text)
    if bare == text:
      break
    text = bare
  for pattern, replacement in SPELLINGS:
    text = pattern.sub(replacement, text)
  return text.strip()


def _undressed(text: str) -> str:
  """The text without its outermost dress."""
  text = text.strip().rstrip(".,;").strip()
  if boxes := len(BOX.findall(text)):
    return _unboxed(text, alone=boxes == 1)
  for left, right in PAIRS:
    inner = text[len(left) : -len(right)]
    if len(text) > len(left + right) and text.startswith(left) and text.endswith(right) and left not in inner:
      return inner
  if found := DRESS.match(text):
    return text[found.end() :]
  bare = re.sub(r"\\[()]", " ", text)
  dollars = len(re.findall(r"(?<!\\)\$", bare))
  return re.sub(r"(?<!\\)\$+", " " if dollars % 2 == 0 else r"\\$", bare)


def _unboxed(text: str, *, alone: bool) -> str:
  """What stands in a box that is alone; of several boxes all, with what stands between them."""
  while found := BOX.search(text):
    end = closing(text, found.end() - 1)
    inner = text[found.end() :] if end < 0 else text[found.end() : end]
    text = inner if alone else text[: found.start()] + inner + (text[end + 1 :] if end >= 0 else "")
  return text


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


# --- one expression as LaTeX ---

NUMBER = re.compile(r"(\d+)?\.(\d+)?(?:\\overline\s*\{(\d+)\})?(?:[eE]([+-]?\d{1,3})(?![\d.]))?")
SHORT = re.compile(r"(\d+)[eE]([+-]?\d{1,3})(?![\d.])")
GROUP = r"(?:\{[^{}]*\})"
LATEX = [
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    (rf"(?<![\\A-Za-z])({'|'.join(INVERSE)})(?![A-Za-z])", lambda m: INVERSE[m[1]]),
    (rf"(?<![\\A-Za-z])({'|'.join(FUNCTIONS + GREEK)})(?![A-Za-z])", r"\\\1 "),
    (r"(?<![\\A-Za-z])(?:oo|inf|infinity|Infinity)(?![A-Za-z])", r"\\infty "),
    (r"\\frac\s*(\d)\s*(\d)(?!\d*\})", r"\\frac{\1}{\2}"),
    (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
    (rf"\\frac\s*({GROUP})\s*(\d)", r"\\frac\1{\2}"),
    (r"\\sqrt\s*(\[\d+\])?\s*(\d+|[A-Za-z])", lambda m: rf"\sqrt{m[1] or ''}{{{m[2]}}}"),
    (r"\^\s*([+-]?\d+)", r"^{\1}"),
    (r"(?<![\d.\w^{}])(\d+)\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}", r"(\1+\\frac{\2}{\3})"),
    (r"(?<![\d.\w^/])(\d+) (\d+)/(\d+)(?![\d.\w])", r"(\1+\\frac{\2}{\3})"),
    (r"\*", r"\\cdot "),
  )
]
CALLS = {"sqrt": "\\sqrt{%s}", "cbrt": "\\sqrt[3]{%s}", "abs": "|%s|", "Abs": "|%s|", "log": "\\ln(%s)"}
CALL = re.compile(r"(?<![\\A-Za-z])(sqrt|cbrt|abs|Abs|log|Fraction|Rational)\s*\(")
COMMA = re.compile(",")


def latex(text: str) -> str:
  """A tidy expression as LaTeX: calls, powers, short fractions, mixed numbers; decimals as exact fractions."""
  text = _called(text)
  for pattern, replacement in LATEX[:2]:
    text = pattern.sub(replacement, text)
  text = _grouped(text, r"\sqrt")
  text = _grouped(text, "^")
  for pattern, replacement in LATEX[2:]:
    text = pattern.sub(replacement, text)
  return SHORT.sub(r"(\1\\cdot 10^{\2})", NUMBER.sub(_fraction, text)).strip()


def _called(text: str) -> str:
  """sqrt(…), Fraction(…, …) and the like as LaTeX has them."""
  start = 0
  while found := CALL.search(text, start):
    end = closing(text, found.end() - 1)
    start = found.end()
    if end < 0:
      continue
    inner = text[found.end() : end]
    if found[1] in CALLS:
      made = CALLS[found[1]] % inner
    else:
      over, *under = split(inner, COMMA)
      made = rf"(\frac{{{over}}}{{{under[0] if under else '1'}}})"
    text, start = text[: found.start()] + made + text[end + 1 :], found.start()
    if made.startswith("|"):
      start += 1
  return text


def _grouped(text: str, sign: str) -> str:
  """Round brackets after a sign as braces: ^(1/3) becomes ^{1/3}."""
  at = 0
  while found := re.compile(re.escape(sign) + r"(?:\[\d+\])?\s*\(").search(text, at):
    at = found.end()
    if (end := closing(text, at - 1)) > 0:
      text = f"{text[: at - 1]}{{{text[at:end]}}}{text[end + 1 :]}"
  return text


def _fraction(number: re.Match[str]) -> str:
  """A decimal as the fraction that it is, its recurring digits included."""
  whole, digits, again, power = number[1] or "", number[2] or "", number[3] or "", number[4]
  if not whole and not digits and not again:
    return number[0]
  over, under = int((whole + digits) or "0"), 10 ** len(digits)
  if again:
    over, under = over * (10 ** len(again) - 1) + int(again), under * (10 ** len(again) - 1)
  shown = rf"\frac{{{over}}}{{{under}}}" if under > 1 else str(over)
  return rf"({shown}\cdot 10^{{{power}}})" if power else f"({shown})"


def precision(text: str) -> tuple[float, bool]:
  """How far off an answer written with long decimals may be: by less than one unit in their last place.

  Returns:
    The largest such unit relative to its number, over those with at least six digits after the point and six
    significant ones (0: there are none); and whether each has the sixteen or more of a printed binary float.
  """
  largest, floats = 0.0, True
  for found in NUMBER.finditer(text):
    digits = ((found[1] or "") + (found[2] or "")).lstrip("0")
    if len(digits) >= 6 and len(found[2] or "") >= 6 and not found[3]:
      largest = max(largest, 1.0 / int(digits))
      floats = floats and len(digits) >= 16
  return largest, floats and largest > 0
