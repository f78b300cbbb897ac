"""The mesh and the one table from logical axes to mesh axes.

Mesh axes: `data` (rows of a batch, slots), `fsdp` (rows too, and weights split
over it at rest), `tensor` (heads, MLP, vocabulary). Arrays are placed by
NamedSharding and XLA adds the collectives; the axes are of type Auto.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from score_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")

#: logical axis -> mesh axis (or axes) that it is split over
RULES: dict[str | None, str | tuple[str, ...] | None] = {
  "rows": ("data", "fsdp"),
  "width": "fsdp",
  "heads": "tensor",
  "mlp": "tensor",
  "vocab": "tensor",
  None: None,
}

#: name of a parameter (the last two parts of its path) -> logical axes of its dimensions
PARAMETER_AXES: dict[str, tuple[str | None, ...]] = {
  "embedding": ("vocab", "width"),
  "unembedding": ("vocab", "width"),
  "scale": (None,),
  "query.kernel": ("width", "heads"),
  "key.kernel": ("width", "heads"),
  "value.kernel": ("width", "heads"),
  "query.bias": ("heads",),
  "key.bias": ("heads",),
  "value.bias": ("heads",),
  "out.kernel": ("heads", "width"),
  "gate.kernel": ("width", "mlp"),
  "up.kernel": ("width", "mlp"),
  "down.kernel": ("mlp", "width"),
}


def make_mesh(shape: Sequence[int]) -> Mesh:
  """A mesh of (data, fsdp, tensor) over all devices; one entry may be -1, which takes what is left.

  Raises:
    UserError: the shape does not use the devices at hand.
  """
  count = jax.device_count()
  sizes = list(shape)
  if sizes.count(-1) == 1:
    rest = 1
    for size in sizes:
      rest *= size if size != -1 else 1
    sizes[sizes.index(-1)] = count // rest if rest and count % rest == 0 else -1
  if len(sizes) != len(AXES) or min(sizes) < 1 or sizes[0] * sizes[1] * sizes[2] != count:
    raise UserError(
      f"mesh.shape = {tuple(shape)} does not fit {count} devices; give (data, fsdp, tensor) whose product is {count}"
    )
  return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def sharding(mesh: Mesh, *logical: str | None) -> NamedSharding:
  """Where an array with these logical axes lives."""
  return NamedSharding(mesh, PartitionSpec(*(RULES[name] for name in logical)))


def path_name(path: Sequence[Any]) -> tuple[str, ...]:
  """The parts of a leaf's path in a decoder's weights, such as ("blocks", "0", "mlp", "up", "kernel")."""
  keys = path[:-1] if isinstance(path[-1], jax.tree_util.GetAttrKey) else path  # a variable's own .value
  return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in keys)


def weight_shardings(mesh: Mesh, weights: Any) -> Any:
  """A NamedSharding for each leaf of a decoder's weights or of a state that mirrors them (an optimiser's).

  Leaves whose path names no parameter (counters) are replicated. A dimension
  that its mesh axis does not divide is an error naming both.
  """

  def place(path: Sequence[Any], leaf: Any) -> NamedSharding:
    parts = path_name(path)
    axes = PARAMETER_AXES.get(".".join(parts[-2:])) or PARAMETER_AXES.get(parts[-1] if parts else "")
    if axes is None or len(axes) != len(leaf.shape):
      return sharding(mesh)
    for size, axis in zip(leaf.shape, axes, strict=True):
      over = RULES[axis]
      if isinstance(over, str) and size % mesh.shape[over]:
        raise UserError(
          f"{'.'.join(parts)}: dimension of {size} cannot be split over mesh axis {over!r} of {mesh.shape[over]}; "
          f"choose a mesh.shape whose {over} divides it"
        )
    return sharding(mesh, *axes)

  return jax.tree_util.tree_map_with_path(place, weights)
