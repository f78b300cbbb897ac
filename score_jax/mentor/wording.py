"""The prompts of the teacher and the judges: files that a user can copy, edit and name by `teacher.prompts`.

Each is a jinja2 template of its own; tools.jinja is what those that ask for code have in common. All that comes from
a question, a student, a tool or a model goes in by the filter `json`, as one JSON string: no text in it can close the
data and go on as instruction, nor become one of the tokens like <|im_end|> with which chat templates part turns.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from score_jax.errors import UserError
from score_jax.tools.functions import Offered
from score_jax.tools.zygote import PRELOADED

OWN = pathlib.Path(__file__).parent / "prompts"
#: what the code of a step may import
IMPORTS = tuple(name for name in PRELOADED if "." not in name)
#: prompt -> the variables that it is given; to all of them come ALWAYS
PROMPTS = {
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
ALWAYS = {"search", "functions", "imports"}

_ESCAPED = re.compile("<(?=[|\uff5c/A-Za-z_])|[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def harmless(text: str) -> str:
  """A text in which nothing looks like a special token; what did is spelled as in JSON."""
  return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def quoted(value: Any) -> str:
  """A value as JSON on one line, harmless; any JSON reader gives it back."""
  return harmless(json.dumps(value, ensure_ascii=False))


class Wording:
  """The prompts in one folder."""

  def __init__(self, folder: str = "", *, search: bool, functions: Sequence[Offered] = ()):
    """
    Args:
      folder: of the *.jinja files; "": the package's own.
      search: whether code can call web_search.
      functions: what else it can call.

    Raises:
      UserError: a file is missing, is no template, or uses a variable that it is not given.
    """
    self._folder = pathlib.Path(folder) if folder else OWN
    self._always = {"search": search, "functions": functions, "imports": ", ".join(IMPORTS)}
    self._jinja = ImmutableSandboxedEnvironment(
      loader=jinja2.FileSystemLoader(self._folder), undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    self._jinja.filters["json"] = quoted
    for name, variables in PROMPTS.items():
      self._check(name, variables | ALWAYS)

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

  def prompt(self, name: str, **variables: Any) -> str:
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
