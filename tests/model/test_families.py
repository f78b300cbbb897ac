"""Each family against transformers' torch models: logits, text, weights in and out, on one device and on eight."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from safetensors.numpy import load_file, save_file

from score_jax.errors import UserError
from score_jax.model import pretrained
from score_jax.model import tensors as weights
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, KVCache, Weights, abstract_decoder
from score_jax.model.sharding import make_mesh, weight_shardings
from tests.model import theirs
from tests.model.theirs import VOCAB, every_family

TOKENS = np.random.default_rng(0).integers(0, VOCAB, 100).astype(np.int32)
PROMPT, WRITTEN = 16, 64


def load(folder: pathlib.Path, mesh: Mesh | None = None) -> tuple[DecoderConfig, Weights]:
  config, tensors = pretrained.read_model_folder(folder)
  return config, weights.load_weights(config, tensors, dtype="float32", mesh=mesh)


@functools.partial(jax.jit, static_argnums=0)
def rows(graph: nnx.GraphDef[Decoder], params: Weights, tokens: jax.Array) -> jax.Array:
  model = nnx.merge(graph, params)
  return model.unembed(model(tokens, jnp.arange(tokens.shape[1])[None], jnp.ones_like(tokens)))


@functools.partial(jax.jit, static_argnums=0)
def chunk(
  graph: nnx.GraphDef[Decoder], params: Weights, tokens: jax.Array, positions: jax.Array, cache: KVCache
) -> tuple[jax.Array, KVCache]:
  model = nnx.merge(graph, params)
  x, cache = model.step(tokens, positions, cache, None, blocks=4)
  return model.unembed(x), cache


def full(config: DecoderConfig, params: Weights, tokens: np.ndarray) -> np.ndarray:
  """Logits [T, V] of one sequence."""
  return np.asarray(rows(abstract_decoder(config)[0], params, tokens[None])[0])


def stepper(config: DecoderConfig, params: Weights) -> Callable[[np.ndarray], np.ndarray]:
  """Feeds further tokens [T] of one sequence through a cache; gives their logits [T, V]."""
  graph, _ = abstract_decoder(config)
  cache, at = nnx.merge(graph, params).empty_cache(1, 128, block=32), 0

  def step(tokens: np.ndarray) -> np.ndarray:
    nonlocal cache, at
    logits, cache = chunk(graph, params, tokens[None], at + np.arange(len(tokens))[None], cache)
    at += len(tokens)
    return np.asarray(logits[0])

  return step


@every_family
def test_logits_are_those_of_transformers(family: str, tmp_path: pathlib.Path) -> None:
  expected = theirs.logits(theirs.save(family, tmp_path), TOKENS)
  config, params = load(tmp_path)
  theirs.assert_same_logits(full(config, params, TOKENS), expected)
  step = stepper(config, params)
  cached = [step(TOKENS[:PROMPT]), *(step(TOKENS[at : at + 1]) for at in range(PROMPT, len(TOKENS)))]
  theirs.assert_same_logits(np.concatenate(cached), expected)


@every_family
def test_greedy_text_is_that_of_transformers(family: str, tmp_path: pathlib.Path) -> None:
  expected = theirs.greedy(theirs.save(family, tmp_path), TOKENS[:PROMPT], WRITTEN)
  step = stepper(*load(tmp_path))
  written, token = [], int(step(TOKENS[:PROMPT])[-1].argmax())
  while len(written) < WRITTEN:
    written.append(token)
    token = int(step(np.array([token], np.int32))[-1].argmax())
  assert len(set(written)) > 3, "text so plain that it would agree by chance"
  assert written == expected


@every_family
@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000], ids=["whole", "sharded"])
def test_what_is_written_is_what_was_read_bit_for_bit(family: str, shard_bytes: int, tmp_path: pathlib.Path) -> None:
  from transformers import AutoModelForCausalLM

  model = theirs.build(family)
  model.save_pretrained(tmp_path / "theirs", max_shard_size=shard_bytes)
  config, params = load(tmp_path / "theirs")
  pretrained.save_pretrained(tmp_path / "ours", config, params, dtype="float32", shard_bytes=shard_bytes)
  files = sorted((tmp_path / "ours").glob("*.safetensors"))
  assert (len(files) > 1) == (shard_bytes < 1 << 30)
  assert max(file.stat().st_size for file in files) < 1.2 * shard_bytes
  again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
  assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
  assert type(again) is type(model)
  expected, found = model.state_dict(), again.state_dict()
  assert expected.keys() == found.keys()
  for name, tensor in expected.items():
    assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name
  assert np.array_equal(theirs.logits(again, TOKENS), theirs.logits(model, TOKENS)), "the configuration counts too"
  assert load(tmp_path / "ours")[0] == config


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "smollm2"])
def test_eight_devices_give_the_logits_of_one(family: str, tmp_path: pathlib.Path) -> None:
  """Four keys and values over a tensor axis of eight, too: each device has half of one."""
  theirs.save(family, tmp_path)
  config, alone = load(tmp_path)
  expected = full(config, alone, TOKENS)
  for shape in ((1, 8, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8)):
    mesh = make_mesh(shape)
    _, params = load(tmp_path, mesh)
    places = jax.tree.leaves(weight_shardings(mesh, params))
    for one, many, place in zip(jax.tree.leaves(alone), jax.tree.leaves(params), places, strict=True):
      assert many.sharding == place
      assert np.array_equal(one, many)
    theirs.assert_same_logits(full(config, params, TOKENS), expected)


# The head


@pytest.mark.parametrize("shard_bytes", [1 << 30, 4_000], ids=["whole", "sharded"])
def test_a_head_of_its_own_is_used_whatever_the_configuration_says_of_it(
  shard_bytes: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """As transformers does: a fine-tune that trained the head and was saved with a tied base's config.json."""
  from transformers import AutoModelForCausalLM

  theirs.build("qwen2").save_pretrained(tmp_path, max_shard_size=shard_bytes)
  file = tmp_path / "config.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": True}))
  reference: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
  expected = theirs.logits(reference.eval(), TOKENS)
  config, params = load(tmp_path)
  assert not config.tied and "lm_head.weight is not the embedding; the head is used" in capsys.readouterr().err
  theirs.assert_same_logits(full(config, params, TOKENS), expected)
  _, split = load(tmp_path, make_mesh((1, 2, 4)))
  theirs.assert_same_logits(full(config, split, TOKENS), expected)
  pretrained.save_pretrained(tmp_path / "ours", config, params, dtype="float32")
  again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
  assert not again.config.tie_word_embeddings and np.array_equal(theirs.logits(again, TOKENS), expected)


def test_a_head_that_repeats_the_embedding_is_the_embedding(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  model = theirs.save("qwen2_tied", tmp_path)
  tensors = load_file(tmp_path / "model.safetensors")
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
  save_file(tensors, tmp_path / "model.safetensors")
  config, params = load(tmp_path)
  assert config.tied and "note:" not in capsys.readouterr().err
  theirs.assert_same_logits(full(config, params, TOKENS), theirs.logits(model, TOKENS))
  tensors["lm_head.weight"][VOCAB - 1, 31] += 1e-3  # the last element
  save_file(tensors, tmp_path / "model.safetensors")
  assert not load(tmp_path)[0].tied


def test_a_head_that_is_not_there_is_refused_with_what_helps(tmp_path: pathlib.Path) -> None:
  """transformers draws one at random, with a warning."""
  model = theirs.save("qwen2_tied", tmp_path)
  file = tmp_path / "config.json"
  tied = file.read_text()
  file.write_text(json.dumps(json.loads(tied) | {"tie_word_embeddings": False}))
  with pytest.raises(UserError, match=r'lm_head\.weight \(64, 32\) is missing.*write "tie_word_embeddings": true'):
    load(tmp_path)
  file.write_text(tied)
  theirs.assert_same_logits(full(*load(tmp_path), TOKENS), theirs.logits(model, TOKENS))


def test_a_head_of_another_size_is_refused(tmp_path: pathlib.Path) -> None:
  theirs.save("qwen2_tied", tmp_path)
  tensors = load_file(tmp_path / "model.safetensors")
  tensors["lm_head.weight"] = np.ones((VOCAB + 8, 32), np.float32)
  save_file(tensors, tmp_path / "model.safetensors")
  with pytest.raises(UserError, match=r"lm_head\.weight is \(72, 32\), the configuration asks for \(64, 32\)"):
    load(tmp_path)
