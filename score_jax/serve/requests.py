"""What a client may ask of the server: the body of POST /v1/chat/completions, checked.

A field that would change the reply and is not known here is refused, never passed over; so are values that cannot be
served (several choices, penalties, tools, a JSON schema). Fields that change nothing (user, metadata, …) are passed
over, and so is any field whose value is null or asks for what is done anyway: clients hand back whole messages
(`message.model_dump()`), and libraries send their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

#: fields that a client may send and that change nothing
IGNORED_FIELDS = frozenset(("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"))

#: fields that are not served -> the values that ask for nothing
NEUTRAL_VALUES: Mapping[str, Sequence[Any]] = {
  "tool_choice": ("none", "auto"),
  "parallel_tool_calls": (True, False),
  "functions": ([],),
  "function_call": ("none", "auto"),
  "logit_bias": ({},),
  "modalities": (["text"],),
  "skip_special_tokens": (False,),  # they are always text here
  "add_generation_prompt": (True,),
  "continue_final_message": (False,),
  "ignore_eos": (False,),
  "echo": (False,),
  "min_p": (0,),
  "min_tokens": (0,),
  "length_penalty": (1,),
  "best_of": (1,),
  "use_beam_search": (False,),
  "stop_token_ids": ([],),
  "tool_calls": ([],),  # of a message
  "annotations": ([],),  # of a message
}


class BadRequest(Exception):
  """What the client asks cannot be served. `field`: which of its fields is at fault; empty for the whole."""

  def __init__(self, message: str, field: str = ""):
    super().__init__(message)
    self.field = field


class _Strict(BaseModel):
  model_config = ConfigDict(extra="forbid")

  @model_validator(mode="before")
  @classmethod
  def _without_what_asks_for_nothing(cls, data: Any) -> Any:
    if not isinstance(data, Mapping):
      return data
    return {
      name: value for name, value in data.items() if name in cls.model_fields or not _asks_for_nothing(name, value)
    }


def _asks_for_nothing(name: str, value: Any) -> bool:
  return value is None or value in NEUTRAL_VALUES.get(name, ())


class _Part(_Strict):
  type: Literal["text"]
  text: str


def _joined(content: Any) -> Any:
  """Content in parts as one text; what is of another shape is left to be refused."""
  if isinstance(content, list):
    return "".join(_Part.model_validate(part).text for part in content)
  return content


class RequestMessage(_Strict):
  role: Literal["system", "developer", "user", "assistant", "tool"]
  content: Annotated[str | None, BeforeValidator(_joined)] = None
  name: str | None = None  # of OpenAI's; templates do not show it
  tool_call_id: str | None = None  # the same
  refusal: None = None  # in what the client hands back of an earlier reply

  @model_validator(mode="after")
  def _says_something(self) -> Self:
    if self.content is None and self.role != "assistant":
      raise ValueError("content is missing")
    return self

  @property
  def shown(self) -> dict[str, str]:
    """As the chat template takes it: `developer` is OpenAI's newer name of `system`."""
    return {"role": "system" if self.role == "developer" else self.role, "content": self.content or ""}


class _Format(_Strict):
  type: Literal["text"]  # a model here cannot be held to a form


class _StreamOptions(_Strict):
  include_usage: bool = False


class ChatCompletionRequest(_Strict):
  """The fields that are served; None and the like mean the server's default."""

  model: str
  messages: list[RequestMessage] = Field(min_length=1)
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
  chat_template_kwargs: dict[str, Any] | None = None  # not of OpenAI's: switches of the model's chat template

  @property
  def limit(self) -> int | None:
    """The most tokens of the reply."""
    return self.max_completion_tokens or self.max_tokens

  @property
  def stops(self) -> tuple[str, ...]:
    """Texts that end the reply."""
    return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def parse_request(data: Any) -> ChatCompletionRequest:
  """The body of a request.

  Raises:
    BadRequest: it is none, or cannot be served.
  """
  if not isinstance(data, Mapping):
    raise BadRequest("the body is no JSON object")
  try:
    body = ChatCompletionRequest.model_validate(
      {name: value for name, value in data.items() if name not in IGNORED_FIELDS}
    )
  except ValidationError as error:
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "body"
    raise BadRequest(f"{field}: {first['msg']}, not {str(first['input'])[:80]!r}", field) from None
  if not all(body.stops):
    raise BadRequest("stop: a stop sequence needs at least one character", "stop")
  return body
