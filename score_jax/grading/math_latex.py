r"""Converts one normalised expression to LaTeX for math-verify: sqrt(3)*x^2 becomes \sqrt{3}\cdot x^{2}."""

from __future__ import annotations

import re

from score_jax.grading.math_text import FUNCTION_NAMES, GREEK_LETTERS, INVERSE_FUNCTIONS, find_closing, split_outside


def _binomial(written: re.Match[str]) -> str:
  above, below = filter(None, written.groups())
  return rf"\binom{{{above}}}{{{below}}}"


def _mixed(written: re.Match[str]) -> str:
  """A whole number before a proper fraction is added to it, and multiplies any other."""
  whole, above, below = written.groups()
  return rf"({whole}{'+' if int(above) < int(below) else chr(92) + 'cdot '}\frac{{{above}}}{{{below}}})"


NUMBER_PATTERN = re.compile(r"(\d+)?\.(\d+)?(?:\\overline\s*\{(\d+)\})?(?:[eE]([+-]?\d{1,3})(?![\d.]))?")
PRODUCT_PATTERN = re.compile(r"(?:(?<=[\d)])|(?<=\\pi)) *\(")  # math-verify takes 2(\frac{1}{2}) for the mixed number
SCIENTIFIC_PATTERN = re.compile(r"(\d+)[eE]([+-]?\d{1,3})(?![\d.])")
LATEX_RULES = [
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    (rf"(?<![\\A-Za-z])({'|'.join(INVERSE_FUNCTIONS)})(?![A-Za-z])", lambda m: INVERSE_FUNCTIONS[m[1]]),
    (rf"(?<![\\A-Za-z])({'|'.join(FUNCTION_NAMES + GREEK_LETTERS)})(?![A-Za-z])", r"\\\1 "),
    (r"\^\s*([+-]?\d+)", r"^{\1}"),
    (r"(?<![\d.\w^{}])(\d+)\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}", _mixed),
    (r"(?<![\d.\w^/])(\d+) (\d+)/(\d+)(?![\d.\w])", r"(\1+\\frac{\2}{\3})"),
    (r"\*", r"\\cdot "),
    (r"([\d.]+) ?\\degree(?![a-z])", r"(\1\\cdot \\frac{\\pi}{180})"),
    # math-verify reads these letters as Euler's number and the imaginary unit, whatever their subscript
    (r"(?<![\\A-Za-z])([EeI])_\{(\w+)\}", r"q_{\1\2}"),
    (r"(?<![\w^_{}])(?:C\((\d+), ?(\d+)\)|(\d+)C(\d+)(?!\w))", _binomial),
    (r"(?<![\w}])(?:\{\})?[_^]\{(\d+)\} ?C_\{(\d+)\}|(?<![\w\\])C_\{(\d+)\}\^\{(\d+)\}", _binomial),
  )
]
CALL_TEMPLATES = {"sqrt": "\\sqrt{%s}", "cbrt": "\\sqrt[3]{%s}", "abs": "|%s|", "Abs": "|%s|", "log": "\\ln(%s)"}
CALL_PATTERN = re.compile(r"(?<![\\A-Za-z])(sqrt|cbrt|abs|Abs|log|Fraction|Rational)\s*\(")
COMMA_PATTERN = re.compile(",")


def to_latex(text: str) -> str:
  """A normalised expression as LaTeX: calls, powers, short fractions, mixed numbers; decimals as exact fractions."""
  text = _convert_calls(text)
  for pattern, replacement in LATEX_RULES[:2]:
    text = pattern.sub(replacement, text)
  text = _brace_arguments(text, r"\sqrt")
  text = _brace_arguments(text, "^")
  for pattern, replacement in LATEX_RULES[2:]:
    text = pattern.sub(replacement, text)
  text = SCIENTIFIC_PATTERN.sub(r"(\1\\cdot 10^{\2})", NUMBER_PATTERN.sub(_fraction, text)).strip()
  return PRODUCT_PATTERN.sub(r"\\cdot (", text)


def _convert_calls(text: str) -> str:
  """Converts calls such as sqrt(…) and Fraction(…, …) to LaTeX."""
  start = 0
  while found := CALL_PATTERN.search(text, start):
    end = find_closing(text, found.end() - 1)
    start = found.end()
    if end < 0:
      continue
    inner = text[found.end() : end]
    if found[1] in CALL_TEMPLATES:
      made = CALL_TEMPLATES[found[1]] % inner
    else:
      over, *under = split_outside(inner, COMMA_PATTERN)
      made = rf"(\frac{{{over}}}{{{under[0] if under else '1'}}})"
    text, start = text[: found.start()] + made + text[end + 1 :], found.start()
    if made.startswith("|"):
      start += 1
  return text


def _brace_arguments(text: str, sign: str) -> str:
  """Round brackets after a sign as braces: ^(1/3) becomes ^{1/3}."""
  at = 0
  while found := re.compile(re.escape(sign) + r"(?:\[\d+\])?\s*\(").search(text, at):
    at = found.end()
    if (end := find_closing(text, at - 1)) > 0:
      text = f"{text[: at - 1]}{{{text[at:end]}}}{text[end + 1 :]}"
  return text


def _fraction(number: re.Match[str]) -> str:
  """A decimal as an exact fraction, with its recurring digits."""
  whole, digits, again, power = number[1] or "", number[2] or "", number[3] or "", number[4]
  if not whole and not digits and not again:
    return number[0]
  over, under = int((whole + digits) or "0"), 10 ** len(digits)
  if again:
    over, under = over * (10 ** len(again) - 1) + int(again), under * (10 ** len(again) - 1)
  shown = rf"\frac{{{over}}}{{{under}}}" if under > 1 else str(over)
  return rf"({shown}\cdot 10^{{{power}}})" if power else f"({shown})"


def decimal_tolerance(text: str) -> tuple[float, bool]:
  """The relative error allowed in long decimals: less than one unit in their last place.

  Returns:
    The largest such unit relative to its number, over those with at least six digits after the point and six
    significant ones (0: there are none); and whether each has the sixteen or more of a printed binary float.
  """
  largest, floats = 0.0, True
  for found in NUMBER_PATTERN.finditer(text):
    digits = ((found[1] or "") + (found[2] or "")).lstrip("0")
    if len(digits) >= 6 and len(found[2] or "") >= 6 and not found[3]:
      largest = max(largest, 1.0 / int(digits))
      floats = floats and len(digits) >= 16
  return largest, floats and largest > 0
