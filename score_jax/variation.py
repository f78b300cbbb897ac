"""Config files by path; for those that vary another one, and those that take no argument."""

from __future__ import annotations

import difflib
import importlib.util
import pathlib

from ml_collections import ConfigDict

from score_jax import limits
from score_jax.errors import UserError


def config_beside(file: str, name: str) -> ConfigDict:
  """The config of NAME.py in the folder of `file`, a config file itself (`config_beside(__file__, "quickstart")`)."""
  return config_from(str(pathlib.Path(file).parent / f"{name}.py"))


def config_from(path: str) -> ConfigDict:
  """The config of `FILE.py` or `FILE.py:ARGUMENT`.

  Raises:
    UserError: there is no such file, or it does not take that argument.
  """
  file, _, arg = located(path).partition(":")
  spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, file)
  if spec is None or spec.loader is None:
    raise UserError(f"config={path}: is no Python file; give one such as configs/quickstart.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  try:
    config = module.get_config(arg)
  except ValueError as error:
    raise UserError(str(error)) from error
  limits.check(config)
  return config


def located(path: str) -> str:
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


def no_argument(file: str, arg: str) -> None:
  """Refuses an argument to a config file that takes none (`no_argument(__file__, arg)`).

  Raises:
    ValueError: there is one.
  """
  if arg:
    raise ValueError(f"configs/{pathlib.Path(file).name}:{arg} is none; it takes no argument")
