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
_SPACE = " \t\r\n\ufeff"  # a byte order mark is one of the things that may surround a reply


def parse_json_reply(reply: str) -> Any:
  """What a reply says in JSON, which callers hold to the form that they asked for.

  Each place where thinking may end is tried, the earliest first, and what follows has to be one whole JSON text. So a
  `</think>` in a string of the object cuts nothing, and an object within the thinking is not the reply: more text
  stands behind it.

  Raises:
    ValueError: it is not one JSON text; says why.
  """
  why: Exception = ValueError("it is empty")
  for text in _candidates(reply.replace("\r\n", "\n").strip(_SPACE)):
    fenced = _FENCED.fullmatch(text)
    try:
      body = fenced[1].strip(_SPACE) if fenced else text
      return replace_surrogates_in_json(
        json.loads(body, object_pairs_hook=_once, parse_constant=_no_number, strict=False)
      )
    except (ValueError, RecursionError) as error:
      why = error
  raise ValueError(str(why)) from why


def strip_thinking(reply: str) -> str:
  """A reply without the thinking before it, for whoever is shown it again; empty where it never got beyond that."""
  text = reply.strip(_SPACE)
  if text.startswith(THINK_START):
    return text.partition(THINK_END)[2].strip(_SPACE)
  return text


def _candidates(text: str) -> Iterator[str]:
  """What may be the reply proper: all of it, unless thinking begins it, and what follows each end of thinking.

  Raises:
    ValueError: thinking has begun, and never ends.
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


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  made = dict(pairs)
  if len(made) != len(pairs):
    raise ValueError("a field stands twice")
  return made


def _no_number(name: str) -> NoReturn:
  raise ValueError(f"{name} is no JSON")


MAX_ASKS = 3  # times in all
MAX_REASON_CHARS = 300  # characters
GRADE_OF_VERDICT = {"right": 1.0, "wrong": 0.0, "abstain": None}

#: JSON schema of a reply
VERDICT_SCHEMA = {
  "type": "object",
  "properties": {"verdict": {"enum": [*GRADE_OF_VERDICT]}, "reason": {"type": "string"}},
  "required": ["verdict", "reason"],
  "additionalProperties": False,
}


class Judge:
  """Grades with a model."""

  def __init__(self, ask: Callable[[str, int], str], prompt: Callable[[Question, str], str]):
    """
    Args:
      ask: gives the model's reply to a prompt, the same prompt's first, second or third (0, 1, 2); an OSError of it (no
        connection, a time-out) fails the grading.
      prompt: what the model is asked about an answer.
    """
    self._ask, self._prompt = ask, prompt

  def __call__(self, question: Question, answer: str) -> tuple[float | None, str]:
    """The verdict as a grade; None where the judge abstains, cannot be reached, or thrice replies something else."""
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
