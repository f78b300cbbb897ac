"""Config files: how they are found and loaded, and which of their keys identify a run.

`load_config` and `load_sibling_config` open a config file from Python; the second is for configs that change another.
`identity_config` leaves out the keys that do not change what a run computes: they may differ between its starts.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from score_jax import limits
from score_jax.errors import UserError


def load_sibling_config(file: str, name: str) -> ConfigDict:
  """The config of NAME.py in the folder of `file` (`load_sibling_config(__file__, "quickstart")`)."""
  return load_config(str(pathlib.Path(file).parent / f"{name}.py"))


def load_config(path: str) -> ConfigDict:
  """The config of `FILE.py` or `FILE.py:ARGUMENT`, its numbers checked."""
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
  """The path of a config file; `configs/NAME.py` is the package's own if the working directory has none."""
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
  """Refuses an argument to a config file that takes none (`reject_argument(__file__, arg)`).

  Raises:
    ValueError: `arg` is not empty.
  """
  if arg:
    raise ValueError(f"configs/{pathlib.Path(file).name}:{arg} is none; it takes no argument")


#: settings of tools.search and of chat that do not change results and replies, only how they are fetched
SEARCH_TRANSPORT = ("index", "timeout_s", "retries", "per_second", "cache", "offline")
CHAT_TRANSPORT = (
  *("url", "key_env", "tokens_field", "concurrency", "timeout_s", "patience_s"),
  *("budget_s", "budget_usd", "usd_per_million", "record", "offline"),
)
#: keys and groups that may differ between the starts of a run: transport, survival, monitoring, chosen stages and arms
IDENTITY_EXEMPT = frozenset(
  (
    *("survival", "hosts", "alarms", "profile", "trackers", "stages", "arms"),
    *(f"tools.search.{name}" for name in SEARCH_TRANSPORT),
    *(f"chat.{name}" for name in CHAT_TRANSPORT),
  )
)


def config_to_dict(config: ConfigDict) -> dict[str, Any]:
  """A configuration as JSON data."""
  return json.loads(config.to_json_best_effort())


def identity_config(data: Any, prefix: str = "") -> Any:
  """A configuration as JSON data without the exempt keys."""
  if not isinstance(data, dict):
    return data
  kept = {name: value for name, value in data.items() if prefix + name not in IDENTITY_EXEMPT}
  return {name: identity_config(value, f"{prefix}{name}.") for name, value in kept.items()}
