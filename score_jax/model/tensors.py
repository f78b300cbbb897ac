"""Weights as named Hugging Face tensors: the table of names, reading, and safetensors files.

A linear layer's weight is [out, in] in the files and [in, out] here. Layers that are stacked here (leading axis [L])
are one tensor each in the files.

Reading is sharded: each process reads only what its own devices keep, one parameter at a time, so that the host holds
little more than its share of the weights. Files are checked against the configuration before any weight is read.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, Sharding, SingleDeviceSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from score_jax.errors import UserError
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights, abstract_decoder
from score_jax.model.sharding import leaf_path, weight_shardings

TensorShape = tuple[int, ...]

#: parameter within a Block -> tensor within a layer, without .weight or .bias
LAYER_TENSOR_NAMES = {
  "attention.query": "self_attn.q_proj",
  "attention.key": "self_attn.k_proj",
  "attention.value": "self_attn.v_proj",
  "attention.out": "self_attn.o_proj",
  "attention.query_norm": "self_attn.q_norm",
  "attention.key_norm": "self_attn.k_norm",
  "mlp.gate": "mlp.gate_proj",
  "mlp.up": "mlp.up_proj",
  "mlp.down": "mlp.down_proj",
  "attention_norm": "input_layernorm",
  "mlp_norm": "post_attention_layernorm",
}
TOP_TENSOR_NAMES = {
  "embedding": "model.embed_tokens.weight",
  "unembedding": "lm_head.weight",
  "norm.scale": "model.norm.weight",
}


@dataclasses.dataclass(frozen=True)
class TensorOrigin:
  """The tensors in the files that hold a parameter.

  Attributes:
    names: of one tensor, or of one per layer where layers are stacked.
    stacked: the parameter has a leading axis [L].
    transposed: the tensors have the last two axes swapped.
  """

  names: tuple[str, ...]
  stacked: bool
  transposed: bool

  def to_tensor_axes(self, part: Sequence[Any]) -> tuple[Any, ...]:
    """Reorders one entry per axis of the parameter, such as its shape, to one entry per axis of each tensor."""
    one = tuple(part[1:] if self.stacked else part)
    return one[::-1] if self.transposed else one


def find_tensor_origin(path: Sequence[Any], config: DecoderConfig) -> TensorOrigin:
  """The tensors that hold the parameter at a path of the weights."""
  parts = leaf_path(path)
  if parts[0] != "blocks":
    return TensorOrigin((TOP_TENSOR_NAMES[".".join(parts)],), False, False)
  stacked = not parts[1].isdecimal()
  *stem, leaf = parts[1:] if stacked else parts[2:]
  tensor = f"{LAYER_TENSOR_NAMES['.'.join(stem)]}.{'bias' if leaf == 'bias' else 'weight'}"
  layers = range(config.layers) if stacked else (int(parts[1]),)
  return TensorOrigin(tuple(f"model.layers.{layer}.{tensor}" for layer in layers), stacked, leaf == "kernel")


def list_tensor_shapes(config: DecoderConfig) -> Mapping[str, TensorShape]:
  """Name -> shape of all tensors of a model."""
  result: dict[str, TensorShape] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_decoder(config)[1]):
    found = find_tensor_origin(path, config)
    result |= dict.fromkeys(found.names, found.to_tensor_axes(leaf.shape))
  return result


SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
SUPPORTED_DTYPES = ("F64", "F32", "F16", "BF16")


class SafetensorsFolder:
  """The tensors of a folder with safetensors files. Files are memory-mapped: what is not read takes no memory."""

  def __init__(self, folder: pathlib.Path):
    """Reads the headers; an error names a missing or damaged file, or a tensor of an unsupported dtype."""
    self.source = str(folder)
    self.shapes: dict[str, TensorShape] = {}
    self._files: dict[str, pathlib.Path] = {}
    index = folder / INDEX_FILE
    weight_map = _read_weight_map(index) if index.exists() else {}
    self._open = {
      path: _open(path) for path in sorted({folder / file for file in weight_map.values()} or {folder / SINGLE_FILE})
    }
    for path, file in self._open.items():
      for name in file.keys():  # noqa: SIM118, it is no dictionary
        self._add(name, path, file.get_slice(name))
    for name, file in weight_map.items():
      if self._files.get(name) != folder / file:
        raise UserError(f"{folder / file}: tensor {name} is missing, which {INDEX_FILE} says is there; fetch it again")

  def _add(self, name: str, path: pathlib.Path, found: Any) -> None:
    if found.get_dtype() not in SUPPORTED_DTYPES:
      raise UserError(
        f"{path}: tensor {name} is of {found.get_dtype()}; use weights in one of {', '.join(SUPPORTED_DTYPES)}"
      )
    self.shapes[name], self._files[name] = tuple(found.get_shape()), path

  def file(self, name: str) -> str:
    return str(self._files[name])

  def read(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
    """A part of a tensor, in the dtype of the file."""
    rows, *columns = part
    whole = slice(rows.start, min(rows.stop, self.shapes[name][0]))
    return self._open[self._files[name]].get_slice(name)[(whole, *columns)]


def _read_weight_map(index: pathlib.Path) -> dict[str, str]:
  try:
    return json.loads(index.read_text(encoding="utf-8"))["weight_map"]
  except (ValueError, KeyError) as error:
    raise UserError(f"{index} cannot be read ({error!r}); fetch it again") from error


def _open(path: pathlib.Path) -> Any:
  if not path.exists():
    raise UserError(
      f"{path} does not exist; give a folder with config.json and {SINGLE_FILE}, or all that {INDEX_FILE} names"
    )
  try:
    return safe_open(path, framework="numpy")
  except (SafetensorError, OSError) as error:
    raise UserError(f"{path} cannot be read ({error}); fetch it again") from error


def save_safetensors(folder: pathlib.Path, tensors: Sequence[NamedTensor], *, dtype: str, shard_bytes: int) -> None:
  """Writes tensors into files of at most `shard_bytes` each, with an index; one file at a time is on the host."""
  width = np.dtype(dtype).itemsize
  shards: list[list[NamedTensor]] = [[]]
  for tensor in tensors:
    if shards[-1] and width * sum(t.size for t in (*shards[-1], tensor)) > shard_bytes:
      shards.append([])
    shards[-1].append(tensor)
  count = len(shards)
  files = [SINGLE_FILE] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
  for file, shard in zip(files, shards, strict=True):
    draft = folder / f".{file}.draft"
    save_file({t.name: t.to_numpy(dtype) for t in shard}, draft, metadata={"format": "pt"})
    draft.chmod(0o644)  # safetensors creates files that only their owner can read
    draft.replace(folder / file)
  if count > 1:
    weight_map = {t.name: file for file, shard in zip(files, shards, strict=True) for t in shard}
    total = {"total_size": width * sum(t.size for t in tensors)}
    (folder / INDEX_FILE).write_text(
      json.dumps({"metadata": total, "weight_map": weight_map}, indent=2) + "\n", encoding="utf-8"
    )


EMBEDDING_TENSOR, HEAD_TENSOR = TOP_TENSOR_NAMES["embedding"], TOP_TENSOR_NAMES["unembedding"]
#: name endings of tensors in older files that hold no weights
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)
#: rows of a tensor that are read at a time: transposing a matrix is four times faster so than all at once, and it is
#: in memory only once
ROWS_PER_READ = 128


class TensorReader(Protocol):
  """Tensors in files under their Hugging Face names; only the headers have been read."""

  source: str  # the folder or file
  shapes: dict[str, TensorShape]

  def file(self, name: str) -> str:
    """The file that holds a tensor."""
    ...

  def read(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
    """A part of a tensor, one slice per axis; the slice of rows may end beyond the tensor."""
    ...


def check_tensors(tensors: TensorReader, config: DecoderConfig) -> DecoderConfig:
  """Checks the files' headers against the configuration; returns it, untied where the files hold another head.

  config.json may say that the head is the embedding while the files hold a different one (a fine-tune that was saved
  with the base model's config.json). transformers compares the two and uses the head; so does this.
  """
  if config.tied and HEAD_TENSOR in tensors.shapes and not _equal_tensors(tensors, EMBEDDING_TENSOR, HEAD_TENSOR):
    config = dataclasses.replace(config, tied=False)
  expected = list_tensor_shapes(config)
  if not config.tied and HEAD_TENSOR not in tensors.shapes:
    raise UserError(
      f"{tensors.source}: tensor {HEAD_TENSOR} {expected[HEAD_TENSOR]} is missing, and config.json does not "
      'say that the embedding serves as the head; write "tie_word_embeddings": true into it if the model was trained '
      "so, else use files that hold the head"
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
    if not name.endswith(IGNORED_SUFFIXES) and not (config.tied and name == HEAD_TENSOR):
      raise UserError(
        f"{tensors.file(name)}: tensor {name} {tensors.shapes[name]} is not of this decoder; use a plain model "
        "of a supported family"
      )
  return config


def _equal_tensors(tensors: TensorReader, one: str, other: str) -> bool:
  """Whether two matrices are equal; compares a few rows at a time, to save memory."""
  shape = tensors.shapes.get(one)
  if shape is None or tensors.shapes[other] != shape:
    return False
  parts = (
    (slice(first, min(first + ROWS_PER_READ, shape[0])), slice(0, shape[1]))
    for first in range(0, shape[0], ROWS_PER_READ)
  )
  return all(np.array_equal(tensors.read(one, part), tensors.read(other, part)) for part in parts)


def load_weights(config: DecoderConfig, tensors: TensorReader, *, dtype: str, mesh: Mesh | None) -> Weights:
  """Reads the weights of a decoder onto a mesh, or without one onto the first device.

  Args:
    config: of the tensors, or the same with a larger vocabulary: rows that the files lack are zero.
  """
  _, leaves = abstract_decoder(config)
  one: Sharding = SingleDeviceSharding(jax.devices()[0])
  shardings = jax.tree.map(lambda _: one, leaves) if mesh is None else weight_shardings(mesh, leaves)

  def build(path: Any, leaf: jax.ShapeDtypeStruct, place: Sharding) -> jax.Array:
    found = find_tensor_origin(path, config)

    def read_shard(index: Any) -> np.ndarray:
      return _read_part(tensors, found, [slice(*s.indices(n)) for s, n in zip(index, leaf.shape, strict=True)], dtype)

    # Waits for each copy to a device: otherwise the host would hold many parameters at once.
    return jax.block_until_ready(jax.make_array_from_callback(leaf.shape, place, read_shard, dtype))

  return jax.tree_util.tree_map_with_path(build, leaves, shardings)


def _read_part(tensors: TensorReader, origin: TensorOrigin, index: list[slice], dtype: str) -> np.ndarray:
  """The values at an index (one slice per axis) of a parameter, on the host."""
  result = _aligned_zeros([s.stop - s.start for s in index], np.dtype(dtype))
  layers = origin.names[index[0]] if origin.stacked else origin.names
  for name, target in zip(layers, result if origin.stacked else [result], strict=True):
    rows, *columns = origin.to_tensor_axes(index)
    turned = target.T if origin.transposed else target
    for first in range(rows.start, min(rows.stop, tensors.shapes[name][0]), ROWS_PER_READ):
      found = tensors.read(name, (slice(first, min(first + ROWS_PER_READ, rows.stop)), *columns))
      turned[first - rows.start :][: len(found)] = found
  return result


def _aligned_zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
  """Zeros at an address that is a multiple of 64: XLA on CPU then takes the buffer over without a copy."""
  size = math.prod(shape) * dtype.itemsize
  raw = np.zeros(size + 64, np.uint8)
  first = -raw.ctypes.data % 64
  return raw[first : first + size].view(dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class NamedTensor:
  """A tensor to write, still on the devices."""

  name: str
  origin: TensorOrigin
  leaf: jax.Array
  layer: int  # index along the leading axis [L] where layers are stacked

  @property
  def size(self) -> int:
    """Number of elements."""
    return self.leaf.size // (self.leaf.shape[0] if self.origin.stacked else 1)

  def to_numpy(self, dtype: str) -> np.ndarray:
    """The tensor on the host, with the axes of the files."""
    array = np.asarray(self.leaf[self.layer] if self.origin.stacked else self.leaf)
    return np.ascontiguousarray(array.T if self.origin.transposed else array, dtype)


def iter_named_tensors(config: DecoderConfig, weights: Weights) -> Iterator[NamedTensor]:
  """The weights as named tensors, in the order of the parameters."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
    found = find_tensor_origin(path, config)
    for layer, name in enumerate(found.names):
      yield NamedTensor(name, found, leaf, layer)
