"""When two short texts are one but for their dress: capitals, quotes, full stops, spaces; never a sign of mathematics.

"paris." is Paris and “北京大学”。 is 北京大学, but 12 is not 1/2, 1.2, 1-2, 1 2 or 12%, and [0,1) is not (0,1].
"""

from __future__ import annotations

import re
import unicodedata

from score_jax.tasks.math_dress import visible

CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
#: superscripts and the like, which NFKC would make plain digits: 10³ is not 103
COMPOSED = re.compile("[^\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209f\u2150-\u218b\u2460-\u24ff]+")
RULES = [
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    ("[“”„«»「」『』《》〈〉]", ""),
    ("[‘’`´]", "'"),
    ("[‐‑–—−]", "-"),
    (r"\s+", " "),
    (rf"(?<=[{CJK}])\s+|\s+(?=[{CJK}])", ""),
    (rf"(?<=[{CJK}])[,.;:!?、。·・'\"](?=[{CJK}])", ""),
    (r"(?<![\w.])((?:[a-z]\.){2,})", lambda found: found[1].replace(".", "")),  # u.s.a.
    (r"(?<=[a-z])\.(?= |$)", ""),
    (r"(?<=[a-z]{3})[,;:](?= )|[,;:](?= [a-z]{3})", ""),  # between words; 1, 2 and x, y are lists
    (r"(?<=[a-z])_\{?([a-z0-9])\}?(?![a-z0-9])", r"\1"),
  )
]
END = re.compile(rf"(?:[.,;:?。、]|(?<=[a-z]{{3}})!|(?<=[{CJK}])[!~])+$")
PAIRS = (('"', '"'), ("'", "'"), ("**", "**"), ("*", "*"), ("$", "$"))
QUOTED = re.compile(r"(?<![\w'])\"(?=\w)([^\"]*[a-z])\"(?!\w)")


def normalised(text: str) -> str:
  """What is compared of a text."""
  text = COMPOSED.sub(lambda run: unicodedata.normalize("NFKC", run[0]), visible(text)).lower().strip()
  text = _bare(text)
  for pattern, replacement in RULES:
    text = pattern.sub(replacement, text)
  return _bare(QUOTED.sub(r"\1", text))


def _bare(text: str) -> str:
  """Without the full stop at its end and the quotes around it."""
  for _ in range(4):
    text = END.sub("", text.strip()).strip()
    for left, right in PAIRS:
      inner = text[len(left) : -len(right)]
      if text.startswith(left) and text.endswith(right) and inner.strip() and left not in inner:
        text = inner
  return text
