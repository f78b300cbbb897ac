"""config.json in and out: public models by their published sizes, both spellings, and every refusal by name."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from score_jax.errors import UserError
from score_jax.model.config import (
  MODEL_CONFIGS,
  DecoderConfig,
  RopeScaling,
  config_from_hugging_face,
  config_to_hugging_face,
)

LLAMA3 = {
  "rope_type": "llama3",
  "factor": 32.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 8192,
}


def shape(kind: str, *numbers: Any, **more: Any) -> dict[str, Any]:
  names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
  names += ("intermediate_size", "max_position_embeddings", "tie_word_embeddings")
  return (
    {"model_type": kind, "rms_norm_eps": 1e-6, "hidden_act": "silu"} | dict(zip(names, numbers, strict=True)) | more
  )


#: config.json of public models, as far as it counts, and the number of weights that they are published with
PUBLIC = {
  "Qwen2.5-0.5B": (
    shape("qwen2", 151936, 896, 24, 14, 2, 4864, 32768, True, rope_theta=1e6, use_sliding_window=False)
    | {"sliding_window": 32768, "max_window_layers": 24},
    494_032_768,
  ),
  "Qwen2.5-7B": (shape("qwen2", 152064, 3584, 28, 28, 4, 18944, 131072, False, rope_theta=1e6), 7_615_616_512),
  "Qwen3-0.6B": (
    shape("qwen3", 151936, 1024, 28, 16, 8, 3072, 40960, True, rope_theta=1e6, head_dim=128, attention_bias=False)
    | {"rope_scaling": None, "use_sliding_window": False, "max_window_layers": 28},
    596_049_920,
  ),
  "Llama-3.2-1B": (
    shape("llama", 128256, 2048, 16, 32, 8, 8192, 131072, True, rope_theta=5e5, head_dim=64, mlp_bias=False)
    | {"rope_scaling": LLAMA3, "attention_bias": False, "pretraining_tp": 1},
    1_235_814_400,
  ),
  "Llama-3.1-8B": (
    shape("llama", 128256, 4096, 32, 32, 8, 14336, 131072, False, rope_theta=5e5, rope_scaling=LLAMA3 | {"factor": 8}),
    8_030_261_248,
  ),
  "SmolLM2-135M": (shape("llama", 49152, 576, 30, 9, 3, 1536, 8192, True, rope_theta=1e5), 134_515_008),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_models_have_their_published_size(name: str) -> None:
  data, parameters = PUBLIC[name]
  config = config_from_hugging_face(data)
  assert config.parameters == parameters
  assert config.rope_base == data["rope_theta"]
  assert config_from_hugging_face(config_to_hugging_face(config)) == config


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_config_that_says_nothing_of_it_has_a_head_of_its_own(kind: str) -> None:
  """As transformers reads it. One weight of the head, 64 x 32, counts."""
  data = shape(kind, 64, 32, 2, 4, 2, 64, 512, True, head_dim=8)
  tied = config_from_hugging_face(data)
  del data["tie_word_embeddings"]
  assert transformers.AutoConfig.for_model(**data).tie_word_embeddings is False
  assert config_from_hugging_face(data).parameters == tied.parameters + 64 * 32


def test_the_shapes_that_are_known_have_their_published_size() -> None:
  published = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
  }
  assert {name: config_from_hugging_face(data).parameters for name, data in MODEL_CONFIGS.items()} == published


def test_transformers_5_spells_rope_otherwise_and_means_the_same() -> None:
  old = PUBLIC["Llama-3.2-1B"][0]
  new = {k: v for k, v in old.items() if not k.startswith("rope_")}
  new |= {"rope_parameters": {"rope_theta": 5e5} | LLAMA3}
  assert config_from_hugging_face(new) == config_from_hugging_face(old)
  assert config_from_hugging_face(old).rope_scaling == RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
  linear = old | {"rope_scaling": {"type": "linear", "factor": 2.0}}
  assert config_from_hugging_face(linear).rope_scaling == RopeScaling("linear", 2.0)


QWEN2, QWEN3, LLAMA = (PUBLIC[name][0] for name in ("Qwen2.5-0.5B", "Qwen3-0.6B", "Llama-3.2-1B"))


@pytest.mark.parametrize(
  ("data", "fields", "said"),
  [
    (QWEN3, {"model_type": "qwen3_moe"}, "model_type = 'qwen3_moe' is not supported; use .* llama, qwen2, qwen3"),
    (QWEN2, {"model_type": None}, "model_type = None is not supported"),
    (LLAMA, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type = 'yarn' is not supported"),
    (LLAMA, {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_type = 'dynamic' is not supported"),
    (LLAMA, {"rope_parameters": {"rope_type": "longrope"}}, "rope_type = 'longrope' is not supported"),
    (
      LLAMA,
      {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
      "low_freq_factor of rope_type 'llama3' is missing",
    ),
    (LLAMA, {"rope_scaling": {"rope_type": "linear"}}, "factor of rope_type 'linear' is missing"),
    (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported"),
    (QWEN3, {"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor = 0.25 is not supported"),
    (LLAMA, {"mlp_bias": True}, "mlp_bias = True is not supported"),
    (LLAMA, {"attention_bias": True}, "attention_bias = True is not supported"),
    (QWEN3, {"attention_bias": True}, "attention_bias = True is not supported"),
    (QWEN2, {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
    (QWEN2, {"quantization_config": {"quant_method": "gptq"}}, "quantization_config = {'quant_method': 'gptq'} is not"),
    (QWEN2, {"use_sliding_window": True, "max_window_layers": 21}, "use_sliding_window = True is not supported"),
    (QWEN3, {"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types = \['sliding_attention'\] is not"),
    *((QWEN3, {name: None}, f"{name} is missing") for name in ("vocab_size", "rms_norm_eps", "head_dim")),
    (QWEN2, {"num_key_value_heads": None}, "num_key_value_heads is missing"),
  ],
  ids=lambda x: next(iter(x)) if isinstance(x, dict) and "vocab_size" not in x else "",
)
def test_what_is_not_supported_is_refused_by_name(data: dict[str, Any], fields: dict[str, Any], said: str) -> None:
  config_from_hugging_face(data)
  with pytest.raises(UserError, match=rf"^config\.json: {said}"):
    config_from_hugging_face(data | fields)


def test_a_sliding_window_that_no_layer_uses_is_none() -> None:
  expected = config_from_hugging_face(QWEN2)
  assert config_from_hugging_face(QWEN2 | {"use_sliding_window": True, "max_window_layers": 24}) == expected
  types = {"use_sliding_window": True, "max_window_layers": 0, "layer_types": ["full_attention"] * 24}
  assert config_from_hugging_face(QWEN2 | types) == expected, "types of layers decide where they are given"
  assert config_from_hugging_face(QWEN2 | {"use_sliding_window": False, "max_window_layers": 0}) == expected


def test_biases_and_norms_together_are_of_no_family() -> None:
  config = DecoderConfig(vocab=8, width=8, layers=1, heads=1, kv_heads=1, head_width=8, mlp=8, context=8, qk_norm=True)
  with pytest.raises(UserError, match="qkv_bias = True and qk_norm = True has no Hugging Face model type"):
    config_to_hugging_face(config)
