"""A decoder's weights out of named tensors, each device's share by itself, and as named tensors again.

Nothing is read but what a device of this process keeps, one parameter at a
time: the host holds little more than the weights themselves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from score_jax.errors import UserError
from score_jax.mesh.sharding import weight_shardings
from score_jax.model import names
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights, structure
from score_jax.model.names import Origin, Shape

EMBEDDING, HEAD = names.TOP["embedding"], names.TOP["unembedding"]
#: ends of names of tensors that older files carry and that say nothing
HARMLESS = ("rotary_emb.inv_freq",)
#: of a tensor, read at a time: a matrix is turned over four times faster than all at once, and held once
ROWS = 128


class Tensors(Protocol):
  """Tensors in files under their Hugging Face names; only headers have been read."""

  source: str  # the folder or file
  shapes: dict[str, Shape]

  def file(self, name: str) -> str:
    """The file that holds a tensor."""
    ...

  def read(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
    """A part of a tensor; its rows may reach beyond the end."""
    ...


def checked(tensors: Tensors, config: DecoderConfig) -> DecoderConfig:
  """The configuration, untied where the files hold a head of its own, after a comparison with the files' headers.

  A file may say that the head is the embedding and hold another one (a fine-tune that was saved with the base model's
  config.json). transformers compares the two and uses the head; so does this.

  Raises:
    UserError: a tensor is missing, of another shape, or not of this decoder; names file, tensor and shapes.
  """
  if config.tied and HEAD in tensors.shapes and not _equal(tensors, EMBEDDING, HEAD):
    config = dataclasses.replace(config, tied=False)
  expected = names.shapes(config)
  if not config.tied and HEAD not in tensors.shapes:
    raise UserError(
      f"{tensors.source}: tensor {HEAD} {expected[HEAD]} is missing, and config.json does not say that the embedding "
      'serves as the head; write "tie_word_embeddings": true into it if the model was trained so, else use files that '
      "hold the head"
    )
  for name, shape in expected.items():
    if name not in tensors.shapes:
      raise UserError(f"{tensors.source}: tensor {name} {shape} is missing; fetch the model again")
    if tensors.shapes[name] != shape:
      raise UserError(
        f"{tensors.file(name)}: tensor {name} is {tensors.shapes[name]}, the configuration asks for {shape}; "
        "take configuration and weights of the same model"
      )
  for name in sorted(tensors.shapes.keys() - expected.keys()):
    if not name.endswith(HARMLESS) and not (config.tied and name == HEAD):
      raise UserError(
        f"{tensors.file(name)}: tensor {name} {tensors.shapes[name]} is not of this decoder; use a plain model "
        "of a supported family"
      )
  return config


def _equal(tensors: Tensors, one: str, other: str) -> bool:
  """Whether two matrices are equal; a few rows of each are in memory at a time."""
  shape = tensors.shapes.get(one)
  if shape is None or tensors.shapes[other] != shape:
    return False
  parts = ((slice(first, min(first + ROWS, shape[0])), slice(0, shape[1])) for first in range(0, shape[0], ROWS))
  return all(np.array_equal(tensors.read(one, part), tensors.read(other, part)) for part in parts)


def load(config: DecoderConfig, tensors: Tensors, *, dtype: str, mesh: Mesh | None) -> Weights:
  """The weights of a decoder, laid out over a mesh, or on the first device.

  Args:
    config: that of the tensors, or one with a greater vocabulary: rows that the files do not have are zero.
  """
  _, leaves = structure(config)
  one: Sharding = SingleDeviceSharding(jax.devices()[0])
  places = jax.tree.map(lambda _: one, leaves) if mesh is None else weight_shardings(mesh, leaves)

  def build(path: Any, leaf: jax.ShapeDtypeStruct, place: Sharding) -> jax.Array:
    found = names.origin(path, config)

    def share(index: Any) -> np.ndarray:
      return _part(tensors, found, [slice(*s.indices(n)) for s, n in zip(index, leaf.shape, strict=True)], dtype)

    # Waited for, so that a host does not hold what it has read of many while they are on their way to a device.
    return jax.block_until_ready(jax.make_array_from_callback(leaf.shape, place, share, dtype))

  return jax.tree_util.tree_map_with_path(build, leaves, places)


def _part(tensors: Tensors, origin: Origin, index: list[slice], dtype: str) -> np.ndarray:
  """What stands at an index of a parameter."""
  result = _zeros([s.stop - s.start for s in index], np.dtype(dtype))
  layers = origin.names[index[0]] if origin.stacked else origin.names
  for name, target in zip(layers, result if origin.stacked else [result], strict=True):
    rows, *columns = origin.outer(index)
    turned = target.T if origin.transposed else target
    for first in range(rows.start, min(rows.stop, tensors.shapes[name][0]), ROWS):
      found = tensors.read(name, (slice(first, min(first + ROWS, rows.stop)), *columns))
      turned[first - rows.start :][: len(found)] = found
  return result


def _zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
  """Zeros that begin at a multiple of 64 bytes, where XLA takes them for its own on CPU instead of copying them."""
  size = math.prod(shape) * dtype.itemsize
  raw = np.zeros(size + 64, np.uint8)
  first = -raw.ctypes.data % 64
  return raw[first : first + size].view(dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Named:
  """A tensor to be written, still on the devices."""

  name: str
  origin: Origin
  leaf: jax.Array
  layer: int  # along the leading axis, where there is one

  @property
  def size(self) -> int:
    """Number of its elements."""
    return self.leaf.size // (self.leaf.shape[0] if self.origin.stacked else 1)

  def fetch(self, dtype: str) -> np.ndarray:
    array = np.asarray(self.leaf[self.layer] if self.origin.stacked else self.leaf)
    return np.ascontiguousarray(array.T if self.origin.transposed else array, dtype)


def named(config: DecoderConfig, weights: Weights) -> Iterator[Named]:
  """The tensors that hold some weights."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
    found = names.origin(path, config)
    for layer, name in enumerate(found.names):
      yield Named(name, found, leaf, layer)
