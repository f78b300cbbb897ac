"""Scores of tokens that others drew: those of the train step, whatever the packing, mesh or adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from score_jax.model import lora
from score_jax.model.decoder import abstract_decoder
from score_jax.model.sharding import weight_shardings
from score_jax.train.batch import Example, fill_batch
from score_jax.train.step import Scorer, forward_logprobs, offload_to_host, restore_to_devices, scoring_cost
from tests.conftest import PASSES, Tiny

LENGTH = 16


@pytest.fixture(scope="module")
def tiny(make_tiny: Callable[..., Tiny]) -> Tiny:
  return make_tiny(layers=1)


@pytest.fixture(scope="module")
def samples() -> list[Example]:
  """Short and long in no order, more than a micro-batch holds."""
  draws = np.random.default_rng(0)
  made = []
  for size in (4, 12, 16, 5, 9, 16, 7, 11, 3):
    learnt = (np.arange(size) % 3 > 0).astype(np.float32)
    made.append(Example(draws.integers(0, 64, size).astype(np.int32), learnt, -learnt))
  return made


def alone(tiny: Tiny, mesh: Mesh, one: Example) -> np.ndarray:
  """What the train step makes of one sample in a row of its own."""
  trained, frozen = lora.split_trainable(tiny.weights)
  batch = fill_batch([[one]], length=LENGTH, count=1, denominator=1.0)
  logp, _ = jax.jit(lambda t, f: forward_logprobs(tiny.graph, mesh, PASSES, t, f, batch))(trained, frozen)
  return np.asarray(logp)[0, : len(one.tokens)]


def test_scores_are_those_of_the_train_step(tiny: Tiny, samples: list[Example], one_device: Mesh) -> None:
  scorer = Scorer(tiny.graph, one_device, PASSES, length=LENGTH, micro=2)
  found = scorer(tiny.weights, samples)
  assert [len(x) for x in found] == [len(one.tokens) for one in samples]
  for x, one in zip(found, samples, strict=True):
    assert np.all(x[one.loss_mask == 0] == 0.0)
  for i in (0, 5):
    expected = alone(tiny, one_device, samples[i]) * samples[i].loss_mask
    np.testing.assert_allclose(found[i], expected, rtol=0, atol=2e-5)
    assert expected.any()
  assert scorer.program._cache_size() == 1, "one shape, one program"
  assert scorer(tiny.weights, []) == []
  with pytest.raises(ValueError, match="does not fit a row"):
    Scorer(tiny.graph, one_device, PASSES, length=LENGTH - 1, micro=2)(tiny.weights, samples)


def test_eight_devices_score_as_one(tiny: Tiny, samples: list[Example], one_device: Mesh, eight_devices: Mesh) -> None:
  """Weights that waited in the host's memory too; they come back to where they lay, bit for bit."""
  expected = Scorer(tiny.graph, one_device, PASSES, length=LENGTH, micro=4)(tiny.weights, samples)
  spread = jax.device_put(tiny.weights, weight_shardings(eight_devices, tiny.weights))
  waiting = offload_to_host(spread)
  assert {x.sharding.memory_kind for x in jax.tree.leaves(waiting)} == {"pinned_host"}
  back = restore_to_devices(waiting)
  for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(spread), strict=True):
    assert a.sharding == b.sharding
    np.testing.assert_array_equal(a, b)
  found = Scorer(tiny.graph, eight_devices, PASSES, length=LENGTH, micro=4)(back, samples)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_adapters_are_scored_with_the_frozen_weights(tiny: Tiny, samples: list[Example], one_device: Mesh) -> None:
  config, weights = lora.add_lora(tiny.config, tiny.weights, rank=2, seed=0, mesh=one_device)
  trained, frozen = lora.split_trainable(weights)
  trained = jax.tree.map(lambda x: x + np.float32(0.1), trained)
  adapted = Tiny(config, abstract_decoder(config)[0], lora.merge_params(trained, frozen))
  scorer = Scorer(adapted.graph, one_device, PASSES, length=LENGTH, micro=2, frozen=frozen)
  (found,) = scorer(trained, samples[:1])
  np.testing.assert_allclose(found, alone(adapted, one_device, samples[0]) * samples[0].loss_mask, rtol=0, atol=2e-5)
  (plain,) = scorer(jax.tree.map(lambda x: 0 * x, trained), samples[:1])
  assert np.abs(found - plain).max() > 0.01


def test_what_scoring_costs(tiny: Tiny, samples: list[Example]) -> None:
  tokens = sum(len(one.tokens) for one in samples)
  flops = sum(len(one.tokens) * tiny.config.flops_per_token(len(one.tokens) // 2) for one in samples)
  usage = scoring_cost("teacher", tiny.config, samples, 2).of("teacher")
  assert dataclasses.astuple(usage) == (0, 2 * tokens, 0, 2 * flops)
