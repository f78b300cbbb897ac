"""The shipped models: what they are, and that they can be made again."""

import json
import pathlib

import jax
import pytest
from tokenizers import Tokenizer

from score_jax import pretrain
from score_jax.agent.protocol import TAGS
from score_jax.model import pretrained
from score_jax.trajectory import Step, Trajectory
from tests.configs import module

SHIPPED = pathlib.Path(pretrain.__file__).parent / "shipped"

pytestmark = pytest.mark.usefixtures("lenient_promotion")  # of the optimiser and its schedules


def test_the_shipped_models_are_small_and_share_a_tokenizer() -> None:
  size = sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file())
  assert size < 6e6
  tokenizers = [(SHIPPED / role / "tokenizer.json").read_bytes() for role in pretrain.ROLES]
  assert tokenizers[0] == tokenizers[1]
  tokenizer = pretrained.load_pretrained("shipped:teacher", dtype="float32").tokenizer
  assert [tokenizer.convert_ids_to_tokens(tokenizer.encode(tag)) for tag in TAGS] == [[tag] for tag in TAGS]
  assert len(tokenizer.encode("x = 480")) == len(tokenizer.encode("x =")) + 3, "digits are single"
  backend = Tokenizer.from_file(str(SHIPPED / "teacher" / "tokenizer.json"))
  for text in ("x = 34 + 4 * 8", 'print(web_search("crate of figs"))', "Ana's shop: boxes from Oslo\n"):
    assert tokenizer.encode(text) == backend.encode(text).ids, "loading keeps the file's way of splitting"


def test_the_shipped_models_are_what_their_config_makes() -> None:
  config = module("quickstart_pretrain").get_config()
  for role in pretrain.ROLES:
    shipped = json.loads((SHIPPED / role / "config.json").read_text())
    shape = config[role]
    assert (shipped["hidden_size"], shipped["num_hidden_layers"]) == (shape.width, shape.layers)
    assert (shipped["intermediate_size"], shipped["num_attention_heads"]) == (shape.mlp, shape.heads)
    assert shipped["vocab_size"] == config.vocab


def test_all_but_the_first_token_and_detours_carry_loss() -> None:
  """Nothing predicts the first token. Questions and observations are learnt from: they are full of repetitions."""
  steps = (
    Step("act", "look", author="student", tokens=(3, 4), observation_tokens=(5,)),
    Step("act", "add", author="teacher", tokens=(6, 7)),
  )
  found = pretrain.mask_detours(Trajectory("q", "How many?", (1, 2), steps))
  assert found.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7]
  assert found.loss_mask.tolist() == [0, 1, 0, 0, 1, 1, 1]


@pytest.mark.slow
def test_they_can_be_made_again_small(tmp_path: pathlib.Path) -> None:
  config = module("quickstart_pretrain").get_config("smoke")
  config.train.rows = config.train.micro_rows = jax.device_count()
  config.train.epochs = 5
  pretrain.pretrain(config, str(tmp_path))
  for role in pretrain.ROLES:
    lines = [json.loads(line) for line in (tmp_path / f"metrics/{role}.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.85 * lines[0]["loss"]
    loaded = pretrained.load_pretrained(str(tmp_path / role), dtype="float32")
    assert loaded.config.width == config[role].width
