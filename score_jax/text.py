"""Makes text from outside valid Unicode: U+FFFD, the replacement character, replaces what UTF-8 cannot encode.

JSON allows halves of surrogate pairs ("\\ud800"), and Python turns invalid bytes of a command line into such halves.
Tokenizers, SQLite and files raise on them, far from where they came in.
"""

from __future__ import annotations

import io
import json
import re
import sys
from typing import Any

_HALF = re.compile("[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def replace_surrogates(text: str) -> str:
  """The text with each half of a surrogate pair replaced; two halves that belong together become their character."""
  if _HALF.search(text) is None:
    return text
  return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def replace_surrogates_in_json(value: Any) -> Any:
  """JSON data with every text valid, keys too."""
  if isinstance(value, str):
    return replace_surrogates(value)
  if isinstance(value, list):
    return [replace_surrogates_in_json(one) for one in value]
  if isinstance(value, dict):
    return {replace_surrogates(name): replace_surrogates_in_json(one) for name, one in value.items()}
  return value


def parse_json(text: str) -> Any:
  """`json.loads` with every text valid.

  Raises:
    ValueError: the text is not JSON.
  """
  data = json.loads(text)
  return replace_surrogates_in_json(data) if _HALF.search(text) or _ESCAPED_HALF.search(text) else data


def escape_unencodable_output() -> None:
  """Makes `print` escape characters that the terminal cannot encode; under LC_ALL=C it would raise."""
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")
