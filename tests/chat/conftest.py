"""A tiny chat model: random weights, a trained tokenizer, and a chat template that takes system prompts."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import pytest
from jax.sharding import Mesh

from score_jax.agent.tokenizer import train
from score_jax.chat.on_mesh import OnMesh
from score_jax.chat.template import Template
from score_jax.model import hugging_face, source
from score_jax.sampler.programs import Programs
from score_jax.sampler.slots import Shapes
from score_jax.sampler.stops import Stops
from tests.conftest import Tiny

TEXT = ("system user assistant tool: you are a friend, who likes figs.\n", "How many figs does Tom have? 12, é 😀\n")
VOCAB, LENGTH, SLOTS = 320, 128, 4


@pytest.fixture(scope="session")
def folder(make_tiny: Callable[..., Tiny], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The model's Hugging Face folder."""
  tiny, tokenizer = make_tiny(vocab=VOCAB), train(TEXT, vocab=VOCAB)
  path = tmp_path_factory.mktemp("models") / "tiny"
  hugging_face.save(path, tiny.config, tiny.weights, dtype="float32")
  hugging_face.save_tokenizer(path, tiny.config, tokenizer)
  (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokenizer.eos_token_id, 0]}))
  return path


@pytest.fixture(scope="session")
def model(folder: pathlib.Path) -> source.Model:
  return source.load(str(folder), dtype="float32")


@pytest.fixture(scope="session")
def on_mesh(folder: pathlib.Path, model: source.Model, one_device: Mesh) -> OnMesh:
  template = Template(model.tokenizer, generation=source.open(str(folder)).generation)
  size, stops = {"slots": SLOTS, "length": LENGTH, "block": LENGTH}, Stops(template.stops)
  programs = Programs(model.graph, model.config, one_device, **size, stops=stops)
  shapes = Shapes(piece=16, rows=(4,), decode=4)
  return OnMesh("tiny", template, programs, model.weights, shapes, top_p=1.0, seed=3)
