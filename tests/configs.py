"""The configs that tests run."""

import importlib.util
import pathlib
from types import ModuleType

from ml_collections import ConfigDict

FOLDER = pathlib.Path(__file__).parent.parent / "configs"


def module(name: str) -> ModuleType:
  """A file of configs/."""
  spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
  assert spec is not None and spec.loader is not None
  found = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(found)
  return found


def smoke_config() -> ConfigDict:
  """quickstart:smoke, on one of the devices' shapes that divides its few rows."""
  config = module("quickstart").get_config("smoke")
  config.mesh.shape = (8, 1, 1)
  return config
