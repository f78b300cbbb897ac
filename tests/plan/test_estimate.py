"""FLOPs by count against numbers worked out by hand, and against what a compiler counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from score_jax.model.config import DecoderConfig
from score_jax.plan.memory import CHIPS, compute_roofline_seconds, count_train_flops

#: 2 layers; matrices of one: query 8x8, key and value 8x4, out 8x8, three of the MLP 8x16
MODEL = DecoderConfig(
  vocab=32, width=8, layers=2, heads=2, kv_heads=1, head_width=4, mlp=16, context=64, qkv_bias=False, tied=True
)
MATRICES = 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16)
NORMS = 2 * 2 * 8 + 8
UNEMBEDDING = 32 * 8


def test_training_is_three_forwards_and_what_is_made_again() -> None:
  rows, length = 3, 10
  tokens = rows * length
  attention = tokens * 2 * 2 * 2 * 8 * 5  # two layers, scores and mixing, 2 a product, 8 wide, half of the row
  forward = tokens * 2 * (MATRICES + NORMS + UNEMBEDDING) + attention
  logits = tokens * 2 * UNEMBEDDING
  assert count_train_flops(MODEL, rows, length, remat="none") == 3 * forward + logits
  assert count_train_flops(MODEL, rows, length, remat="dots") == 3 * forward + logits + attention
  assert count_train_flops(MODEL, rows, length, remat="full") == 3 * forward + logits + forward - logits


def test_the_roofline_is_the_slower_of_products_and_reads() -> None:
  chip = CHIPS["v5e"]
  assert compute_roofline_seconds(197e12 * 4, 0.0, chip, 4) == pytest.approx(1.0)
  assert compute_roofline_seconds(197e12 * 4, 2 * 819e9, chip, 4) == pytest.approx(2.0)
  assert compute_roofline_seconds(0.0, 819e9, chip, 4) == pytest.approx(1.0)


def test_a_compiler_counts_a_product_as_we_do() -> None:
  """2 a multiplication and addition: the unit that all counts here are in."""
  a, b = jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 32), jnp.float32)
  found = jax.jit(jnp.matmul).lower(a, b).cost_analysis()
  assert found["flops"] == 2 * 8 * 16 * 32
