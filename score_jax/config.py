"""Config files by path; for those that vary another one, and those that take no argument.

MERGED What of a configuration decides what a run computes, and what only how it comes about.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from score_jax import limits
from score_jax.chat import record
from score_jax.errors import UserError
from score_jax.search import backends


def load_sibling_config(file: str, name: str) -> ConfigDict:
  """The config of NAME.py in the folder of `file`, a config file itself (`config_beside(__file__, "quickstart")`)."""
  return load_config(str(pathlib.Path(file).parent / f"{name}.py"))


def load_config(path: str) -> ConfigDict:
  """The config of `FILE.py` or `FILE.py:ARGUMENT`.

  Raises:
    UserError: there is no such file, or it does not take that argument.
  """
  file, _, arg = find_config_file(path).partition(":")
  spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, file)
  if spec is None or spec.loader is None:
    raise UserError(f"config={path}: is no Python file; give one such as configs/quickstart.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  try:
    config = module.get_config(arg)
  except ValueError as error:
    raise UserError(str(error)) from error
  limits.check_numbers(config)
  return config


def find_config_file(path: str) -> str:
  """The path of a config file; `configs/NAME.py` is the package's own where the working directory has none.

  Raises:
    UserError: there is no such file.
  """
  file, colon, arg = path.partition(":")
  package = pathlib.Path(__file__).parent
  folders = [package, package.parent]  # an installed package holds configs/; a checkout has it beside the package
  for folder in [pathlib.Path(), *(folders if pathlib.Path(file).parts[:1] == ("configs",) else [])]:
    if (folder / file).is_file():
      return f"{folder / file}{colon}{arg}"
  known = [f"configs/{found.name}" for folder in folders for found in folder.glob("configs/*.py")]
  nearest = difflib.get_close_matches(file, known, n=1, cutoff=0.0)[0]
  raise UserError(f"config={path}: there is no such file; the nearest of the package's own is {nearest}")


def reject_argument(file: str, arg: str) -> None:
  """Refuses an argument to a config file that takes none (`no_argument(__file__, arg)`).

  Raises:
    ValueError: there is one.
  """
  if arg:
    raise ValueError(f"configs/{pathlib.Path(file).name}:{arg} is none; it takes no argument")


#: keys that change how something is had and not what it is: they may differ between the starts of a run
IDENTITY_EXEMPT_KEYS = frozenset(
  (
    *(f"tools.search.{name}" for name in backends.TRANSPORT_SETTINGS),
    *(f"chat.{name}" for name in record.TRANSPORT_SETTINGS),
  )
)
#: groups and keys of the same kind, what is only watched, and which stages and arms are asked for
IDENTITY_EXEMPT_GROUPS = frozenset(("survival", "hosts", "alarms", "profile", "trackers", "stages", "arms"))


def config_to_dict(config: ConfigDict) -> dict[str, Any]:
  """A configuration as JSON data."""
  return json.loads(config.to_json_best_effort())


def identity_config(data: Any, prefix: str = "") -> Any:
  """A configuration as JSON data without what is only means."""
  if not isinstance(data, dict):
    return data
  kept = {
    name: value for name, value in data.items() if prefix + name not in IDENTITY_EXEMPT_KEYS | IDENTITY_EXEMPT_GROUPS
  }
  return {name: identity_config(value, f"{prefix}{name}.") for name, value in kept.items()}
