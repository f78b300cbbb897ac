"""Weights that are stacked, and shares that devices read: each element once, and none of another's."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from score_jax.model import tensors as names
from score_jax.model import tensors as safetensors
from score_jax.model import tensors as weights
from score_jax.model.tensors import SafetensorsFolder
from tests.conftest import Tiny, stacked


@pytest.fixture
def tensors(tiny: Tiny, tmp_path: pathlib.Path) -> SafetensorsFolder:
  safetensors.save_safetensors(
    tmp_path, list(weights.iter_named_tensors(tiny.config, tiny.weights)), dtype="float32", shard_bytes=30_000
  )
  return SafetensorsFolder(tmp_path)


def test_every_tensor_is_of_one_parameter(tiny: Tiny) -> None:
  shapes = names.list_tensor_shapes(tiny.config)
  assert len(shapes) == len(jax.tree.leaves(tiny.weights)) == 2 + 12 * tiny.config.layers
  assert sum(int(np.prod(shape)) for shape in shapes.values()) == tiny.config.parameters
  assert shapes["model.layers.1.mlp.down_proj.weight"] == (32, 64)


def test_stacked_weights_are_read_and_written_as_the_same_tensors(
  tiny: Tiny, tensors: SafetensorsFolder, eight_devices: Mesh, tmp_path: pathlib.Path
) -> None:
  stack = stacked(tiny)
  for mesh in (eight_devices, None):
    found = weights.load_weights(stack.config, tensors, dtype="float32", mesh=mesh)
    assert jax.tree.structure(found) == jax.tree.structure(stack.weights)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(stack.weights), strict=True):
      assert np.array_equal(one, other)
  folder = tmp_path / "again"
  folder.mkdir()
  safetensors.save_safetensors(
    folder, list(weights.iter_named_tensors(stack.config, found)), dtype="float32", shard_bytes=1 << 30
  )
  again = SafetensorsFolder(folder)
  assert again.shapes == tensors.shapes
  for name, shape in tensors.shapes.items():
    whole = tuple(slice(0, size) for size in shape)
    assert np.array_equal(again.read(name, whole), tensors.read(name, whole))


@dataclasses.dataclass
class Counted:
  """Tensors that count how often each element is read."""

  inner: SafetensorsFolder
  reads: dict[str, np.ndarray]

  @property
  def shapes(self) -> dict[str, names.TensorShape]:
    return self.inner.shapes

  @property
  def source(self) -> str:
    return self.inner.source

  def file(self, name: str) -> str:
    return self.inner.file(name)

  def read(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
    self.reads[name][part] += 1
    return self.inner.read(name, part)


def test_a_device_reads_its_own_share(tiny: Tiny, tensors: SafetensorsFolder, eight_devices: Mesh) -> None:
  """Over data 2, fsdp 2, tensor 2 each share is read at most by the two along data, or by all where it is whole."""
  counted = Counted(tensors, {name: np.zeros(shape, int) for name, shape in tensors.shapes.items()})
  weights.load_weights(tiny.config, counted, dtype="float32", mesh=eight_devices)
  for name, reads in counted.reads.items():
    assert reads.min() >= 1, name
    assert reads.max() <= (2 if reads.ndim == 2 else 8), name


def test_rows_that_the_files_do_not_have_are_zero(tiny: Tiny, tensors: SafetensorsFolder, eight_devices: Mesh) -> None:
  bigger = dataclasses.replace(tiny.config, vocab=72)
  for mesh in (None, eight_devices):
    table = np.asarray(weights.load_weights(bigger, tensors, dtype="bfloat16", mesh=mesh)["embedding"][...])
    assert table.shape == (72, 32) and not table[64:].any()
    assert np.array_equal(table[:64], np.asarray(tiny.weights["embedding"][...], "bfloat16"))
