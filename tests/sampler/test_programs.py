"""The sampler takes a trainer's weights as they lie, or moves them in one call that is compiled once."""

from __future__ import annotations

import logging

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from score_jax.model.decoder import Weights
from score_jax.model.sharding import make_mesh, weight_shardings
from score_jax.sampler.programs import SamplerPrograms
from score_jax.sampler.stops import Stops
from tests.conftest import Tiny


def sampler(tiny: Tiny, mesh: Mesh, dtype: str = "float32") -> SamplerPrograms:
  return SamplerPrograms(tiny.graph, tiny.config, mesh, slots=8, length=64, block=32, stops=Stops((7,)), dtype=dtype)


@pytest.fixture
def trained(tiny: Tiny, eight_devices: Mesh) -> Weights:
  """Weights as a trainer on the eight devices leaves them."""
  return jax.device_put(tiny.weights, weight_shardings(eight_devices, tiny.weights))


@pytest.fixture
def here(eight_devices: Mesh) -> Mesh:
  """The sampler's mesh, of the same devices."""
  return make_mesh((4, 1, 2), devices=list(eight_devices.devices.flat))


def test_weights_that_lie_as_wanted_are_taken_as_they_are(tiny: Tiny, trained: Weights, eight_devices: Mesh) -> None:
  taken = sampler(tiny, eight_devices).place_weights(trained)
  assert all(a is b for a, b in zip(*map(jax.tree.leaves, (taken, trained)), strict=True))


def test_weights_from_another_mesh_and_of_another_dtype_are_moved(tiny: Tiny, trained: Weights, here: Mesh) -> None:
  """The values are those of a cast, the places are the sampler's, and the trainer's arrays stay as they were."""
  taken = sampler(tiny, here, "bfloat16").place_weights(trained)
  places = weight_shardings(here, taken)
  for leaf, place, before in zip(*map(jax.tree.leaves, (taken, places, trained)), strict=True):
    assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
    np.testing.assert_array_equal(leaf, np.asarray(before).astype("bfloat16"))
    assert before.dtype == "float32" and not before.is_deleted()


def test_only_what_lies_elsewhere_is_moved(tiny: Tiny, trained: Weights, here: Mesh) -> None:
  """Norms' scales lie whole on every mesh, so they are shared where the dtype agrees."""
  taken = sampler(tiny, here).place_weights(trained)
  assert taken["norm"]["scale"][...] is trained["norm"]["scale"][...]
  assert taken["embedding"][...] is not trained["embedding"][...]


def test_moving_is_compiled_once_for_each_place_that_weights_come_from(
  tiny: Tiny, trained: Weights, eight_devices: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
  """Weights of two trainers by turn, such as RL's before and after, compile nothing after their first time."""
  order = list(eight_devices.devices.flat)
  programs = sampler(tiny, make_mesh((8, 1, 1), devices=order))
  other = make_mesh((1, 4, 2), devices=order)
  sources = [trained, jax.device_put(trained, weight_shardings(other, trained))]
  counts: list[int] = []
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    for weights in sources * 3:
      caplog.clear()
      programs.place_weights(weights)
      counts.append(sum(record.getMessage().startswith("Compiling") for record in caplog.records))
  assert min(counts[:2]) > 0 and counts[2:] == [0] * 4


def test_a_program_that_is_compiled_again_says_for_what(tiny: Tiny, one_device: Mesh) -> None:
  """Weights of another dtype than before are such a case."""
  programs = sampler(tiny, one_device)
  rows = (np.zeros(2, np.int32), np.ones((2, 8), np.int32), np.zeros(2, np.int32), np.full(2, 8, np.int32))
  for _ in range(2):
    state = programs.extend(programs.empty_state(tiny.weights), tiny.weights, *rows, blocks=1)
    programs.extend(state, tiny.weights, *rows, blocks=2)
  assert programs.extend.count == 2
  half = jax.tree.map(lambda x: x.astype("bfloat16"), tiny.weights)
  with pytest.warns(UserWarning, match=r"sampler: extend was compiled again for .*'blocks': 1.*\(2, 8\)"):
    programs.extend(programs.empty_state(half), half, *rows, blocks=1)
