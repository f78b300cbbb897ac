"""Layers in a stack compute what layers by themselves do, whatever the backward pass makes again."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from score_jax.errors import UserError
from score_jax.model.decoder import REMAT_POLICIES, abstract_decoder, init_decoder
from tests.conftest import Tiny, stacked

TOKENS = np.random.default_rng(3).integers(0, 64, (2, 24)).astype(np.int32)
POSITIONS = np.tile(np.arange(12), (2, 2)).astype(np.int32)
SEGMENTS = np.repeat([[1, 2], [1, 0]], 12, axis=1).astype(np.int32)


@pytest.fixture(scope="module")
def stack(tiny: Tiny) -> Tiny:
  return stacked(tiny)


def loss_and_gradient(tiny: Tiny, remat: str) -> tuple[Any, dict[str, np.ndarray]]:
  def loss(weights: nnx.State) -> jax.Array:
    x = nnx.merge(tiny.graph, weights)(TOKENS, POSITIONS, SEGMENTS, remat=remat)
    return jnp.sum(jnp.where((SEGMENTS > 0)[..., None], jnp.sin(x), 0.0))

  value, gradient = jax.jit(jax.value_and_grad(loss))(tiny.weights)
  flat = jax.tree_util.tree_leaves_with_path(gradient)
  return value, {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_loss_and_gradient_are_those_of_layers_by_themselves(tiny: Tiny, stack: Tiny, remat: str) -> None:
  expected, plain = loss_and_gradient(tiny, "none")
  together = jax.tree_util.tree_leaves_with_path(stacked(Tiny(tiny.config, tiny.graph, _state(tiny, plain))).weights)
  for one in (tiny, stack):
    value, gradient = loss_and_gradient(one, remat)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    wanted = plain if one is tiny else {jax.tree_util.keystr(p): np.asarray(x) for p, x in together}
    assert gradient.keys() == wanted.keys()
    for name, found in gradient.items():
      np.testing.assert_allclose(found, wanted[name], rtol=0, atol=1e-5 * np.abs(wanted[name]).max(), err_msg=name)


def _state(tiny: Tiny, flat: dict[str, np.ndarray]) -> nnx.State:
  return jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(flat[jax.tree_util.keystr(path)]), tiny.weights)


def test_cached_steps_are_those_of_layers_by_themselves(tiny: Tiny, stack: Tiny) -> None:
  found: list[np.ndarray] = []
  for one in (tiny, stack):
    step = jax.jit(lambda weights, *args, t=one: nnx.merge(t.graph, weights).step(*args, blocks=2))
    cache, slots = one.model.empty_cache(3, 16, block=8), np.array([2, 0])
    for at in (0, 6):
      x, cache = step(one.weights, TOKENS[:, at : at + 6], POSITIONS[:, at : at + 6], cache, slots)
      found.append(np.asarray(x))
    of_layers = [np.concatenate(keys, axis=-1) for keys, _ in cache]
    keys = np.stack(of_layers) if one is tiny else of_layers[0]
    assert not keys[:, 1].any()
    found.append(keys)
  for plain, together in zip(found[:3], found[3:], strict=True):
    np.testing.assert_allclose(together, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def test_a_stack_is_drawn_layer_by_layer(tiny: Tiny, stack: Tiny) -> None:
  _, weights = init_decoder(stack.config, 0)
  assert jax.tree.map(jnp.shape, weights) == jax.tree.map(lambda s: s.shape, abstract_decoder(stack.config)[1])
  kernel = np.asarray(weights["blocks"]["mlp"]["up"]["kernel"][...])
  assert kernel.shape[0] == tiny.config.layers
  assert not np.array_equal(kernel[0], kernel[1])
  assert kernel[0].std() == pytest.approx(kernel[1].std(), rel=0.1)


def test_an_unknown_way_is_refused(tiny: Tiny) -> None:
  with pytest.raises(UserError, match=r"train\.remat = 'some'; choose from none, dots, full"):
    tiny.model(TOKENS, POSITIONS, SEGMENTS, remat="some")
