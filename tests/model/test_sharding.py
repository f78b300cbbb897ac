"""The mesh, the table of axes, and that it does not matter to the numbers."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.model.sharding import Meshes, leaf_path, make_mesh, named_sharding, weight_shardings
from score_jax.train.optimizer import make_optimizer, make_schedule
from tests.conftest import Tiny

#: parameter within the decoder or a block -> mesh axes of its dimensions
EXPECTED = {
  "embedding": ("tensor", "fsdp"),
  "unembedding": ("tensor", "fsdp"),
  "norm.scale": (None,),
  "attention_norm.scale": (None,),
  "mlp_norm.scale": (None,),
  "attention.query.kernel": ("fsdp", "tensor"),
  "attention.query.bias": ("tensor",),
  "attention.key.kernel": ("fsdp", "tensor"),
  "attention.key.bias": ("tensor",),
  "attention.value.kernel": ("fsdp", "tensor"),
  "attention.value.bias": ("tensor",),
  "attention.out.kernel": ("tensor", "fsdp"),
  "mlp.gate.kernel": ("fsdp", "tensor"),
  "mlp.up.kernel": ("fsdp", "tensor"),
  "mlp.down.kernel": ("tensor", "fsdp"),
}


@pytest.mark.parametrize(
  ("shape", "expected"),
  [((2, 2, 2), (2, 2, 2)), ((-1, 2, 2), (2, 2, 2)), ((1, -1, 1), (1, 8, 1)), ((8, 1, -1), (8, 1, 1))],
)
def test_a_mesh_takes_all_devices(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
  mesh = make_mesh(shape)
  assert mesh.axis_names == ("data", "fsdp", "tensor")
  assert mesh.devices.shape == expected
  assert {device.id for device in mesh.devices.flat} == set(range(8))


@pytest.mark.parametrize(
  "shape", [(3, 1, 1), (2, 2, 1), (-1, -1, 1), (-1, 3, 1), (-1, 0, 1), (2, 4), (-1,), (2, 2, 2, 1), (-2, -2, 2), ()]
)
def test_a_shape_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
  with pytest.raises(UserError, match=r"mesh\.train = .* does not fit 8 devices; .* whose product is 8"):
    make_mesh(shape)


def test_a_vocabulary_is_split_by_each_mesh_of_a_run() -> None:
  """Six devices: two, three and one of them along `tensor`."""
  shapes = ConfigDict({"train": (3, 1, 2), "sample": (2, 1, 3), "teacher": (6, 1, 1)})
  assert Meshes.of(shapes, jax.devices()[:6]).vocabulary_multiple == 6


def test_every_weight_lies_as_the_table_says(make_tiny: Callable[..., Tiny], eight_devices: Mesh) -> None:
  weights = make_tiny(tied=False).weights
  rate = make_schedule(peak=1e-3, steps=10, warmup=0.1, kind="cosine")
  rule = make_optimizer("adamw", rate, weight_decay=0.1, max_norm=1.0)
  states = {"weights": weights, "optimizer": jax.eval_shape(rule.init, weights)}
  met: dict[str, int] = {}
  for path, place in jax.tree_util.tree_leaves_with_path(weight_shardings(eight_devices, states)):
    parts = leaf_path(path)
    name = next((n for n in EXPECTED if ".".join(parts).endswith(f".{n}")), "a counter")
    met[name] = met.get(name, 0) + 1
    assert place.mesh == eight_devices
    assert place.spec == PartitionSpec(*EXPECTED.get(name, ())), parts
  copies = 3  # the weights and both moments
  once = {"embedding", "unembedding", "norm.scale"}
  counters = {"a counter": 2}  # of Adam and of the schedule
  assert met == {name: copies * (1 if name in once else 2) for name in EXPECTED} | counters


def test_rows_are_split_over_both_batch_axes(eight_devices: Mesh) -> None:
  assert named_sharding(eight_devices, "rows", None).spec == PartitionSpec(("data", "fsdp"), None)
  array = jax.device_put(np.zeros((8, 3)), named_sharding(eight_devices, "rows", None))
  assert {shard.data.shape for shard in array.addressable_shards} == {(2, 3)}


def test_a_dimension_that_cannot_be_split_is_named(make_tiny: Callable[..., Tiny], eight_devices: Mesh) -> None:
  shapes = jax.eval_shape(lambda: make_tiny(mlp=63).weights)
  message = r"blocks\.0\.mlp\.down\.kernel: dimension of 63 cannot be split over mesh axis 'tensor' of 2; .*tensor"
  with pytest.raises(UserError, match=message):
    weight_shardings(eight_devices, shapes)


def test_a_mesh_changes_the_forward_by_rounding_only(tiny: Tiny, eight_devices: Mesh) -> None:
  draws = np.random.default_rng(0)
  tokens = draws.integers(0, 64, (4, 24)).astype(np.int32)
  positions = np.tile(np.arange(12), (4, 2)).astype(np.int32)
  segments = np.repeat([[1, 2]], 12, axis=1).repeat(4, axis=0).astype(np.int32)

  def logits(weights: nnx.State, *batch: jax.Array) -> jax.Array:
    model = nnx.merge(tiny.graph, weights)
    return model.unembed(model(*batch))

  expected = np.asarray(jax.jit(logits)(tiny.weights, tokens, positions, segments))
  placed = jax.device_put(tiny.weights, weight_shardings(eight_devices, tiny.weights))
  rows = (
    jax.device_put(jnp.asarray(x), named_sharding(eight_devices, "rows", None)) for x in (tokens, positions, segments)
  )
  found = jax.jit(logits)(placed, *rows)
  assert len(found.sharding.device_set) == 8
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
