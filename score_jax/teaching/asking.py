"""Asks a chat model for structured replies: prompt templates, reply schemas, and retries until a reply is valid.

`PromptTemplates` renders the jinja2 files of teaching/prompts/ or of the folder `teacher.prompts`. The prompts that ask
for code share tools.jinja. All data goes in by the filter `json`, as one JSON string without special tokens such
as <|im_end|>, so no data can pose as an instruction.
`ReplySchema` and its subclasses are the JSON objects that replies must be. Nothing is parsed out of prose.
`StructuredChat.ask_until_valid` asks many prompts at once. A prompt with an invalid reply is asked again with feedback,
at most MAX_ATTEMPTS times in all.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import pathlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

import jinja2
import pydantic
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from score_jax.agent.protocol import TAGS, Turn
from score_jax.chat.interface import ChatMessage, ChatModel, ChatReply, ChatRequest
from score_jax.errors import UserError
from score_jax.grading.judge import parse_json_reply, strip_thinking
from score_jax.sandbox.interface import FunctionDoc, replace_control_chars
from score_jax.sandbox.zygote import PRELOADED_MODULES
from score_jax.teaching.teacher import Finding
from score_jax.trajectory import Kind, Step, Trajectory, Usage

DEFAULT_PROMPTS_DIR = pathlib.Path(__file__).parent / "prompts"
#: modules that the code of a step may import
ALLOWED_IMPORTS = tuple(name for name in PRELOADED_MODULES if "." not in name)
#: prompt -> its variables; COMMON_VARIABLES are given to every prompt too
PROMPT_VARIABLES = {
  "solve_first_thought": {"question"},
  "solve_step": {"question", "steps", "acts_left"},
  "locate": {"question", "reference", "steps", "status"},
  "correct": {"question", "steps", "wrong", "diagnosis"},
  "correct_first_thought": {"question", "wrong", "diagnosis"},
  "judge_answer": {"question", "reference", "answer"},
  "judge_step": {"question", "steps", "first", "second"},
  "tools": set[str](),
}
#: whether web_search exists; the other functions, each with `call` and `about`; the modules that may be imported
COMMON_VARIABLES = {"search", "functions", "imports"}

_ESCAPED = re.compile("<(?=[|\uff5c/A-Za-z_])|[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def escape_special_tokens(text: str) -> str:
  """The text with everything that looks like a special token written as JSON escapes."""
  return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_quoted(value: Any) -> str:
  """The value as one line of JSON without special tokens. Any JSON reader restores the value."""
  return escape_special_tokens(json.dumps(value, ensure_ascii=False))


class PromptTemplates:
  """The prompt templates of one folder."""

  def __init__(self, folder: str = "", *, search: bool, functions: Sequence[FunctionDoc] = ()):
    """
    Args:
      folder: holds the *.jinja files; "": teaching/prompts of the package.
      search: whether code can call web_search.
      functions: the other functions that code can call.
    """
    self._folder = pathlib.Path(folder) if folder else DEFAULT_PROMPTS_DIR
    self._common = {"search": search, "functions": functions, "imports": ", ".join(ALLOWED_IMPORTS)}
    self._jinja = ImmutableSandboxedEnvironment(
      loader=jinja2.FileSystemLoader(self._folder), undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    self._jinja.filters["json"] = json_quoted
    for name, variables in PROMPT_VARIABLES.items():
      self._check(name, variables | COMMON_VARIABLES)

  def _check(self, name: str, variables: set[str]) -> None:
    """Rejects a template that is missing, has an error, or uses an unknown variable."""
    path = self._folder / f"{name}.jinja"
    try:
      parsed = self._jinja.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(
        f"{path} cannot be read ({error}); copy the folder score_jax/teaching/prompts with all its files"
      ) from error
    except jinja2.TemplateSyntaxError as error:
      raise UserError(f"{path}:{error.lineno}: {error.message}; mend the template") from error
    if unknown := sorted(meta.find_undeclared_variables(parsed) - variables):
      raise UserError(f"{path}: the variable {unknown[0]!r} is unknown; there are {', '.join(sorted(variables))}")

  def render_prompt(self, name: str, **variables: Any) -> str:
    """The text of a prompt."""
    try:
      return self._jinja.get_template(f"{name}.jinja").render(**self._common, **variables)
    except jinja2.TemplateNotFound as error:
      raise UserError(
        f"{self._folder / f'{error.name}'} is missing; copy it from score_jax/teaching/prompts"
      ) from error
    except jinja2.TemplateError as error:
      raise UserError(f"{self._folder / f'{name}.jinja'}: {error.message}; mend the template") from error


class InvalidReply(Exception):
  """A reply that is not usable.

  Attributes:
    reason: the name under which it is counted.
    feedback: sent to the model before it is asked again; "": asking again would not help.
    fallback: the result after the last attempt; None: there is none.
  """

  def __init__(self, reason: str, told: str, instead: Any = None):
    super().__init__(reason)
    self.reason, self.feedback, self.fallback = reason, told, instead


# A subclass's name and docstring become part of the JSON schema, and so of the key of a recorded chat: do not rename
# the subclasses below, and give them no docstring.
class ReplySchema(pydantic.BaseModel):
  """Exactly its fields, of exactly their types."""

  model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class FirstThought(ReplySchema):
  thought: str


class Act(ReplySchema):
  thought: str
  code: str


class Location(ReplySchema):
  step: int | None
  diagnosis: str


SchemaT = TypeVar("SchemaT", bound=ReplySchema)
P = ParamSpec("P")
ResultT = TypeVar("ResultT")

_TOKEN = re.compile(r"<\|[^|>\s]*\|>")
_LABEL = re.compile(r"^[ \t]*(?:Observation|(?:First )?Thought|Code|Action)[ \t]*:", re.MULTILINE)


def parse_reply(reply: str, form: type[SchemaT]) -> SchemaT:
  """The JSON object of a reply, after any thinking, alone or in one fence.

  Raises:
    InvalidReply: there is no such object, or it does not fit the schema.
  """
  try:
    data = parse_json_reply(reply)
  except ValueError as error:
    raise InvalidReply("no_json", f"it is not one JSON object and nothing else ({str(error)[:200]})") from error
  try:
    return form.model_validate(data)
  except pydantic.ValidationError as error:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the reply"
    raise InvalidReply(
      "fields", f"it does not have the fields that were asked for ({where}: {first['msg']})"
    ) from error


def turn_from_reply(kind: Kind, reply: FirstThought | Act) -> Turn:
  """The single turn that a reply contains.

  Raises:
    InvalidReply: a part is empty, there is more than one turn, or the code is not Python.
  """
  thought, code = reply.thought.strip(), reply.code.strip() if isinstance(reply, Act) else ""
  for name, text in (("thought", thought), ("code", code)):
    if not text and (name == "thought" or kind == "act"):
      raise InvalidReply("empty", f'"{name}" is empty')
    if replace_control_chars(text) != text:
      raise InvalidReply("characters", f'"{name}" has a control character')
    if any(tag in text for tag in TAGS) or _TOKEN.search(text):
      raise InvalidReply("several", f'"{name}" has tags in it; write the bare text of one step')
    if _LABEL.search(text):
      raise InvalidReply(
        "several", f'"{name}" has a line that begins with a label such as "Thought:" or "Observation:"'
      )
  if "```" in thought:
    raise InvalidReply("several", '"thought" has a block of code in it')
  if kind == "act":
    parse_reply_code(code)
  return Turn(kind, thought, code)


def parse_reply_code(code: str) -> ast.Module:
  """The syntax tree of the code.

  Raises:
    InvalidReply: it is not Python.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the parser warns about escapes such as "\\d"
    try:
      return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
      raise InvalidReply(
        "syntax", f'"code" is no Python ({str(error)[:200]}); write plain code, without fences'
      ) from error


def catch_invalid_reply(make: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs) -> ResultT | InvalidReply:
  """The result of `make`, or the InvalidReply that it raised."""
  try:
    return make(*args, **kwargs)
  except InvalidReply as refused:
    return refused


def repeats_a_mistake(step: Turn | Step, trajectory: Trajectory, finding: Finding) -> bool:
  """Whether a replacement repeats the step at its place, an earlier mistake there, or a replacement that failed."""
  k = finding.step
  earlier = (m for c in trajectory.corrections if c.step == k for m in c.mistakes)
  made = Turn(step.kind, step.thought, step.code)
  return any(repeats_step(made, one) for one in (*trajectory.steps[k : k + 1], *earlier, *finding.tried_replacements))


def repeats_step(made: Turn, step: Step) -> bool:
  """Whether a turn equals a step: the same code but for comments and spaces, or the same plan."""
  if made.kind == "first_thought" or step.kind != "act":
    return made.thought.split() == step.thought.split()
  try:
    return ast.dump(parse_reply_code(made.code)) == ast.dump(parse_reply_code(step.code))
  # a student's code may be invalid, and a sum of a thousand terms is nested too deep
  except (InvalidReply, RecursionError):
    return made.code == step.code


MAX_ATTEMPTS = 3  # of one prompt, in all
MAX_ECHOED_CHARS = 2000  # characters of an invalid reply that are sent back to the model

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class AskResult(Generic[T]):
  """The valid reply and the cost of asking.

  `failed`: if there is no value, the reason of the last invalid reply; else empty.
  """

  value: T | None
  usage: Usage
  failed: str = ""


class StructuredChat:
  """Asks, checks, asks again, and counts.

  Attributes:
    counts: by kind of prompt: asked, ok, asked_again, failed, each reason of an invalid reply, and replies whose
      token counts are estimates.
  """

  def __init__(self, chat: ChatModel, *, tokens: int):
    """`tokens`: the limit of one reply."""
    self._chat, self._tokens = chat, tokens
    self.counts: dict[str, Counter[str]] = {}

  def ask_until_valid(
    self,
    kind: str,
    asked: Sequence[tuple[str, str]],
    form: type[SchemaT],
    *,
    temperature: float,
    take: Callable[[Sequence[tuple[int, SchemaT]]], Sequence[T | InvalidReply]],
  ) -> list[AskResult[T]]:
    """The result of each (name, prompt), in order.

    Args:
      kind: the name under which these prompts are counted.
      asked: pairs of a unique name and a prompt.
      form: the schema of the replies.
      take: gets all replies of a round that fit the schema, each with the index of its prompt. Returns the value of
        each, or an InvalidReply. One call gets all replies, so that slow work such as running code is batched.
    """
    counts = self.counts.setdefault(kind, Counter())
    counts["asked"] += len(asked)
    cases = [_Case(name, [ChatMessage("user", prompt)]) for name, prompt in asked]
    for attempt in range(MAX_ATTEMPTS):
      open_ = [index for index, case in enumerate(cases) if not case.ended]
      counts["asked_again"] += len(open_) if attempt else 0
      replies = (
        self._chat.ask([self._ask(cases[index], attempt, temperature, form) for index in open_]) if open_ else []
      )
      if estimated := sum(reply.estimated for reply in replies):
        counts["tokens_estimated"] += estimated
      valid: list[tuple[int, SchemaT]] = []
      for index, reply in zip(open_, replies, strict=True):
        cases[index].usage = cases[index].usage + reply.usage
        made = _parse_or_invalid(reply, form)
        if isinstance(made, InvalidReply):
          cases[index].refuse(made, reply, last=attempt == MAX_ATTEMPTS - 1)
        else:
          valid.append((index, made))
      reply_of = dict(zip(open_, replies, strict=True))
      for (index, _), taken in zip(valid, take(valid) if valid else (), strict=True):
        if isinstance(taken, InvalidReply):
          cases[index].refuse(taken, reply_of[index], last=attempt == MAX_ATTEMPTS - 1)
        else:
          cases[index].value, cases[index].ended = taken, True
    for case in cases:
      counts["ok" if case.value is not None else "failed"] += 1
      counts.update(f"refused: {reason}" for reason in case.refusals)
    return [AskResult(c.value, c.usage, "" if c.value is not None else c.refusals[-1]) for c in cases]

  def _ask(self, case: _Case, attempt: int, temperature: float, form: type[ReplySchema]) -> ChatRequest:
    """The request of one attempt. Later attempts have names of their own, so other random draws."""
    name = f"{case.name}/again/{attempt}" if attempt else case.name
    return ChatRequest(name, tuple(case.messages), temperature, self._tokens, form.model_json_schema())


@dataclasses.dataclass
class _Case:
  """One prompt, its conversation and its result."""

  name: str
  messages: list[ChatMessage]
  usage: Usage = Usage()
  value: Any = None
  ended: bool = False
  refusals: list[str] = dataclasses.field(default_factory=list)

  def refuse(self, refused: InvalidReply, reply: ChatReply, *, last: bool) -> None:
    """Books the reason, and adds feedback to the conversation unless this was the last attempt."""
    self.refusals.append(refused.reason)
    if last or not refused.feedback:
      self.value, self.ended = refused.fallback, True
      return
    again = f"That reply cannot be used: {refused.feedback}. Reply again, with the one JSON object that was asked for."
    echo = (
      escape_special_tokens(strip_thinking(reply.text)[:MAX_ECHOED_CHARS]) or "(nothing)"
    )  # some endpoints refuse a message without text
    self.messages += [ChatMessage("assistant", echo), ChatMessage("user", escape_special_tokens(again))]


def _parse_or_invalid(reply: ChatReply, form: type[SchemaT]) -> SchemaT | InvalidReply:
  """The parsed reply, or why it is not usable."""
  if reply.failed:
    return InvalidReply("no_reply", "")
  try:
    return parse_reply(reply.text, form)
  except InvalidReply as refused:
    return InvalidReply("cut", "it was too long and broke off; be brief") if reply.cut else refused
