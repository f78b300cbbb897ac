"""How a worker and its parent talk: messages as JSON, each after its length, over a private socket.

JSON and nothing richer, since what a worker sends is only as trustworthy as the code that runs in it:
reading it can build no object and call nothing. Escapes keep every frame ASCII, lone surrogates included.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

_LENGTH = struct.Struct(">I")
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def pack_message(message: Mapping[str, Any]) -> bytes:
  """The frame of a message."""
  body = _encode(message).encode("ascii")
  return _LENGTH.pack(len(body)) + body


class InvalidMessage(Exception):
  """What came is no message, or none that may come now."""


class FrameDecoder:
  """Cuts a stream of bytes back into messages."""

  def __init__(self, *, longest: int):
    """`longest`: the most bytes that one message may have."""
    self._longest = longest
    self._buffer = bytearray()

  def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
    """The messages that are complete once `data` has come.

    Raises:
      Garbled: at the first frame that is too long, or holds no JSON object.
    """
    buffer = self._buffer
    buffer += data
    start = 0
    try:
      while len(buffer) - start >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(buffer, start)
        if length > self._longest:
          raise InvalidMessage(f"a frame of {length} bytes")
        body = start + _LENGTH.size
        if len(buffer) < body + length:
          return
        start = body + length
        yield _message(buffer[body:start])
    finally:
      del buffer[:start]


def _message(body: bytearray) -> dict[str, Any]:
  try:
    message = _decode(body.decode("ascii"))
  except (ValueError, RecursionError) as error:
    raise InvalidMessage("a frame that is no JSON") from error
  if not isinstance(message, dict):
    raise InvalidMessage("a frame that is no JSON object")
  return message
