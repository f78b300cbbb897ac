"""The one JSON object that a model's reply is, whatever thinking stands before it and however it is dressed.

Taken: `{…}`, alone or in one fence of backticks; before it a byte order mark, and thinking that `</think>` ends,
whether the model wrote `<think>` or its chat template did. Raw line breaks within strings are taken too, as "\\n". All
else is refused: prose beside the object, two objects, a field that stands twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from score_jax.text import sound_data

OPEN, CLOSE = "<think>", "</think>"
_FENCED = re.compile(r"```(?:json)?(.*)```", re.DOTALL | re.IGNORECASE)
_SPACE = " \t\r\n\ufeff"  # a byte order mark is one of the things that may surround a reply


def one_object(reply: str) -> Any:
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
      return sound_data(json.loads(body, object_pairs_hook=_once, parse_constant=_no_number, strict=False))
    except (ValueError, RecursionError) as error:
      why = error
  raise ValueError(str(why)) from why


def spoken(reply: str) -> str:
  """A reply without the thinking before it, for whoever is shown it again; empty where it never got beyond that."""
  text = reply.strip(_SPACE)
  if text.startswith(OPEN):
    return text.partition(CLOSE)[2].strip(_SPACE)
  return text


def _candidates(text: str) -> Iterator[str]:
  """What may be the reply proper: all of it, unless thinking begins it, and what follows each end of thinking.

  Raises:
    ValueError: thinking has begun, and never ends.
  """
  ends = [found.end() for found in re.finditer(CLOSE, text)]
  if not text.startswith(OPEN):
    yield text
  elif not ends:
    raise ValueError(f"its thinking has no {CLOSE}, and nothing follows it; think less, and end with the object")
  for end in ends:
    rest = text[end:].strip(_SPACE)
    if rest.startswith(("{", "```")):
      yield rest
    elif end == ends[-1]:
      raise ValueError(f"no object follows {CLOSE}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  made = dict(pairs)
  if len(made) != len(pairs):
    raise ValueError("a field stands twice")
  return made


def _no_number(name: str) -> NoReturn:
  raise ValueError(f"{name} is no JSON")
