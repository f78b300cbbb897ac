"""Model folders: damage is told from the headers, what is not here comes from the hub, little memory is held."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from score_jax.errors import UserError
from score_jax.model import pretrained
from score_jax.model import tensors as names
from score_jax.model import tensors as weights
from score_jax.model.config import DecoderConfig, config_to_hugging_face
from tests.conftest import Tiny

DOWN = "model.layers.1.mlp.down_proj.weight"
Tensors = dict[str, np.ndarray]


@pytest.fixture
def folder(tiny: Tiny, tmp_path: pathlib.Path) -> pathlib.Path:
  pretrained.save_pretrained(tmp_path / "model", tiny.config, tiny.weights, dtype="float32")
  return tmp_path / "model"


@pytest.fixture
def sharded(tiny: Tiny, tmp_path: pathlib.Path) -> pathlib.Path:
  pretrained.save_pretrained(tmp_path / "model", tiny.config, tiny.weights, dtype="float32", shard_bytes=30_000)
  return tmp_path / "model"


def spoil(file: pathlib.Path, change: Callable[[Tensors], Any]) -> None:
  tensors = load_file(file)
  change(tensors)
  save_file(tensors, file)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shard_bytes", [1 << 30, 30_000], ids=["whole", "sharded"])
def test_what_is_saved_is_loaded_bit_for_bit(tiny: Tiny, tmp_path: pathlib.Path, dtype: str, shard_bytes: int) -> None:
  pretrained.save_pretrained(tmp_path, tiny.config, tiny.weights, dtype=dtype, shard_bytes=shard_bytes)
  config, tensors = pretrained.read_model_folder(tmp_path)
  found = weights.load_weights(config, tensors, dtype=dtype, mesh=None)
  assert config == tiny.config
  assert jax.tree.structure(found) == jax.tree.structure(tiny.weights)
  for one, expected in zip(jax.tree.leaves(found), jax.tree.leaves(tiny.weights), strict=True):
    assert one.dtype == dtype
    assert one.tobytes() == np.asarray(expected, dtype).tobytes()


# Damage


def test_tensors_that_are_missing_misshaped_or_too_many_are_named(folder: pathlib.Path) -> None:
  file = folder / "model.safetensors"
  spoil(file, lambda tensors: tensors.update({DOWN: tensors[DOWN][:, 1:].copy()}))
  with pytest.raises(UserError, match=rf"model\.safetensors: tensor {DOWN} is \(32, 63\), .* asks for \(32, 64\)"):
    pretrained.read_model_folder(folder)
  spoil(file, lambda tensors: tensors.pop(DOWN))
  with pytest.raises(UserError, match=rf"model: tensor {DOWN} \(32, 64\) is missing"):
    pretrained.read_model_folder(folder)
  spoil(file, lambda tensors: tensors.update({DOWN: np.zeros((32, 64), np.int8)}))
  with pytest.raises(UserError, match=rf"model\.safetensors: tensor {DOWN} is of I8; use weights in one of F64, F32"):
    pretrained.read_model_folder(folder)
  more = {DOWN: np.zeros((32, 64), np.float32), "model.layers.0.mlp.gate_proj.bias": np.zeros(64, np.float32)}
  spoil(file, lambda tensors: tensors.update(more))
  with pytest.raises(UserError, match=r"tensor model\.layers\.0\.mlp\.gate_proj\.bias \(64,\) is not of this decoder"):
    pretrained.read_model_folder(folder)


def test_tensors_that_say_nothing_do_no_harm(folder: pathlib.Path) -> None:
  file, name = folder / "model.safetensors", "model.layers.0.self_attn.rotary_emb.inv_freq"
  spoil(file, lambda t: t.update({name: np.ones(4, np.float32), "lm_head.weight": t["model.embed_tokens.weight"]}))
  pretrained.read_model_folder(folder)


def test_files_that_are_missing_or_truncated_are_named(folder: pathlib.Path) -> None:
  file = folder / "model.safetensors"
  whole = file.read_bytes()
  for size in (0, 4, len(whole) // 2, len(whole) - 1):
    file.write_bytes(whole[:size])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
      pretrained.read_model_folder(folder)
  file.unlink()
  with pytest.raises(UserError, match=r"model\.safetensors does not exist"):
    pretrained.read_model_folder(folder)
  (folder / "config.json").write_text("{")
  with pytest.raises(UserError, match=r"config\.json is no JSON"):
    pretrained.read_model_folder(folder)
  (folder / "config.json").unlink()
  with pytest.raises(UserError, match=r"config\.json does not exist"):
    pretrained.read_model_folder(folder)


def test_shards_that_are_missing_or_are_not_what_the_index_says_are_named(sharded: pathlib.Path) -> None:
  index = sharded / "model.safetensors.index.json"
  data = json.loads(index.read_text())
  shard = sharded / data["weight_map"][DOWN]
  whole = shard.read_bytes()
  spoil(shard, lambda tensors: tensors.pop(DOWN))
  with pytest.raises(UserError, match=rf"{shard.name}: tensor {DOWN} is missing, which model\S+index.json says"):
    pretrained.read_model_folder(sharded)
  shard.write_bytes(whole[:-1])
  with pytest.raises(UserError, match=rf"{shard.name} cannot be read"):
    pretrained.read_model_folder(sharded)
  shard.unlink()
  with pytest.raises(UserError, match=rf"{shard.name} does not exist; .* all that model\S+index.json names"):
    pretrained.read_model_folder(sharded)
  for text in ("{", "{}"):
    index.write_text(text)
    with pytest.raises(UserError, match=r"index\.json cannot be read"):
      pretrained.read_model_folder(sharded)


# Names


def test_a_name_that_is_no_folder_is_asked_of_the_hub(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  asked = []

  def snapshot(name: str, *, allow_patterns: list[str]) -> str:
    asked.append((name, allow_patterns))
    return str(folder)

  monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
  assert pretrained.find_model_folder("org/name-1.5B") == folder
  assert asked == [("org/name-1.5B", pretrained.HUB_FILE_PATTERNS)]
  assert pretrained.find_model_folder(str(folder)) == folder and len(asked) == 1
  for name in ("runs/a/b", "/nowhere/model", "nowhere", "gs://bucket/model"):
    with pytest.raises(UserError, match=f"model '{name}' does not exist; give a folder, a .gguf file or"):
      pretrained.find_model_folder(name)
  assert len(asked) == 1


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path: pathlib.Path) -> None:
  code = "from score_jax.model import pretrained\npretrained.open_pretrained('org/name')"
  nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path), "PATH": "/usr/bin"}
  for environment in (nowhere, nowhere | {"HF_HUB_OFFLINE": "1"}):
    done = subprocess.run(
      [sys.executable, "-c", code],
      env=environment,
      cwd=pathlib.Path(weights.__file__).parents[2],
      capture_output=True,
      text=True,
      timeout=120,
      check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("score_jax.errors.UserError: model 'org/name' is no folder and cannot be fetched"), last
    assert last.endswith("check the name and the network, or give a folder")


def test_a_folder_without_a_tokenizer_is_refused(folder: pathlib.Path) -> None:
  with pytest.raises(UserError, match=r"no tokenizer can be read .*; add tokenizer\.json"):
    pretrained.open_pretrained(str(folder))


# Memory

MEASURE = """
import dataclasses, pathlib, sys, threading
import jax, jax.numpy as jnp
from score_jax.model import pretrained, tensors as readers

def anonymous():
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def watch():
  while not done.wait(0.002):
    seen.append(anonymous())

config, tensors = pretrained.read_model_folder(pathlib.Path(sys.argv[1]))
config = dataclasses.replace(config, stacked=sys.argv[2] == "stacked")
jax.block_until_ready(jnp.zeros(1))
done, seen = threading.Event(), [anonymous()]
thread = threading.Thread(target=watch)
thread.start()
leaves = jax.tree.leaves(readers.load_weights(config, tensors, dtype="bfloat16", mesh=None))
done.set()
thread.join()
print(max(seen) - seen[0], sum(x.nbytes for x in leaves), len(seen))
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="Linux tells what memory a process holds")
def test_loading_holds_little_more_than_the_weights(tmp_path: pathlib.Path) -> None:
  shape = {"width": 1024, "layers": 44, "heads": 16, "kv_heads": 4, "head_width": 64, "mlp": 2816, "vocab": 4096}
  config = DecoderConfig(**shape, context=512, qkv_bias=False)
  tensors = list(names.list_tensor_shapes(config).items())
  weight_map = {}
  for number in range(8):
    part = tensors[number::8]
    weight_map |= dict.fromkeys((name for name, _ in part), f"model-{number}.safetensors")
    save_file({name: np.ones(size, "bfloat16") for name, size in part}, tmp_path / f"model-{number}.safetensors")
  (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
  (tmp_path / "config.json").write_text(json.dumps(config_to_hugging_face(config)))
  for layout in ("apart", "stacked"):
    done = subprocess.run(
      [sys.executable, "-c", MEASURE, str(tmp_path), layout],
      cwd=pathlib.Path(weights.__file__).parents[2],
      capture_output=True,
      text=True,
      timeout=300,
      check=False,
    )
    assert done.returncode == 0, done.stderr
    peak, kept, samples = map(int, done.stdout.split())
    assert kept > 0.9 * 2**30 and samples > 50
    assert 0.9 * kept < peak < 1.1 * kept, f"{layout}: {peak / kept:.2f} of what is kept"
  for file in tmp_path.glob("*.safetensors"):
    file.unlink()
