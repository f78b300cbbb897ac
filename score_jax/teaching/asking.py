"""The prompts of the teacher and the judges: files that a user can copy, edit and name by `teacher.prompts`.

Each is a jinja2 template of its own; tools.jinja is what those that ask for code have in common. All that comes from
a question, a student, a tool or a model goes in by the filter `json`, as one JSON string: no text in it can close the
data and go on as instruction, nor become one of the tokens like <|im_end|> with which chat templates part turns.

MERGED What a teacher's replies must look like: one JSON object of a known form, whose texts are one step and no more.

A reply that is not so is refused with a reason, which is counted, and with what to tell the model before it is asked
again (teaching/asking.py). Nothing is ever read out of prose.

MERGED Asking a chat model until its reply can be taken: many questions at once, each asked again at most twice.
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
#: what the code of a step may import
ALLOWED_IMPORTS = tuple(name for name in PRELOADED_MODULES if "." not in name)
#: prompt -> the variables that it is given; to all of them come ALWAYS
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
#: is there web_search; what else can be called, each a `call` and what it is `about`; what may be imported
COMMON_VARIABLES = {"search", "functions", "imports"}

_ESCAPED = re.compile("<(?=[|\uff5c/A-Za-z_])|[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def escape_special_tokens(text: str) -> str:
  """A text in which nothing looks like a special token; what did is spelled as in JSON."""
  return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_quoted(value: Any) -> str:
  """A value as JSON on one line, harmless; any JSON reader gives it back."""
  return escape_special_tokens(json.dumps(value, ensure_ascii=False))


class PromptTemplates:
  """The prompts in one folder."""

  def __init__(self, folder: str = "", *, search: bool, functions: Sequence[FunctionDoc] = ()):
    """
    Args:
      folder: of the *.jinja files; "": the package's own.
      search: whether code can call web_search.
      functions: what else it can call.

    Raises:
      UserError: a file is missing, is no template, or uses a variable that it is not given.
    """
    self._folder = pathlib.Path(folder) if folder else DEFAULT_PROMPTS_DIR
    self._always = {"search": search, "functions": functions, "imports": ", ".join(ALLOWED_IMPORTS)}
    self._jinja = ImmutableSandboxedEnvironment(
      loader=jinja2.FileSystemLoader(self._folder), undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    self._jinja.filters["json"] = json_quoted
    for name, variables in PROMPT_VARIABLES.items():
      self._check(name, variables | COMMON_VARIABLES)

  def _check(self, name: str, variables: set[str]) -> None:
    path = self._folder / f"{name}.jinja"
    try:
      parsed = self._jinja.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(
        f"{path} cannot be read ({error}); copy the folder score_jax/mentor/prompts with all its files"
      ) from error
    except jinja2.TemplateSyntaxError as error:
      raise UserError(f"{path}:{error.lineno}: {error.message}; mend the template") from error
    if unknown := sorted(meta.find_undeclared_variables(parsed) - variables):
      raise UserError(f"{path}: the variable {unknown[0]!r} is unknown; there are {', '.join(sorted(variables))}")

  def render_prompt(self, name: str, **variables: Any) -> str:
    """The text of a prompt.

    Raises:
      UserError: its file is missing or uses what it is not given.
    """
    try:
      return self._jinja.get_template(f"{name}.jinja").render(**self._always, **variables)
    except jinja2.TemplateNotFound as error:
      raise UserError(f"{self._folder / f'{error.name}'} is missing; copy it from score_jax/mentor/prompts") from error
    except jinja2.TemplateError as error:
      raise UserError(f"{self._folder / f'{name}.jinja'}: {error.message}; mend the template") from error


class InvalidReply(Exception):
  """A reply that cannot be taken.

  Attributes:
    reason: under which it is counted.
    told: what the model is told before it is asked again; "": asking again would not help.
    instead: what is taken when it was asked often enough; None: nothing.
  """

  def __init__(self, reason: str, told: str, instead: Any = None):
    super().__init__(reason)
    self.reason, self.feedback, self.fallback = reason, told, instead


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
  """The object that a reply is, behind any thinking, alone or in one fence.

  Raises:
    Refused: it is none, or not of the form.
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
  """The one turn that a reply writes.

  Raises:
    Refused: a part is empty, it is more than one turn, or its code is no Python.
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
  """The code, read.

  Raises:
    Refused: it is no Python.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of escapes such as "\\d"
    try:
      return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
      raise InvalidReply(
        "syntax", f'"code" is no Python ({str(error)[:200]}); write plain code, without fences'
      ) from error


def catch_invalid_reply(make: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs) -> ResultT | InvalidReply:
  """What `make` gives, or its refusal."""
  try:
    return make(*args, **kwargs)
  except InvalidReply as refused:
    return refused


def repeats_a_mistake(step: Turn | Step, trajectory: Trajectory, finding: Finding) -> bool:
  """Whether a replacement does what stands at its place, or stood there before, or was tried there in vain."""
  k = finding.step
  earlier = (m for c in trajectory.corrections if c.step == k for m in c.mistakes)
  made = Turn(step.kind, step.thought, step.code)
  return any(repeats_step(made, one) for one in (*trajectory.steps[k : k + 1], *earlier, *finding.tried_replacements))


def repeats_step(made: Turn, step: Step) -> bool:
  """Whether a turn is that step again: its code is the same but for comments and spaces, or its plan is."""
  if made.kind == "first_thought" or step.kind != "act":
    return made.thought.split() == step.thought.split()
  try:
    return ast.dump(parse_reply_code(made.code)) == ast.dump(parse_reply_code(step.code))
  except (InvalidReply, RecursionError):  # of a student's code, or of a sum of a thousand terms
    return made.code == step.code


MAX_ATTEMPTS = 3  # of one question, in all
MAX_ECHOED_CHARS = 2000  # characters of a refused reply that the model is shown again

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class AskResult(Generic[T]):
  """What asking came to. `failed` says why there is no value: the reason of the last refusal; empty if there is one."""

  value: T | None
  usage: Usage
  failed: str = ""


class StructuredChat:
  """Asks, checks, asks again, and counts.

  Attributes:
    counts: by kind of question: asked, ok, asked_again, failed, each reason of a refusal, and replies whose tokens
      are estimated.
  """

  def __init__(self, chat: ChatModel, *, tokens: int):
    """`tokens`: the most of one reply."""
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
    """What becomes of each (name, prompt), in order.

    Args:
      kind: under which it is counted.
      asked: a name of its own and the prompt.
      form: of the replies.
      take: gets all replies of a round that have the form, each with the index of what was asked, and says what they
        are worth. So that what takes time, such as running code, is done for all at once.
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
      read: list[tuple[int, SchemaT]] = []
      for index, reply in zip(open_, replies, strict=True):
        cases[index].usage = cases[index].usage + reply.usage
        made = _read(reply, form)
        if isinstance(made, InvalidReply):
          cases[index].refuse(made, reply, last=attempt == MAX_ATTEMPTS - 1)
        else:
          read.append((index, made))
      said = dict(zip(open_, replies, strict=True))
      for (index, _), taken in zip(read, take(read) if read else (), strict=True):
        if isinstance(taken, InvalidReply):
          cases[index].refuse(taken, said[index], last=attempt == MAX_ATTEMPTS - 1)
        else:
          cases[index].value, cases[index].ended = taken, True
    for case in cases:
      counts["ok" if case.value is not None else "failed"] += 1
      counts.update(f"refused: {reason}" for reason in case.refusals)
    return [AskResult(c.value, c.usage, "" if c.value is not None else c.refusals[-1]) for c in cases]

  def _ask(self, case: _Case, attempt: int, temperature: float, form: type[ReplySchema]) -> ChatRequest:
    name = f"{case.name}/again/{attempt}" if attempt else case.name
    return ChatRequest(name, tuple(case.said), temperature, self._tokens, form.model_json_schema())


@dataclasses.dataclass
class _Case:
  """One question on its way through the rounds."""

  name: str
  said: list[ChatMessage]
  usage: Usage = Usage()
  value: Any = None
  ended: bool = False
  refusals: list[str] = dataclasses.field(default_factory=list)

  def refuse(self, refused: InvalidReply, reply: ChatReply, *, last: bool) -> None:
    """Notes why, and what is said before the next try, if there is one."""
    self.refusals.append(refused.reason)
    if last or not refused.feedback:
      self.value, self.ended = refused.fallback, True
      return
    again = f"That reply cannot be used: {refused.feedback}. Reply again, with the one JSON object that was asked for."
    said = (
      escape_special_tokens(strip_thinking(reply.text)[:MAX_ECHOED_CHARS]) or "(nothing)"
    )  # some endpoints refuse a message without text
    self.said += [ChatMessage("assistant", said), ChatMessage("user", escape_special_tokens(again))]


def _read(reply: ChatReply, form: type[SchemaT]) -> SchemaT | InvalidReply:
  if reply.failed:
    return InvalidReply("no_reply", "")
  try:
    return parse_reply(reply.text, form)
  except InvalidReply as refused:
    return InvalidReply("cut", "it was too long and broke off; be brief") if reply.cut else refused
