"""A model as the judge of an answer. It may abstain.

A reply counts only if it is exactly the JSON object that the prompt asks for, after any thinking. `parse_json_reply`
accepts `{...}`, alone or in one fence of backticks, after a byte order mark or a thinking part that `</think>` ends,
whether the model or its chat template wrote `<think>`. It accepts raw line breaks within strings. It rejects prose
beside the object, two objects and repeated fields.

A judge's prompt must hold the answer as one JSON string, so that no text in it can close the data and continue as an
instruction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from score_jax.text import replace_surrogates_in_json
from score_jax.trajectory import Question

THINK_START, THINK_END = "<think>", "</think>"
_FENCED = re.compile(r"```(?:json)?(.*)```", re.DOTALL | re.IGNORECASE)
_SPACE = " \t\r\n\ufeff"  # a byte order mark may surround a reply


def parse_json_reply(reply: str) -> Any:
  """The JSON value of a reply; callers check its fields.

  Each place where thinking may end is tried, the earliest first, and the rest must be one whole JSON text. So a
  `</think>` in a string of the object cuts nothing. An object within the thinking is not the reply, because more text
  follows it.

  Raises:
    ValueError: it is not one JSON text; the message says why.
  """
  why: Exception = ValueError("it is empty")
  for text in _candidates(reply.replace("\r\n", "\n").strip(_SPACE)):
    fenced = _FENCED.fullmatch(text)
    try:
      body = fenced[1].strip(_SPACE) if fenced else text
      return replace_surrogates_in_json(
        json.loads(body, object_pairs_hook=_unique_fields, parse_constant=_reject_constant, strict=False)
      )
    except (ValueError, RecursionError) as error:
      why = error
  raise ValueError(str(why)) from why


def strip_thinking(reply: str) -> str:
  """A reply without the thinking before it; empty if the thinking never ends."""
  text = reply.strip(_SPACE)
  if text.startswith(THINK_START):
    return text.partition(THINK_END)[2].strip(_SPACE)
  return text


def _candidates(text: str) -> Iterator[str]:
  """Yields candidates for the reply proper: all of it unless thinking begins it, and the rest after each `</think>`.

  Raises:
    ValueError: the thinking never ends, or no object follows it.
  """
  ends = [found.end() for found in re.finditer(THINK_END, text)]
  if not text.startswith(THINK_START):
    yield text
  elif not ends:
    raise ValueError(f"its thinking has no {THINK_END}, and nothing follows it; think less, and end with the object")
  for end in ends:
    rest = text[end:].strip(_SPACE)
    if rest.startswith(("{", "```")):
      yield rest
    elif end == ends[-1]:
      raise ValueError(f"no object follows {THINK_END}")


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  made = dict(pairs)
  if len(made) != len(pairs):
    raise ValueError("a field stands twice")
  return made


def _reject_constant(name: str) -> NoReturn:
  raise ValueError(f"{name} is no JSON")


MAX_ASKS = 3  # attempts in all
MAX_REASON_CHARS = 300
GRADE_OF_VERDICT = {"right": 1.0, "wrong": 0.0, "abstain": None}

#: JSON schema of a reply
VERDICT_SCHEMA = {
  "type": "object",
  "properties": {"verdict": {"enum": [*GRADE_OF_VERDICT]}, "reason": {"type": "string"}},
  "required": ["verdict", "reason"],
  "additionalProperties": False,
}


class Judge:
  """Grades by asking a model for a verdict."""

  def __init__(self, ask: Callable[[str, int], str], prompt: Callable[[Question, str], str]):
    """
    Args:
      ask: returns the model's reply to (prompt, attempt 0, 1 or 2). An OSError (no connection, a time-out) makes the
        grade None.
      prompt: makes the prompt from a question and its answer.
    """
    self._ask, self._prompt = ask, prompt

  def __call__(self, question: Question, answer: str) -> tuple[float | None, str]:
    """The verdict as a grade; None if the judge abstains, cannot be reached or gives no valid reply."""
    asked = self._prompt(question, answer)
    for attempt in range(MAX_ASKS):
      try:
        found = parse_verdict(self._ask(asked, attempt))
      except OSError as error:
        return None, f"the judge cannot be reached ({' '.join(str(error).split())[:MAX_REASON_CHARS]})"
      if found is not None:
        word, reason = found
        return GRADE_OF_VERDICT[word], f"the judge says {word}: {reason}"
    return None, f"the judge did not reply in the form that was asked for, {MAX_ASKS} times"


def parse_verdict(reply: str) -> tuple[str, str] | None:
  """The verdict and the reason in a reply; None: it is not exactly the object asked for."""
  try:
    data = parse_json_reply(reply)
  except ValueError:
    return None
  if not isinstance(data, dict) or data.keys() != {"verdict", "reason"}:
    return None
  word, reason = data["verdict"], data["reason"]
  if not isinstance(word, str) or word not in GRADE_OF_VERDICT or not isinstance(reason, str):
    return None
  return word, " ".join(reason.split())[:MAX_REASON_CHARS]
