"""Every way to mix whole rows against jax.nn.dot_product_attention, values and gradients."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from score_jax.errors import UserError
from score_jax.model import attention
from score_jax.model.attention import RowAttention
from score_jax.model.sharding import named_sharding, trace_under_mesh

B, T, N, K, H = 2, 256, 4, 2, 16


def inputs(heads: int = N, kv_heads: int = K) -> tuple[np.ndarray, ...]:
  """Queries, keys and values, and rows of three trajectories and of two with padding."""
  draws = np.random.default_rng(0)
  shapes = ((B, T, heads, H), (B, kv_heads, T, H), (B, kv_heads, T, H))
  segments = np.stack([np.repeat([1, 2, 3], [100, 56, 100]), np.repeat([1, 2, 0], [90, 100, 66])])
  return (*(draws.normal(0, 1, s).astype(np.float32) for s in shapes), segments.astype(np.int32))


def value_and_gradients(mix: RowAttention, *args: np.ndarray) -> list[np.ndarray]:
  """What is mixed, and the gradients of a loss of it that leaves padding out."""
  weights = np.random.default_rng(1).normal(size=args[0].shape).astype(np.float32)

  def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    mixed = jnp.where((args[3] > 0)[..., None, None], mix(q, k, v, jnp.asarray(args[3])), 0.0)
    return jnp.sum(mixed * weights), mixed

  (_, mixed), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*args[:3])
  return [np.asarray(x) for x in (mixed, *gradients)]


splash = functools.partial(attention.tpu_splash_attention, interpret=True)


@pytest.mark.parametrize("mix", [attention.blockwise_attention, splash], ids=["blocks", "splash"])
def test_every_way_gives_what_the_oracle_gives(mix: RowAttention) -> None:
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # of JAX's own kernel
    for found, expected in zip(
      value_and_gradients(mix, *inputs()), value_and_gradients(attention.reference_attention, *inputs()), strict=True
    ):
      np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
  "heads", [(8, 2), (8, 1), (6, 3), (3, 1)], ids=["split", "repeated", "repeated in groups", "whole"]
)
def test_splash_on_a_mesh_is_splash(eight_devices: Mesh, heads: tuple[int, int]) -> None:
  """Two devices share the heads: each has its own, or copies of the keys beside its queries, or all."""
  args = inputs(*heads)
  place = [named_sharding(eight_devices, *(None,) * x.ndim) for x in args]

  @functools.partial(jax.jit, in_shardings=place)
  def spread(*args: jax.Array) -> jax.Array:
    with trace_under_mesh(eight_devices):
      return splash(*args)

  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    doubled = [np.concatenate([x, x]) for x in args]  # four rows for four parts
    found = np.asarray(spread(*doubled))[:B]
    expected = np.asarray(jax.jit(attention.reference_attention)(*args))
  seen = args[3] > 0
  np.testing.assert_allclose(found[seen], expected[seen], rtol=0, atol=2e-5 * np.abs(expected).max())


def test_the_platform_decides_unless_one_is_named() -> None:
  assert attention.select_row_attention("auto", "cpu", "float32") is attention.blockwise_attention
  assert attention.select_row_attention("auto", "tpu", "bfloat16") is attention.tpu_splash_attention
  assert attention.select_row_attention("auto", "gpu", "bfloat16") is attention.ROW_ATTENTIONS["cudnn"]
  assert attention.select_row_attention("auto", "gpu", "float32") is attention.reference_attention
  assert attention.select_row_attention("auto", "metal", "float32") is attention.reference_attention
  assert attention.select_row_attention("xla", "tpu", "bfloat16") is attention.reference_attention
  with pytest.raises(UserError, match=r"train\.attention = 'flash'; choose auto, blocks, xla, cudnn, splash"):
    attention.select_row_attention("flash", "cpu", "float32")


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's kernel needs an NVIDIA GPU")
def test_cudnn_gives_what_the_oracle_gives() -> None:
  args = tuple(x.astype(jnp.bfloat16) if x.dtype == np.float32 else x for x in inputs())
  for found, expected in zip(
    value_and_gradients(attention.ROW_ATTENTIONS["cudnn"], *args),
    value_and_gradients(attention.reference_attention, *args),
    strict=True,
  ):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-2 * np.abs(expected).max())
