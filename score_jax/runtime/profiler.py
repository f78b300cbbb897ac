"""xprof traces of some steps of a stage.

A step lies between two points at which a run can be interrupted (runtime/interrupt.py): a round of rollouts, which
samples some tokens for every slot, or an update of the weights. Of each kind that a stage has, some steps in a row are
traced, after the first ones, which compile. A step of the other kind in between ends the trace early. Process 0 writes
the traces into the workdir, under profile/<stage>/<rounds or updates>:

    pip install xprof && xprof --logdir=runs/quickstart/profile/rl/updates
"""

from __future__ import annotations

import collections
import contextlib
import logging
import pathlib
import tempfile
from collections.abc import Callable, Collection, Iterator
from typing import Literal

import jax
from etils import epath
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.runtime import processes
from score_jax.runtime.workdir import cannot_write_message

logger = logging.getLogger(__name__)

EVAL_PREFIX = "eval_"  # first letters of the stages that evaluate a model
StepKind = Literal["rounds", "updates"]


class _StageProfile:
  """The traces of one stage."""

  def __init__(self, config: ConfigDict, folder: epath.Path, log: Callable[[str], None]):
    self._steps, self._skip, self._folder, self._log = config.steps, config.skip, folder, log
    self.seen: collections.Counter[StepKind] = collections.Counter()
    self._traced: set[StepKind] = set()
    self._tracing: StepKind | None = None
    self._local = tempfile.TemporaryDirectory(prefix="score_jax_profile_")  # the profiler cannot write to gs://

  @contextlib.contextmanager
  def step(self, kind: StepKind) -> Iterator[None]:
    """Counts a step, and starts or ends a trace around it."""
    number = self.seen[kind]
    if self._tracing not in (None, kind):
      self._end()  # otherwise the open trace would record all steps of the other kind too
    if self._tracing is None and kind not in self._traced and number >= self._skip:
      self._traced.add(kind)
      self._tracing, self._last = kind, number + self._steps - 1
      jax.profiler.start_trace(self._local.name)
    with jax.profiler.StepTraceAnnotation(kind, step_num=number):
      yield
    self.seen[kind] += 1
    if self._tracing == kind and number == self._last:
      self._end()

  def close(self) -> None:
    """Ends an open trace: a stage may have had fewer steps than the trace was to have."""
    with self._local:
      if self._tracing is not None:
        self._end()
    for kind in self.seen.keys() - self._traced:
      self._log(
        f"profile: none of {self.seen[kind]} {kind} was traced; the first {self._skip} never are (profile.skip)"
      )

  def _end(self) -> None:
    """Ends the open trace and moves its files into the workdir."""
    assert self._tracing is not None
    to, local = self._folder / self._tracing, pathlib.Path(self._local.name)
    self._tracing = None
    jax.profiler.stop_trace()
    for path in [path for path in local.rglob("*") if path.is_file()]:
      target = to / path.relative_to(local)
      try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
      except OSError as error:
        raise UserError(cannot_write_message(target, error)) from error
      path.unlink()
    self._log(f"profile: {to}")


_profile: _StageProfile | None = None


@contextlib.contextmanager
def profile_stage(
  config: ConfigDict, workdir: epath.Path, stage: str, log: Callable[[str], None], *, stages: Collection[str]
) -> Iterator[None]:
  """Traces steps of the stage run inside it, if `config` (group `profile`) asks for that.

  Args:
    stages: names of all stages, to check `profile.stages`.
  """
  global _profile
  if unknown := [name for name in config.stages if name not in stages and not name.startswith(EVAL_PREFIX)]:
    raise UserError(
      f"profile.stages: {unknown[0]!r} is no stage; choose from {', '.join(stages)}, {EVAL_PREFIX} and a model's name"
    )
  if config.steps < 0 or config.skip < 0:
    raise UserError(f"profile.steps = {config.steps}, profile.skip = {config.skip}; neither can be less than 0")
  if not (config.steps and processes.is_primary() and (not config.stages or stage in config.stages)):
    yield
    return
  _profile = profile = _StageProfile(config, workdir / "profile" / stage, log)
  try:
    yield
  except BaseException:
    try:
      profile.close()
    except Exception as error:  # it must not hide the error that ends the run
      logger.warning("profile: what was traced last is lost: %s", error)
    raise
  else:
    profile.close()
  finally:
    _profile = None


@contextlib.contextmanager
def profile_step(kind: StepKind) -> Iterator[None]:
  """Marks one step of the current stage."""
  if _profile is None:
    yield
    return
  with _profile.step(kind):
    yield
