r"""Normalises the text of mathematical answers, and finds brackets in it. Text goes in and text comes out.

    "The answer is $\dfrac{1}{2}$."  ->  \frac{1}{2}
    "½", "1/2"                       ->  \frac{1}{2}, 1/2
    "sqrt(3)*x**2"                   ->  sqrt(3)*x^2        (normalise_math_text)

`extract_answer` returns the stated answer: from tags, boxes, emphasis, "the answer is", or after "####". If a text
states two answers, it stays as it is, so that graders see both. `strip_lead_in` also removes phrases such as "so x is".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

#: the braces of a set, as normalise_math_text writes them; in LaTeX { and } only group
SET_LEFT, SET_RIGHT = "⦃", "⦄"
OPEN_BRACKETS, CLOSE_BRACKETS = "([{" + SET_LEFT, ")]}" + SET_RIGHT


def find_closing(text: str, start: int) -> int:
  """The index that closes the bracket at `start`, by a bracket of any kind; -1 if none does."""
  depth = 0
  for index in range(start, len(text)):
    depth += (text[index] in OPEN_BRACKETS) - (text[index] in CLOSE_BRACKETS)
    if depth == 0:
      return index
  return -1


def bracket_depth(text: str) -> int:
  """The nesting depth of the brackets in a text."""
  deepest = level = 0
  for sign in text:
    level += (sign in OPEN_BRACKETS) - (sign in CLOSE_BRACKETS)
    deepest = max(deepest, level)
  return deepest


def split_outside(text: str, separator: re.Pattern[str]) -> list[str]:
  """Splits a text at the separators outside of brackets."""
  pieces, start, level = [], 0, 0
  at = iter(separator.finditer(text))
  found = next(at, None)
  for index, sign in enumerate(text):
    while found is not None and found.start() < index:
      found = next(at, None)
    if found is not None and found.start() == index and level == 0 and index >= start:
      pieces.append(text[start:index])
      start = found.end()
    level += (sign in OPEN_BRACKETS) - (sign in CLOSE_BRACKETS)
  return [*pieces, text[start:]]


def iter_outside(text: str) -> Iterator[tuple[bool, str]]:
  """Yields (outside, piece): the text in pieces, and whether each is outside of all brackets."""
  start = index = 0
  while index < len(text):
    end = find_closing(text, index) if text[index] in OPEN_BRACKETS else -1
    if end > index:
      yield True, text[start:index]
      yield False, text[index : end + 1]
      start = index = end + 1
    else:
      index += 1
  yield True, text[start:]


INVISIBLE_PATTERN = re.compile("[\u00ad\u200b-\u200f\u2060\u2061\ufeff]")

ANSWER_TAG_PATTERN = re.compile(r"<(answer|final_answer|ans)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
ANSWER_MARKER = "####"
CODE_FENCE_PATTERN = re.compile(r"```[a-z]*\s*\n(.*)\n\s*```|```(.*)```", re.DOTALL)
QUOTE_PAIRS = (
  ("\\(", "\\)"),
  ("\\[", "\\]"),
  ("***", "***"),
  ("**", "**"),
  ("_", "_"),
  ("`", "`"),
  ('"', '"'),
  ("'", "'"),
)
BOLD_PATTERN = re.compile(r"(?<![\w)\]}*])\*\*(?![\s*])([^*]+?)(?<!\s)\*\*(?![\w(*])")
HEADING_PATTERN = re.compile(r"^#{1,3}\s+(?=\S)")
TEXT_COMMAND_PATTERN = re.compile(r"\\(?:text|mathrm|textbf)\s*\{([^{}]*)\}\s*(?=\S)")
BOX_PATTERN = re.compile(r"\\(?:boxed|fbox)\s*\{")
LIST_PATTERN = re.compile(r"[=,;&]|\b(?:and|or)\b")  # between boxes: they are several values
BARE_BOX_PATTERN = re.compile(r"\\(?:boxed|fbox)\s*(-?\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z]))")

SO_PATTERN = (
  r"(?:(?:so|thus|hence|therefore|then|finally|consequently|in conclusion)\b[\s,:]*|[∴\s]*\\therefore\b\s*|∴\s*)"
)
IS_PATTERN = r"(?:(?:is|are|was|equals)\b\s*:?|:|=)"
#: phrases that announce the answer
ANSWER_PHRASE_PATTERN = re.compile(
  rf"\W{{0,3}}{SO_PATTERN}?\W{{0,3}}(?:i (?:think|believe) (?:that )?)?"
  r"(?:(?:the|my|our)\s+)?(?:(?:final|correct|right)\s+)?"
  rf"(?:(?:answer|result|solution)s?(?:\s+set)?\s*\W{{0,2}}(?:{IS_PATTERN})|answer\s+(?=[-+\d\\$(]))"
  r"(?:\s*(?:therefore|thus|simply|just|exactly|equal to)\b)?\s*"
  r"|(?:因此|所以|故|则)?\s*[,，]?\s*(?:我的)?(?:最终|最后|正确)?的?答案\s*(?:是|为|[:：=])\s*[:：]?\s*",
  re.IGNORECASE,
)
WORD_PATTERN = r"\\?[A-Za-z]+(?:_\{?\w+\}?)?"
#: phrases that lead to a value without calling it the answer
LEAD_IN_PATTERN = re.compile(
  rf"{SO_PATTERN}?(?:(?:we|i|you|one)\s+(?:can\s+)?(?:get|got|have|find|found|obtain|conclude|see|know|deduce)(?:\s+that)?"
  r"|it\s+follows\s+that|this\s+(?:gives|yields|means)(?:\s+that)?|there\s+(?:are|is)"
  rf"|(?:it|this|that|the(?:\s+{WORD_PATTERN}){{1,8}}?)\s+(?:is|are|equals|was)\b)\s*"
  rf"|{SO_PATTERN}(?=\S)|(?:=|≈|\\approx(?![a-z])|(?:approximately|about|roughly|exactly|equal\s+to|equals)\b)\s*",
  re.IGNORECASE,
)
#: words in a lead-in after which the value belongs to something else
NEGATED_LEAD_IN_PATTERN = re.compile(
  r"\b(?:not|never|no|wrong|incorrect|false|opposite|reciprocal|inverse|negation|negative|twice|half"
  r"|(?:square|cube)(?:\s+root)?\s+of)\b",
  re.IGNORECASE,
)
FILLER_PATTERN = re.compile(r"^(?:equal to|exactly|simply|just)\s+", re.IGNORECASE)


def remove_invisible_chars(text: str) -> str:
  """The text without invisible characters: zero-width spaces, joiners and marks, soft hyphens."""
  return INVISIBLE_PATTERN.sub("", text).replace("\u2062", r"\cdot ")


def extract_answer(text: str) -> str:
  """The stated answer: in a tag, after "####", in a box, emphasised, or after "the answer is"."""
  for _ in range(8):
    bare = _strip_markup(text)
    if bare == text:
      break
    text = bare
  return text


def strip_lead_in(text: str) -> str:
  """The stated answer, also without a lead-in such as "so x is" and without dollar signs."""
  for _ in range(8):
    bare = _strip_phrase(extract_answer(text))
    if bare == text:
      break
    text = bare
  return text


def _strip_markup(text: str) -> str:
  """The text without its outermost markup."""
  text = text.strip().rstrip(".,;。").strip()
  if len(tagged := ANSWER_TAG_PATTERN.findall(text)) == 1:
    return tagged[0][1]
  if text.count(ANSWER_MARKER) == 1 and (after := text.partition(ANSWER_MARKER)[2].strip()):
    return after
  if BOX_PATTERN.search(text) or BARE_BOX_PATTERN.search(text):
    return _unbox(BARE_BOX_PATTERN.sub(r"\\boxed{\1}", text))
  if fence := CODE_FENCE_PATTERN.fullmatch(text):
    return fence[1] or fence[2] or ""
  for left, right in QUOTE_PAIRS:
    inner = text[len(left) : -len(right)]
    if len(text) > len(left + right) and text.startswith(left) and text.endswith(right) and left not in inner:
      return inner
  text = HEADING_PATTERN.sub("", BOLD_PATTERN.sub(r"\1", text))
  words = TEXT_COMMAND_PATTERN.match(text)
  if words and ANSWER_PHRASE_PATTERN.fullmatch(words[1].strip()):
    return text[words.end() :]
  lines = text.rsplit("\n", 1)
  if len(lines) == 2 and ANSWER_PHRASE_PATTERN.match(lines[1]):
    return lines[1]
  found = ANSWER_PHRASE_PATTERN.match(text)
  return text[found.end() :] if found else text


def _strip_phrase(text: str) -> str:
  found = LEAD_IN_PATTERN.match(text)
  if found and not NEGATED_LEAD_IN_PATTERN.search(found[0]):
    return FILLER_PATTERN.sub("", text[found.end() :])
  bare = re.sub(r"\\[()]", " ", text)
  dollars = len(re.findall(r"(?<!\\)\$", bare))
  return re.sub(r"(?<!\\)\$+", " " if dollars % 2 == 0 else r"\\$", bare).strip()


def _unbox(text: str) -> str:
  """The content of a box, alone or repeated; of several boxes all contents and the text between them."""
  boxes, rest = [], text
  while found := BOX_PATTERN.search(rest):
    end = find_closing(rest, found.end() - 1)
    boxes.append(rest[found.end() :] if end < 0 else rest[found.end() : end])
    rest = rest[: found.start()] + boxes[-1] + (rest[end + 1 :] if end >= 0 else "")
  again = len({*boxes}) == 1 and not LIST_PATTERN.search(text.replace(boxes[0], ""))
  return boxes[-1] if len(boxes) == 1 or again else rest


CURRENCY_SIGN = "¤"

UNICODE_TO_LATEX = str.maketrans(
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
SUPERSCRIPT_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ", "0123456789-n")
SUBSCRIPT_DIGITS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

FUNCTION_NAMES = "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh log ln exp max min gcd".split()
INVERSE_FUNCTIONS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
GREEK_LETTERS = "pi theta alpha beta gamma lambda phi omega".split()

COMMAND_END = r"(?![a-zA-Z])"
#: one spelling for each thing, in this order
SPELLING_RULES = [
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    (r",\\!\s*", ","),
    (r"\{,\}", ","),
    (r"(?<=\d)\\[, ](?=\d{3}(?!\d))", ""),
    (r"\\\$", CURRENCY_SIGN),
    (rf"\\(?:left|right|middle|displaystyle|textstyle|limits|[bB]igg?[lr]?){COMMAND_END}\.?", ""),
    (rf"(?<!\\)\\[!,;:> ]|\\(?:quad|qquad){COMMAND_END}|~|[\u00a0\u2009\u202f]", " "),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\[dt]binom", r"\\binom"),
    (r"\\operatorname\*", r"\\operatorname"),
    (
      r"\\(?:operatorname|math(?:rm|bf|it|sf)|text(?:bf|it|rm|normal|sf)|[mh]box|boldsymbol|bm|unit)\s*(?=\{)",
      r"\\text",
    ),
    (r"\\text\s*\{\s*([A-Za-z]|\d+)\s*\}", r"\1"),
    (rf"\\text\s*\{{\s*({'|'.join([*FUNCTION_NAMES, *INVERSE_FUNCTIONS])})\s*\}}", r" \1 "),
    (r"\\text\s*\{\s*,?\s*(and|or)\s*\}", r" \1 "),
    (rf"\\leq?(?:slant)?{COMMAND_END}|<=", r"\\le "),
    (rf"\\geq?(?:slant)?{COMMAND_END}|>=", r"\\ge "),
    (rf"\\neq?{COMMAND_END}|!=", r"\\ne "),
    (rf"\\lt{COMMAND_END}", "<"),
    (rf"\\gt{COMMAND_END}", ">"),
    (rf"\\(?:times|cdot|ast){COMMAND_END}", r"\\cdot "),
    (rf"\\div{COMMAND_END}", "/"),
    (rf"\^\s*(?:\\circ{COMMAND_END}|\{{\s*\\circ\s*\}})|\\(?:text)?degrees?{COMMAND_END}", r"\\degree "),
    (rf"\\(?:lbrace{COMMAND_END}|\{{)", SET_LEFT),
    (rf"\\(?:rbrace{COMMAND_END}|\}})", SET_RIGHT),
    (rf"\\langle{COMMAND_END}", "("),
    (rf"\\rangle{COMMAND_END}", ")"),
    (rf"\\(?:[lr]?vert|mid){COMMAND_END}", "|"),
    (r"\\%", "%"),
    (r"\\\|", "|"),
    (rf"\\colon{COMMAND_END}", ":"),
    (r":\s*=", "="),
    (rf"\\(?:underline(?=\s*\{{)|bf{COMMAND_END}|rm{COMMAND_END})", " "),
    (r"\b(?:negative|minus) infinity\b", "-infinity"),
    (r"\bpositive infinity\b", "infinity"),
    (r"(?<![\w.])(?:np|numpy|sp|sympy|math|mpmath|fractions)\.(?=[A-Za-z])", ""),
    (r"\*\*", "^"),
    (
      r"\{(\d+) ?\\choose ?(\d+)\}|(?<![\w.])(\d+) choose (\d+)",
      lambda n: r"\binom{{{}}}{{{}}}".format(*filter(None, n.groups())),
    ),
    (r"(?<=\d)[jJ]\b", "i"),
    (rf"(?<![\\A-Za-z])(?:infinity|infty|inf|oo){COMMAND_END}", r"\\infty "),
    (r"\s+", " "),
    (r"(?<![\w.,])(?<![\d.] )[1-9]\d{0,2}(?: \d{3})+(?!\d|\s*/|\s*\\frac)", lambda n: n[0].replace(" ", "")),
  )
]
ARGUMENT_COUNTS = {"frac": 2, "binom": 2, "sqrt": 1}
MAX_ARGUMENT_DEPTH = 12
UNBRACED_PATTERN = re.compile(
  r"\\(?P<command>frac|binom)(?![A-Za-z])\s*|\\sqrt(?![A-Za-z])\s*(?:\[[^\[\]]*\])?\s*(?![(\s])"
  r"|\^\s*(?=\\(?:frac|sqrt|binom|pi|theta|alpha|beta|lambda|phi|omega)(?![A-Za-z]))|_\s*(?=[A-Za-z\d])"
)
ARGUMENT_PATTERN = re.compile(r"\\(?P<command>[A-Za-z]+)(?:\[[^\[\]]*\])?|[A-Za-z\d]")
WHOLE_ARGUMENT_PATTERN = re.compile(r"\\(?P<command>[A-Za-z]+)(?:\[[^\[\]]*\])?|\d+|[A-Za-z]")
EMPTY_SET_PATTERN = re.compile(
  rf"\\(?:emptyset|varnothing)|{SET_LEFT}\s*{SET_RIGHT}|\{{\s*\}}"
  r"|(?:(?:has|have)\s+)?no\s+solutions?(?:\s+exists?)?|(?:the\s+)?empty\s+set"
  r"|\\text\s*\{\s*(?:no\s+solutions?|(?:the\s+)?empty\s+set)\s*\.?\s*\}",
  re.IGNORECASE,
)
ASSIGNMENT_LINE_PATTERN = re.compile(r"[A-Za-z](?:_\w+)?\s*=\s*[^=]+")
THOUSANDS_PATTERN = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def normalise_math_text(text: str) -> str:
  """An answer with one spelling for each symbol, and without dollars, box, emphasis or "the answer is"."""
  text = remove_invisible_chars(text).translate(UNICODE_TO_LATEX)
  text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ]+", lambda run: f"^{{{run[0].translate(SUPERSCRIPT_DIGITS)}}}", text)
  text = re.sub("[₀-₉]+", lambda run: f"_{{{run[0].translate(SUBSCRIPT_DIGITS)}}}", text)
  text = strip_lead_in(unicodedata.normalize("NFKC", text))
  text = _single_backslashes(text)
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  if len(lines) > 1 and all(map(ASSIGNMENT_LINE_PATTERN.fullmatch, lines)):
    text = ", ".join(lines)
  for pattern, replacement in SPELLING_RULES:
    text = pattern.sub(replacement, text)
  text = _add_braces(text.strip())
  return r"\emptyset" if EMPTY_SET_PATTERN.fullmatch(text) else text


def _single_backslashes(text: str) -> str:
  """Commands whose backslash was escaped, as a JSON or Python string shows them; rows of a matrix end with two."""
  if "\\\\begin" in text or "\\begin" not in text:
    return re.sub(r"\\\\(?=[A-Za-z\\(){}\[\],;!%$ ])", r"\\", text)
  return text


def _add_braces(text: str, level: int = 0) -> str:
  r"""Puts braces around arguments that TeX takes without: \frac12, \frac\pi4, \sqrt2, x^\frac14, a_n."""
  made, at = [], 0
  for found in UNBRACED_PATTERN.finditer(text):
    if found.start() < at or level > MAX_ARGUMENT_DEPTH:
      continue
    made.append(text[at : found.end()].rstrip())
    at = found.end()
    for _ in range(ARGUMENT_COUNTS.get(found["command"] or "", 1)):
      argument, end = _argument(text, at, level, numbers=not found["command"])
      if argument is None:
        break
      made.append(f"{{{argument}}}")
      at = end
  return "".join((*made, text[at:]))


def _argument(text: str, at: int, level: int, *, numbers: bool) -> tuple[str | None, int]:
  """The TeX argument that starts at `at`, and its end; with `numbers`, a whole number counts as one."""
  at += len(text[at:]) - len(text[at:].lstrip())
  if text.startswith("{", at):
    end = find_closing(text, at)
    return (None, at) if end < 0 else (_add_braces(text[at + 1 : end], level + 1), end + 1)
  found = (WHOLE_ARGUMENT_PATTERN if numbers else ARGUMENT_PATTERN).match(text, at)
  if found is None:
    return None, at
  argument, at = found[0], found.end()
  for _ in range(ARGUMENT_COUNTS.get(found["command"] or "", 0)):
    inner, at = _argument(text, at, level + 1, numbers=False) if level < MAX_ARGUMENT_DEPTH else (None, at)
    if inner is None:
      return None, at
    argument += f"{{{inner}}}"
  return argument, at


def join_thousands(text: str) -> str:
  """1,234 as 1234, outside of brackets only: (100,101) are two numbers."""
  pieces = iter_outside(text)
  return "".join(
    THOUSANDS_PATTERN.sub(lambda n: n[0].replace(",", ""), piece) if out else piece for out, piece in pieces
  )


def remove_redundant_spaces(text: str) -> str:
  """The text without spaces that separate nothing."""
  return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", re.sub(r"\s+", " ", text.strip()))


def normalise_name(text: str) -> str:
  """A name in small letters and digits, without articles, \\text and punctuation."""
  bare = re.sub(r"\\text\b|[^\w\s]|_", " ", text).lower()
  return " ".join(word for word in bare.split() if word not in {"a", "an", "the", "option"} or len(bare.split()) == 1)
