"""For config files: those that vary another one, and those that take no argument."""

from __future__ import annotations

import importlib.util
import pathlib

from ml_collections import ConfigDict


def config_beside(file: str, name: str) -> ConfigDict:
  """The config of NAME.py in the folder of `file`, a config file itself (`config_beside(__file__, "quickstart")`)."""
  path = pathlib.Path(file).parent / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def no_argument(file: str, arg: str) -> None:
  """Refuses an argument to a config file that takes none (`no_argument(__file__, arg)`).

  Raises:
    ValueError: there is one.
  """
  if arg:
    raise ValueError(f"configs/{pathlib.Path(file).name}:{arg} is none; it takes no argument")
