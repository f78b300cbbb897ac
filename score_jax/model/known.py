"""Public models whose shape is needed before they can be reached: what their config.json says, as of November 2026."""

from __future__ import annotations

from typing import Any

QWEN = {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}


def _qwen2(width: int, layers: int, heads: int, kv_heads: int, mlp: int, vocab: int, *, tied: bool) -> dict[str, Any]:
  shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": mlp, "vocab_size": vocab}
  attention = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "tie_word_embeddings": tied}
  return {"model_type": "qwen2", **QWEN, **shape, **attention}


#: hub id -> config.json
KNOWN: dict[str, dict[str, Any]] = {
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

#: model type -> tokens that its tokenizer has; rows of the embedding beyond them are spare
TOKENS = {"qwen2": 151665, "qwen3": 151669, "llama": 128256}
