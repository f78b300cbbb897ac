"""The shape of a decoder, as fields of one dataclass; families differ by nothing else.

Legend of the dimensions used in names such as `x_BxTxD` all over the package:
  B rows of a batch or slots      T tokens of a chunk        S cache length
  D width of the residual stream  N query heads              K key/value heads
  H width of a head               F width of the MLP         V vocabulary     L layers
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from score_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """A Qwen2- or Llama-style decoder: RoPE, grouped-query attention, SwiGLU, RMSNorm."""

  vocab: int  # V
  width: int  # D
  layers: int  # L
  heads: int  # N
  kv_heads: int  # K, divides N
  head_width: int  # H
  mlp: int  # F
  context: int  # greatest number of positions
  rope_base: float = 10000.0
  norm_epsilon: float = 1e-6
  qkv_bias: bool = True
  tied: bool = True  # the unembedding is the embedding
  # How the weights lie; what they compute is the same.
  stacked: bool = False  # the layers' weights have a leading axis [L], and programs loop over it
  lora_rank: int = 0  # of the adapters beside every linear layer; 0: none

  @property
  def parameters(self) -> int:
    """Number of weights, the embedding counted once when tied."""
    qkv = (self.heads + 2 * self.kv_heads) * self.head_width
    layer = self.width * (qkv + self.heads * self.head_width + 3 * self.mlp + 2) + qkv * self.qkv_bias
    return self.layers * layer + self.width + self.vocab * self.width * (1 if self.tied else 2)

  def flops_per_token(self, length: int) -> float:
    """FLOPs of one token's forward pass at a context of `length`: 2 a weight used, and attention."""
    weights = self.parameters - (0 if self.tied else self.vocab * self.width)
    return 2.0 * weights + 4.0 * self.layers * self.heads * self.head_width * length


#: Hugging Face model types whose forward pass is this decoder's.
MODEL_TYPES = {"qwen2": True, "llama": False}  # -> bias on q, k and v


def from_hugging_face(data: Mapping[str, Any]) -> DecoderConfig:
  """The configuration that a Hugging Face config.json describes.

  Raises:
    UserError: it asks for something that this decoder does not do.
  """
  kind = data.get("model_type")
  if kind not in MODEL_TYPES:
    raise UserError(f"config.json: model_type {kind!r} is not supported; supported are {', '.join(MODEL_TYPES)}")
  rope = data.get("rope_parameters") or {}
  scaling = data.get("rope_scaling") or (rope if rope.get("rope_type", "default") != "default" else None)
  refused = {
    "rope_scaling": scaling,
    "use_sliding_window": data.get("use_sliding_window"),
    "hidden_act": data.get("hidden_act", "silu") != "silu" and data["hidden_act"],
    "mlp_bias": data.get("mlp_bias"),
  }
  for name, value in refused.items():
    if value:
      raise UserError(f"config.json: {name} = {value!r} is not supported; use a checkpoint without it")
  width, heads = data["hidden_size"], data["num_attention_heads"]
  return DecoderConfig(
    vocab=data["vocab_size"],
    width=width,
    layers=data["num_hidden_layers"],
    heads=heads,
    kv_heads=data.get("num_key_value_heads", heads),
    head_width=data.get("head_dim") or width // heads,
    mlp=data["intermediate_size"],
    context=data["max_position_embeddings"],
    rope_base=float(rope.get("rope_theta", data.get("rope_theta", 10000.0))),
    norm_epsilon=data["rms_norm_eps"],
    qkv_bias=data.get("attention_bias", MODEL_TYPES[kind]),
    tied=data.get("tie_word_embeddings", False),
  )


def to_hugging_face(config: DecoderConfig) -> dict[str, Any]:
  """The config.json with which transformers builds the same model."""
  kind = "qwen2" if config.qkv_bias else "llama"
  return {
    "architectures": ["Qwen2ForCausalLM" if kind == "qwen2" else "LlamaForCausalLM"],
    "model_type": kind,
    "vocab_size": config.vocab,
    "hidden_size": config.width,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "num_key_value_heads": config.kv_heads,
    "head_dim": config.head_width,
    "intermediate_size": config.mlp,
    "max_position_embeddings": config.context,
    "rope_theta": config.rope_base,
    "rms_norm_eps": config.norm_epsilon,
    "attention_bias": config.qkv_bias,
    "tie_word_embeddings": config.tied,
    "hidden_act": "silu",
    "use_sliding_window": False,
  }
