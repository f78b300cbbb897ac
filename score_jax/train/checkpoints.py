"""Checkpoints of one stage through orbax: weights, optimiser state and step, the last few of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from score_jax.mesh import hosts
from score_jax.mesh.sharding import put
from score_jax.model.decoder import Weights
from score_jax.train.steps import TrainState

log = logging.getLogger(__name__)


class Checkpoints:
  """Saves and restores train states in a folder, one sub-folder a step, named by it."""

  def __init__(self, folder: epath.Path, *, keep: int):
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=False)
    self._folder = folder.resolve()  # orbax wants no relative ones
    self._manager = ocp.CheckpointManager(self._folder, options=options)

  def save(self, state: TrainState) -> None:
    """Saves the state under its step; a later one, which could not be read, goes."""
    step = int(state.step)
    for later in self._manager.all_steps():
      if later >= step:
        self._manager.delete(later)
    weights, moments = ocp.args.StandardSave(state.weights), ocp.args.StandardSave(state.optimizer)
    self._manager.save(step, args=ocp.args.Composite(weights=weights, optimizer=moments))

  def newest(self, abstract: TrainState) -> TrainState | None:
    """The newest state that can be read, of the given shapes and shardings; None when there is none."""

    def read(step: int) -> TrainState:
      weights, moments = (ocp.args.StandardRestore(x) for x in (abstract.weights, abstract.optimizer))
      found = self._manager.restore(step, args=ocp.args.Composite(weights=weights, optimizer=moments))
      count = put(np.int32(step), abstract.step.sharding)
      return TrainState(count, found["weights"], found["optimizer"])

    found = self._newest(read)
    return None if found is None else found[1]

  def newest_weights(self, like: Weights, *, dtype: str) -> tuple[int, Weights] | None:
    """Step and weights of the newest state that can be read, placed like the given ones; None when there is none."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding), like)

    def read(step: int) -> Weights:
      args = ocp.args.Composite(weights=ocp.args.StandardRestore(abstract))
      return self._manager.restore(step, args=args)["weights"]

    return self._newest(read)

  def _newest(self, read: Callable[[int], Any]) -> tuple[int, Any] | None:
    """Tries the steps from the newest on; what cannot be read is reported, and the one before it is taken."""
    for step in sorted(self._manager.all_steps(), reverse=True):
      found, reason = None, ""
      try:
        found = jax.block_until_ready(read(step))
      except Exception as error:  # orbax and tensorstore raise whatever the damage leads to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
      reason = next(filter(None, hosts.gather(f"checkpoint {step}", reason)), "")
      if not reason:
        return step, found
      log.warning("checkpoint %s cannot be read (%s); using the one before it", self._folder / str(step), reason)
    return None

  def close(self) -> None:
    self._manager.close()
