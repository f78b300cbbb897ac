"""The train step against torch's optimiser, and on eight devices against one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from score_jax.errors import UserError
from score_jax.model import lora
from score_jax.model.decoder import Weights, abstract_decoder
from score_jax.model.lora import NO_PARAMS
from score_jax.model.sharding import leaf_path, weight_shardings
from score_jax.train.batch import Batch, Example, make_update, pack_examples, take_micro_batch
from score_jax.train.optimizer import OPTIMIZERS, make_optimizer, make_schedule
from score_jax.train.policy_gradient import PolicyGradientConfig, make_loss_weight_fn
from score_jax.train.step import LossFn, Trainer, TrainState, make_policy_gradient_loss, make_sft_loss, place_batch
from tests.conftest import PASSES, Tiny, stacked

pytestmark = pytest.mark.usefixtures("standard_promotion")  # optax mixes integers and floats


@pytest.fixture(scope="module")
def tiny(make_tiny: Callable[..., Tiny]) -> Tiny:
  return make_tiny(layers=1)


def update(*, seed: int, micro: int = 4, most: int = 8) -> Batch:
  """Two filled micro-batches of packed samples."""
  draws = np.random.default_rng(seed)
  samples = []
  for advantage in (1.0, -1.0, 0.5, -0.5) * 4:
    size = int(draws.integers(6, 11))
    learnt = (np.arange(size) > 2).astype(np.float32)
    sampled = draws.normal(-4.0, 0.1, size).astype(np.float32) * learnt
    one = Example(draws.integers(0, 64, size).astype(np.int32), learnt, sampled, advantage)
    samples.append(
      dataclasses.replace(one, old_logprobs=sampled + 0.1 * learnt, reference_logprobs=sampled - 0.1 * learnt)
    )
  rows = pack_examples(samples, length=20)
  assert 4 < len(rows) <= 8 or micro != 4
  return make_update(rows, length=20, micro=micro, most=most)


KNOBS = PolicyGradientConfig("token", "group_std", "token", 0.2, 0.2, dual_clip=3.0, truncate=0.0, kl=0.0, distill=0.0)
LOSSES: dict[str, LossFn] = {
  "sft": make_sft_loss(),
  "rl": make_policy_gradient_loss(KNOBS),
  "rl by sequence": make_policy_gradient_loss(dataclasses.replace(KNOBS, ratio="sequence", truncate=1.05, kl=0.1)),
}
Trainers = Callable[[str, Mesh], Trainer]


@pytest.fixture(scope="module")
def trainers(tiny: Tiny) -> Trainers:
  """One trainer for each loss and mesh, so that its programs are compiled once for all tests."""

  @functools.cache
  def trainer(loss: str, mesh: Mesh) -> Trainer:
    rate = make_schedule(peak=3e-3, steps=10, warmup=0.0, kind="constant")
    rule = make_optimizer("adamw", rate, weight_decay=0.1, max_norm=1.0)
    return Trainer(tiny.graph, rule, LOSSES[loss], mesh, PASSES)

  return trainer


def named(tree: Any) -> dict[str, np.ndarray]:
  return {".".join(leaf_path(path)): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


# One device


def test_an_update_is_that_of_torch(tiny: Tiny, trainers: Trainers, one_device: Mesh) -> None:
  """Two updates: gradients summed over micro-batches, clipped together, AdamW with decoupled decay."""
  torch = pytest.importorskip("torch")
  trainer = trainers("sft", one_device)
  state = trainer.init_state(tiny.weights)
  gradient = jax.jit(jax.grad(lambda weights, batch: trainer.objective(weights, NO_PARAMS, batch)[0]))
  theirs = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in named(tiny.weights).items()}
  optimizer = torch.optim.AdamW(theirs.values(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
  for seed in (1, 2):
    batch = update(seed=seed)
    parts = [named(gradient(state.weights, take_micro_batch(batch, i))) for i in range(2)]
    for name, parameter in theirs.items():
      parameter.grad = torch.tensor(sum(part[name] for part in parts))
    norm = torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
    assert norm > 1.0, "nothing is clipped"
    optimizer.step()
    state, metrics = trainer(state, batch)
    assert float(metrics["grad_norm"]) == pytest.approx(float(norm), rel=1e-5)
    for name, found in named(state.weights).items():
      np.testing.assert_allclose(found, theirs[name].detach().numpy(), rtol=0, atol=2e-6, err_msg=name)
  assert int(state.step) == 2


def test_metrics_are_sums_over_micro_batches_and_the_greatest_of_maxima(
  tiny: Tiny, trainers: Trainers, one_device: Mesh
) -> None:
  trainer = trainers("rl", one_device)
  batch = update(seed=3)
  objective = jax.jit(trainer.objective)
  parts = [objective(tiny.weights, NO_PARAMS, take_micro_batch(batch, i)) for i in range(2)]
  losses, numbers = zip(*jax.device_get(parts), strict=True)
  _, metrics = trainer(trainer.init_state(tiny.weights), batch)
  means = {"entropy", "clip_share_low", "clip_share_high", "clip_share_dual", "kl_sampler", "weight", "weight_square"}
  assert metrics.keys() == {"loss", "grad_norm", "logprob_gap_max", *means}
  assert float(metrics["loss"]) == pytest.approx(sum(losses), rel=1e-5)
  for name in means:
    assert float(metrics[name]) == pytest.approx(sum(n[name] for n in numbers), rel=1e-5)
  gaps = [n["logprob_gap_max"] for n in numbers]
  assert float(metrics["logprob_gap_max"]) == pytest.approx(max(gaps), rel=1e-5)
  assert gaps[0] != gaps[1]


def test_a_state_is_used_up_and_the_weights_it_began_with_are_not(
  tiny: Tiny, trainers: Trainers, one_device: Mesh
) -> None:
  trainer = trainers("sft", one_device)
  first = trainer.init_state(tiny.weights)
  second, _ = trainer(first, update(seed=1))
  for leaf in jax.tree.leaves((first.weights, first.optimizer)):
    assert leaf.is_deleted()
  with pytest.raises((RuntimeError, ValueError), match="deleted"):
    trainer(first, update(seed=1))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((tiny.weights, second)))


def test_the_program_is_compiled_once_and_leaves_weights_where_they_were(
  tiny: Tiny, trainers: Trainers, eight_devices: Mesh
) -> None:
  """Else the second step, and the sampler after the first, would be compiled again."""
  trainer = trainers("sft", eight_devices)
  state = trainer.init_state(tiny.weights)
  places = jax.tree.map(lambda x: x.sharding, state)
  for seed in (1, 2, 3):
    state, _ = trainer(state, update(seed=seed))
    assert jax.tree.map(lambda x: x.sharding, state) == places
  assert places == weight_shardings(eight_devices, state)
  assert trainer._program._cache_size() == 1


# Memory and precision


def test_empty_micro_batches_change_nothing(tiny: Tiny, trainers: Trainers, one_device: Mesh) -> None:
  """They are left out, not multiplied by zero: bit for bit the update without them."""
  trainer = trainers("rl", one_device)
  ends = [trainer(trainer.init_state(tiny.weights), update(seed=1, most=most)) for most in (8, 24)]
  for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
    np.testing.assert_array_equal(a, b)


def test_an_update_of_nothing_has_no_gradient(tiny: Tiny, trainers: Trainers, one_device: Mesh) -> None:
  """Where no group of a minibatch has a signal."""
  trainer = trainers("rl", one_device)
  nothing = make_update([], length=20, micro=4, most=8, share=make_loss_weight_fn("token", [7], length=20))
  state, metrics = trainer(trainer.init_state(tiny.weights), nothing)
  assert {name: float(x) for name, x in metrics.items()} == dict.fromkeys(metrics, 0.0)
  assert int(state.step) == 1


def test_sixteen_bit_passes_train_float32_weights(tiny: Tiny, one_device: Mesh) -> None:
  """A rate so small that an update is lost in bfloat16 adds up; all that is kept is float32."""
  rate = make_schedule(peak=1e-5, steps=10, warmup=0.0, kind="constant")
  rule = make_optimizer("adamw", rate, weight_decay=0.0, max_norm=1.0)
  moved: dict[str, float] = {}
  losses: dict[tuple[str, str], float] = {}
  for dtype, kept in (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")):
    passes = dataclasses.replace(PASSES, dtype=dtype, weights_dtype=kept)
    trainer = Trainer(tiny.graph, rule, LOSSES["sft"], one_device, passes)
    state = trainer.init_state(tiny.weights)
    first = np.array(state.weights["embedding"][...], np.float32)
    for _ in range(4):
      state, numbers = trainer(state, update(seed=0))
    losses[dtype, kept] = float(numbers["loss"])
    moved[f"{dtype} {kept}"] = float(np.abs(np.array(state.weights["embedding"][...], np.float32) - first).mean())
    assert {x.dtype.name for x in jax.tree.leaves(state.weights)} == {kept}
    moments = [x for x in jax.tree.leaves(state.optimizer) if x.ndim]
    assert moments and {x.dtype.name for x in moments} == {"float32"}
  assert losses["bfloat16", "float32"] == pytest.approx(losses["float32", "float32"], rel=0.02)
  assert losses["bfloat16", "float32"] != losses["float32", "float32"]
  assert moved["bfloat16 float32"] == pytest.approx(moved["float32 float32"], rel=0.1)
  assert moved["bfloat16 bfloat16"] < 0.5 * moved["float32 float32"]


@pytest.mark.parametrize("remat", ["none", "full"])
def test_logits_exist_for_a_chunk_at_a_time(make_tiny: Callable[..., Tiny], one_device: Mesh, remat: str) -> None:
  """What the compiled step takes beside its arguments is less than one array of [tokens, vocabulary], by far."""
  rows, length, vocab = 4, 256, 8192
  wide = make_tiny(layers=1, vocab=vocab)
  draw = np.random.default_rng(0)
  ones = np.ones(length, np.float32)
  samples = [Example(draw.integers(0, vocab, length).astype(np.int32), ones, 0 * ones) for _ in range(rows)]
  batch = make_update(pack_examples(samples, length=length), length=length, micro=rows, most=rows)
  rule = make_optimizer(
    "adamw", make_schedule(peak=1e-3, steps=1, warmup=0.0, kind="constant"), weight_decay=0.0, max_norm=1.0
  )
  took: dict[int, int] = {}
  for chunk in (16, length):
    passes = dataclasses.replace(PASSES, logit_chunk=chunk, remat=remat)
    trainer = Trainer(wide.graph, rule, LOSSES["sft"], one_device, passes)
    state = trainer.init_state(wide.weights)
    compiled = trainer.jit_update(state).lower(state, NO_PARAMS, place_batch(trainer.mesh, batch)).compile()
    took[chunk] = compiled.memory_analysis().temp_size_in_bytes
  logits = 4 * rows * length * vocab
  assert took[16] < logits / 2 < logits < took[length]


# Eight devices


@pytest.mark.parametrize("loss", LOSSES)
def test_eight_devices_train_as_one(
  tiny: Tiny, trainers: Trainers, one_device: Mesh, eight_devices: Mesh, loss: str
) -> None:
  losses: list[list[float]] = []
  ends: list[TrainState] = []
  for mesh in (one_device, eight_devices):
    trainer = trainers(loss, mesh)
    state = trainer.init_state(tiny.weights)
    kept = []
    for seed in range(5):
      state, metrics = trainer(state, update(seed=seed))
      kept.append(float(metrics["loss"]))
    losses.append(kept)
    ends.append(state)
  assert len(set(losses[0])) == 5
  np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-4)
  for (name, one), spread in zip(named(ends[0].weights).items(), named(ends[1].weights).values(), strict=True):
    np.testing.assert_allclose(spread, one, rtol=0, atol=1e-3, err_msg=name)


def test_rows_that_cannot_be_split_are_refused(tiny: Tiny, trainers: Trainers, eight_devices: Mesh) -> None:
  trainer = trainers("sft", eight_devices)
  with pytest.raises(UserError, match=r"micro_rows = 3 cannot be split .* \(2 x 2\); choose a multiple"):
    trainer(trainer.init_state(tiny.weights), update(seed=1, micro=3))


# The schedule


def test_the_learning_rate_rises_and_falls_as_told() -> None:
  cosine = make_schedule(peak=2.0, steps=20, warmup=0.1, kind="cosine")
  found = [float(cosine(jnp.int32(i))) for i in (0, 1, 2, 11, 20)]
  np.testing.assert_allclose(found, [2 / 3, 4 / 3, 2.0, 1.0, 0.0], atol=1e-6)
  flat = make_schedule(peak=2.0, steps=1, warmup=0.0, kind="constant")
  assert [float(flat(jnp.int32(i))) for i in (0, 1, 1000)] == [2.0, 2.0, 2.0]
  assert float(make_schedule(peak=2.0, steps=4, warmup=0.0, kind="cosine")(jnp.int32(0))) == 2.0
  with pytest.raises(ValueError, match="choose cosine or constant"):
    make_schedule(peak=2.0, steps=4, warmup=0.0, kind="linear")


def test_decay_is_decoupled_from_the_gradient() -> None:
  """With no gradient a weight shrinks by learning rate times decay alone."""
  rule = make_optimizer("adamw", lambda _: jnp.float32(0.1), weight_decay=0.5, max_norm=1.0)
  weights = {"w": jnp.array([2.0, -4.0])}
  step, _ = rule.update({"w": jnp.zeros(2)}, rule.init(weights), weights)
  np.testing.assert_allclose(optax.apply_updates(weights, step)["w"], [1.9, -3.8], rtol=1e-6)


def nadamw(x: np.ndarray, gradients: list[np.ndarray], *, rate: float, decay: float) -> np.ndarray:
  """AdamW with Nesterov momentum (Dozat 2016), b1 0.9, b2 0.95, written out."""
  m = v = np.zeros_like(x)
  for t, g in enumerate(gradients, start=1):
    m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
    ahead = 0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
    x = x - rate * (ahead / (np.sqrt(v / (1 - 0.95**t)) + 1e-8) + decay * x)
  return x


def test_muon_is_that_of_torch_on_matrices_and_adamw_on_the_rest() -> None:
  torch = pytest.importorskip("torch")
  draws = np.random.default_rng(0)
  shapes = {"up.kernel": (16, 24), "embedding": (12, 8), "scale": (8,)}
  weights = {name: draws.normal(size=shape) for name, shape in shapes.items()}
  gradients = {name: [draws.normal(size=shape) for _ in range(3)] for name, shape in shapes.items()}
  rule = make_optimizer("muon", lambda _: jnp.float32(0.1), weight_decay=0.5, max_norm=1e9)
  ours = jax.tree.map(jnp.float32, weights)
  state = rule.init(ours)
  matrix = torch.nn.Parameter(torch.tensor(weights["up.kernel"], dtype=torch.float32))
  theirs = torch.optim.Muon([matrix], lr=0.1, weight_decay=0.5, adjust_lr_fn="match_rms_adamw")
  for t in range(3):
    step, state = rule.update({name: jnp.float32(g[t]) for name, g in gradients.items()}, state, ours)
    ours = optax.apply_updates(ours, step)
    matrix.grad = torch.tensor(gradients["up.kernel"][t], dtype=torch.float32)
    theirs.step()
  # torch orthogonalises in bfloat16
  np.testing.assert_allclose(ours["up.kernel"], matrix.detach().numpy(), atol=1e-2)
  for name in ("embedding", "scale"):
    expected = nadamw(weights[name], gradients[name], rate=0.1, decay=0.5)
    np.testing.assert_allclose(ours[name], expected, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 3], ids=["all weights", "adapters"])
def test_an_update_of_stacked_layers_is_that_of_each_layer(
  rank: int, make_tiny: Callable[..., Tiny], one_device: Mesh
) -> None:
  """Norms and biases of a stack have two dimensions, its matrices three: neither may change what the optimiser does."""
  tiny = make_tiny(vocab=8, width=8, heads=2, kv_heads=1, head_width=4, mlp=16, qk_norm=True, tied=False)
  config, weights = tiny.config, tiny.weights
  if rank:
    config, weights = lora.add_lora(config, weights, rank=rank, seed=0, mesh=one_device)
  layers = Tiny(config, abstract_decoder(config)[0], weights)
  draws = np.random.default_rng(0)
  gradients = [jax.tree.map(lambda x: jnp.float32(draws.normal(size=x.shape)), weights) for _ in range(2)]

  rule = make_optimizer("muon", lambda _: jnp.float32(0.1), weight_decay=0.5, max_norm=1.0)

  @jax.jit
  def updated(weights: Weights, gradients: list[Weights]) -> Weights:
    state = rule.init(weights)
    for gradient in gradients:
      step, state = rule.update(lora.split_trainable(gradient)[0], state, weights)
      weights = optax.apply_updates(weights, step)
    return weights

  stack, frozen = stacked(layers), lora.split_trainable(layers.weights)[1]
  after = lora.merge_params(updated(lora.split_trainable(weights)[0], gradients), frozen)
  expected = stacked(dataclasses.replace(layers, weights=after))
  of_stack = [stacked(dataclasses.replace(layers, weights=g)).weights for g in gradients]
  found = updated(lora.split_trainable(stack.weights)[0], of_stack)
  wanted, began = (named(lora.split_trainable(one.weights)[0]) for one in (expected, stack))
  assert len(wanted) == (14 if rank else 17)
  for leaf, x in named(found).items():
    np.testing.assert_allclose(x, wanted[leaf], rtol=0, atol=2e-5, err_msg=leaf)
    assert np.all(x != began[leaf]), leaf


def test_the_second_moment_forgets_faster_than_the_papers() -> None:
  """A departure that docs/fidelity.md lists, of AdamW and of what Muon leaves to AdamW: b2 is 0.95."""
  for name in OPTIMIZERS:
    rule = make_optimizer(name, lambda _: jnp.float32(0.1), weight_decay=0.0, max_norm=1e9)
    weights = {"embedding": jnp.zeros((1, 1))}
    state = rule.init(weights)
    for gradient in (3.0, 0.0):
      _, state = rule.update({"embedding": jnp.full((1, 1), gradient)}, state, weights)
    moments = [np.asarray(x).item() for x in jax.tree.leaves(state) if x.size == 1]
    assert any(abs(v - 0.95 * 0.05 * 9.0) < 1e-6 for v in moments), (name, moments)
