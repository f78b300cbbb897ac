"""Checkpoints come back bit for bit, on another mesh too, and a damaged one costs no more than itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from jax.sharding import Mesh

from score_jax.mesh.sharding import weight_shardings
from score_jax.train.checkpoints import Checkpoints
from score_jax.train.optimizer import optimizer, schedule
from score_jax.train.steps import Trainer, TrainState, likelihood
from tests.conftest import PASSES, Tiny


@pytest.fixture(scope="module")
def tiny(make_tiny: Callable[..., Tiny]) -> Tiny:
  return make_tiny(layers=1)


def make_trainer(tiny: Tiny, mesh: Mesh) -> Trainer:
  rate = schedule(peak=1e-3, steps=10, warmup=0.0, kind="constant")
  rule = optimizer("adamw", rate, weight_decay=0.1, max_norm=1.0)
  return Trainer(tiny.graph, rule, likelihood(), mesh, PASSES)


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

  return jax.tree.map(some, trainer.abstract(tiny.config))


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
  assert checkpoints.newest(trainer.abstract(tiny.config)) is None
  assert checkpoints.newest_weights(tiny.weights, dtype="float32") is None
  state = at(3, trainer, tiny)
  checkpoints.save(state)
  assert_equal(checkpoints.newest(trainer.abstract(tiny.config)), state)
  found = checkpoints.newest_weights(tiny.weights, dtype="float32")
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
  here = checkpoints.newest(trainer.abstract(tiny.config))
  assert_equal(here, state)
  assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(here)} == {1}
  back = checkpoints.newest(spread.abstract(tiny.config))
  assert_equal(back, state)
  assert jax.tree.map(lambda x: x.sharding, back) == weight_shardings(eight_devices, state)


def test_only_the_last_few_are_kept(checkpoints: Checkpoints, trainer: Trainer, tiny: Tiny, tmp_path: Path) -> None:
  for step in (1, 2, 10):
    checkpoints.save(at(step, trainer, tiny))
  assert {folder.name for folder in (tmp_path / "sft").iterdir()} == {"2", "10"}
  assert_equal(checkpoints.newest(trainer.abstract(tiny.config)), at(10, trainer, tiny))


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
    assert_equal(again.newest(trainer.abstract(tiny.config)), at(4, trainer, tiny))
  [warning] = [record.getMessage() for record in caplog.records if record.name.startswith("score_jax")]
  assert f"checkpoint {folder / '6'} cannot be read" in warning
  assert "using the one before it" in warning

  assert (tmp_path / "rl" / "6").exists(), "only a checkpoint that takes its place removes it"
  again.save(at(5, trainer, tiny))
  again.save(at(6, trainer, tiny))
  assert_equal(again.newest(trainer.abstract(tiny.config)), at(6, trainer, tiny))
  again.close()


def test_a_relative_folder_will_do(
  trainer: Trainer, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  checkpoints = Checkpoints(epath.Path("runs/x"), keep=1)
  checkpoints.save(at(1, trainer, tiny))
  assert_equal(checkpoints.newest(trainer.abstract(tiny.config)), at(1, trainer, tiny))
  checkpoints.close()
  assert (tmp_path / "runs/x/1").is_dir()
