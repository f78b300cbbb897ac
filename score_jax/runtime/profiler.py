"""A profile of a stage: what host and devices did in some of its steps, as xprof and TensorBoard show it.

A step is what lies between two places at which a run can be ended (stopping.py): a round of rollouts, which draws some
tokens for every slot, or an update of weights. Of each kind that a stage has, some steps in a row are traced, after
the first ones, which compile; fewer where one of the other kind comes between. The traces lie in the workdir under
profile/<stage>/<rounds or updates>, of the first process alone:

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

EVAL_PREFIX = "eval_"  # what the stages begin with that examine a model
StepKind = Literal["rounds", "updates"]


class _Profile:
  """Of one stage."""

  def __init__(self, config: ConfigDict, folder: epath.Path, log: Callable[[str], None]):
    self._steps, self._skip, self._folder, self._log = config.steps, config.skip, folder, log
    self.seen: collections.Counter[StepKind] = collections.Counter()
    self._traced: set[StepKind] = set()
    self._tracing: StepKind | None = None
    self._local = tempfile.TemporaryDirectory(prefix="score_jax_profile_")  # the profiler knows no gs://

  @contextlib.contextmanager
  def step(self, kind: StepKind) -> Iterator[None]:
    number = self.seen[kind]
    if self._tracing not in (None, kind):
      self._end()  # while a trace waits for more of its own kind it grows, without end
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
    """Ends what is traced; a stage may have had fewer steps."""
    with self._local:
      if self._tracing is not None:
        self._end()
    for kind in self.seen.keys() - self._traced:
      self._log(
        f"profile: none of {self.seen[kind]} {kind} was traced; the first {self._skip} never are (profile.skip)"
      )

  def _end(self) -> None:
    """Ends a trace and moves it into the workdir."""
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


_profile: _Profile | None = None


@contextlib.contextmanager
def profile_stage(
  config: ConfigDict, workdir: epath.Path, stage: str, log: Callable[[str], None], *, stages: Collection[str]
) -> Iterator[None]:
  """Traces steps of a stage within it, if `config`, the group `profile`, names it; `stages` are all that there are.

  Raises:
    UserError: the number of steps or a stage makes no sense, or the trace cannot be written.
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
  _profile = profile = _Profile(config, workdir / "profile" / stage, log)
  try:
    yield
  except BaseException:
    try:
      profile.close()
    except Exception as error:  # what ends the run is what it has to tell
      logger.warning("profile: what was traced last is lost: %s", error)
    raise
  else:
    profile.close()
  finally:
    _profile = None


@contextlib.contextmanager
def profile_step(kind: StepKind) -> Iterator[None]:
  """One step of the stage at work."""
  if _profile is None:
    yield
    return
  with _profile.step(kind):
    yield
