"""What XLA compiles for TPUs against the count: FLOPs of a layer, and the collectives that a mesh brings into it.

A compiler counts the body of a loop once, so a layer is the difference of programs of two layers and of one, unrolled.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from typing import Any

import pytest

from score_jax.model.config import DecoderConfig
from score_jax.model.sharding import make_mesh
from score_jax.plan.memory import parse_topology
from score_jax.plan.programs import CollectiveTotal, TrainingPrograms, count_collectives
from tests.configs import module

pytestmark = [
  pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"),
  pytest.mark.usefixtures("standard_promotion"),  # optax mixes integers and floats
]

MODEL = DecoderConfig(
  vocab=512, width=256, layers=1, heads=4, kv_heads=2, head_width=64, mlp=1024, context=1024, qkv_bias=False
)
ROWS, LENGTH = 8, 128


@functools.cache
def compiled(name: str, shape: tuple[int, int, int], remat: str, layers: int) -> Any:
  """The SFT step of MODEL with so many layers."""
  config = module("quickstart").get_config()
  config.student.dtype, config.train.attention, config.train.remat = "bfloat16", "blocks", remat
  config.train.logit_chunk, config.train.length = 64, LENGTH
  config.train.rows = config.train.micro_rows = ROWS
  mesh = make_mesh(shape, devices=parse_topology(name).devices)
  training = TrainingPrograms(config, mesh, dataclasses.replace(MODEL, layers=layers))
  return training.programs()[0].lower().compile()


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_a_layer_costs_what_is_counted(remat: str) -> None:
  """6 a weight and token, attention over a whole row (one block of queries), and what is made again."""
  one, two = (compiled("v5e:1", (1, 1, 1), remat, layers).cost_analysis()["flops"] for layers in (1, 2))
  tokens = ROWS * LENGTH
  weights = tokens * (dataclasses.replace(MODEL, layers=2).parameters - MODEL.parameters)
  attention = 4 * tokens * LENGTH * MODEL.heads * MODEL.head_width
  again = {"none": 0, "dots": attention, "full": 2 * weights + attention}[remat]
  counted = 6 * weights + 3 * attention + again
  assert 0.9 * counted < two - one <= 1.1 * counted


GOLDEN = {
  ("v5e:2x2", (1, 4, 1)): [CollectiveTotal("all-gather", 61, 12517376), CollectiveTotal("all-reduce", 0, 1967132)],
  ("v5e:2x4", (1, 4, 2)): [CollectiveTotal("all-gather", 57, 5210112), CollectiveTotal("all-reduce", 5, 1639452)],
}


@pytest.mark.parametrize(("name", "shape"), [("v5e:2x2", (1, 4, 1)), ("v5e:2x4", (1, 4, 2))])
def test_the_collectives_of_a_layer(name: str, shape: tuple[int, int, int]) -> None:
  """A change of sharding rules shows here: look at what it is, and write the new figures down if they are meant."""
  one, two = (
    {c.kind: c for c in count_collectives(compiled(name, shape, "full", layers).as_text())} for layers in (1, 2)
  )
  none = CollectiveTotal("", 0, 0)
  less = [(c, one.get(kind, none)) for kind, c in two.items()]
  found = [CollectiveTotal(c.kind, c.count - before.count, c.bytes - before.bytes) for c, before in less]
  assert [c for c in found if c.count or c.bytes] == GOLDEN[(name, shape)]
