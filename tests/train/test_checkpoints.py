"""Checkpoints come back bit for bit, on another mesh too, and a damaged one costs no more than itself."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from jax.sharding import Mesh

from score_jax.model.sharding import weight_shardings
from score_jax.runtime import interrupt
from score_jax.train.batch import Batch, iter_updates, make_example
from score_jax.train.checkpoints import Checkpoints
from score_jax.train.optimizer import make_optimizer, make_schedule
from score_jax.train.step import Trainer, TrainState, make_sft_loss
from score_jax.trajectory import Step, Trajectory
from tests import small_disk
from tests.conftest import PASSES, Tiny

pytestmark = pytest.mark.usefixtures("standard_promotion")  # optax mixes integers and floats


@pytest.fixture(scope="module")
def tiny(make_tiny: Callable[..., Tiny]) -> Tiny:
  return make_tiny(layers=1)


def make_trainer(tiny: Tiny, mesh: Mesh) -> Trainer:
  rate = make_schedule(peak=1e-3, steps=10, warmup=0.0, kind="constant")
  rule = make_optimizer("adamw", rate, weight_decay=0.1, max_norm=1.0)
  return Trainer(tiny.graph, rule, make_sft_loss(), mesh, PASSES)


@pytest.fixture(scope="module")
def trainer(tiny: Tiny, one_device: Mesh) -> Trainer:
  return make_trainer(tiny, one_device)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Checkpoints]:
  opened = Checkpoints(epath.Path(tmp_path / "sft"), keep=2)
  yield opened
  opened.close()


def at(step: int, trainer: Trainer, tiny: Tiny) -> TrainState:
  """A state as it could be after `step` updates: nothing in it is zero or round."""
  draws = np.random.default_rng(step)

  def some(x: jax.ShapeDtypeStruct) -> jax.Array:
    noise = draws.normal(step + 1, 1, x.shape) if x.dtype == np.float32 else np.full(x.shape, step)
    return jax.device_put(np.asarray(noise, x.dtype), x.sharding)

  return jax.tree.map(some, trainer.abstract_state(tiny.config))


def assert_equal(found: TrainState | None, expected: TrainState) -> None:
  assert found is not None
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def damage(folder: Path, pattern: str) -> None:
  """Cuts the files in half."""
  files = [file for file in folder.rglob(pattern) if file.is_file() and file.stat().st_size > 1]
  assert files
  for file in files:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_what_is_saved_is_restored_bit_for_bit(checkpoints: Checkpoints, trainer: Trainer, tiny: Tiny) -> None:
  assert checkpoints.restore_newest(trainer.abstract_state(tiny.config)) is None
  assert checkpoints.restore_newest_weights(tiny.weights, dtype="float32") is None
  state = at(3, trainer, tiny)
  checkpoints.save(state)
  assert_equal(checkpoints.restore_newest(trainer.abstract_state(tiny.config)), state)
  found = checkpoints.restore_newest_weights(tiny.weights, dtype="float32")
  assert found is not None
  assert found[0] == 3
  for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(state.weights), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_state_goes_from_one_mesh_to_another(
  checkpoints: Checkpoints, trainer: Trainer, tiny: Tiny, eight_devices: Mesh
) -> None:
  spread = make_trainer(tiny, eight_devices)
  state = at(4, spread, tiny)
  assert len(state.weights["embedding"][...].sharding.device_set) == 8
  checkpoints.save(state)
  here = checkpoints.restore_newest(trainer.abstract_state(tiny.config))
  assert_equal(here, state)
  assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(here)} == {1}
  back = checkpoints.restore_newest(spread.abstract_state(tiny.config))
  assert_equal(back, state)
  assert jax.tree.map(lambda x: x.sharding, back) == weight_shardings(eight_devices, state)


def test_only_the_last_few_are_kept(checkpoints: Checkpoints, trainer: Trainer, tiny: Tiny, tmp_path: Path) -> None:
  for step in (1, 2, 10):
    checkpoints.save(at(step, trainer, tiny))
  assert_equal(checkpoints.restore_newest(trainer.abstract_state(tiny.config)), at(10, trainer, tiny))
  assert names(tmp_path / "sft") == {"2", "10"}


def names(folder: Path) -> set[str]:
  return {path.name for path in folder.iterdir()}


def test_the_best_stays_beside_the_last(checkpoints: Checkpoints, trainer: Trainer, tiny: Tiny, tmp_path: Path) -> None:
  accuracies = {1: 0.25, 2: 0.75, 3: None, 4: 0.5, 5: None, 6: None}
  for step, accuracy in accuracies.items():
    checkpoints.save(at(step, trainer, tiny), accuracy=accuracy)
  assert_equal(checkpoints.restore_newest(trainer.abstract_state(tiny.config)), at(6, trainer, tiny))
  assert names(tmp_path / "sft") == {"2", "5", "6"}


def test_it_is_written_behind_updates_that_use_up_the_state(
  checkpoints: Checkpoints, trainer: Trainer, tiny: Tiny
) -> None:
  """The arrays that were passed in are donated, and changed, at once."""
  state = trainer.init_state(tiny.weights)
  batches = list(batches_of(tiny, epochs_=6))
  for batch in batches[:2]:
    state, _ = trainer(state, batch)
  expected = jax.tree.map(lambda x: np.array(x, copy=True), state)
  checkpoints.save(state)
  for batch in batches[2:]:
    state, _ = trainer(state, batch)
  assert not np.array_equal(state.weights["embedding"][...], expected.weights["embedding"][...])
  assert_equal(checkpoints.restore_newest(trainer.abstract_state(tiny.config)), expected)


def batches_of(tiny: Tiny, *, epochs_: int) -> Iterator[Batch]:
  """Updates of which none is like another."""
  draws = np.random.default_rng(0)
  trajectories = [
    Trajectory(
      "q", "", (1, 2), tuple(Step("act", "", tokens=tuple(draws.integers(0, 64, 6).tolist())) for _ in range(2))
    )
    for _ in range(8)
  ]
  return iter_updates([make_example(t) for t in trajectories], rows=8, micro=8, length=32, epochs=epochs_, seed=0)


def test_on_another_mesh_the_next_step_is_the_same(
  checkpoints: Checkpoints, trainer: Trainer, tiny: Tiny, eight_devices: Mesh
) -> None:
  """From a state that eight devices have left, on the same batch, one device makes the same step to 1e-5."""
  spread, (first, second) = make_trainer(tiny, eight_devices), batches_of(tiny, epochs_=2)
  state, _ = spread(spread.init_state(tiny.weights), first)
  checkpoints.save(state)
  here = checkpoints.restore_newest(trainer.abstract_state(tiny.config))
  assert_equal(here, state)
  assert here is not None
  (ours, numbers), (theirs, same) = trainer(here, second), spread(state, second)
  assert float(numbers["loss"]) == pytest.approx(float(same["loss"]), abs=1e-5)
  for a, b in zip(jax.tree.leaves(ours.weights), jax.tree.leaves(theirs.weights), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_there_is_one_every_few_minutes_whatever_the_time_of_day(
  trainer: Trainer, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
  passed = time.monotonic()
  before: list[str] = []
  monkeypatch.setattr(time, "monotonic", lambda: passed)
  monkeypatch.setattr(time, "time", lambda clock=time.time: clock() + jump * len(before))
  folder = tmp_path / "sft"
  with Checkpoints(epath.Path(folder), keep=9, minutes=5.0, before=lambda: before.append("told")) as checkpoints:
    for step, minutes in enumerate((1, 3, 2, 4, 2), start=1):
      passed += 60 * minutes
      assert checkpoints.maybe_save(at(step, trainer, tiny), keep=False) == (step in (3, 5))
      assert len(before) == (step >= 3) + (step >= 5), "before each of them, and no other time"
    assert checkpoints.maybe_save(at(6, trainer, tiny), keep=True)
  assert names(folder) == {"3", "5", "6"}


def test_asked_to_end_it_saves_first(trainer: Trainer, tiny: Tiny, tmp_path: Path) -> None:
  folder = epath.Path(tmp_path / "sft")
  with (
    pytest.raises(interrupt.RunInterrupted),
    interrupt.handle_signals(1e6),
    Checkpoints(folder, keep=2) as checkpoints,
  ):
    assert not checkpoints.maybe_save(at(1, trainer, tiny), keep=False)
    signal.raise_signal(signal.SIGTERM)
    checkpoints.maybe_save(at(2, trainer, tiny), keep=False)
  assert names(tmp_path / "sft") == {"2"}
  rollouts = Checkpoints(folder, keep=2)
  with (
    pytest.raises(interrupt.RunInterrupted),
    interrupt.handle_signals(1e6),
    rollouts,
    rollouts.save_on_interrupt(at(3, trainer, tiny)),
  ):
    signal.raise_signal(signal.SIGTERM)
    interrupt.raise_if_interrupted()
  assert names(tmp_path / "sft") == {"2", "3"}


def test_what_was_half_written_goes_when_the_next_run_begins(trainer: Trainer, tiny: Tiny, tmp_path: Path) -> None:
  folder = tmp_path / "sft"
  with Checkpoints(epath.Path(folder), keep=2) as checkpoints:
    checkpoints.save(at(1, trainer, tiny))
  shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
  with Checkpoints(epath.Path(folder), keep=0) as reader:
    assert reader.restore_newest_weights(tiny.weights, dtype="float32") is not None
    assert names(folder) == {"1", "2.orbax-checkpoint-tmp"}, "who only reads touches nothing: it may be at work"
  with Checkpoints(epath.Path(folder), keep=2) as checkpoints:
    assert_equal(checkpoints.restore_newest(trainer.abstract_state(tiny.config)), at(1, trainer, tiny))
  assert names(folder) == {"1"}


def test_a_full_disk_is_told_in_a_line_and_what_was_there_stays(tmp_path: Path) -> None:
  """And once there is room it goes on from there."""
  code = f"""
import logging; logging.getLogger("absl").setLevel(logging.CRITICAL)
import pathlib, jax, numpy as np
from etils import epath
from score_jax.errors import UserError
from score_jax.train.checkpoints import Checkpoints
from score_jax.train.step import TrainState
folder = pathlib.Path({str(tmp_path)!r}) / "sft"
def at(step):
  noise = np.random.default_rng(step).normal(size=(200, 1000)).astype("float32")
  return TrainState(jax.numpy.int32(step), {{"w": jax.numpy.asarray(noise)}}, {{"m": jax.numpy.zeros(3)}})
filler = folder.parent / "filler"
filler.write_bytes(bytes(1 << 20))
step = 0
try:
  with Checkpoints(epath.Path(folder), keep=9) as checkpoints:
    for step in range(1, 9):
      checkpoints.save(at(step))
except UserError as error:
  print(error)
filler.unlink()
with Checkpoints(epath.Path(folder), keep=9) as checkpoints:
  found = checkpoints.restore_newest(at(0))
  assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), found, at(int(found.step))))
  checkpoints.save(at(20))
  print(int(found.step), step, int(checkpoints.restore_newest(at(0)).step))
"""
  said = small_disk.run(code, tmp_path, kilobytes=4000).splitlines()
  assert len(said) == 2
  assert said[0].startswith(f"{tmp_path}/sft cannot be written (")
  assert "No space left on device" in said[0]
  assert "mend that and start again: everything up to here is kept" in said[0]
  newest, step, later = map(int, said[1].split())
  assert 1 <= newest < step <= 8, "it was noticed, at the latest by the save after it"
  assert later == 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tensorstore reports each file too
@pytest.mark.parametrize("what", ["*", "manifest.ocdbt", "_METADATA"])
def test_of_a_damaged_checkpoint_the_one_before_it_is_taken(
  trainer: Trainer, tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
  folder = epath.Path(tmp_path / "rl")
  first = Checkpoints(folder, keep=3)
  for step in (4, 6):
    first.save(at(step, trainer, tiny))
  first.close()
  damage(tmp_path / "rl" / "6", what)

  again = Checkpoints(folder, keep=3)
  with caplog.at_level(logging.WARNING, logger="score_jax"):
    assert_equal(again.restore_newest(trainer.abstract_state(tiny.config)), at(4, trainer, tiny))
  [warning] = [record.getMessage() for record in caplog.records if record.name.startswith("score_jax")]
  assert f"checkpoint {folder / '6'} cannot be read" in warning
  assert "using the one before it" in warning

  assert (tmp_path / "rl" / "6").exists(), "only a checkpoint that takes its place removes it"
  again.save(at(5, trainer, tiny))
  again.save(at(6, trainer, tiny))
  assert_equal(again.restore_newest(trainer.abstract_state(tiny.config)), at(6, trainer, tiny))
  again.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_checkpoint_of_the_same_step_takes_the_place_of_a_damaged_one(
  trainer: Trainer, tiny: Tiny, tmp_path: Path
) -> None:
  """As where each update is kept: the run goes on from 5 and comes to 6 again."""
  with Checkpoints(epath.Path(tmp_path / "rl"), keep=3) as first:
    for step in (5, 6):
      first.save(at(step, trainer, tiny))
  damage(tmp_path / "rl" / "6", "*")
  with Checkpoints(epath.Path(tmp_path / "rl"), keep=3) as again:
    assert_equal(again.restore_newest(trainer.abstract_state(tiny.config)), at(5, trainer, tiny))
    again.save(at(6, trainer, tiny))
    assert_equal(again.restore_newest(trainer.abstract_state(tiny.config)), at(6, trainer, tiny))


def test_a_relative_folder_will_do(
  trainer: Trainer, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  checkpoints = Checkpoints(epath.Path("runs/x"), keep=1)
  checkpoints.save(at(1, trainer, tiny))
  assert_equal(checkpoints.restore_newest(trainer.abstract_state(tiny.config)), at(1, trainer, tiny))
  checkpoints.close()
  assert (tmp_path / "runs/x/1").is_dir()
