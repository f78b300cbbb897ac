"""A tiny chat model: random weights, a trained tokenizer, and a chat template that takes system prompts."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import pytest
from jax.sharding import Mesh

from score_jax.agent.protocol import train_tokenizer
from score_jax.chat.local import LocalChat
from score_jax.chat.template import ChatTemplate
from score_jax.model import pretrained
from score_jax.sampler.programs import SamplerPrograms
from score_jax.sampler.slots import ProgramShapes
from score_jax.sampler.stops import Stops
from tests.conftest import Tiny

TEXT = ("system user assistant tool: you are a friend, who likes figs.\n", "How many figs does Tom have? 12, é 😀\n")
VOCAB, LENGTH, SLOTS = 320, 128, 4


@pytest.fixture(scope="session")
def folder(make_tiny: Callable[..., Tiny], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The model's Hugging Face folder."""
  tiny, tokenizer = make_tiny(vocab=VOCAB), train_tokenizer(TEXT, vocab=VOCAB)
  path = tmp_path_factory.mktemp("models") / "tiny"
  pretrained.save_pretrained(path, tiny.config, tiny.weights, dtype="float32")
  pretrained.save_tokenizer(path, tiny.config, tokenizer)
  (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokenizer.eos_token_id, 0]}))
  return path


@pytest.fixture(scope="session")
def model(folder: pathlib.Path) -> pretrained.Model:
  return pretrained.load_pretrained(str(folder), dtype="float32")


@pytest.fixture(scope="session")
def on_mesh(folder: pathlib.Path, model: pretrained.Model, one_device: Mesh) -> LocalChat:
  template = ChatTemplate(model.tokenizer, generation=pretrained.open_pretrained(str(folder)).generation_config)
  size, stops = {"slots": SLOTS, "length": LENGTH, "block": LENGTH}, Stops(template.stops)
  programs = SamplerPrograms(model.graph, model.config, one_device, **size, stops=stops)
  shapes = ProgramShapes(piece=16, rows=(4,), decode=4)
  return LocalChat("tiny", template, programs, model.weights, shapes, top_p=1.0, seed=3)
