"""A chat completion as endpoints really send it: content in parts, counts that are null or missing, no finish reason.

An endpoint that does not say how many tokens a reply took is not free. They are estimated then, as a token for every
four bytes of text (English in the usual vocabularies), and the reply is marked as estimated; a budget in money counts
the most that it can have taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from score_jax.chat.interface import ChatRequest
from score_jax.trajectory import Usage

BYTES_PER_TOKEN = 4
_OVERHEAD = 16  # tokens that a template may put around a message
#: fields beside the content that hold what a model thought, which is generated and paid for too
_THOUGHT = ("reasoning_content", "reasoning")


@dataclasses.dataclass(frozen=True)
class Completion:
  """What one says.

  Attributes:
    text: None where there is no message, or one whose content is neither text nor parts.
    thought: what stands beside the content; it is no part of the reply.
    refusal: why there is no reply; empty where there is one.
    finish: "stop", "length", …; empty where it is not said.
    read, generated: tokens; None where they are not said.
  """

  text: str | None
  thought: str
  refusal: str
  finish: str
  read: int | None
  generated: int | None

  def usage(self, ask: ChatRequest) -> tuple[Usage, bool]:
    """The tokens that it took, and whether any of them are estimated."""
    read = _estimate(*(message.content for message in ask.messages)) if self.read is None else self.read
    generated = _estimate(self.text or "", self.thought) if self.generated is None else self.generated
    return Usage(generated=generated, read=read), self.read is None or self.generated is None

  def cut(self, ask: ChatRequest) -> bool:
    """Whether it ended at its limit."""
    return self.finish == "length" or (not self.finish and (self.generated or 0) >= ask.tokens)


def parse_completion(data: Any) -> Completion:
  """The first choice of a completion.

  Raises:
    ValueError: the data are no completion.
  """
  if not isinstance(data, Mapping) or not isinstance(data.get("choices"), list):
    raise ValueError("there are no choices")
  choice = _mapping(data["choices"][0]) if data["choices"] else {}
  message, usage = _mapping(choice.get("message")), _mapping(data.get("usage"))
  text, kept_back = _text(message.get("content")) if message else None, message.get("refusal")
  finish = choice.get("finish_reason")
  read, generated, total = (_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
  if read is not None and total is not None and generated is None and total >= read:
    generated = total - read
  return Completion(
    text,
    next((thought for name in _THOUGHT if isinstance(thought := message.get(name), str)), ""),
    str(kept_back or (finish == "content_filter" and finish) or ""),
    finish if isinstance(finish, str) else "",
    read,
    generated,
  )


def max_usage(ask: ChatRequest) -> Usage:
  """The most tokens that a reply to an ask can take: no token is of less than a byte."""
  return Usage(
    generated=ask.tokens, read=sum(len(m.content.encode("utf-8", "replace")) + _OVERHEAD for m in ask.messages)
  )


def _text(content: Any) -> str | None:
  """A message's content; of parts the texts, since others (thinking, audio) are no part of the reply."""
  if content is None or isinstance(content, str):
    return content or ""
  if not isinstance(content, list):
    return None
  texts = [part if isinstance(part, str) else _mapping(part).get("text") for part in content if _is_text(part)]
  whole = [text for text in texts if isinstance(text, str)]
  return "".join(whole) if len(whole) == len(texts) else None


def _is_text(part: Any) -> bool:
  return isinstance(part, str) or _mapping(part).get("type") in ("text", "output_text")


def _mapping(value: Any) -> Mapping[str, Any]:
  return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int | None:
  """A number of tokens; None where it is none, such as null or -1."""
  return int(value) if type(value) in (int, float) and value >= 0 and value == value // 1 else None


def _estimate(*texts: str) -> int:
  """Tokens of some texts."""
  return sum(-(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN) for text in texts)
