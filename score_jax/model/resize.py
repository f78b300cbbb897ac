"""Room in the embedding for tokens that a model did not come with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from score_jax.errors import UserError
from score_jax.mesh.sharding import path_name
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights


def size_of(tokenizer: PreTrainedTokenizerFast) -> int:
  """Rows that the ids of a tokenizer need; ids may have holes, so this is no count."""
  return max(tokenizer.get_vocab().values()) + 1


def beyond(tokenizer: PreTrainedTokenizerFast, known: int, *, name: str) -> dict[int, list[int]]:
  """Tokens that were added to a tokenizer and have no row in an embedding of `known` rows, with those that spell each.

  A lookup of such an id gives another token's row, without an error: XLA clamps it.

  Args:
    name: of the model, for the message.

  Raises:
    UserError: a token of the vocabulary proper has no row: tokenizer and weights are of different models.
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


def with_room(config: DecoderConfig, size: int, *, multiple: int) -> DecoderConfig:
  """The decoder with at least `size` rows in its embedding (and unembedding), their number a multiple of `multiple`.

  Rows that it has to spare serve first, and it never shrinks.
  """
  return dataclasses.replace(config, vocab=-(-max(size, config.vocab) // multiple) * multiple)


def with_tokens(weights: Weights, *, known: int, spelled: Mapping[int, Sequence[int]]) -> Weights:
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
    if path_name(path)[-1] not in ("embedding", "unembedding") or (leaf.shape[0] == known and not spelled):
      return leaf
    return jax.jit(filled, donate_argnums=0, out_shardings=leaf.sharding)(leaf)

  return jax.tree_util.tree_map_with_path(grown, weights)
