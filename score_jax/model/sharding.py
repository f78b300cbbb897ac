"""The device mesh, and the table from logical axes to mesh axes.

Mesh axes: `data` (rows of a batch, slots), `fsdp` (rows too, and weights are split over it at rest), `tensor` (heads,
MLP, vocabulary). Arrays are placed by NamedSharding and XLA adds the collectives; the axes are of type Auto.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from score_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")

#: logical axis -> mesh axis (or axes) that it is split over
AXIS_RULES: dict[str | None, str | tuple[str, ...] | None] = {
  "rows": ("data", "fsdp"),
  "width": "fsdp",
  "heads": "tensor",
  "mlp": "tensor",
  "vocab": "tensor",
  None: None,
}

#: linear layer -> logical axes of its input and its output
LINEAR_AXES: dict[str, tuple[str, str]] = {
  "query": ("width", "heads"),
  "key": ("width", "heads"),
  "value": ("width", "heads"),
  "out": ("heads", "width"),
  "gate": ("width", "mlp"),
  "up": ("width", "mlp"),
  "down": ("mlp", "width"),
}
#: end of a parameter's path -> logical axes of its dimensions, without the axis of stacked layers
PARAMETER_AXES: dict[str, tuple[str | None, ...]] = {
  "embedding": ("vocab", "width"),
  "unembedding": ("vocab", "width"),
  "scale": (None,),
  **{f"{name}.kernel": axes for name, axes in LINEAR_AXES.items()},
  **{f"{name}.bias": axes[1:] for name, axes in LINEAR_AXES.items()},
  **{f"{name}.lora.lora_a": (axes[0], None) for name, axes in LINEAR_AXES.items()},
  **{f"{name}.lora.lora_b": (None, axes[1]) for name, axes in LINEAR_AXES.items()},
}


def resolve_mesh_shape(shape: Sequence[int], count: int, name: str) -> tuple[int, ...]:
  """The sizes of the mesh axes over `count` devices, with -1 replaced; an error where they do not fit."""
  sizes = list(shape)
  if sizes.count(-1) == 1:
    rest = math.prod(size for size in sizes if size != -1)
    sizes[sizes.index(-1)] = count // rest if rest and count % rest == 0 else -1
  if len(sizes) != len(MESH_AXES) or min(sizes) < 1 or math.prod(sizes) != count:
    raise UserError(
      f"mesh.{name} = {tuple(shape)} does not fit {count} devices; give (data, fsdp, tensor) whose product is {count}"
    )
  return tuple(sizes)


def make_mesh(shape: Sequence[int], *, devices: Sequence[Any] | None = None, name: str = "train") -> Mesh:
  """A mesh of (data, fsdp, tensor) over all devices; one entry may be -1, which takes the remaining devices.

  Args:
    devices: in mesh order; by default all devices, in the order that suits the platform's topology.
    name: key of the shape in the config group `mesh`, for the error message.
  """
  count = len(devices) if devices is not None else jax.device_count()
  sizes = resolve_mesh_shape(shape, count, name)
  types = (AxisType.Auto,) * len(MESH_AXES)
  if devices is None:
    return jax.make_mesh(sizes, MESH_AXES, axis_types=types)
  return Mesh(np.asarray(devices).reshape(sizes), MESH_AXES, axis_types=types)


@dataclasses.dataclass(frozen=True)
class Meshes:
  """The meshes of a run, one per use. All have the same devices in one order, so that programs can pass arrays on."""

  train: Mesh  # the student in training
  sample: Mesh  # the student in sampling
  teacher: Mesh

  @classmethod
  def of(cls, shapes: Any, devices: Sequence[Any] | None = None) -> Meshes:
    """The meshes with the shapes in the config group `mesh`."""
    train = make_mesh(shapes.train, devices=devices, name="train")
    order = list(train.devices.flat)
    return cls(train, *(make_mesh(shapes[use], devices=order, name=use) for use in ("sample", "teacher")))

  @property
  def vocabulary_multiple(self) -> int:
    """The number of rows of an embedding must be a multiple of this, to be split on each mesh."""
    return math.lcm(*(mesh.shape["tensor"] for mesh in (self.train, self.sample, self.teacher)))


def partition_spec(*logical: str | None) -> PartitionSpec:
  """The PartitionSpec of an array with these logical axes."""
  return PartitionSpec(*(AXIS_RULES[name] for name in logical))


def named_sharding(mesh: Mesh, *logical: str | None) -> NamedSharding:
  """The NamedSharding of an array with these logical axes."""
  return NamedSharding(mesh, partition_spec(*logical))


def trace_under_mesh(mesh: Mesh) -> contextlib.AbstractContextManager[Any]:
  """Makes the mesh known to code traced inside it, for `current_mesh` and `constrain_sharding`."""
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def current_mesh() -> AbstractMesh | None:
  """The mesh of `trace_under_mesh`; None outside of it."""
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty else mesh


def constrain_sharding(x: jax.Array, *logical: str | None) -> jax.Array:
  """Constrains the sharding of an intermediate; a dimension that its mesh axes do not divide is not split."""
  mesh = current_mesh()
  if mesh is None:
    return x
  mesh_axes = [AXIS_RULES[name] for name in logical]
  sizes = [math.prod(mesh.shape[a] for a in ((o,) if isinstance(o, str) else o or ())) for o in mesh_axes]
  kept = [o if size % parts == 0 else None for o, size, parts in zip(mesh_axes, x.shape, sizes, strict=True)]
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*kept))


def add_shardings(shapes: Any, places: Any) -> Any:
  """ShapeDtypeStructs with shardings, from trees of shapes and of shardings."""
  return jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, places)


def put_on_mesh(x: Any, place: Any) -> jax.Array:
  """Places a host array, which is the same on every process, on a mesh."""
  return jax.make_array_from_callback(x.shape, place, lambda index: x[index])


def fetch_to_host(x: jax.Array) -> np.ndarray:
  """The whole array on the host, gathered from all processes. Collective: all processes have to call it."""
  return np.asarray(x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True))


def leaf_path(path: Sequence[Any]) -> tuple[str, ...]:
  """The parts of a leaf's path in a decoder's weights, such as ("blocks", "0", "mlp", "up", "kernel")."""
  keys = path[:-1] if isinstance(path[-1], jax.tree_util.GetAttrKey) else path  # the .value of an nnx.Variable
  return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in keys)


def parameter_axes(path: Sequence[Any]) -> tuple[str | None, ...] | None:
  """The logical axes of the parameter at a path, without the axis of stacked layers; None if it is no parameter.

  The name decides, not the shape: a stacked norm has as many dimensions as a matrix.
  """
  parts = leaf_path(path)
  ends = (".".join(parts[-size:]) for size in (1, 2, 3))
  return next((PARAMETER_AXES[end] for end in ends if end in PARAMETER_AXES), None)


def weight_shardings(mesh: Mesh, weights: Any) -> Any:
  """A NamedSharding for each leaf of a decoder's weights, or of a state with the same paths (an optimizer's).

  Leaves that are no parameters (counters) are replicated. A dimension that its mesh axis does not divide is an error
  that names both.
  """

  def place(path: Sequence[Any], leaf: Any) -> NamedSharding:
    axes = parameter_axes(path)
    if axes is None or len(leaf.shape) - len(axes) not in (0, 1):
      return named_sharding(mesh)
    axes = (None,) * (len(leaf.shape) - len(axes)) + axes
    for size, axis in zip(leaf.shape, axes, strict=True):
      mesh_axis = AXIS_RULES[axis]
      if isinstance(mesh_axis, str) and size % mesh.shape[mesh_axis]:
        raise UserError(
          f"{'.'.join(leaf_path(path))}: dimension of {size} cannot be split over mesh axis {mesh_axis!r} of "
          f"{mesh.shape[mesh_axis]}; choose a mesh whose {mesh_axis} divides it"
        )
    return named_sharding(mesh, *axes)

  return jax.tree_util.tree_map_with_path(place, weights)
