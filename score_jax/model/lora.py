"""LoRA adapters (Hu et al. 2021): adding them, splitting them off for training, merging them into the weights.

A layer computes x W + x A B. A [in, r] starts random and B [r, out] starts at zero; the paper's scale alpha / r is 1.
The modules are Flax's own (nnx.LoRALinear).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights, abstract_decoder
from score_jax.model.sharding import leaf_path, weight_shardings

NO_PARAMS: Weights = nnx.State({})


def split_trainable(weights: Weights) -> tuple[Weights, Weights]:
  """The trained and the frozen weights: adapters and the rest; without adapters all weights and none."""
  adapters, rest = nnx.split_state(weights, nnx.LoRAParam, ...)
  return (adapters, rest) if jax.tree.leaves(adapters) else (rest, adapters)


def merge_params(trained: Weights, frozen: Weights) -> Weights:
  """All weights, from the two parts that `split_trainable` returns."""
  return nnx.merge_state(trained, frozen)


def add_lora(
  config: DecoderConfig, weights: Weights, *, rank: int, seed: int, mesh: Mesh
) -> tuple[DecoderConfig, Weights]:
  """The decoder with new float32 adapters of `rank`. Its results do not change: B is zero."""
  adapted = dataclasses.replace(config, lora_rank=rank)
  shapes = split_trainable(abstract_decoder(adapted)[1])[0]

  def begin() -> Weights:
    number = iter(range(len(jax.tree.leaves(shapes))))

    def one(path: Sequence[Any], leaf: Any) -> jax.Array:
      key = jax.random.fold_in(jax.random.key(seed), next(number))
      if leaf_path(path)[-1] == "lora_b":
        return jnp.zeros(leaf.shape, jnp.float32)
      bound = leaf.shape[-2] ** -0.5  # the width of the layer's input
      return jax.random.uniform(key, leaf.shape, jnp.float32, -bound, bound)

    return jax.tree_util.tree_map_with_path(one, shapes)

  return adapted, merge_params(jax.jit(begin, out_shardings=weight_shardings(mesh, shapes))(), weights)


def merge_lora(config: DecoderConfig, weights: Weights) -> tuple[DecoderConfig, Weights]:
  """The decoder with its adapters merged into the kernels; results stay the same."""
  adapters = {leaf_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(split_trainable(weights)[0])}

  def one(path: Sequence[Any], leaf: jax.Array) -> jax.Array:
    *stem, name = leaf_path(path)
    if name != "kernel":
      return leaf
    a, b = (adapters[(*stem, "lora", side)].astype(jnp.float32) for side in ("lora_a", "lora_b"))
    return (leaf.astype(jnp.float32) + a @ b).astype(leaf.dtype)

  if not config.lora_rank:
    return config, weights
  return dataclasses.replace(config, lora_rank=0), jax.tree_util.tree_map_with_path(one, split_trainable(weights)[1])
