"""The configs that tests run."""

import importlib.util
import pathlib
from types import ModuleType

from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).parent.parent


def module(name: str, folder: str = "configs") -> ModuleType:
  """A file of configs/, or of another folder of the checkout, whatever the working directory is."""
  spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
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
  config.survival.grace_s = 1e6  # or a slow machine would end the tests' own process
  return config
