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
  """quickstart:smoke, smaller still, taught by worked solutions: it must not hang on how good a model is."""
  config = module("quickstart").get_config("smoke")
  config.teacher.kind = "reference"
  config.tasks.train, config.tasks.validation, config.tasks.test = 16, 2, 8
  config.mps.tries, config.sampler.slots, config.rl.prompts, config.rl.minibatch = 1, 16, 2, 2
  config.agent.acts = 5
  config.rl.checkpoint_every = 1
  config.survival.grace_s = 600.0  # on a busy machine programs compile for minutes
  return config
