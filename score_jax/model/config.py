"""DecoderConfig: the shape of a decoder. Model families differ in these fields only.

Legend of the dimensions in names such as `x_BxTxD`, used in the whole package:
  B rows of a batch or slots      T tokens of a chunk        S cache length
  D width of the residual stream  N query heads              K key/value heads
  H width of a head               F width of the MLP         V vocabulary     L layers

Also: Hugging Face's config.json in both directions, and MODEL_CONFIGS, the config.json of public models whose shape is
needed before they are downloaded (as of November 2026).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from score_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How RoPE's frequencies are lowered for a context longer than the model was first trained on.

  "linear": all are divided by `factor`. "llama3": only low frequencies are. Those with fewer than `low_freq_factor`
  turns over `original_context` tokens are divided, those with more than `high_freq_factor` turns stay; between the two
  the divisor is interpolated.
  """

  kind: str
  factor: float
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_context: int = 8192

  def divisors(self, frequency_H: Any) -> Any:
    """The divisor of each frequency (radians per token), a numpy or jax array like `frequency_H`."""
    if self.kind == "linear":
      return frequency_H * 0 + self.factor
    turns = frequency_H * (self.original_context / (2 * math.pi))
    kept = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clip(0, 1)
    return 1 / ((1 - kept) / self.factor + kept)

  def to_hugging_face(self) -> dict[str, Any]:
    """The value of rope_scaling in config.json."""
    bounds = {
      "low_freq_factor": self.low_freq_factor,
      "high_freq_factor": self.high_freq_factor,
      "original_max_position_embeddings": self.original_context,
    }
    return {"rope_type": self.kind, "factor": self.factor} | (bounds if self.kind == "llama3" else {})


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """A decoder of the Llama, Qwen2 or Qwen3 family: RoPE, grouped-query attention, SwiGLU, RMSNorm."""

  vocab: int  # V
  width: int  # D
  layers: int  # L
  heads: int  # N
  kv_heads: int  # K, divides N
  head_width: int  # H
  mlp: int  # F
  context: int  # maximum number of positions
  rope_base: float = 10000.0
  rope_scaling: RopeScaling | None = None
  norm_epsilon: float = 1e-6
  qkv_bias: bool = True
  qk_norm: bool = False  # queries and keys are normed per head, before RoPE
  tied: bool = True  # the unembedding is the embedding
  # The layout of the weights; results are the same.
  stacked: bool = False  # the layers' weights have a leading axis [L], and programs loop over it
  lora_rank: int = 0  # of the adapters beside every linear layer; 0: none

  @property
  def parameters(self) -> int:
    """Number of weights; a tied embedding counts once."""
    qkv = (self.heads + 2 * self.kv_heads) * self.head_width
    layer = self.width * (qkv + self.heads * self.head_width + 3 * self.mlp + 2) + qkv * self.qkv_bias
    layer += 2 * self.head_width * self.qk_norm
    return self.layers * layer + self.width + self.vocab * self.width * (1 if self.tied else 2)

  def flops_per_token(self, length: int) -> float:
    """FLOPs of one token's forward pass at a context of `length`: 2 per weight used, plus attention."""
    weights = self.parameters - (0 if self.tied else self.vocab * self.width)
    return 2.0 * weights + 4.0 * self.layers * self.heads * self.head_width * length


@dataclasses.dataclass(frozen=True)
class ModelFamily:
  """The differences between Hugging Face model types."""

  architecture: str
  qkv_bias: bool
  qk_norm: bool
  required: tuple[str, ...]  # more keys than REQUIRED_KEYS; their defaults differ between types


#: model types that this decoder computes; SmolLM2 is of type llama
FAMILIES = {
  "llama": ModelFamily("LlamaForCausalLM", False, False, ()),
  "qwen2": ModelFamily("Qwen2ForCausalLM", True, False, ("num_key_value_heads",)),
  "qwen3": ModelFamily("Qwen3ForCausalLM", False, True, ("num_key_value_heads", "head_dim")),
}
REQUIRED_KEYS = (
  "vocab_size",
  "hidden_size",
  "num_hidden_layers",
  "num_attention_heads",
  "intermediate_size",
  "max_position_embeddings",
  "rms_norm_eps",
)


def config_from_hugging_face(data: Mapping[str, Any]) -> DecoderConfig:
  """The configuration in a Hugging Face config.json, with the keys of transformers 4 or 5."""
  kind = data.get("model_type")
  family = FAMILIES.get(str(kind))
  if family is None:
    raise UserError(f"config.json: model_type = {kind!r} is not supported; use a model of type {', '.join(FAMILIES)}")
  for name in (*REQUIRED_KEYS, *family.required):
    if data.get(name) is None:
      raise UserError(f"config.json: {name} is missing; take the file that came with the weights")
  for name, value in _unsupported(data, family).items():
    if value:
      raise UserError(f"config.json: {name} = {value!r} is not supported; use a checkpoint without it")
  width, heads = data["hidden_size"], data["num_attention_heads"]
  rope = _rope_parameters(data)
  return DecoderConfig(
    vocab=data["vocab_size"],
    width=width,
    layers=data["num_hidden_layers"],
    heads=heads,
    kv_heads=data.get("num_key_value_heads") or heads,
    head_width=data.get("head_dim") or width // heads,
    mlp=data["intermediate_size"],
    context=data["max_position_embeddings"],
    rope_base=float(rope.get("rope_theta", 10000.0)),
    rope_scaling=_parse_rope_scaling(rope),
    norm_epsilon=data["rms_norm_eps"],
    qkv_bias=family.qkv_bias,
    qk_norm=family.qk_norm,
    tied=data.get("tie_word_embeddings", False),
  )


def _unsupported(data: Mapping[str, Any], family: ModelFamily) -> dict[str, Any]:
  """Features that this decoder lacks: key of config.json -> its value, falsy where the file does not ask for it."""
  rope, sliding = _rope_parameters(data), [kind for kind in data.get("layer_types") or () if kind != "full_attention"]
  if "layer_types" not in data and data.get("use_sliding_window"):
    sliding = range(data.get("max_window_layers", 28), data["num_hidden_layers"])
  return {
    "layer_types": "layer_types" in data and sliding,
    "use_sliding_window": "layer_types" not in data and len(sliding) > 0,
    "hidden_act": data.get("hidden_act", "silu") != "silu" and data["hidden_act"],
    "mlp_bias": data.get("mlp_bias"),
    "attention_bias": not family.qkv_bias and data.get("attention_bias"),  # it would be on o_proj too
    "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0) != 1.0 and rope["partial_rotary_factor"],
    "quantization_config": data.get("quantization_config"),
  }


def _rope_parameters(data: Mapping[str, Any]) -> dict[str, Any]:
  """The RoPE settings of a config.json, with the keys of transformers 5's rope_parameters."""
  names = ("rope_theta", "partial_rotary_factor")
  rope = {name: data[name] for name in names if data.get(name) is not None}
  rope |= (data.get("rope_scaling") or {}) | (data.get("rope_parameters") or {})
  return {"rope_type": rope.pop("type", "default")} | rope


def _parse_rope_scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
  """The scaling in the RoPE settings; None for rope_type "default"."""
  keys = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
  }
  kind = rope["rope_type"]
  if kind not in keys:
    raise UserError(f"config.json: rope_type = {kind!r} is not supported; use a checkpoint with {', '.join(keys)}")
  for name in keys[kind]:
    if rope.get(name) is None:
      raise UserError(f"config.json: {name} of rope_type {kind!r} is missing; take the file that came with the weights")
  return RopeScaling(kind, *(rope[name] for name in keys[kind])) if keys[kind] else None


def hugging_face_model_type(config: DecoderConfig) -> str:
  """The Hugging Face model type of a decoder; an error where no type has its biases and norms."""
  kind = next((k for k, f in FAMILIES.items() if (f.qkv_bias, f.qk_norm) == (config.qkv_bias, config.qk_norm)), None)
  if kind is None:
    raise UserError(
      "a decoder with qkv_bias = True and qk_norm = True has no Hugging Face model type; drop one of them"
    )
  return kind


def config_to_hugging_face(config: DecoderConfig) -> dict[str, Any]:
  """The config.json with which transformers, 4 or 5, builds the same model."""
  kind = hugging_face_model_type(config)
  scaling = config.rope_scaling
  return {
    "architectures": [FAMILIES[kind].architecture],
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
    "rope_scaling": None if scaling is None else scaling.to_hugging_face(),
    "rms_norm_eps": config.norm_epsilon,
    "attention_bias": config.qkv_bias,
    "tie_word_embeddings": config.tied,
    "hidden_act": "silu",
    "use_sliding_window": False,
  }


QWEN_DEFAULTS = {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}


def _qwen2(width: int, layers: int, heads: int, kv_heads: int, mlp: int, vocab: int, *, tied: bool) -> dict[str, Any]:
  shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": mlp, "vocab_size": vocab}
  attention = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "tie_word_embeddings": tied}
  return {"model_type": "qwen2", **QWEN_DEFAULTS, **shape, **attention}


#: hub id -> config.json
MODEL_CONFIGS: dict[str, dict[str, Any]] = {
  "Qwen/Qwen2.5-0.5B-Instruct": _qwen2(896, 24, 14, 2, 4864, 151936, tied=True),
  "Qwen/Qwen2.5-1.5B-Instruct": _qwen2(1536, 28, 12, 2, 8960, 151936, tied=True),
  "Qwen/Qwen2.5-3B-Instruct": _qwen2(2048, 36, 16, 2, 11008, 151936, tied=True),
  "Qwen/Qwen2.5-7B-Instruct": _qwen2(3584, 28, 28, 4, 18944, 152064, tied=False),
  "Qwen/Qwen2.5-72B-Instruct": _qwen2(8192, 80, 64, 8, 29568, 152064, tied=False),
  "Qwen/Qwen3-8B": {
    **_qwen2(4096, 36, 32, 8, 12288, 151936, tied=False),
    "model_type": "qwen3",
    "head_dim": 128,
    "max_position_embeddings": 40960,
  },
  "meta-llama/Llama-3.1-8B-Instruct": {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_scaling": {
      "rope_type": "llama3",
      "factor": 8.0,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
      "original_max_position_embeddings": 8192,
    },
  },
}

#: model type -> number of tokens of its tokenizer; further rows of the embedding are spare
TOKENIZER_SIZES = {"qwen2": 151665, "qwen3": 151669, "llama": 128256}
