"""Models by name: every token of a tokenizer has a row of its own in the embedding, for every user of the model."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from transformers import AddedToken, PreTrainedTokenizerFast

from score_jax.agent.protocol import TAGS, train_tokenizer
from score_jax.chat.interface import ChatMessage, ChatRequest
from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
from score_jax.export import load_named_model
from score_jax.model import pretrained
from score_jax.plan.cost import read_decoder_config
from score_jax.runtime.workdir import Workdir
from score_jax.serve import __main__ as serve
from tests.configs import smoke_config
from tests.conftest import Tiny

VOCAB, MORE = 300, ("<tool>", "<figs>")
TEXT = ("Tom has 3 figs, a tool and you.\n", "system user assistant")


def tokenizer_of(vocab: int) -> PreTrainedTokenizerFast:
  return train_tokenizer(TEXT, vocab=vocab)


@pytest.fixture
def folder(make_tiny: Callable[..., Tiny], tmp_path: pathlib.Path) -> pathlib.Path:
  """A model of 300 tokens, two more of which were added to its tokenizer."""
  tiny, tokenizer = make_tiny(vocab=VOCAB), tokenizer_of(VOCAB)
  tokenizer.add_tokens([AddedToken(text, special=text == MORE[0], normalized=False) for text in MORE])
  path = tmp_path / "model"
  pretrained.save_pretrained(path, tiny.config, tiny.weights, dtype="float32")
  pretrained.save_tokenizer(path, tiny.config, tokenizer)
  return path


def logits(model: pretrained.Model, tokens: list[int]) -> np.ndarray:
  row = jnp.array([tokens])
  made = nnx.merge(model.graph, model.weights)
  return np.asarray(made.unembed(made(row, jnp.arange(len(tokens))[None], jnp.ones_like(row)))[0])


def test_two_added_tokens_are_two_rows(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
  model, before = pretrained.load_pretrained(str(folder), dtype="float32"), tokenizer_of(VOCAB)
  said = capsys.readouterr().err
  assert "2 added tokens (<tool>, <figs>) are beyond the 300 rows" in said
  tool, figs = (model.tokenizer.get_vocab()[text] for text in MORE)
  assert (tool, figs, model.config.vocab) == (VOCAB, VOCAB + 1, VOCAB + 2)
  plain = logits(pretrained.load_pretrained(str(folder), dtype="float32"), [9, 8, 7])
  for token, text in zip((tool, figs), MORE, strict=True):
    pieces = before.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert len(pieces) > 1
    np.testing.assert_allclose(plain[:, token], plain[:, pieces].mean(1), rtol=0, atol=1e-5)
  assert np.abs(plain[:, tool] - plain[:, figs]).max() > 0.1, "not one row for both"
  read = [logits(model, [9, token])[1] for token in (tool, figs, VOCAB - 1)]
  assert min(np.abs(a - b).max() for i, a in enumerate(read) for b in read[:i]) > 0.1, "nor the last one for all"


def test_every_user_of_the_model_has_a_row_for_each_token(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
  """As a student, as a chat model on the mesh, served, exported and planned for."""
  config = smoke_config()
  config.student.path = config.chat.path = str(folder)
  config.chat.kind, config.chat.length, config.chat.block, config.chat.slots = "mesh", 128, 128, 8
  multiple = 8
  with Experiment(config, Workdir(str(tmp_path / "run"))) as run:
    tags = len(set(TAGS) - set(tokenizer_of(VOCAB).get_vocab()))
    assert run.student.config.vocab >= VOCAB + len(MORE) + tags
    on_mesh = run._chat_on_mesh()
    assert on_mesh.programs.config.vocab >= VOCAB + len(MORE)
    [reply] = on_mesh.ask([ChatRequest("a", (ChatMessage("user", "Tom has <figs>"),), 1.0, 4)])
    assert not reply.failed
  args = {"model": str(folder), "mesh": (1, 1, multiple), "dtype": "float32", "slots": 2, "length": 64, "name": ""}
  served = serve.build_service(argparse.Namespace(**args, layer_scan=False))
  with contextlib.closing(served.engine):
    assert served.engine._sampler.slots._programs.config.vocab == -(-(VOCAB + len(MORE)) // multiple) * multiple
  assert load_named_model(str(folder), "float32").config.vocab == VOCAB + len(MORE) + tags
  assert read_decoder_config(ConfigDict({"path": str(folder), "layer_scan": False})).vocab == VOCAB + len(MORE)


def test_a_tokenizer_of_another_model_is_refused(make_tiny: Callable[..., Tiny], tmp_path: pathlib.Path) -> None:
  tiny = make_tiny(vocab=VOCAB - 20)
  pretrained.save_pretrained(tmp_path, tiny.config, tiny.weights, dtype="float32")
  pretrained.save_tokenizer(tmp_path, tiny.config, tokenizer_of(VOCAB))
  with pytest.raises(UserError, match=r"20 tokens beyond the 280 rows.*such as 280 .*tokenizer and the weights of one"):
    pretrained.open_pretrained(str(tmp_path))
