"""Where the numbers of a run go: JSON lines, TensorBoard, trackers, the terminal.

* `MetricsWriter`: metrics/<stage>.jsonl, and the same numbers as TensorBoard event files.
* `open_trackers`: Weights & Biases and trackio, as `trackers.to` in the config names them. A service that cannot be
  reached at the start is an error. One that fails later is dropped with a warning. Everything is in metrics/*.jsonl
  as well. Steps that a restart repeats are sent again.
* `Progress`: a bar on a terminal, a plain line every 15 seconds elsewhere.

    pip install -e ".[wandb]" && wandb login
    python -m score_jax.main --config=configs/quickstart.py --config.trackers.to="('wandb',)"

Services are configured by their own variables: WANDB_MODE, WANDB_ENTITY, TRACKIO_SPACE_ID, TRACKIO_DIR, …
"""

from __future__ import annotations

import abc
import contextlib
import importlib
import json
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ml_collections import ConfigDict
from tqdm import tqdm

from score_jax.errors import UserError
from score_jax.runtime import processes
from score_jax.runtime.tensorboard import encode_file_header, encode_scalars
from score_jax.runtime.workdir import Workdir

logger = logging.getLogger(__name__)

#: seconds between two writes of a stage's metrics, and the greatest fraction of the run time spent on writing
METRICS_INTERVAL_S, METRICS_TIME_SHARE = 5.0, 0.05
#: called with the numbers of each step: (stage, step, numbers)
MetricsListener = Callable[[str, int, Mapping[str, float]], None]


def parse_metric_lines(text: str) -> list[dict[str, Any]]:
  """The lines of a metrics file, sorted by step.

  Of a step that a restart repeated, the last line counts. Incomplete lines are left out.
  """
  found: dict[int, dict[str, Any]] = {}
  for line in text.split("\n"):
    try:
      data = json.loads(line)
    except ValueError:
      continue  # the half-written last line of a killed run
    if isinstance(data, dict) and isinstance(data.get("step"), int):
      found[data["step"]] = data
  return [line for _, line in sorted(found.items())]


class MetricsWriter:
  """Writes the numbers of a stage by step, as JSON lines and as TensorBoard events. Appends to existing lines.

  Files are written every few seconds and at the end: a store like gs:// takes whole files only, and few in a second.
  """

  def __init__(self, workdir: Workdir, stage: str, *, tell: MetricsListener | None = None):
    """`tell`: called with the same numbers, at once."""
    self._workdir, self._stage, self._tell = workdir, stage, tell
    self._name = f"metrics/{stage}.jsonl"
    path = workdir.root / self._name
    self._lines = path.read_text(encoding="utf-8") if path.exists() else ""
    host, now = socket.gethostname(), time.time()
    self._events_name = f"metrics/tensorboard/{stage}/events.out.tfevents.{int(now)}.{host}.{os.getpid()}"
    self._events, self._written = bytearray(encode_file_header(now)), 0
    self._next = 0.0  # time of the next write

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    """Adds the numbers of a step; counts as progress of the run."""
    processes.report_progress()
    now, values = time.time(), {k: float(v) for k, v in {**numbers, **processes.heartbeat_metrics()}.items()}
    self._lines += json.dumps({"step": step, "time": round(now, 3)} | values) + "\n"
    self._events += encode_scalars(step, now, values)
    if self._tell is not None:
      self._tell(self._stage, step, values)
    start = time.monotonic()
    if start >= self._next:
      self.flush()
      took = time.monotonic() - start
      self._next = start + max(METRICS_INTERVAL_S, took / METRICS_TIME_SHARE)

  def lines_before(self, step: int) -> list[dict[str, Any]]:
    """The lines of all steps before `step`."""
    return [line for line in parse_metric_lines(self._lines) if line["step"] < step]

  def flush(self) -> None:
    """Writes the numbers that are not in the files yet."""
    if self._written == len(self._events):
      return
    self._workdir.write(self._name, self._lines)
    self._workdir.append(self._events_name, bytes(self._events), self._written)
    self._written = len(self._events)

  def close(self) -> None:
    self.flush()


class Tracker(abc.ABC):
  """One metrics service of a run."""

  def __init__(self, package: Any, *, project: str, run: str, folder: str, config: dict[str, Any]):
    """
    Args:
      package: the module of the service.
      run: name of the run, the same after every restart.
      folder: its workdir; "" where that is in a bucket.
    """
    self._package, self._project, self._run, self._folder, self._config = package, project, run, folder, config

  @abc.abstractmethod
  def start(self) -> None:
    """Opens the run at the service; raises whatever the service raises."""

  @abc.abstractmethod
  def log_metrics(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
    """Sends the numbers of one step of a stage."""

  def finish(self, *, failed: bool) -> None:
    """Closes the service; `failed`: the run ended before it was done."""
    del failed
    self._package.finish()


class WandbTracker(Tracker):
  """Weights & Biases. Each stage has its own axis <stage>/step: W&B's step never goes back, a restart does."""

  def start(self) -> None:
    self._stages = set[str]()
    where = {"dir": self._folder} if self._folder else {}
    self._wandb_run = self._package.init(
      project=self._project, name=self._run, id=self._run, resume="allow", config=self._config, **where
    )

  def log_metrics(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
    if stage not in self._stages:
      self._wandb_run.define_metric(f"{stage}/step")
      self._wandb_run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
      self._stages.add(stage)
    self._wandb_run.log({f"{stage}/step": step} | _prefix_names(stage, numbers))

  def finish(self, *, failed: bool) -> None:
    self._wandb_run.finish(exit_code=int(failed))


class TrackioTracker(Tracker):
  """trackio. The axis is the step of the stage."""

  def start(self) -> None:
    self._package.init(project=self._project, name=self._run, resume="allow", config=self._config, embed=False)

  def log_metrics(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
    self._package.log(_prefix_names(stage, numbers), step=step)


TRACKERS: dict[str, type[Tracker]] = {"wandb": WandbTracker, "trackio": TrackioTracker}


class TrackerSet:
  """The services of a run. A service that fails is dropped with a warning."""

  def __init__(self) -> None:
    self._services: dict[str, Tracker] = {}
    self.failed = False  # whether the run ends before it is done

  def add_tracker(self, name: str, service: Tracker) -> None:
    """Starts a service and adds it; raises whatever its `start` raises."""
    service.start()
    self._services[name] = service

  def log_metrics(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
    """Sends the numbers of one step to every service."""
    for name, service in list(self._services.items()):
      try:
        service.log_metrics(stage, step, numbers)
      except Exception as error:  # a service must not end a run: the workdir has all numbers
        logger.warning("%s gets no more numbers of this run: %s: %s", name, type(error).__name__, error)
        del self._services[name]

  def finish(self, name: str, service: Tracker) -> None:
    """Closes a service at the end of the run; an error is only a warning."""
    try:
      service.finish(failed=self.failed)
    except Exception as error:  # nor may it hide the error that ended the run
      logger.warning("%s may lack the end of this run: %s: %s", name, type(error).__name__, error)


@contextlib.contextmanager
def open_trackers(config: ConfigDict, workdir: Workdir, run_config: dict[str, Any]) -> Iterator[TrackerSet]:
  """The services that `config` (group `trackers`) names, open until it exits. Only process 0 sends numbers."""
  wanted = _check_names(config.to)
  run = _run_name(workdir) if wanted else ""
  trackers = TrackerSet()
  folder = str(workdir.root) if workdir.local else ""
  with contextlib.ExitStack() as stack:
    for name in wanted if processes.is_primary() else ():
      service = TRACKERS[name](_package(name), project=config.project, run=run, folder=folder, config=run_config)
      try:
        trackers.add_tracker(name, service)
      except Exception as error:  # each service has exceptions of its own
        raise UserError(
          f"trackers.to: {name} cannot be reached ({type(error).__name__}: {error}); check its login and the network, "
          "or leave it out"
        ) from error
      stack.callback(trackers.finish, name, service)
    yield trackers


def _check_names(names: Sequence[str]) -> list[str]:
  for name in names:
    if name not in TRACKERS:
      raise UserError(f"trackers.to = {tuple(names)!r}: {name!r} is not known; choose from {', '.join(TRACKERS)}")
  return list(names)


def _package(name: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(f"trackers.to: {name} is not installed ({error}); pip install score_jax[{name}]") from error


def _run_name(workdir: Workdir) -> str:
  """The run's name for services: the folder's name and a random suffix, kept in trackers.json."""
  found = workdir.read_json("trackers.json")
  if found is None:
    found = {"run": f"{workdir.root.name}-{secrets.token_hex(4)}"}
    workdir.write_json("trackers.json", found)
  return found["run"]


def _prefix_names(stage: str, numbers: Mapping[str, float]) -> dict[str, float]:
  return {f"{stage}/{name}": value for name, value in numbers.items()}


PLAIN_INTERVAL_S = 15.0  # seconds between two plain lines


class Progress:
  """Shows progress up to `total` with rate and time left. A context manager."""

  def __init__(self, what: str, total: int, unit: str):
    self._what, self._total, self._unit = what, total, unit
    self._bar = tqdm(total=total, desc=what, unit=unit, leave=False) if sys.stderr.isatty() else None
    self._done, self._start = 0, time.monotonic()
    self._last_printed = self._start

  def __call__(self, count: int, note: str = "") -> None:
    """Counts `count` more as done; `note` is shown beside."""
    self._done += count
    if self._bar is not None:
      self._bar.set_postfix_str(note, refresh=False)
      self._bar.update(count)
    elif time.monotonic() - self._last_printed >= PLAIN_INTERVAL_S:
      self._last_printed = time.monotonic()
      rate = self._done / (self._last_printed - self._start)
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
