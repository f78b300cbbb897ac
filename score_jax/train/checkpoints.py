"""Checkpoints of one stage through orbax: weights, optimiser state and step; the last few of them, and the best.

Nothing else is needed to go on: which batch or which starts come next, and what is drawn, follows from the step and
the seed (train/batch.py `epochs`, reinforce.py `order`, sampler `request_key`). A checkpoint is copied to the host at
once and written behind the next updates; it is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as managers

from score_jax.errors import UserError
from score_jax.model.decoder import Weights
from score_jax.model.sharding import put_on_mesh
from score_jax.runtime import interrupt, processes
from score_jax.runtime.workdir import cannot_write_message
from score_jax.train.step import TrainState

logger = logging.getLogger(__name__)

_EVER_S = 10**8  # orbax measures its patience by the time of day, which may jump


class Checkpoints:
  """Saves and restores train states in a folder, one sub-folder a step, named by it. A context manager."""

  def __init__(
    self,
    folder: epath.Path,
    *,
    keep: int,
    minutes: float = math.inf,
    before: Callable[[], None] = lambda: None,
  ):
    """
    Args:
      keep: how many of the last ones stay; the one of the greatest accuracy stays beside them. 0: nothing is saved.
      minutes: `offer` saves when the last time is so long ago.
      before: called before each save: writes what may not be missing where the checkpoint is there.
    """
    self._folder = folder.resolve()  # orbax wants no relative ones
    self._minutes, self._before, self._since = minutes, before, time.monotonic()
    best = managers.BestN(get_metric_fn=lambda found: found["accuracy"], n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
      create=bool(keep),
      read_only=not keep,
      cleanup_tmp_directories=bool(keep),  # what a run that was killed, or had no room, left half written
      async_options=ocp.AsyncOptions(timeout_secs=_EVER_S),
      preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), best]),
    )
    self._manager = ocp.CheckpointManager(self._folder, options=options)

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def maybe_save(self, state: TrainState, *, keep: bool, accuracy: float | None = None) -> bool:
    """Saves the state where `keep` says so, it is time, or the run is asked to end, which it then does; whether it did.

    All processes of a run have to call it.

    Raises:
      Stopped: the run was asked to end.
    """
    asked = interrupt.interrupt_requested()
    save = keep or asked or processes.broadcast(time.monotonic() - self._since >= 60 * self._minutes)
    if save:
      self.save(state, accuracy=accuracy)
    if asked:
      interrupt.raise_interrupted()
    return save

  @contextlib.contextmanager
  def save_on_interrupt(self, state: TrainState) -> Iterator[None]:
    """Saves the state if the run ends within, where nothing may change it."""
    try:
      yield
    except interrupt.RunInterrupted:
      if int(state.step) not in self._manager.all_steps():
        self.save(state)
      raise

  def save(self, state: TrainState, *, accuracy: float | None = None) -> None:
    """Begins to save the state under its step; a later one, which could not be read, goes."""
    self._before()
    self._since = time.monotonic()
    step = int(state.step)
    with self._told():
      for later in self._manager.all_steps():
        if later >= step:
          self._manager.delete(later)
      weights, moments = ocp.args.StandardSave(state.weights), ocp.args.StandardSave(state.optimizer)
      metrics = None if accuracy is None else {"accuracy": accuracy}
      self._manager.save(step, args=ocp.args.Composite(weights=weights, optimizer=moments), metrics=metrics)

  def restore_newest(self, abstract: TrainState) -> TrainState | None:
    """The newest state that can be read, of the given shapes and shardings; None when there is none."""

    def read(step: int) -> TrainState:
      weights, moments = (ocp.args.StandardRestore(x) for x in (abstract.weights, abstract.optimizer))
      found = self._manager.restore(step, args=ocp.args.Composite(weights=weights, optimizer=moments))
      count = put_on_mesh(np.int32(step), abstract.step.sharding)
      return TrainState(count, found["weights"], found["optimizer"])

    found = self._newest(read)
    return None if found is None else found[1]

  def restore_newest_weights(self, like: Weights, *, dtype: str) -> tuple[int, Weights] | None:
    """Step and weights of the newest state that can be read, placed like the given ones; None when there is none."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding), like)

    def read(step: int) -> Weights:
      args = ocp.args.Composite(weights=ocp.args.StandardRestore(abstract))
      return self._manager.restore(step, args=args)["weights"]

    return self._newest(read)

  def _newest(self, read: Callable[[int], Any]) -> tuple[int, Any] | None:
    """Tries the steps from the newest on; what cannot be read is reported, and the one before it is taken."""
    with self._told():
      self._manager.wait_until_finished()
    for step in sorted(self._manager.all_steps(), reverse=True):
      found, reason = None, ""
      try:
        found = jax.block_until_ready(read(step))
      except Exception as error:  # orbax and tensorstore raise whatever the damage leads to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
      reason = next(filter(None, processes.all_gather(f"checkpoint {step}", reason)), "")
      if not reason:
        return step, found
      logger.warning("checkpoint %s cannot be read (%s); using the one before it", self._folder / str(step), reason)
    return None

  def close(self) -> None:
    """Waits for what is being written."""
    try:
      with self._told():
        self._manager.wait_until_finished()
    finally:
      self._manager.close()

  @contextlib.contextmanager
  def _told(self) -> Iterator[None]:
    """Tells in a line what orbax and tensorstore raise when they cannot write."""
    try:
      yield
    except (OSError, ValueError) as error:
      reason = str(error).strip().splitlines()[0].rpartition(": ")[2] if isinstance(error, ValueError) else error
      raise UserError(cannot_write_message(self._folder, reason)) from error
