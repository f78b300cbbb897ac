"""Services that are told of a run's metrics: the real packages, keeping what they are told on this machine."""

from __future__ import annotations

import json
import pathlib
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
from score_jax.recipe import run_recipe
from score_jax.runtime import metrics as trackers
from score_jax.runtime.interrupt import RunInterrupted
from score_jax.runtime.metrics import MetricsWriter
from score_jax.runtime.workdir import Workdir
from tests.configs import smoke_config


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
  """Where the services keep things, and nowhere else."""
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_SILENT", "true")
  monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  yield tmp_path


def config(*names: str) -> ConfigDict:
  return ConfigDict({"to": names, "project": "tried"})


def tell(workdir: Workdir, names: Sequence[str], steps: Mapping[int, float]) -> None:
  """A start of a run, which writes the loss of some steps."""
  with trackers.open_trackers(config(*names), workdir, {"seed": 7}) as told:
    metrics = MetricsWriter(workdir, "rl", tell=told.log_metrics)
    for step, loss in steps.items():
      metrics.write(step, {"loss": loss})
    metrics.close()


def test_trackio_has_every_step_of_a_run_that_went_on(here: pathlib.Path) -> None:
  pytest.importorskip("trackio")
  workdir = Workdir(str(here / "run"))
  tell(workdir, ["trackio"], {0: 0.5, 1: 0.25})
  tell(workdir, ["trackio"], {2: 0.125})
  with sqlite3.connect(here / "trackio/tried.db") as found:
    rows = found.execute("select run_name, step, metrics from metrics order by step").fetchall()
  assert [(step, json.loads(numbers)["rl/loss"]) for _, step, numbers in rows] == [(0, 0.5), (1, 0.25), (2, 0.125)]
  assert len({name for name, _, _ in rows}) == 1 and rows[0][0].startswith("run-")


def losses(file: pathlib.Path) -> list[bytes]:
  """What a file of W&B's holds of them; each stands in it twice, in the history and in the summary."""
  return list(dict.fromkeys(re.findall(rb"rl/loss\x82\x01.([\d.]+)", file.read_bytes())))


def test_wandb_has_every_step_under_one_id(here: pathlib.Path) -> None:
  pytest.importorskip("wandb")
  workdir = Workdir(str(here / "run"))
  tell(workdir, ["wandb"], {0: 0.5, 1: 0.25})
  tell(workdir, ["wandb"], {2: 0.125})
  files = sorted((here / "run/wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
  assert len(files) == 2 and len({path.name for path in files}) == 1
  end = time.monotonic() + 20.0
  while (found := [*map(losses, files)]) != [[b"0.5", b"0.25"], [b"0.125"]]:  # its process may still be writing
    assert time.monotonic() < end, found
    time.sleep(0.1)


def test_of_what_is_not_known_or_not_there_one_line_tells(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  workdir = Workdir(str(here / "run"))
  with pytest.raises(UserError, match=r"'mlflow' is not known; choose from wandb, trackio"):
    tell(workdir, ["mlflow"], {})
  monkeypatch.setitem(trackers.TRACKERS, "no_such_package", trackers.WandbTracker)
  with pytest.raises(UserError, match=r"is not installed .*pip install score_jax\[no_such_package\]"):
    tell(workdir, ["no_such_package"], {})


class Broken(trackers.Tracker):
  """A service that cannot be reached, or that fails at its second step."""

  starts = True

  def start(self) -> None:
    if not self.starts:
      raise ConnectionError("nobody there")
    self.told = list[int]()

  def log_metrics(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
    del stage, numbers
    self.told.append(step)
    if len(self.told) == 2:
      raise TimeoutError("gone")
    assert len(self.told) < 2, "it was told more"

  def finish(self, *, failed: bool) -> None:
    raise ConnectionError(f"failed: {failed}")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setitem(trackers.TRACKERS, "json", Broken)  # a package that is there


def test_a_service_that_cannot_be_had_ends_the_run_before_it_begins(
  here: pathlib.Path, monkeypatch: pytest.MonkeyPatch, broken: None
) -> None:
  monkeypatch.setattr(Broken, "starts", False)
  with pytest.raises(UserError, match=r"json cannot be reached \(ConnectionError: nobody there\)"):
    tell(Workdir(str(here / "run")), ["json"], {})


def test_a_service_that_fails_later_ends_nothing(
  here: pathlib.Path, caplog: pytest.LogCaptureFixture, broken: None
) -> None:
  workdir = Workdir(str(here / "run"))
  tell(workdir, ["json"], {0: 1.0, 1: 0.5, 2: 0.25})
  assert "json gets no more numbers of this run: TimeoutError: gone" in caplog.text
  assert "json may lack the end of this run: ConnectionError: failed: False" in caplog.text
  lines: list[dict[str, Any]] = [json.loads(x) for x in (here / "run/metrics/rl.jsonl").read_text().splitlines()]
  assert [line["loss"] for line in lines] == [1.0, 0.5, 0.25]


def test_of_a_run_that_is_ended_it_is_told_so(
  here: pathlib.Path, caplog: pytest.LogCaptureFixture, broken: None
) -> None:
  c = smoke_config()
  c.trackers.to = ("json",)
  with pytest.raises(RunInterrupted), Experiment(c, Workdir(str(here / "run"))) as run:
    run.open_metrics("rl")
    raise RunInterrupted(15)
  assert "json may lack the end of this run: ConnectionError: failed: True" in caplog.text


def test_a_recipe_asks_for_its_services_before_its_first_stage(
  here: pathlib.Path, monkeypatch: pytest.MonkeyPatch, broken: None
) -> None:
  monkeypatch.setattr(Broken, "starts", False)
  c = smoke_config()
  c.trackers.to = ("json",)
  with Experiment(c, Workdir(str(here / "run"))) as run, pytest.raises(UserError, match="json cannot be reached"):
    run_recipe(run)
  assert not (here / "run/metrics").exists() and not (here / "run/trajectories").exists()
