"""Adapters: nothing at first, alone in what is trained, and merged into what computes the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from score_jax.model import lora
from score_jax.model.decoder import abstract_decoder
from score_jax.model.sharding import leaf_path
from score_jax.train.batch import Example, make_update, pack_examples
from score_jax.train.optimizer import make_optimizer, make_schedule
from score_jax.train.step import Trainer, make_sft_loss
from tests.conftest import PASSES, Tiny, stacked

pytestmark = pytest.mark.usefixtures("standard_promotion")  # optax mixes integers and floats
ROW = np.random.default_rng(0).integers(0, 64, (1, 12)).astype(np.int32)


def adapted(tiny: Tiny, mesh: Mesh) -> Tiny:
  config, weights = lora.add_lora(tiny.config, tiny.weights, rank=3, seed=0, mesh=mesh)
  return Tiny(config, abstract_decoder(config)[0], weights)


@pytest.fixture(scope="module", params=[False, True], ids=["layers", "stack"])
def plain(request: pytest.FixtureRequest, make_tiny: Callable[..., Tiny]) -> Tiny:
  tiny = make_tiny()
  return stacked(tiny) if request.param else tiny


def logits(tiny: Tiny) -> np.ndarray:
  def run(weights: Any) -> jax.Array:
    model = nnx.merge(tiny.graph, weights)
    return model.unembed(model(ROW, np.arange(12)[None], np.ones_like(ROW)))

  return np.asarray(jax.jit(run)(tiny.weights))


def trained(tiny: Tiny, mesh: Mesh) -> Tiny:
  """The decoder after two updates of its adapters."""
  rate = make_schedule(peak=1e-1, steps=2, warmup=0.0, kind="constant")
  rule = make_optimizer("adamw", rate, weight_decay=0.0, max_norm=1.0)
  own, frozen = lora.split_trainable(tiny.weights)
  trainer = Trainer(tiny.graph, rule, make_sft_loss(), mesh, PASSES, frozen)
  learnt = np.ones(12, np.float32)
  learnt[0] = 0.0
  batch = make_update(pack_examples([Example(ROW[0], learnt, learnt)], length=12), length=12, micro=1, most=1)
  state = trainer.init_state(own)
  for _ in range(2):
    state, _ = trainer(state, batch)
  return Tiny(tiny.config, tiny.graph, trainer.full_weights(state))


def test_new_adapters_change_nothing(plain: Tiny, one_device: Mesh) -> None:
  np.testing.assert_array_equal(logits(adapted(plain, one_device)), logits(plain))


def test_adapters_alone_are_trained_and_merge_into_the_weights(plain: Tiny, one_device: Mesh) -> None:
  begun = adapted(plain, one_device)
  after = trained(begun, one_device)
  assert np.abs(logits(after) - logits(begun)).max() > 0.1
  for (path, old), new in zip(
    jax.tree_util.tree_leaves_with_path(begun.weights), jax.tree.leaves(after.weights), strict=True
  ):
    moved = not np.array_equal(old, new)
    assert moved == ("lora" in leaf_path(path)), leaf_path(path)
  config, weights = lora.merge_lora(after.config, after.weights)
  assert config == plain.config
  merged = Tiny(config, plain.graph, weights)
  assert jax.tree.structure(weights) == jax.tree.structure(plain.weights)
  np.testing.assert_allclose(logits(merged), logits(after), rtol=0, atol=1e-5 * np.abs(logits(after)).max())


def test_a_merged_kernel_is_the_sum_that_it_stands_for(plain: Tiny, one_device: Mesh) -> None:
  begun = adapted(plain, one_device)
  ones = jax.tree_util.tree_map_with_path(
    lambda path, x: jnp.ones_like(x) if leaf_path(path)[-1] == "lora_b" else x, begun.weights
  )
  _, weights = lora.merge_lora(begun.config, ones)
  flat, base, sums = (
    {leaf_path(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(w)}
    for w in (weights, plain.weights, ones)
  )
  path = next(p for p in flat if p[-3:] == ("mlp", "down", "kernel"))
  a = sums[(*path[:-1], "lora", "lora_a")]
  np.testing.assert_allclose(flat[path], base[path] + a.sum(axis=-1, keepdims=True), rtol=1e-5, atol=1e-5)
  assert np.abs(a).max() <= a.shape[-2] ** -0.5


def test_without_adapters_everything_is_trained(plain: Tiny) -> None:
  own, frozen = lora.split_trainable(plain.weights)
  assert len(jax.tree.leaves(own)) == len(jax.tree.leaves(plain.weights))
  assert not jax.tree.leaves(frozen)
  assert lora.merge_lora(plain.config, plain.weights) == (plain.config, plain.weights)
