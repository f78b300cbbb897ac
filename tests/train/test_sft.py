"""Fine-tuning that is broken off goes on as if it had not been; what is not finite stops it with all that is needed."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from score_jax.errors import UserError
from score_jax.model.decoder import Weights
from score_jax.model.lora import NO_PARAMS
from score_jax.runtime import interrupt
from score_jax.runtime.metrics import MetricsWriter
from score_jax.runtime.workdir import Workdir
from score_jax.train.batch import Batch, Example
from score_jax.train.optimizer import make_schedule
from score_jax.train.sft import SftConfig, TrainResult, fine_tune, training_cost
from tests.conftest import PASSES, Tiny

pytestmark = pytest.mark.usefixtures("lenient_promotion")  # of the optimiser and its schedules

SETTINGS = SftConfig(
  optimizer="adamw",
  learning_rate=1e-2,
  epochs=3,
  warmup=0.2,
  weight_decay=0.1,
  max_norm=1.0,
  rows=2,
  micro_rows=2,
  length=24,
  checkpoint_every=4,
  checkpoint_minutes=1e9,
  keep_checkpoints=2,
)


@pytest.fixture(scope="module")
def tiny(make_tiny: Callable[..., Tiny]) -> Tiny:
  return make_tiny(layers=1)


def lesson() -> list[Example]:
  draws = np.random.default_rng(0)
  sizes = draws.integers(6, 20, 12).tolist()
  return [
    Example(draws.integers(0, 64, n).astype("int32"), np.ones(n, "float32"), np.zeros(n, "float32")) for n in sizes
  ]


Tune = Callable[..., TrainResult]


@pytest.fixture
def tune(tiny: Tiny, one_device: Mesh) -> Tune:
  def run(
    root: pathlib.Path, *, validate: Callable[[Weights], dict[str, float]] | None = None, **settings: Any
  ) -> TrainResult:
    workdir = Workdir(str(root))
    return fine_tune(
      "sft",
      [lesson()],
      config=tiny.config,
      graph=tiny.graph,
      begin=lambda: tiny.weights,
      frozen=NO_PARAMS,
      mesh=one_device,
      settings=dataclasses.replace(SETTINGS, **settings),
      passes=PASSES,
      seed=3,
      workdir=workdir,
      metrics=MetricsWriter(workdir, "sft"),
      log=print,
      validate=validate,
    )

  return run


def same(ours: TrainResult, theirs: TrainResult) -> bool:
  equal = jax.tree.map(lambda a, b: np.array_equal(a, b), ours.weights, theirs.weights)
  return jax.tree.all(equal) and (ours.updates, ours.cost) == (theirs.updates, theirs.cost)


def steps(root: pathlib.Path) -> list[int]:
  return [json.loads(line)["step"] for line in (root / "metrics/sft.jsonl").read_text().splitlines()]


def test_broken_off_anywhere_it_goes_on_as_if_it_had_not_been(
  tune: Tune, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Killed between two checkpoints, asked to end, and with a time of day that jumps: the same weights, bit for bit,
  each update on the batch that was its turn, so that nothing but the step has to be kept."""
  undisturbed = tune(tmp_path / "whole")
  assert undisturbed.updates >= 10
  root = tmp_path / "broken"
  clock, write, seen = time.time, Workdir.write, 0
  monkeypatch.setattr(time, "time", lambda: clock() + 1e7 * (-1) ** seen)

  def disturbed(self: Workdir, name: str, text: str) -> None:
    nonlocal seen
    seen += 1
    write(self, name, text)
    if seen == 7:
      raise KeyboardInterrupt  # nothing is saved for it
    if seen == 10:
      signal.raise_signal(signal.SIGTERM)

  monkeypatch.setattr(Workdir, "write", disturbed)
  monkeypatch.setattr("score_jax.runtime.metrics.METRICS_INTERVAL_S", 0.0)
  monkeypatch.setattr("score_jax.runtime.metrics.METRICS_TIME_SHARE", 1e9)
  with pytest.raises(KeyboardInterrupt):
    tune(root)
  assert sorted(p.name for p in (root / "checkpoints/sft").iterdir()) == ["4"]
  with pytest.raises(interrupt.RunInterrupted), interrupt.handle_signals(1e6):
    tune(root)
  stopped = int(max((root / "checkpoints/sft").iterdir(), key=lambda p: int(p.name)).name)
  assert 4 < stopped < undisturbed.updates
  assert stopped % 4
  assert same(tune(root), undisturbed)
  found = steps(root)
  assert sorted(set(found)) == list(range(1, undisturbed.updates + 1))
  assert found[-1] == undisturbed.updates


def test_training_costs_three_forward_passes_of_each_token(tiny: Tiny) -> None:
  """Two passes over 4 and 10 tokens, which see 2 and 5 on average: a layer of 4 heads of 8, and 2 a weight."""
  samples = [Example(np.zeros(n, np.int32), np.ones(n, np.float32), np.zeros(n, np.float32)) for n in (4, 10)]
  usage = training_cost(tiny.config, samples, 2.0).of("student")
  forward = 14 * 2.0 * tiny.config.parameters + (4 * 2 + 10 * 5) * 4.0 * 4 * 8
  assert (usage.scored, usage.flops) == (28, 2 * 3 * forward)


def test_the_metrics_show_the_rate_that_an_update_had(tune: Tune, tmp_path: pathlib.Path) -> None:
  """The first of it is not 0, and the last not that of an update beyond the end, which would be 0."""
  count = tune(tmp_path).updates
  rate = make_schedule(peak=SETTINGS.learning_rate, steps=count, warmup=SETTINGS.warmup, kind="cosine")
  lines = [json.loads(line) for line in (tmp_path / "metrics/sft.jsonl").read_text().splitlines()]
  assert [line["learning_rate"] for line in lines] == pytest.approx([float(rate(done)) for done in range(count)])
  assert lines[-1]["learning_rate"] > 1e-5


def test_asked_to_end_while_it_validates_it_validates_again(tune: Tune, tmp_path: pathlib.Path) -> None:
  def asked(weights: Weights) -> dict[str, float]:
    signal.raise_signal(signal.SIGTERM)
    interrupt.raise_if_interrupted()
    raise AssertionError("it goes on")

  with pytest.raises(interrupt.RunInterrupted), interrupt.handle_signals(1e6):
    tune(tmp_path, validate=asked)
  last = tune(tmp_path, validate=lambda weights: {"val_accuracy": 0.5}).updates
  assert steps(tmp_path).count(last) == 1
  assert json.loads((tmp_path / "metrics/sft.jsonl").read_text().splitlines()[-1])["val_accuracy"] == 0.5


def test_what_is_not_finite_stops_it_and_its_batch_is_kept(tune: Tune, tiny: Tiny, tmp_path: pathlib.Path) -> None:
  with pytest.raises(UserError, match=r"sft: \w+ is (nan|inf) at step (\d+); lower sft\.learning_rate") as stopped:
    tune(tmp_path, learning_rate=1e30, max_norm=1e30)
  [path] = (tmp_path / "failed").iterdir()
  assert f"numpy.load('{path}') has the arrays of train/batch.py's Batch" in str(stopped.value)
  assert f"at step {path.stem.removeprefix('sft-')};" in str(stopped.value)
  arrays = np.load(path)
  assert set(arrays) == {field.name for field in dataclasses.fields(Batch)}
  assert arrays["tokens"].shape == (1, 2, 24)
  known = {tuple(s.tokens.tolist()) for s in lesson()}
  row, place = arrays["tokens"][0, 0], arrays["segments"][0, 0]
  assert tuple(row[place == 1].tolist()) in known


@pytest.mark.parametrize("wrong", [-1, 64])
def test_a_token_that_the_student_does_not_have_is_refused(
  tune: Tune, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
  samples = lesson()
  samples[3].tokens[2] = wrong
  monkeypatch.setitem(globals(), "lesson", lambda: samples)
  with pytest.raises(UserError, match=rf"sft: a trajectory has token {wrong}, and the student's tokens are 0 to 63"):
    tune(tmp_path)


def test_what_is_too_long_is_counted(tune: Tune, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
  """In what the stage hands on, in every line of its metrics and in the log: trajectories and tokens."""
  sizes = [len(one.tokens) for one in lesson()]
  long = [size for size in sizes if size > 15]
  assert 1 < len(long) < len(sizes)
  trained = tune(tmp_path, length=15, epochs=1)
  counts = {"too_long": len(long), "too_long_tokens": sum(long)}
  assert trained.left_out == counts
  lines = [json.loads(line) for line in (tmp_path / "metrics/sft.jsonl").read_text().splitlines()]
  assert lines and all(line.items() >= counts.items() for line in lines)
  said = f"sft: {len(long)} of {len(sizes)} trajectories ({sum(long)} of {sum(sizes)} tokens) are longer than 15 tokens"
  assert said in capsys.readouterr().out
