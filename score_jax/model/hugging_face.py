"""Weights and tokenizer from a Hugging Face model folder, and back into one.

One table says which tensor is which parameter; a linear layer's weight is
[out, in] there and [in, out] here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from score_jax.errors import UserError
from score_jax.mesh.sharding import path_name
from score_jax.model.config import DecoderConfig, from_hugging_face, to_hugging_face
from score_jax.model.decoder import Weights, structure

#: parameter path within a block -> tensor name within a layer
LAYER = {
  "attention.query": "self_attn.q_proj",
  "attention.key": "self_attn.k_proj",
  "attention.value": "self_attn.v_proj",
  "attention.out": "self_attn.o_proj",
  "mlp.gate": "mlp.gate_proj",
  "mlp.up": "mlp.up_proj",
  "mlp.down": "mlp.down_proj",
  "attention_norm": "input_layernorm",
  "mlp_norm": "post_attention_layernorm",
}
TOP = {"embedding": "model.embed_tokens.weight", "unembedding": "lm_head.weight", "norm.scale": "model.norm.weight"}


def tensor_name(parameter: str) -> str:
  """The tensor that holds a parameter, e.g. blocks.0.mlp.up.kernel -> model.layers.0.mlp.up_proj.weight."""
  if parameter in TOP:
    return TOP[parameter]
  _, layer, rest = parameter.split(".", 2)
  stem, leaf = rest.rsplit(".", 1)
  return f"model.layers.{layer}.{LAYER[stem]}.{'bias' if leaf == 'bias' else 'weight'}"


def from_tensors(config: DecoderConfig, tensors: Mapping[str, np.ndarray], *, dtype: str, source: str) -> Weights:
  """Weights of a decoder out of named tensors.

  Raises:
    UserError: a tensor is missing or has another shape than the configuration says; names file, tensor and shapes.
  """
  _, shapes = structure(config)

  def pick(path: Any, leaf: Any) -> jax.Array:
    parameter = ".".join(path_name(path))
    name = tensor_name(parameter)
    if name not in tensors:
      raise UserError(f"{source}: tensor {name} is missing; the file is incomplete or of another architecture")
    found = tensors[name].T if parameter.endswith("kernel") else tensors[name]
    if found.shape != leaf.shape:
      raise UserError(f"{source}: tensor {name} gives {found.shape}, config.json asks for {leaf.shape}")
    return jnp.asarray(found, dtype)

  return jax.tree_util.tree_map_with_path(pick, shapes)


def to_tensors(weights: Weights, *, dtype: str) -> dict[str, np.ndarray]:
  """The named tensors of some weights."""
  result: dict[str, np.ndarray] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
    parameter = ".".join(path_name(path))
    array = np.asarray(leaf, dtype)
    result[tensor_name(parameter)] = np.ascontiguousarray(array.T if parameter.endswith("kernel") else array)
  return result


def load(folder: str, *, dtype: str) -> tuple[DecoderConfig, Weights]:
  """The decoder in a model folder (config.json, model.safetensors).

  Raises:
    UserError: a file is missing or unreadable, or the architecture is not supported.
  """
  path = epath.Path(folder)
  for name in ("config.json", "model.safetensors"):
    if not (path / name).exists():
      raise UserError(f"{path / name} does not exist; give a folder with config.json and model.safetensors")
  config = from_hugging_face(json.loads((path / "config.json").read_text()))
  try:
    tensors = load_file(str(path / "model.safetensors"))
  except SafetensorError as error:
    raise UserError(f"{path / 'model.safetensors'} cannot be read ({error}); fetch it again") from error
  return config, from_tensors(config, tensors, dtype=dtype, source=str(path / "model.safetensors"))


def save(folder: str, config: DecoderConfig, weights: Weights, *, dtype: str) -> None:
  """Writes config.json and model.safetensors so that transformers loads them as they are."""
  path = epath.Path(folder)
  path.mkdir(parents=True, exist_ok=True)
  (path / "config.json").write_text(json.dumps(to_hugging_face(config) | {"dtype": dtype}, indent=2) + "\n")
  save_file(to_tensors(weights, dtype=dtype), str(path / "model.safetensors"), metadata={"format": "pt"})
