"""Small models of each family as transformers builds them, with weights that hide no mistakes."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

VOCAB = 64
LLAMA3 = {
  "rope_type": "llama3",
  "rope_theta": 5000.0,
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 32,
}
PLAIN = {"rope_type": "default", "rope_theta": 5000.0}

#: family -> class of transformers and what its configuration has beside the shape
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
  "qwen2_tied": ("Qwen2", {"tie_word_embeddings": True, "rope_parameters": PLAIN}),
  "qwen2": ("Qwen2", {"tie_word_embeddings": False, "rope_parameters": PLAIN}),
  "qwen3": ("Qwen3", {"tie_word_embeddings": False, "rope_parameters": PLAIN}),
  "qwen3_tied": ("Qwen3", {"tie_word_embeddings": True, "rope_parameters": PLAIN}),
  "llama3.1": ("Llama", {"tie_word_embeddings": False, "rope_parameters": LLAMA3}),
  "llama_linear": (
    "Llama",
    {"tie_word_embeddings": False, "rope_parameters": PLAIN | {"rope_type": "linear", "factor": 2.5}},
  ),
  "smollm2": ("Llama", {"tie_word_embeddings": True, "rope_parameters": PLAIN}),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def build(family: str, **shape: Any) -> Any:
  """A torch model with 8 heads of 8 over 4 keys and values, all weights drawn, biases and norms too."""
  torch = pytest.importorskip("torch", reason="torch, which the reference runs in, is not installed")
  import transformers

  torch.manual_seed(0)
  name, fields = FAMILIES[family]
  config = getattr(transformers, f"{name}Config")(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=8,
    intermediate_size=64,
    max_position_embeddings=512,
    initializer_range=0.2,
    bos_token_id=None,
    eos_token_id=None,
    **fields | shape,
  )
  model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
  for name, parameter in model.named_parameters():
    if name.endswith(("bias", "norm.weight")):
      torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
  return model


def save(family: str, folder: pathlib.Path, **shape: Any) -> Any:
  """The model, which it writes into a folder."""
  model = build(family, **shape)
  model.save_pretrained(folder)
  return model


def logits(model: Any, tokens: np.ndarray) -> np.ndarray:
  """Of one sequence [T], float32 [T, V]."""
  import torch

  with torch.no_grad():
    return model(torch.tensor(tokens[None], dtype=torch.long)).logits[0].numpy()


def greedy(model: Any, prompt: np.ndarray, count: int) -> list[int]:
  """What it writes after a prompt [T], the likeliest token each time."""
  import torch

  tokens = torch.tensor(prompt[None], dtype=torch.long)
  options = {"do_sample": False, "max_new_tokens": count, "pad_token_id": 0}
  return model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)[0, len(prompt) :].tolist()


def assert_same_logits(ours: np.ndarray, theirs: np.ndarray) -> None:
  assert np.abs(theirs).max() > 1.0, "logits so small that they would agree by chance"
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
