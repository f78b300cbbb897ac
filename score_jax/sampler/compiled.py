"""A jitted program whose shapes are few and known, so that a compilation beyond them is told."""

from __future__ import annotations

import warnings
from typing import Any

import jax


class Compiled:
  """Calls a jitted program, and warns when it is compiled again for shapes that it was compiled for before.

  That happens when arrays come with another dtype or lie elsewhere than they did, and takes minutes for a large model.
  """

  def __init__(self, name: str, jitted: Any):
    self.name, self.jitted = name, jitted
    self._shapes: set[str] = set()

  def __call__(self, *args: Any, **static: int) -> Any:
    before = self.count
    result = self.jitted(*args, **static)
    if self.count > before:
      self._note(args, static)
    return result

  @property
  def count(self) -> int:
    """How often it was compiled."""
    return self.jitted._cache_size()

  def lower(self, *args: Any, **static: int) -> Any:
    return self.jitted.lower(*args, **static)

  def _note(self, args: Any, static: dict[str, int]) -> None:
    sizes = [jax.numpy.shape(x) for x in jax.tree.leaves(args[2:])]  # after the state and the weights
    shapes = f"{static}, {sizes}"
    if shapes in self._shapes:
      warnings.warn(f"sampler: {self.name} was compiled again for {shapes}", stacklevel=3)
    self._shapes.add(shapes)
