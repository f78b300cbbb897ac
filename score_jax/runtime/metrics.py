"""Services that are told of a run's metrics, besides its workdir: Weights & Biases, trackio.

    pip install -e ".[wandb]" && wandb login
    python -m score_jax.main --config=configs/quickstart.py --config.trackers.to="('wandb',)"

What they are told stands in metrics/*.jsonl all the same. A service that cannot be had ends the run before it begins;
one that fails later is told nothing more, which a warning says. Steps that a restart does again they are told again.
Where they keep what they are told is theirs to configure: WANDB_MODE, WANDB_ENTITY, TRACKIO_SPACE_ID, TRACKIO_DIR, …

MERGED Progress: a bar with rate and time left on a terminal, plain lines now and then elsewhere.
"""

from __future__ import annotations

import abc
import contextlib
import importlib
import logging
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ml_collections import ConfigDict
from tqdm import tqdm

from score_jax.errors import UserError
from score_jax.runtime import processes
from score_jax.runtime.workdir import Workdir

logger = logging.getLogger(__name__)


class Tracker(abc.ABC):
  """One service, for one run."""

  def __init__(self, package: Any, *, project: str, run: str, folder: str, config: dict[str, Any]):
    """`run`: its name, the same whenever the run goes on; `folder`: its workdir, "" where that is in a bucket."""
    self._package, self._project, self._run, self._folder, self._config = package, project, run, folder, config

  @abc.abstractmethod
  def start(self) -> None: ...

  @abc.abstractmethod
  def log_metrics(self, stage: str, step: int, numbers: Mapping[str, float]) -> None: ...

  def finish(self, *, failed: bool) -> None:
    """The run ends; `failed`: before it was done."""
    del failed
    self._package.finish()


class WandbTracker(Tracker):
  """Each stage has an axis of its own, <stage>/step: W&B's only ever rises, and a restart does steps again."""

  def start(self) -> None:
    self._stages = set[str]()
    where = {"dir": self._folder} if self._folder else {}
    self._of = self._package.init(
      project=self._project, name=self._run, id=self._run, resume="allow", config=self._config, **where
    )

  def log_metrics(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
    if stage not in self._stages:
      self._of.define_metric(f"{stage}/step")
      self._of.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
      self._stages.add(stage)
    self._of.log({f"{stage}/step": step} | _named(stage, numbers))

  def finish(self, *, failed: bool) -> None:
    self._of.finish(exit_code=int(failed))


class TrackioTracker(Tracker):
  """Each number has its stage's step for an axis."""

  def start(self) -> None:
    self._package.init(project=self._project, name=self._run, resume="allow", config=self._config, embed=False)

  def log_metrics(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
    self._package.log(_named(stage, numbers), step=step)


TRACKERS: dict[str, type[Tracker]] = {"wandb": WandbTracker, "trackio": TrackioTracker}


class TrackerSet:
  """All that a run has."""

  def __init__(self) -> None:
    self._services: dict[str, Tracker] = {}
    self.failed = False  # whether the run ends before it is done

  def add_tracker(self, name: str, service: Tracker) -> None:
    service.start()
    self._services[name] = service

  def log_metrics(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
    for name, service in list(self._services.items()):
      try:
        service.log_metrics(stage, step, numbers)
      except Exception as error:  # whatever is wrong with a service must not end a run, which has it all in its workdir
        logger.warning("%s is told nothing more of this run: %s: %s", name, type(error).__name__, error)
        del self._services[name]

  def finish(self, name: str, service: Tracker) -> None:
    try:
      service.finish(failed=self.failed)
    except Exception as error:  # as above; nor may it hide what ended the run
      logger.warning("%s may lack the end of this run: %s: %s", name, type(error).__name__, error)


@contextlib.contextmanager
def open_trackers(config: ConfigDict, workdir: Workdir, run_config: dict[str, Any]) -> Iterator[TrackerSet]:
  """The services that `config`, the group `trackers`, names; of several processes the first one tells them.

  Raises:
    UserError: one is unknown, is not installed, or cannot be had.
  """
  wanted = _wanted(config.to)
  run = _name(workdir) if wanted else ""
  told = TrackerSet()
  folder = str(workdir.root) if workdir.local else ""
  with contextlib.ExitStack() as ends:
    for name in wanted if processes.is_primary() else ():
      service = TRACKERS[name](_package(name), project=config.project, run=run, folder=folder, config=run_config)
      try:
        told.add_tracker(name, service)
      except Exception as error:  # each has exceptions of its own
        raise UserError(
          f"trackers.to: {name} cannot be had ({type(error).__name__}: {error}); see to its login and network, or "
          "leave it out"
        ) from error
      ends.callback(told.finish, name, service)
    yield told


def _wanted(names: Sequence[str]) -> list[str]:
  for name in names:
    if name not in TRACKERS:
      raise UserError(f"trackers.to = {tuple(names)!r}: {name!r} is not known; choose from {', '.join(TRACKERS)}")
  return list(names)


def _package(name: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(f"trackers.to: {name} is not installed ({error}); pip install score_jax[{name}]") from error


def _name(workdir: Workdir) -> str:
  """The run's name for services: its folder's, and something that no other run has."""
  found = workdir.read_json("trackers.json")
  if found is None:
    found = {"run": f"{workdir.root.name}-{secrets.token_hex(4)}"}
    workdir.write_json("trackers.json", found)
  return found["run"]


def _named(stage: str, numbers: Mapping[str, float]) -> dict[str, float]:
  return {f"{stage}/{name}": value for name, value in numbers.items()}


PLAIN_INTERVAL_S = 15.0


class Progress:
  """Counts up to `total`; a context manager."""

  def __init__(self, what: str, total: int, unit: str):
    self._what, self._total, self._unit = what, total, unit
    self._bar = tqdm(total=total, desc=what, unit=unit, leave=False) if sys.stderr.isatty() else None
    self._done, self._start = 0, time.monotonic()
    self._said = self._start

  def __call__(self, count: int, note: str = "") -> None:
    """`count` more are done."""
    self._done += count
    if self._bar is not None:
      self._bar.set_postfix_str(note, refresh=False)
      self._bar.update(count)
    elif time.monotonic() - self._said >= PLAIN_INTERVAL_S:
      self._said = time.monotonic()
      rate = self._done / (self._said - self._start)
      left = (self._total - self._done) / rate if rate else 0.0
      print(
        f"  {self._what}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s, {left:.0f} s left {note}", flush=True
      )

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    if self._bar is not None:
      self._bar.close()
