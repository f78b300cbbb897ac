"""What a client may ask of the server: the body of POST /v1/chat/completions, checked.

A field that would change the reply and is not known here is refused, never passed over; so are values that cannot be
served (several choices, penalties, tools, a JSON schema). Fields that change nothing (user, metadata, …) are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

#: fields that a client may send and that change nothing
IDLE = frozenset(("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"))


class BadRequest(Exception):
  """What the client asks cannot be served. `field`: which of its fields is at fault; empty for the whole."""

  def __init__(self, message: str, field: str = ""):
    super().__init__(message)
    self.field = field


class _Strict(BaseModel):
  model_config = ConfigDict(extra="forbid")


class _Part(_Strict):
  type: Literal["text"]
  text: str


def _joined(content: Any) -> Any:
  """Content in parts as one text; what is of another shape is left to be refused."""
  if isinstance(content, list):
    return "".join(_Part.model_validate(part).text for part in content)
  return content


class Message(_Strict):
  role: Literal["system", "user", "assistant", "tool"]
  content: Annotated[str, BeforeValidator(_joined)]
  name: str | None = None  # of OpenAI's; templates do not show it
  refusal: None = None  # in what the client hands back of an earlier reply


class _Format(_Strict):
  type: Literal["text"]  # a model here cannot be held to a form


class _StreamOptions(_Strict):
  include_usage: bool = False


class Body(_Strict):
  """The fields that are served; None and the like mean the server's default."""

  model: str
  messages: list[Message] = Field(min_length=1)
  temperature: float | None = Field(None, ge=0.0, le=2.0)
  top_p: float | None = Field(None, gt=0.0, le=1.0)
  top_k: int | None = Field(None, ge=0)  # not of OpenAI's: 0: all
  repetition_penalty: float | None = Field(None, gt=0.0)  # not of OpenAI's
  max_tokens: int | None = Field(None, ge=1)
  max_completion_tokens: int | None = Field(None, ge=1)
  seed: int | None = None
  stop: str | list[str] | None = None
  stream: bool | None = None
  stream_options: _StreamOptions | None = None
  logprobs: bool | None = None
  top_logprobs: Literal[0] | None = None
  n: Literal[1] | None = None
  presence_penalty: Annotated[float | None, Field(ge=0.0, le=0.0)] = None
  frequency_penalty: Annotated[float | None, Field(ge=0.0, le=0.0)] = None
  response_format: _Format | None = None
  tools: Annotated[list[Any] | None, Field(max_length=0)] = None

  @property
  def limit(self) -> int | None:
    """The most tokens of the reply."""
    return self.max_completion_tokens or self.max_tokens

  @property
  def stops(self) -> tuple[str, ...]:
    """Texts that end the reply."""
    return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def checked(data: Any) -> Body:
  """The body of a request.

  Raises:
    BadRequest: it is none, or cannot be served.
  """
  if not isinstance(data, Mapping):
    raise BadRequest("the body is no JSON object")
  try:
    body = Body.model_validate({name: value for name, value in data.items() if name not in IDLE})
  except ValidationError as error:
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "body"
    raise BadRequest(f"{field}: {first['msg']}, not {str(first['input'])[:80]!r}", field) from None
  if not all(body.stops):
    raise BadRequest("stop: a stop sequence needs at least one character", "stop")
  return body
