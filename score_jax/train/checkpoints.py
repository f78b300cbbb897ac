"""Checkpoints of one stage through orbax: weights, optimizer state and step; the last few, and the best one.

Nothing else is needed to resume: the next batch or starts, and every random draw, follow from the step and the seed
(train/batch.py `iter_updates`, rl/loop.py, the sampler's request keys). A checkpoint is copied to the host at once and
written while the next updates run. It is complete or not there.
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

_NEVER_S = 10**8  # timeout of orbax, practically off: orbax measures it by the time of day, which may jump


class Checkpoints:
  """Saves and restores train states in a folder, one subfolder per step. A context manager."""

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
      keep: number of newest checkpoints that stay; the one with the best accuracy stays too. 0: nothing is saved.
      minutes: `maybe_save` saves when the last save was longer ago.
      before: called before each save; writes the files that must be there when the checkpoint is.
    """
    self._folder = folder.resolve()  # orbax refuses relative paths
    self._minutes, self._before, self._last_save = minutes, before, time.monotonic()
    best = managers.BestN(get_metric_fn=lambda found: found["accuracy"], n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
      create=bool(keep),
      read_only=not keep,
      cleanup_tmp_directories=bool(keep),  # half-written checkpoints of a killed run or a full disk
      async_options=ocp.AsyncOptions(timeout_secs=_NEVER_S),
      preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), best]),
    )
    self._manager = ocp.CheckpointManager(self._folder, options=options)

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def maybe_save(self, state: TrainState, *, keep: bool, accuracy: float | None = None) -> bool:
    """Saves the state if `keep`, if `minutes` have passed, or if the run is interrupted. Returns whether it saved.

    Collective: all processes of a run have to call it.

    Raises:
      RunInterrupted: the run was interrupted; the state is saved.
    """
    interrupted = interrupt.interrupt_requested()
    save = keep or interrupted or processes.broadcast(time.monotonic() - self._last_save >= 60 * self._minutes)
    if save:
      self.save(state, accuracy=accuracy)
    if interrupted:
      interrupt.raise_interrupted()
    return save

  @contextlib.contextmanager
  def save_on_interrupt(self, state: TrainState) -> Iterator[None]:
    """Saves the state if the run is interrupted inside; the code inside must not change the state."""
    try:
      yield
    except interrupt.RunInterrupted:
      if int(state.step) not in self._manager.all_steps():
        self.save(state)
      raise

  def save(self, state: TrainState, *, accuracy: float | None = None) -> None:
    """Starts saving the state under its step. Later steps are deleted: they exist only if they could not be read."""
    self._before()
    self._last_save = time.monotonic()
    step = int(state.step)
    with self._report_write_errors():
      for later in self._manager.all_steps():
        if later >= step:
          self._manager.delete(later)
      weights, moments = ocp.args.StandardSave(state.weights), ocp.args.StandardSave(state.optimizer)
      metrics = None if accuracy is None else {"accuracy": accuracy}
      self._manager.save(step, args=ocp.args.Composite(weights=weights, optimizer=moments), metrics=metrics)

  def restore_newest(self, abstract: TrainState) -> TrainState | None:
    """The newest readable state, with the given shapes and shardings; None where there is none."""

    def read(step: int) -> TrainState:
      weights, moments = (ocp.args.StandardRestore(x) for x in (abstract.weights, abstract.optimizer))
      found = self._manager.restore(step, args=ocp.args.Composite(weights=weights, optimizer=moments))
      count = put_on_mesh(np.int32(step), abstract.step.sharding)
      return TrainState(count, found["weights"], found["optimizer"])

    found = self._restore_first_readable(read)
    return None if found is None else found[1]

  def restore_newest_weights(self, like: Weights, *, dtype: str) -> tuple[int, Weights] | None:
    """Step and weights of the newest readable state, placed like the given weights; None where there is none."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding), like)

    def read(step: int) -> Weights:
      args = ocp.args.Composite(weights=ocp.args.StandardRestore(abstract))
      return self._manager.restore(step, args=args)["weights"]

    return self._restore_first_readable(read)

  def _restore_first_readable(self, read: Callable[[int], Any]) -> tuple[int, Any] | None:
    """The step and content of the newest checkpoint that all processes can read. Unreadable ones are reported."""
    with self._report_write_errors():
      self._manager.wait_until_finished()
    for step in sorted(self._manager.all_steps(), reverse=True):
      found, reason = None, ""
      try:
        found = jax.block_until_ready(read(step))
      except Exception as error:  # orbax and tensorstore raise all kinds, depending on the damage
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
      reason = next(filter(None, processes.all_gather(f"checkpoint {step}", reason)), "")
      if not reason:
        return step, found
      logger.warning("checkpoint %s cannot be read (%s); using the one before it", self._folder / str(step), reason)
    return None

  def close(self) -> None:
    """Waits until the last save is written."""
    try:
      with self._report_write_errors():
        self._manager.wait_until_finished()
    finally:
      self._manager.close()

  @contextlib.contextmanager
  def _report_write_errors(self) -> Iterator[None]:
    """Turns the errors of orbax and tensorstore about writing into a UserError of one line."""
    try:
      yield
    except (OSError, ValueError) as error:
      reason = str(error).strip().splitlines()[0].rpartition(": ")[2] if isinstance(error, ValueError) else error
      raise UserError(cannot_write_message(self._folder, reason)) from error
