"""Which tensors of a Hugging Face model hold which parameter: one table for all families.

A linear layer's weight is [out, in] there and [in, out] here. Layers that are
stacked here, with a leading axis, are a tensor each there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from score_jax.mesh.sharding import path_name
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import structure

Shape = tuple[int, ...]

#: parameter within a block -> tensor within a layer, without the leaf's name
LAYER = {
  "attention.query": "self_attn.q_proj",
  "attention.key": "self_attn.k_proj",
  "attention.value": "self_attn.v_proj",
  "attention.out": "self_attn.o_proj",
  "attention.query_norm": "self_attn.q_norm",
  "attention.key_norm": "self_attn.k_norm",
  "mlp.gate": "mlp.gate_proj",
  "mlp.up": "mlp.up_proj",
  "mlp.down": "mlp.down_proj",
  "attention_norm": "input_layernorm",
  "mlp_norm": "post_attention_layernorm",
}
TOP = {"embedding": "model.embed_tokens.weight", "unembedding": "lm_head.weight", "norm.scale": "model.norm.weight"}


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where a parameter comes from.

  Attributes:
    names: of the one tensor, or of one for each layer where they are stacked.
    stacked: the parameter has a leading axis of layers.
    transposed: the last two axes stand the other way round there.
  """

  names: tuple[str, ...]
  stacked: bool
  transposed: bool

  def outer(self, part: Sequence[Any]) -> tuple[Any, ...]:
    """One entry an axis of the parameter, such as its shape, as one entry an axis of each tensor."""
    one = tuple(part[1:] if self.stacked else part)
    return one[::-1] if self.transposed else one


def origin(path: Sequence[Any], config: DecoderConfig) -> Origin:
  """Where the parameter at a path in the weights comes from."""
  parts = path_name(path)
  if parts[0] != "blocks":
    return Origin((TOP[".".join(parts)],), False, False)
  stacked = not parts[1].isdecimal()
  *stem, leaf = parts[1:] if stacked else parts[2:]
  tensor = f"{LAYER['.'.join(stem)]}.{'bias' if leaf == 'bias' else 'weight'}"
  layers = range(config.layers) if stacked else (int(parts[1]),)
  return Origin(tuple(f"model.layers.{layer}.{tensor}" for layer in layers), stacked, leaf == "kernel")


def shapes(config: DecoderConfig) -> Mapping[str, Shape]:
  """All tensors of a model with their shapes."""
  result: dict[str, Shape] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(structure(config)[1]):
    found = origin(path, config)
    result |= dict.fromkeys(found.names, found.outer(leaf.shape))
  return result
