"""Exported folders: transformers loads them as they are, and what they say is what the agent says."""

from __future__ import annotations

import itertools
import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transformers import AutoTokenizer, GenerationConfig

from score_jax import export
from score_jax.agent.protocol import TAGS, AgentProtocol, Turn, add_tags
from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
from score_jax.main import write_or_check_config
from score_jax.model import lora, pretrained
from score_jax.model.decoder import abstract_decoder
from score_jax.runtime.workdir import Workdir
from score_jax.train.checkpoints import Checkpoints
from score_jax.train.step import TrainState
from tests.configs import smoke_config

TEXTS = ("x = 480 + 4, 12.5 in 2024", "Ana's 3 boxes:\n\n\t17 of them", "a  b", "<thought>7</thought>")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[pathlib.Path, pretrained.Model]]:
  """A workdir with two checkpoints of RL, with the newer's model; and one with adapters in stacked layers."""
  made = {}
  for name, rank in (("plain", 0), ("adapters", 2)):
    config = smoke_config()
    config.student.temperature, config.student.top_k = 0.5, 20
    config.student.lora_rank, config.student.layer_scan = rank, bool(rank)
    folder = tmp_path_factory.mktemp("runs") / name
    workdir = Workdir(str(folder))
    write_or_check_config(workdir, config)
    with Experiment(config, workdir) as run:
      trained, frozen = lora.split_trainable(run.student.weights)
      checkpoints = Checkpoints(workdir.checkpoint_folder("rl"), keep=2)
      for step in (1, 2):
        trained = jax.tree.map(
          lambda x: x + 0.01 * jnp.sin(jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)), trained
        )
        checkpoints.save(TrainState(jnp.int32(step), trained, {"count": jnp.int32(step)}))
      checkpoints.close()
      made[name] = (
        folder,
        pretrained.Model(run.student.config, lora.merge_params(trained, frozen), run.student.tokenizer),
      )
  return made


def command(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
  monkeypatch.setattr(sys, "argv", ["export", *args])
  return export.main()


def logits(model: pretrained.Model, tokens: list[int]) -> np.ndarray:
  decoder = nnx.merge(abstract_decoder(model.config)[0], jax.device_put(model.weights, jax.devices()[0]))
  row = jnp.array([tokens])
  return np.asarray(decoder.unembed(decoder(row, jnp.arange(len(tokens))[None], jnp.ones_like(row)))[0])


@pytest.mark.parametrize("name", ["plain", "adapters"])
def test_a_stage_of_a_run_becomes_a_model_of_transformers(
  runs: dict[str, tuple[pathlib.Path, pretrained.Model]],
  name: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  torch = pytest.importorskip("torch", reason="torch, which the reference runs in, is not installed")
  from transformers import AutoModelForCausalLM

  (folder, model), out = runs[name], tmp_path / "out"
  out.mkdir()
  options = ("--dtype=float32", "--shard_gb=0.0002")
  assert command(monkeypatch, f"--workdir={folder}", "--stage=rl", f"--out={out}", *options) == 0
  sizes = [path.stat().st_size for path in sorted(out.glob("model-*.safetensors"))]
  # 0.0002 GB is 200,000 bytes: a file is closed when the next tensor would not fit, so two in a row hold more
  assert len(sizes) > 1 and all(a + b > 200_000 for a, b in itertools.pairwise(sizes))
  assert not [*tmp_path.glob(".*"), *out.glob(".*")]
  theirs = AutoModelForCausalLM.from_pretrained(out)
  tokens = list(AgentProtocol(model.tokenizer).encode_prompt("How many are 12 and 30?"))
  with torch.no_grad():
    expected = theirs(torch.tensor([tokens])).logits[0].numpy()
  found = logits(model, tokens)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
  again = pretrained.load_pretrained(str(out), dtype="float32")
  np.testing.assert_allclose(logits(again, tokens), found, rtol=0, atol=1e-5 * np.abs(expected).max())
  said = GenerationConfig.from_pretrained(out)
  stop = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
  assert (said.eos_token_id, said.pad_token_id) == (stop, model.tokenizer.pad_token_id)
  assert (said.do_sample, said.temperature, said.top_k, said.top_p) == (True, 0.5, 20, 1.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  out = tmp_path_factory.mktemp("exported") / "out"
  export.export_model(
    export.load_named_model("shipped:student", "bfloat16"), out, dtype="bfloat16", shard_gb=1.0, decoding={}
  )
  return out


@pytest.mark.parametrize("trusted", [False, True])
def test_auto_tokenizer_cuts_text_as_the_student_was_taught(exported: pathlib.Path, trusted: bool) -> None:
  """The model is of type qwen2, whose own way of splitting transformers would put in the place of the file's."""
  theirs = AutoTokenizer.from_pretrained(exported, trust_remote_code=trusted)
  ours = pretrained.open_pretrained("shipped:student").tokenizer
  for text in TEXTS:
    assert theirs(text)["input_ids"] == ours(text)["input_ids"]
  assert [theirs(tag)["input_ids"] for tag in TAGS] == [[theirs.convert_tokens_to_ids(tag)] for tag in TAGS]


def test_the_template_says_what_the_agent_sees(exported: pathlib.Path) -> None:
  theirs = AutoTokenizer.from_pretrained(exported)
  protocol = AgentProtocol(pretrained.open_pretrained("shipped:student").tokenizer)
  question, first, second = "How many 7s?", Turn("first_thought", "count them"), Turn("act", "sum", "print(7)")
  turns = [protocol.encode_turn(turn) for turn in (first, second)]
  said = [protocol.decode(ids[:-1]) for ids in turns]
  talk = [
    {"role": "user", "content": question},
    {"role": "assistant", "content": said[0]},
    {"role": "user", "content": "Observation: None"},
    {"role": "assistant", "content": said[1]},
    {"role": "tool", "content": "7"},
  ]
  expected = [
    protocol.encode_prompt(question),
    protocol.encode_prompt(question) + turns[0] + protocol.encode_observation(None),
    protocol.encode_prompt(question)
    + turns[0]
    + protocol.encode_observation(None)
    + turns[1]
    + protocol.encode_observation("7"),
  ]
  for count, ids in zip((1, 3, 5), expected, strict=True):
    found = theirs.apply_chat_template(talk[:count], add_generation_prompt=True)["input_ids"]
    assert found == list(ids)
  whole = theirs.apply_chat_template(talk[:4])["input_ids"]
  assert whole == [*expected[1], *turns[1]]
  assert AgentProtocol(theirs).encode_prompt(question) == protocol.encode_prompt(question), (
    "it speaks through what it wrote"
  )
  with pytest.raises(Exception, match="the agent knows the roles user, assistant and tool, not system"):
    theirs.apply_chat_template([{"role": "system", "content": "x"}])


def test_smollm2s_tokenizer_is_kept_and_its_system_prompt_is_not(tmp_path: pathlib.Path) -> None:
  pytest.importorskip("gguf", reason="the package gguf is not installed")
  try:
    found = pretrained.open_pretrained("smollm2")
  except UserError as error:
    pytest.skip(str(error))
  (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
  add_tags(found.tokenizer)
  protocol = AgentProtocol(found.tokenizer)
  found.tokenizer.chat_template = protocol.chat_template()
  pretrained.save_tokenizer(tmp_path, found.config, found.tokenizer)
  theirs = AutoTokenizer.from_pretrained(tmp_path)
  for text in TEXTS:
    assert theirs(text)["input_ids"] == found.tokenizer(text)["input_ids"]
  prompt = theirs.apply_chat_template([{"role": "user", "content": "12?"}], add_generation_prompt=True)["input_ids"]
  assert prompt == list(protocol.encode_prompt("12?"))


# Refusals


def refused(capsys: pytest.CaptureFixture[str]) -> str:
  """The one line that was said."""
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1 and lines[0].startswith("error: ")
  return lines[0]


def test_what_cannot_be_exported_is_one_line(
  runs: dict[str, tuple[pathlib.Path, pretrained.Model]],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  workdir, out = f"--workdir={runs['plain'][0]}", f"--out={tmp_path / 'out'}"
  cases: list[tuple[list[str], str]] = [
    ([workdir, "--stage=sft", out], r"no checkpoint can be read; put sft into config\.stages"),
    ([workdir, "--stage=ppo", out], r"stage 'ppo' of .*plain: there is none; choose from warm_start, "),
    ([f"--workdir={tmp_path / 'none'}", "--stage=rl", out], "none: there is no such folder"),
    ([f"--workdir={tmp_path}", "--stage=rl", out], r"there is no config\.json in it"),
    ([f"--model={tmp_path}", out], r"config\.json does not exist"),
    (["--model=shipped:student", f"--out={runs['plain'][0]}"], "is not empty; give a new folder"),
    (
      ["--model=shipped:student", f"--out={runs['plain'][0] / 'config.json'}"],
      r"cannot be written \(Not a directory\)",
    ),
    (["--model=shipped:student", "--out=gs://bucket/model"], "is not local; give a local folder"),
  ]
  for args, said in cases:
    assert command(monkeypatch, *args) == 1
    assert re.search(said, line := refused(capsys)), line
  assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
  "args", [["--out=x"], ["--workdir=x", "--out=y"], ["--model=x", "--stage=rl", "--out=y"], ["--model=x"]]
)
def test_wrong_usage_is_status_2(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
  with pytest.raises(SystemExit) as stopped:
    command(monkeypatch, *args)
  assert stopped.value.code == 2
