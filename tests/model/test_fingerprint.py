"""The checksum names bits: on every mesh the same, and another one for whatever differs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_jax.model.fingerprint import checksum_weights


def weights(dtype: str) -> dict[str, jax.Array]:
  draw = np.random.default_rng(0)
  shapes = {"a": (8, 16), "b": (16,), "c": (4, 6, 8)}
  return {name: jnp.asarray(draw.normal(size=shape), dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_where_the_weights_lie_is_all_the_same(dtype: str, eight_devices: Mesh) -> None:
  ours = weights(dtype)
  spread = {
    "a": jax.device_put(ours["a"], NamedSharding(eight_devices, PartitionSpec(("data", "fsdp"), "tensor"))),
    "b": jax.device_put(ours["b"], NamedSharding(eight_devices, PartitionSpec("fsdp"))),
    "c": jax.device_put(ours["c"], NamedSharding(eight_devices, PartitionSpec("data", "fsdp", "tensor"))),
  }
  assert checksum_weights(spread) == checksum_weights(ours) == checksum_weights(jax.tree.map(jnp.copy, ours))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whatever_differs_shows(dtype: str) -> None:
  ours = weights(dtype)
  a = np.array(ours["a"])
  swapped, moved, turned = a.copy(), a.copy(), a.copy()
  swapped[[2, 5], 3] = a[[5, 2], 3]
  bits = moved.view(f"uint{8 * a.itemsize}")
  bits[1, 1] += 1  # what one gains another loses
  bits[4, 7] -= 1
  turned.view(bits.dtype)[7, 15] ^= 1  # the last bit of the last word
  others = [jnp.asarray(x) for x in (swapped, moved, turned, -a, a.reshape(16, 8), np.zeros_like(a))]
  found = [checksum_weights(ours | {"a": x}) for x in others]
  found += [
    checksum_weights(ours),
    checksum_weights({"a": ours["a"], "B": ours["b"], "c": ours["c"]}),
    checksum_weights({"a": ours["a"]}),
  ]
  found.append(checksum_weights(jax.tree.map(lambda x: x.astype("float16"), ours)))
  assert len(set(found)) == len(found)
  assert all(len(name) == 16 for name in found)
