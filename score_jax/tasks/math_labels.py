r"""What stands left of an equals sign and only says what the value is of: x, f(2), P(A), AB, \angle ABC, total, a/b.

2x, x^2 and x+3 are no such labels: who answers 2x = 2 has not said that the answer is 2.
"""

from __future__ import annotations

import re

from score_jax.tasks.brackets import closing
from score_jax.tasks.math_text import FUNCTIONS

LETTER = r"(?:[A-Za-z]|\\(?:theta|alpha|beta|gamma|delta|lambda|mu|rho|sigma|phi|varphi|omega)(?![a-z]))"
NAME = rf"{LETTER}(?:_\{{?\w+\}}?|')?(?:\s*\(\s*[A-Za-z]\s*\))?"
CALLED = re.compile(
  r"(?:[fghpqPFGHEASVNTRQLCDKM]|\\(?:varphi|phi|mu|sigma|Pr|mathbb\s*\{[EP]\}|mathrm\s*\{[EP]\})|[A-Za-z]{2,})"
  r"(?:_\{\w+\})?'*(?:\^\{-1\}|\^-1)?\s*[(\[]"
)
MARKS = re.compile(r"\\(?:m?angle|overline|triangle|widehat|hat|bar|vec|overrightarrow|text)(?![A-Za-z])")
SUBSCRIPT = re.compile(r"_\{[^{}]*\}")
RATIO = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc|det|deg|dim)(?![A-Za-z])")
GREEK_LETTER = re.compile(r"\\(?:theta|alpha|beta|gamma|delta|lambda|mu|rho|sigma|phi|varphi|omega)(?![A-Za-z])")
OPERATIONS = re.compile(rf"{RATIO.pattern}|\\(?:frac|cdot)(?![A-Za-z])")
SIGNS = re.compile(r"[A-Za-z{}()\[\]|+\-*/: ',]+")
ALIKE = {"sqrt", "cbrt", "root", "abs", "max", "min", "gcd", *FUNCTIONS}


def is_name(side: str) -> bool:
  """Whether it is one variable or function, one segment or angle, or words: there is one value of it."""
  if re.fullmatch(NAME, side):
    return True
  called = CALLED.match(side)
  if called and called[0].rstrip("([ ") not in ALIKE and closing(side, called.end() - 1) == len(side) - 1:
    return True
  if ALIKE & set(re.findall("[A-Za-z]+", side)):
    return False
  bare = SUBSCRIPT.sub("", MARKS.sub(" ", side)).strip()
  return re.fullmatch(r"[{|(\[]*\s*(?:[A-Z]+|[A-Za-z ]{3,}(?<! ))\s*[}|)\]]*", bare) is not None and bare != ""


def is_label(side: str) -> bool:
  """Whether it is a name, or variables of which there are several, added, multiplied or divided."""
  if is_name(side):
    return True
  bare = SUBSCRIPT.sub("", OPERATIONS.sub(" ", GREEK_LETTER.sub(" z ", MARKS.sub(" ", side))))
  letters = re.findall("[A-Za-z]+", bare)
  several = len({letter for run in letters for letter in run}) > 1 or RATIO.search(side) is not None
  return SIGNS.fullmatch(bare) is not None and several and not ALIKE & {*letters}
