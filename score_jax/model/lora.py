"""Low-rank adapters beside the linear layers (Hu et al. 2021): what is trained in their place, and merged into them.

A layer gives x W + x A B, with A [in, r] drawn and B [r, out] zero at first; the
scale alpha / r of the paper is 1. The modules are Flax's own (nnx.LoRALinear).
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
  """What is trained and what is frozen: the adapters and all else, or everything and nothing where there are none."""
  adapters, rest = nnx.split_state(weights, nnx.LoRAParam, ...)
  return (adapters, rest) if jax.tree.leaves(adapters) else (rest, adapters)


def merge_params(trained: Weights, frozen: Weights) -> Weights:
  """The weights whose `parts` these are."""
  return nnx.merge_state(trained, frozen)


def add_lora(
  config: DecoderConfig, weights: Weights, *, rank: int, seed: int, mesh: Mesh
) -> tuple[DecoderConfig, Weights]:
  """The decoder with adapters of a rank, float32, which do not change what it computes yet."""
  adapted = dataclasses.replace(config, lora_rank=rank)
  shapes = split_trainable(abstract_decoder(adapted)[1])[0]

  def begin() -> Weights:
    number = iter(range(len(jax.tree.leaves(shapes))))

    def one(path: Sequence[Any], leaf: Any) -> jax.Array:
      key = jax.random.fold_in(jax.random.key(seed), next(number))
      if leaf_path(path)[-1] == "lora_b":
        return jnp.zeros(leaf.shape, jnp.float32)
      bound = leaf.shape[-2] ** -0.5  # of what goes in
      return jax.random.uniform(key, leaf.shape, jnp.float32, -bound, bound)

    return jax.tree_util.tree_map_with_path(one, shapes)

  return adapted, merge_params(jax.jit(begin, out_shardings=weight_shardings(mesh, shapes))(), weights)


def merge_lora(config: DecoderConfig, weights: Weights) -> tuple[DecoderConfig, Weights]:
  """The decoder without adapters that computes the same."""
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
