"""The shapes of a config's models and meshes, without their weights or their chips."""

from __future__ import annotations

import dataclasses
from typing import Any

from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from score_jax.agent.protocol import TAGS
from score_jax.mesh.sharding import AXES, Meshes, mesh_sizes
from score_jax.model import source
from score_jax.model.config import DecoderConfig, from_hugging_face, model_type
from score_jax.model.known import KNOWN, TOKENS
from score_jax.model.resize import with_room
from score_jax.planning.chips import Topology


def decoder(config: ConfigDict) -> DecoderConfig:
  """The decoder that the group `student` or `teacher` names, laid out as it says."""
  shape = from_hugging_face(KNOWN[config.path]) if config.path in KNOWN else source.open(config.path).shape()
  return dataclasses.replace(shape, stacked=config.layer_scan, lora_rank=config.get("lora_rank", 0))


def vocabulary(model: DecoderConfig, multiple: int) -> DecoderConfig:
  """The decoder with room for the method's tags, which take spare rows first."""
  kind = model_type(model)
  used = TOKENS[kind] if model.vocab >= TOKENS[kind] else model.vocab
  size = max(model.vocab, used + len(TAGS))
  return with_room(model, size, multiple=multiple)


def meshes_of(shapes: ConfigDict, chips: Topology) -> Meshes:
  """The meshes of a topology: of its devices, or of nothing but sizes where there are none."""
  if chips.compiles:
    return Meshes.of(shapes, chips.devices)
  sizes = {use: mesh_sizes(shapes[use], chips.count, use) for use in ("train", "sample", "teacher")}
  meshes: Any = {use: AbstractMesh(s, AXES, axis_types=(AxisType.Auto,) * 3) for use, s in sizes.items()}
  return Meshes(**meshes)
