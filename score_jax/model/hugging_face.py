"""Hugging Face model folders, local or from the hub, and how one is written so that transformers and vLLM load it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
from typing import Any

from transformers import PreTrainedTokenizerFast

from score_jax.errors import UserError
from score_jax.model import safetensors, weights
from score_jax.model.config import DecoderConfig, from_hugging_face, model_type, to_hugging_face
from score_jax.model.decoder import Weights
from score_jax.model.safetensors import Safetensors

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
#: what is fetched of a model on the hub
NEEDED = ["*.json", "*.jinja", "model.safetensors", "model-*.safetensors"]
#: model types whose own way of splitting text transformers 5 puts in the place of tokenizer.json's, whatever
#: tokenizer_class says, unless a class comes with the folder
OVERRULED = ("qwen2",)
CLASS = '''"""The tokenizer that tokenizer.json describes, as it stands there."""

from transformers import PreTrainedTokenizerFast


class Tokenizer(PreTrainedTokenizerFast):
  pass
'''


def find(name: str) -> pathlib.Path:
  """The local folder of that name, or one with what the hub has under it.

  Raises:
    UserError: there is neither, or the hub cannot be reached.
  """
  folder = pathlib.Path(name)
  if folder.is_dir():
    return folder
  if not HUB_ID.fullmatch(name):
    raise UserError(f"model {name!r} does not exist; give a folder, a .gguf file or a Hugging Face id such as org/name")
  from huggingface_hub import snapshot_download

  try:
    return pathlib.Path(snapshot_download(name, allow_patterns=NEEDED))
  except (OSError, ValueError) as error:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    raise UserError(
      f"model {name!r} is no folder and cannot be fetched from the Hugging Face hub ({reason}); check the name and the "
      "network, or give a folder"
    ) from error


def read(folder: pathlib.Path) -> tuple[DecoderConfig, Safetensors]:
  """The decoder in a model folder, its tensors checked against its configuration.

  Only the head is read, where config.json ties it and the files hold one all the same.

  Raises:
    UserError: a file is missing or damaged, does not match the configuration, or is not supported.
  """
  path = folder / "config.json"
  try:
    data = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError as error:
    raise UserError(f"{path} does not exist; give a folder with config.json and model.safetensors") from error
  except ValueError as error:
    raise UserError(f"{path} is no JSON ({error}); fetch it again") from error
  said, tensors = from_hugging_face(data), Safetensors(folder)
  config = weights.checked(tensors, said)
  if said.tied and not config.tied:
    print(
      f"note: {path} says tie_word_embeddings = true, but lm_head.weight is not the embedding; the head is used, as "
      "transformers does",
      file=sys.stderr,
      flush=True,
    )
  return config, tensors


def tokenizer(folder: pathlib.Path) -> PreTrainedTokenizerFast:
  """The tokenizer of a model folder.

  Raises:
    UserError: there is none.
  """
  try:  # not AutoTokenizer, which puts the model type's own way of splitting in the place of the file's
    return PreTrainedTokenizerFast.from_pretrained(folder)
  except (OSError, ValueError) as error:
    raise UserError(f"{folder}: no tokenizer can be read ({str(error).splitlines()[0]}); add tokenizer.json") from error


def generation(folder: pathlib.Path) -> dict[str, Any]:
  """How the model is meant to be drawn from, and which tokens end it: generation_config.json; empty without one.

  Raises:
    UserError: it is no JSON object.
  """
  path = folder / "generation_config.json"
  try:
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
  except ValueError as error:
    raise UserError(f"{path} is no JSON ({error}); fetch it again, or delete it") from error
  if not isinstance(data, dict):
    raise UserError(f"{path} is no JSON object; fetch it again, or delete it")
  return data


def save(
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
  safetensors.save(folder, list(weights.named(config, params)), dtype=dtype, shard_bytes=shard_bytes)
  data = to_hugging_face(config) | {"dtype": dtype} | more
  (folder / "config.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def save_tokenizer(folder: pathlib.Path, config: DecoderConfig, tokenizer: PreTrainedTokenizerFast) -> None:
  """Writes a tokenizer in words that transformers 4 and 5 read alike, AutoTokenizer included."""
  tokenizer.save_pretrained(folder)
  path = folder / "tokenizer_config.json"
  data = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
  data["additional_special_tokens"] = data.pop("extra_special_tokens", [])
  if model_type(config) in OVERRULED:
    data["auto_map"] = {"AutoTokenizer": [None, "tokenizer.Tokenizer"]}
    (folder / "tokenizer.py").write_text(CLASS, encoding="utf-8")
  path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
