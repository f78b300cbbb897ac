"""Config files by path; for those that vary another one, and those that take no argument."""

from __future__ import annotations

import importlib.util
import pathlib

from ml_collections import ConfigDict

from score_jax.errors import UserError


def config_beside(file: str, name: str) -> ConfigDict:
  """The config of NAME.py in the folder of `file`, a config file itself (`config_beside(__file__, "quickstart")`)."""
  return config_from(str(pathlib.Path(file).parent / f"{name}.py"))


def config_from(path: str) -> ConfigDict:
  """The config of `FILE.py` or `FILE.py:ARGUMENT`.

  Raises:
    UserError: there is no such file, or it does not take that argument.
  """
  file, _, arg = path.partition(":")
  spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, file)
  if spec is None or spec.loader is None or not pathlib.Path(file).is_file():
    raise UserError(f"config {file}: there is no such file")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  try:
    return module.get_config(arg)
  except ValueError as error:
    raise UserError(str(error)) from error


def no_argument(file: str, arg: str) -> None:
  """Refuses an argument to a config file that takes none (`no_argument(__file__, arg)`).

  Raises:
    ValueError: there is one.
  """
  if arg:
    raise ValueError(f"configs/{pathlib.Path(file).name}:{arg} is none; it takes no argument")
