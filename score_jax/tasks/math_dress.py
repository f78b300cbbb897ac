r"""What only dresses an answer, taken off: boxes, dollars, emphasis, tags, "the answer is", the work before "####".

Of two answers in such dress none is chosen: they are left as they stand, for the graders to find two.
"""

from __future__ import annotations

import re

from score_jax.tasks.brackets import closing

INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\u2061\ufeff]")

TAGGED = re.compile(r"<(answer|final_answer|ans)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
MARKED = "####"
FENCE = re.compile(r"```[a-z]*\s*\n(.*)\n\s*```|```(.*)```", re.DOTALL)
PAIRS = (("\\(", "\\)"), ("\\[", "\\]"), ("***", "***"), ("**", "**"), ("_", "_"), ("`", "`"), ('"', '"'), ("'", "'"))
BOLD = re.compile(r"(?<![\w)\]}*])\*\*(?![\s*])([^*]+?)(?<!\s)\*\*(?![\w(*])")
HEADING = re.compile(r"^#{1,3}\s+(?=\S)")
WORDS = re.compile(r"\\(?:text|mathrm|textbf)\s*\{([^{}]*)\}\s*(?=\S)")
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
LISTED = re.compile(r"[=,;&]|\b(?:and|or)\b")  # between boxes: they are several values
BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s*(-?\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z]))")

SO = r"(?:(?:so|thus|hence|therefore|then|finally|consequently|in conclusion)\b[\s,:]*|[∴\s]*\\therefore\b\s*|∴\s*)"
IS = r"(?:(?:is|are|was|equals)\b\s*:?|:|=)"
#: what says that the answer follows
ANSWER = re.compile(
  rf"\W{{0,3}}{SO}?\W{{0,3}}(?:i (?:think|believe) (?:that )?)?(?:(?:the|my|our)\s+)?(?:(?:final|correct|right)\s+)?"
  rf"(?:(?:answer|result|solution)s?(?:\s+set)?\s*\W{{0,2}}(?:{IS})|answer\s+(?=[-+\d\\$(]))"
  r"(?:\s*(?:therefore|thus|simply|just|exactly|equal to)\b)?\s*"
  r"|(?:因此|所以|故|则)?\s*[,，]?\s*(?:我的)?(?:最终|最后|正确)?的?答案\s*(?:是|为|[:：=])\s*[:：]?\s*",
  re.IGNORECASE,
)
WORD = r"\\?[A-Za-z]+(?:_\{?\w+\}?)?"
#: what leads to a value without naming it the answer
LEAD = re.compile(
  rf"{SO}?(?:(?:we|i|you|one)\s+(?:can\s+)?(?:get|got|have|find|found|obtain|conclude|see|know|deduce)(?:\s+that)?"
  r"|it\s+follows\s+that|this\s+(?:gives|yields|means)(?:\s+that)?|there\s+(?:are|is)"
  rf"|(?:it|this|that|the(?:\s+{WORD}){{1,8}}?)\s+(?:is|are|equals|was)\b)\s*"
  rf"|{SO}(?=\S)|(?:=|≈|\\approx(?![a-z])|(?:approximately|about|roughly|exactly|equal\s+to|equals)\b)\s*",
  re.IGNORECASE,
)
#: words in such a lead after which the value is another thing's
OTHERWISE = re.compile(
  r"\b(?:not|never|no|wrong|incorrect|false|opposite|reciprocal|inverse|negation|negative|twice|half"
  r"|(?:square|cube)(?:\s+root)?\s+of)\b",
  re.IGNORECASE,
)
FILLER = re.compile(r"^(?:equal to|exactly|simply|just)\s+", re.IGNORECASE)


def visible(text: str) -> str:
  """The text without signs that show nothing: zero-width spaces, joiners and marks, soft hyphens."""
  return INVISIBLE.sub("", text).replace("\u2062", r"\cdot ")


def named(text: str) -> str:
  """The answer in a text that says which one it is, by a tag, "####", a box, emphasis or "the answer is"."""
  for _ in range(8):
    bare = _bare(text)
    if bare == text:
      break
    text = bare
  return text


def undressed(text: str) -> str:
  """The text without what leads to a value, too ("so x is"), and without dollars."""
  for _ in range(8):
    bare = _led(named(text))
    if bare == text:
      break
    text = bare
  return text


def _bare(text: str) -> str:
  """The text without its outermost dress."""
  text = text.strip().rstrip(".,;。").strip()
  if len(tagged := TAGGED.findall(text)) == 1:
    return tagged[0][1]
  if text.count(MARKED) == 1 and (after := text.partition(MARKED)[2].strip()):
    return after
  if BOX.search(text) or BARE_BOX.search(text):
    return _unboxed(BARE_BOX.sub(r"\\boxed{\1}", text))
  if fence := FENCE.fullmatch(text):
    return fence[1] or fence[2] or ""
  for left, right in PAIRS:
    inner = text[len(left) : -len(right)]
    if len(text) > len(left + right) and text.startswith(left) and text.endswith(right) and left not in inner:
      return inner
  text = HEADING.sub("", BOLD.sub(r"\1", text))
  words = WORDS.match(text)
  if words and ANSWER.fullmatch(words[1].strip()):
    return text[words.end() :]
  lines = text.rsplit("\n", 1)
  if len(lines) == 2 and ANSWER.match(lines[1]):
    return lines[1]
  found = ANSWER.match(text)
  return text[found.end() :] if found else text


def _led(text: str) -> str:
  found = LEAD.match(text)
  if found and not OTHERWISE.search(found[0]):
    return FILLER.sub("", text[found.end() :])
  bare = re.sub(r"\\[()]", " ", text)
  dollars = len(re.findall(r"(?<!\\)\$", bare))
  return re.sub(r"(?<!\\)\$+", " " if dollars % 2 == 0 else r"\\$", bare).strip()


def _unboxed(text: str) -> str:
  """What stands in a box that is alone, or is drawn again; of several boxes all, with what is between them."""
  boxes, rest = [], text
  while found := BOX.search(rest):
    end = closing(rest, found.end() - 1)
    boxes.append(rest[found.end() :] if end < 0 else rest[found.end() : end])
    rest = rest[: found.start()] + boxes[-1] + (rest[end + 1 :] if end >= 0 else "")
  again = len({*boxes}) == 1 and not LISTED.search(text.replace(boxes[0], ""))
  return boxes[-1] if len(boxes) == 1 or again else rest
