"""Each knob on numbers worked out by hand, all of them together against plain loops in float64, and their gradients."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.model.decoder import Weights
from score_jax.train.batch import Batch, Example, fill_batch, make_update, pack_examples, take_micro_batch
from score_jax.train.losses import token_logprobs
from score_jax.train.policy_gradient import (
  PolicyGradientConfig,
  add_distillation,
  compute_advantages,
  effective_sample_fraction,
  make_loss_weight_fn,
  policy_gradient_loss,
  summarize_updates,
)
from tests.conftest import Tiny

PLAIN = PolicyGradientConfig(
  ratio="token",
  scale="group_std",
  normaliser="token",
  clip_low=0.2,
  clip_high=0.2,
  dual_clip=0.0,
  truncate=0.0,
  kl=0.0,
  distill=0.0,
)
LENGTH = 8  # of a row
surrogate = jax.jit(policy_gradient_loss, static_argnames="knobs")


@functools.partial(jax.jit, static_argnames="knobs")
def differentiated(logp_BxT: jax.Array, batch: Batch, *, knobs: PolicyGradientConfig) -> Any:
  """((loss, numbers), its gradient by the log-probabilities)."""
  return jax.value_and_grad(lambda x: policy_gradient_loss(x, batch, knobs=knobs), has_aux=True)(logp_BxT)


def knobs(**changed: Any) -> PolicyGradientConfig:
  return dataclasses.replace(PLAIN, **changed)


def rollout(learnt: Sequence[int], advantage: float | np.ndarray, **logps: Sequence[float]) -> Example:
  """A rollout whose drawn tokens have the given log-probabilities, in order; -1.5 by default."""
  mask = np.array(learnt, np.float32)

  def spread(values: Sequence[float]) -> np.ndarray:
    found = np.zeros(len(mask), np.float32)
    found[mask > 0] = values
    return found

  sampled = spread(logps.pop("sampling_logprobs", [-1.5] * int(mask.sum())))
  return Example(
    np.arange(1, 1 + len(mask), dtype=np.int32), mask, sampled, advantage, **{k: spread(v) for k, v in logps.items()}
  )


def batch_of(rows: Sequence[Sequence[Example]], normaliser: str = "token") -> Batch:
  counts = [int(one.loss_mask.sum()) for row in rows for one in row]
  share = make_loss_weight_fn(normaliser, counts, length=LENGTH)
  return fill_batch(rows, length=LENGTH, count=len(rows), denominator=float(sum(counts)), share=share)


def with_ratios(batch: Batch, ratios: Sequence[float]) -> jax.Array:
  """Log-probabilities whose ratios to the old ones are these, in order; absurd where nothing is learnt."""
  logp = np.full(batch.loss_mask.shape, 90.0)
  logp[batch.loss_mask > 0] = np.log(ratios) + batch.old_logprobs[batch.loss_mask > 0]
  return jnp.asarray(logp, jnp.float32)


# GRPO as METHOD has it: ratios of tokens, mean over tokens, clip 0.2, dual clip 3


def test_the_default_by_hand() -> None:
  """max(-A r, -A clip(r, 0.8, 1.2)), for A < 0 at most -3 A, with the ratios below; 4.2 in all, over 6 tokens.

  Without the mask the absurd ones would make it infinite; a mean of the rollouts' means would be 0.53.
  """
  rows = [
    [rollout([1, 1, 1, 0], np.array([1, 1, -1, 0], np.float32))],
    [rollout([1, 1, 0, 1], np.array([-1, -2, 0, 2], np.float32))],
  ]
  batch = batch_of(rows)
  ratios = np.array([1.5, 0.5, 0.5, 1.5, 5.0, 5.0])
  (loss, numbers), gradient = differentiated(with_ratios(batch, ratios.tolist()), batch, knobs=knobs(dual_clip=3.0))
  assert float(loss) == pytest.approx((-1.2 - 0.5 + 0.8 + 1.5 + 6.0 - 2.4) / 6, rel=1e-5)
  assert float(numbers["clip_share_low"]) == pytest.approx(1 / 6)  # 0.5 for A < 0
  assert float(numbers["clip_share_high"]) == pytest.approx(2 / 6)  # 1.5 and 5 for A > 0
  assert float(numbers["clip_share_dual"]) == pytest.approx(1 / 6)  # 5 for A < 0
  assert float(numbers["kl_sampler"]) == pytest.approx(np.mean(ratios - 1 - np.log(ratios)), rel=1e-5)
  assert float(numbers["logprob_gap_max"]) == pytest.approx(np.log(5.0), rel=1e-5)
  expected = np.zeros((2, LENGTH))
  expected[0, 1], expected[1, 0] = -0.5 / 6, 1.5 / 6  # -A r where it is not clipped
  np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=0)


# Ratios and normalisers

#: two in one row: drawn tokens with ratios 2, 4, 1 (geometric mean 2) and advantage -1; one with 0.5 and advantage 2
PACKED = [[rollout([0, 1, 1, 0, 1], -1.0), rollout([0, 1], 2.0)]]
RATIOS = [2.0, 4.0, 1.0, 0.5]


@pytest.mark.parametrize(
  ("ratio", "normaliser", "expected"),
  [
    # token losses 2, 4, 1 and max(-2 * 0.5, -2 * 0.8) = -1
    ("token", "token", (2 + 4 + 1 - 1) / 4),
    ("token", "sequence", ((2 + 4 + 1) / 3 - 1) / 2),
    ("token", "constant", (2 + 4 + 1 - 1) / (2 * 8)),
    # sequence ratios (2 * 4 * 1)^(1/3) = 2 and 0.5
    ("sequence", "token", (3 * 2 - 1) / 4),
    ("sequence", "sequence", (2 - 1) / 2),
    ("sequence", "constant", (3 * 2 - 1) / (2 * 8)),
  ],
)
def test_ratios_and_normalisers_by_hand(ratio: str, normaliser: str, expected: float) -> None:
  """The six differ. Over all 5 tokens, observation and question too, the sequence ratio would be 8^(1/5) = 1.52; as a
  product it would be 8; over the whole row it would be (8 * 0.5)^(1/4) = 1.41 for both; a mean over the row's 8 places
  would halve the first."""
  batch = batch_of(PACKED, normaliser)
  loss, _ = surrogate(with_ratios(batch, RATIOS), batch, knobs=knobs(ratio=ratio, normaliser=normaliser))
  assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_a_sequence_ratio_is_that_of_the_paper() -> None:
  """1/G sum A s 1/|y| sum grad log p (GSPO, eq. 10): 1/2 * 1 * 2 / 3 a token, and -1/2 * 2 * 0.5 / 1.

  By token ratios it would be 1/2 * 1/3 * (2, 4, 1).
  """
  batch = batch_of(PACKED, "sequence")
  logp = with_ratios(batch, RATIOS)
  _, found = differentiated(logp, batch, knobs=knobs(ratio="sequence"))
  np.testing.assert_allclose(found, [[0, 1 / 3, 1 / 3, 0, 1 / 3, 0, -0.5, 0]], rtol=1e-5)
  _, by_token = differentiated(logp, batch, knobs=PLAIN)
  np.testing.assert_allclose(by_token, [[0, 2 / 6, 4 / 6, 0, 1 / 6, 0, -0.5, 0]], rtol=1e-5)


def test_a_clipped_sequence_has_no_gradient_at_all() -> None:
  """Ratio 2 with advantage 1: of its tokens even the one whose own ratio is 1."""
  batch = batch_of([[rollout([0, 1, 1, 0, 1], 1.0)]])
  logp = with_ratios(batch, [2.0, 4.0, 1.0])

  def gradient(ratio: str) -> np.ndarray:
    return np.asarray(differentiated(logp, batch, knobs=knobs(ratio=ratio))[1])

  assert np.all(gradient("sequence") == 0.0)
  assert np.flatnonzero(gradient("token")).tolist() == [4]


@pytest.mark.parametrize(
  ("normaliser", "expected"),
  [("token", [1 / 8, 1 / 8, 1 / 8]), ("sequence", [1 / 9, 1 / 6, 1 / 3]), ("constant", [1 / 30, 1 / 30, 1 / 30])],
)
def test_what_is_not_learnt_from_counts_in_the_mean(normaliser: str, expected: list[float]) -> None:
  """Rollouts of 3, 2, 1 and 2 tokens less one that drew none; the constant is 10."""
  share = make_loss_weight_fn(normaliser, [3, 3, 2], length=10)
  assert [share(n) for n in (3, 2, 1)] == pytest.approx(expected)
  assert make_loss_weight_fn(normaliser, [], length=10)(3) > 0, "nothing at all is no division by zero"


# Clips


@pytest.mark.parametrize(
  ("low", "high", "expected", "shares_clipped"),
  [
    # ratios 1.25 and 1.5 at A = 1, 0.75 and 0.5 at A = -1
    (0.2, 0.2, (-1.2 - 1.2 + 0.8 + 0.8) / 4, (0.5, 0.5)),
    (0.2, 0.28, (-1.25 - 1.28 + 0.8 + 0.8) / 4, (0.5, 0.25)),  # clip-higher
    (0.3, 0.2, (-1.2 - 1.2 + 0.75 + 0.7) / 4, (0.25, 0.5)),
  ],
)
def test_the_clips_by_hand(low: float, high: float, expected: float, shares_clipped: tuple[float, float]) -> None:
  batch = batch_of([[rollout([0, 1, 1], 1.0), rollout([0, 1, 1], -1.0)]])
  logp = with_ratios(batch, [1.25, 1.5, 0.75, 0.5])
  loss, numbers = surrogate(logp, batch, knobs=knobs(clip_low=low, clip_high=high))
  assert float(loss) == pytest.approx(expected, rel=1e-5)
  assert (float(numbers["clip_share_low"]), float(numbers["clip_share_high"])) == shares_clipped


def test_what_a_clip_does_not_stop_is_not_counted() -> None:
  """Far below at A > 0, far above at A < 0, anywhere at A = 0."""
  batch = batch_of([[rollout([1, 1], 1.0), rollout([1, 1], -1.0), rollout([1, 1], 0.0)]])
  _, numbers = surrogate(with_ratios(batch, [0.1, 0.5, 2.0, 9.0, 9.0, 0.1]), batch, knobs=PLAIN)
  assert float(numbers["clip_share_low"]) == float(numbers["clip_share_high"]) == 0.0
  assert "clip_share_dual" not in numbers


@pytest.mark.parametrize(("dual", "expected", "clipped"), [(0.0, 6.0 / 2, None), (3.0, 5.0 / 2, 0.5), (9.0, 3.0, 0.0)])
def test_the_dual_clip_by_hand(dual: float, expected: float, clipped: float | None) -> None:
  """Ratios 4 and 2 at A = -1: 4 + 2 without it, 3 + 2 with 3."""
  batch = batch_of([[rollout([0, 1, 1], -1.0)]])
  loss, numbers = surrogate(with_ratios(batch, [4.0, 2.0]), batch, knobs=knobs(dual_clip=dual))
  assert float(loss) == pytest.approx(expected, rel=1e-5)
  assert (None if clipped is None else float(numbers["clip_share_dual"])) == clipped


# Other weights


def test_truncated_weights_by_hand() -> None:
  """p old / p drawn of 4, 1, 0.5, bounded by 2: weights 2, 1, 0.5 on ratios of 1, whatever p drawn.

  With ratios against p drawn the first would be clipped and have no gradient; without the bound it would count 4.
  """
  old = np.log([4.0, 1.0, 0.5]) - 1.5
  batch = batch_of([[rollout([0, 1, 1, 0, 1], 1.0, old_logprobs=old.tolist())]])
  logp = with_ratios(batch, [1.0, 1.0, 1.0])
  (value, numbers), gradient = differentiated(logp, batch, knobs=knobs(truncate=2.0))
  assert float(value) == pytest.approx(-(2 + 1 + 0.5) / 3, rel=1e-5)
  np.testing.assert_allclose(gradient, [[0, -2 / 3, -1 / 3, 0, -0.5 / 3, 0, 0, 0]], rtol=1e-5)
  assert float(numbers["truncated_share"]) == pytest.approx(1 / 3)
  w = np.array([4.0, 1.0, 0.5])
  assert float(numbers["kl_sampler"]) == pytest.approx(np.mean(w - 1 - np.log(w)), rel=1e-5), "against what was drawn"
  found = effective_sample_fraction(float(numbers["weight"]), float(numbers["weight_square"]))
  assert found == pytest.approx(5.5**2 / (3 * 17.25), rel=1e-5)  # 0.58


def test_without_a_bound_old_is_as_drawn() -> None:
  one = rollout([0, 1, 1], 1.0)
  batch = batch_of([[one]])
  np.testing.assert_array_equal(batch.old_logprobs, batch.sampling_logprobs)
  _, numbers = surrogate(with_ratios(batch, [1.0, 1.1]), batch, knobs=PLAIN)
  assert "truncated_share" not in numbers and "kl_reference" not in numbers


def test_the_divergence_from_the_reference_by_hand() -> None:
  """p reference / p now of 2 and 0.5: k3 = 2 - 1 - log 2 = 0.307 and 0.5 - 1 + log 2 = 0.193; gradients 1 - 2, 1 - 0.5.

  k1, the plain difference, would be -0.69 and 0.69 and 0 in the mean.
  """
  reference = np.log([2.0, 0.5]) - 1.5
  batch = batch_of([[rollout([0, 1, 1, 0], 0.0, reference_logprobs=reference.tolist())]])
  logp = with_ratios(batch, [1.0, 1.0])
  (value, numbers), gradient = differentiated(logp, batch, knobs=knobs(kl=0.1))
  k3 = (2 - 1 - np.log(2) + 0.5 - 1 + np.log(2)) / 2  # 0.25
  assert float(value) == pytest.approx(0.1 * k3, rel=1e-5)
  assert float(numbers["kl_reference"]) == pytest.approx(k3, rel=1e-5)
  np.testing.assert_allclose(gradient, [[0, -0.1 / 2, 0.05 / 2, 0, 0, 0, 0, 0]], rtol=1e-5)


def test_distillation_by_hand() -> None:
  """Drawn with log p -1 and -2, of which the teacher says -1.5 and -0.5: A - 0.5 * (0.5, -1.5)."""
  drawn, teacher = np.array([-1.0, -2.0], np.float32), np.array([-1.5, -0.5], np.float32)
  found = add_distillation(1.0, sampled=drawn, teacher=teacher, coefficient=0.5)
  assert found.tolist() == [0.75, 1.75] and found.dtype == np.float32
  one = rollout([0, 1, 0, 1], np.array([9.0, 0.75, 9.0, 1.75], np.float32))
  batch = batch_of([[one]])
  assert batch.advantages.tolist() == [[0, 0.75, 0, 1.75, 0, 0, 0, 0]]
  loss, _ = surrogate(jnp.asarray(batch.sampling_logprobs), batch, knobs=PLAIN)
  assert float(loss) == -1.25


def test_distillation_follows_the_reverse_divergence() -> None:
  """Its mean gradient under the student is that of -KL(student | teacher), by the logits of one token of four."""
  z, teacher = np.array([0.3, -0.7, 1.1, 0.0]), np.array([0.1, 0.2, 0.3, 0.4])

  def divergence(z: np.ndarray) -> float:
    p = np.exp(z) / np.exp(z).sum()
    return float(p @ (np.log(p) - np.log(teacher)))

  numeric = [(divergence(z + d) - divergence(z - d)) / 2e-5 for d in 1e-5 * np.eye(4)]
  p = np.exp(z) / np.exp(z).sum()
  values = add_distillation(0.0, sampled=np.log(p), teacher=np.log(teacher), coefficient=1.0)
  mean = sum(p[a] * values[a] * (np.eye(4)[a] - p) for a in range(4))  # of A grad log p
  np.testing.assert_allclose(mean, -np.array(numeric), atol=1e-6)


# Advantages


@pytest.mark.parametrize(
  ("reward", "scale", "high", "low"),
  [
    (1.0, "group_std", 3.872983, -0.258199),
    (0.1, "group_std", 3.872983, -0.258199),  # the division cancels the size of a tier
    (1.0, "none", 0.9375, -0.0625),
    (0.1, "none", 0.09375, -0.00625),
  ],
)
def test_one_reward_among_fifteen_nothings(reward: float, scale: str, high: float, low: float) -> None:
  (values,) = compute_advantages([[0.0] * 7 + [reward] + [0.0] * 8], scale=scale)
  assert values.dtype == np.float32
  np.testing.assert_allclose(values, [low] * 7 + [high] + [low] * 8, rtol=1e-5)


def test_scales_by_hand() -> None:
  """Centred ±0.5; 0.25 thrice and -0.75; nothing: squares 0.5, 0.75 and 0 over 8 rollouts give 0.15625 and 0.3953.

  Over the 6 that have one it would be 0.4564.
  """
  groups = [[1.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.5, 0.5]]
  centred = [[0.5, -0.5], [0.25, 0.25, 0.25, -0.75], [0.0, 0.0]]
  by = {"none": (1.0, 1.0), "group_std": (0.5, 0.1875**0.5), "batch_std": (0.15625**0.5,) * 2}
  for scale, (first, second) in by.items():
    found = compute_advantages(groups, scale=scale)
    np.testing.assert_allclose(found[0], np.array(centred[0]) / first, rtol=1e-6)
    np.testing.assert_allclose(found[1], np.array(centred[1]) / second, rtol=1e-6)
    assert found[2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale", ["group_std", "batch_std", "none"])
@pytest.mark.parametrize("rewards", [[0.1] * 16, [1.0] * 3, [0.0], [1 / 3] * 7, []])
def test_equal_rewards_have_no_advantage_at_all(rewards: list[float], scale: str) -> None:
  found = compute_advantages([rewards, [0.3, 0.1]], scale=scale)
  assert found[0].tolist() == [0.0] * len(rewards)
  assert found[1].all()
  assert compute_advantages([rewards], scale=scale)[0].tolist() == [0.0] * len(rewards)
  assert compute_advantages([], scale=scale) == []


# All together

COMBINATIONS = [
  knobs(ratio=ratio, normaliser=normaliser, clip_high=0.3, **extra)
  for ratio, normaliser, extra in itertools.product(
    ("token", "sequence"),
    ("token", "sequence", "constant"),
    ({}, {"dual_clip": 1.5, "truncate": 1.2, "kl": 0.3}),
  )
]


def noisy(learnt: Sequence[int], advantage: float, seed: int) -> Example:
  """A rollout whose log-probabilities of all kinds lie about -2."""
  draws, count = np.random.default_rng(seed), sum(learnt)
  made = {
    name: draws.normal(-2.0, 0.3, count).tolist()
    for name in ("sampling_logprobs", "old_logprobs", "reference_logprobs")
  }
  return rollout(learnt, advantage, **made)


ROLLOUTS = [noisy([0, 1, 1, 0, 1], 1.0, 1), noisy([0, 0, 1], -2.0, 2), noisy([0, 1, 1, 1, 0, 1, 0], -0.5, 3)]
ROWS = [ROLLOUTS[:2], ROLLOUTS[2:]]


def in_loops(k: PolicyGradientConfig, logps: Sequence[np.ndarray]) -> float:
  """The loss of ROLLOUTS, token by token in float64, from the log-probabilities of their drawn tokens."""
  counts = [int(one.loss_mask.sum()) for one in ROLLOUTS]
  loss = 0.0
  for one, logp in zip(ROLLOUTS, logps, strict=True):
    drawn = one.loss_mask > 0
    assert one.old_logprobs is not None and one.reference_logprobs is not None
    old, sampled, reference = (
      x[drawn].astype(np.float64) for x in (one.old_logprobs, one.sampling_logprobs, one.reference_logprobs)
    )
    whole = np.exp(np.mean(logp - old))
    for i in range(len(logp)):
      r = whole if k.ratio == "sequence" else np.exp(logp[i] - old[i])
      bounded = min(max(r, 1 - k.clip_low), 1 + k.clip_high)
      token = -min(r * one.advantage, bounded * one.advantage)
      if k.dual_clip and one.advantage < 0:
        token = min(token, -one.advantage * k.dual_clip)
      if k.truncate:
        token *= min(np.exp(old[i] - sampled[i]), k.truncate)
      if k.kl:
        token += k.kl * (np.exp(reference[i] - logp[i]) - (reference[i] - logp[i]) - 1)
      by = {"token": sum(counts), "sequence": len(counts) * len(logp), "constant": len(counts) * LENGTH}
      loss += token / by[k.normaliser]
  return loss


@pytest.mark.parametrize("k", COMBINATIONS, ids=lambda k: f"{k.ratio}-{k.normaliser}-{k.kl}")
def test_value_and_gradient_are_those_of_plain_loops(k: PolicyGradientConfig) -> None:
  """The gradient by finite differences in float64; exactly 0 wherever nothing was drawn."""
  batch = batch_of(ROWS, k.normaliser)
  draws = np.random.default_rng(7)
  logps = [draws.normal(-2.0, 0.3, int(one.loss_mask.sum())) for one in ROLLOUTS]
  logp = draws.normal(-50.0, 30.0, batch.loss_mask.shape)
  logp[batch.loss_mask > 0] = np.concatenate(logps)
  (value, _), gradient = differentiated(jnp.asarray(logp, jnp.float32), batch, knobs=k)
  assert float(value) == pytest.approx(in_loops(k, logps), rel=1e-5)

  def moved(which: int, place: int, by: float) -> float:
    changed = [x.copy() for x in logps]
    changed[which][place] += by
    return in_loops(k, changed)

  numeric = [
    (moved(which, i, 1e-6) - moved(which, i, -1e-6)) / 2e-6 for which, x in enumerate(logps) for i in range(len(x))
  ]
  np.testing.assert_allclose(np.asarray(gradient)[batch.loss_mask > 0], numeric, rtol=1e-3, atol=1e-6)
  assert np.all(np.asarray(gradient)[batch.loss_mask == 0] == 0.0)
  assert np.any(np.array(numeric) != 0.0)


# Through a model of eight tokens


@pytest.fixture(scope="module")
def tiny(make_tiny: Callable[..., Tiny]) -> Tiny:
  return make_tiny(vocab=8, width=8, layers=1, heads=2, kv_heads=1, head_width=4, mlp=16)


scored = jax.jit(token_logprobs, static_argnums=0, static_argnames=("temperature", "chunk"))


def drawn_by(tiny: Tiny) -> list[Example]:
  """ROLLOUTS in the model's tokens, with log-probabilities near its own, so that some ratios are clipped."""
  draws = np.random.default_rng(11)
  plain = [dataclasses.replace(one, tokens=draws.integers(0, 8, len(one.tokens)).astype(np.int32)) for one in ROLLOUTS]
  batch = fill_batch([[one] for one in plain], length=LENGTH, count=3, denominator=1.0)
  logp, _ = scored(tiny.graph, tiny.weights, batch, temperature=1.0, chunk=LENGTH)

  def near(row: int, size: int) -> np.ndarray:
    return (np.asarray(logp)[row, :size] + draws.normal(0.0, 0.3, size)).astype(np.float32) * plain[row].loss_mask

  return [
    dataclasses.replace(
      one, **{name: near(i, len(one.tokens)) for name in ("sampling_logprobs", "old_logprobs", "reference_logprobs")}
    )
    for i, one in enumerate(plain)
  ]


@pytest.mark.parametrize("k", [COMBINATIONS[1], COMBINATIONS[9]], ids=lambda k: k.ratio)
def test_through_a_model(tiny: Tiny, k: PolicyGradientConfig) -> None:
  """The gradient of all weights: by finite differences; the same packed, alone in rows, and in micro-batches."""
  one, two, three = drawn_by(tiny)
  share = make_loss_weight_fn(k.normaliser, [int(s.loss_mask.sum()) for s in (one, two, three)], length=LENGTH)

  def objective(weights: Weights, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    logp, _ = token_logprobs(tiny.graph, weights, batch, temperature=1.0, chunk=LENGTH)
    return policy_gradient_loss(logp, batch, knobs=k)

  through = jax.jit(jax.value_and_grad(objective, has_aux=True))

  def summed(rows: list[list[Example]], micro: int) -> tuple[dict[str, float], Weights]:
    update = make_update(rows, length=LENGTH, micro=micro, most=3, share=share)
    parts = [through(tiny.weights, take_micro_batch(update, i)) for i in range(3 // micro)]
    found = [{"loss": loss} | numbers for (loss, numbers), _ in parts]
    numbers = {name: sum(float(part[name]) for part in found) for name in found[0] if not name.endswith("_max")}
    return numbers, jax.tree.map(lambda *x: sum(x), *(gradient for _, gradient in parts))

  rows = pack_examples([one, two, three], length=LENGTH)
  assert len(rows) == 2, "nothing is packed"
  numbers, gradient = summed(rows, 3)
  assert numbers["clip_share_low"] + numbers["clip_share_high"] + numbers["clip_share_dual"] > 0, "nothing is clipped"
  for found, tree in (summed(rows, 1), summed([[one], [two], [three]], 3)):
    assert found == pytest.approx(numbers, rel=1e-4, abs=1e-6)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(gradient), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)

  step, batch = 1e-3, take_micro_batch(make_update(rows, length=LENGTH, micro=3, most=3, share=share), 0)
  leaves, tree = jax.tree.flatten(tiny.weights)
  for seed in range(3):
    draws = np.random.default_rng(seed)
    way = [draws.normal(size=x.shape).astype(np.float32) for x in leaves]
    length = np.sqrt(sum(np.sum(np.square(d)) for d in way))
    ends = [[x + np.float32(s / length) * d for x, d in zip(leaves, way, strict=True)] for s in (step, -step)]
    ahead, behind = (float(through(jax.tree.unflatten(tree, end), batch)[0][0]) for end in ends)
    slope = sum(float(np.vdot(g, d)) for g, d in zip(jax.tree.leaves(gradient), way, strict=True)) / length
    assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=0.02, abs=1e-4)


# What a step tells


def test_effective_share_by_hand() -> None:
  """Weights 1, 1, 2, 4: 8² / (4 * 22) = 0.727; equal ones: 1."""
  assert effective_sample_fraction(8 / 4, 22 / 4) == pytest.approx(64 / 88)
  assert effective_sample_fraction(3.0, 9.0) == 1.0


def update_numbers(**changed: float) -> dict[str, float]:
  numbers = {"loss": 1.0, "grad_norm": 2.0, "clip_share_low": 0.1, "clip_share_high": 0.2, "kl_sampler": 0.3}
  return numbers | {"weight": 1.0, "weight_square": 1.25, "logprob_gap_max": 0.5} | changed


def test_a_step_tells_of_the_updates_that_learnt() -> None:
  """Means over the first and the last; the one between had nothing, and its zeros do not count."""
  empty = (False, dict.fromkeys(update_numbers(), 0.0))
  found = summarize_updates([(True, update_numbers()), empty, (True, update_numbers(loss=3.0, weight_square=2.0))], 0.1)
  assert found["loss"] == 2.0 and found["grad_norm"] == 2.0
  assert found["ess"] == pytest.approx((0.8 + 0.5) / 2)
  assert (found["ess/0"], found["ess/2"]) == (0.8, 0.5) and "ess/1" not in found
  assert found["logprob_gap"] == 0.5, "the first update's is greater"
  assert not [name for name in found if name.startswith("weight") or name.endswith("_max")]
  assert summarize_updates([empty, (True, update_numbers())], 0.1)["logprob_gap"] == 0.1, "later weights did not draw"
  assert summarize_updates([empty, empty], 0.7) == {"loss": 0.0, "grad_norm": 0.0, "logprob_gap": 0.7}
  assert summarize_updates([empty, empty], None) == {"loss": 0.0, "grad_norm": 0.0}, "no token was drawn"


# Distillation, on a policy of two tokens whose four rollouts can be counted up


def tree() -> tuple[jax.Array, jax.Array]:
  """Logits of student and teacher at the three contexts [nothing, 0, 1], over two tokens. After 0 they differ most."""
  student = [[0.3, -0.2], [1.0, 0.0], [0.0, 0.5]]
  teacher = [[0.0, 0.0], [-1.5, 0.0], [0.0, 0.6]]
  return jnp.float32(student), jnp.float32(teacher)


def expected_gradient(student: jax.Array, terms: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
  """What the loss's gradient by the student's logits is on average over all rollouts, each by its probability.

  Args:
    terms: the advantages of a rollout's tokens, from what student and teacher give them.
  """
  logp, by_teacher = (np.asarray(jax.nn.log_softmax(x)) for x in (student, tree()[1]))
  total = np.zeros((3, 2))
  for first, second in itertools.product(range(2), repeat=2):
    at = [(0, first), (1 + first, second)]
    drawn, teacher = (np.array([table[place] for place in at], np.float32) for table in (logp, by_teacher))
    one = rollout([0, 1, 1], 0.0, sampling_logprobs=list(drawn))
    advantage = np.concatenate([np.zeros(1, np.float32), terms(drawn, teacher)])
    batch = fill_batch([[dataclasses.replace(one, advantage=advantage)]], length=3, count=1, denominator=1.0)

    def loss(logits: jax.Array, batch: Batch = batch, at: list[tuple[int, int]] = at) -> jax.Array:
      now = jax.nn.log_softmax(logits)
      row = jnp.stack([jnp.float32(0.0), *(now[place] for place in at)])[None]
      return policy_gradient_loss(row, batch, knobs=PLAIN)[0]

    total += np.exp(drawn.sum()) * np.asarray(jax.grad(loss)(student))
  return total


def divergences(student: jax.Array) -> jax.Array:
  """KL(student || teacher) of the next token at each context, [3]."""
  now, teacher = jax.nn.log_softmax(student), jax.nn.log_softmax(tree()[1])
  return jnp.sum(jnp.exp(now) * (now - teacher), axis=1)


def reached(student: jax.Array) -> jax.Array:
  """How likely the student's rollouts come to each context, [3]."""
  return jnp.concatenate([jnp.ones(1), jax.nn.softmax(student)[0]])


def test_distillation_is_the_divergence_of_tokens_where_the_student_goes() -> None:
  """Against the closed form. Contexts are held fixed: the divergence of rollouts, by finite differences, is another."""
  student, _ = tree()
  found = expected_gradient(student, lambda drawn, t: add_distillation(0.0, sampled=drawn, teacher=t, coefficient=0.5))
  held = jax.lax.stop_gradient(reached(student))
  of_tokens = jax.grad(lambda x: 0.5 * jnp.sum(held * divergences(x)))(student)
  np.testing.assert_allclose(found, of_tokens, rtol=0, atol=1e-6)

  def of_rollouts(x: np.ndarray) -> float:
    return 0.5 * float(jnp.sum(reached(jnp.float32(x)) * divergences(jnp.float32(x))))

  step, base = 1e-2, np.asarray(student, np.float64)
  whole = np.zeros((3, 2))
  for place in np.ndindex(3, 2):
    change = np.zeros((3, 2))
    change[place] = step
    whole[place] = (of_rollouts(base + change) - of_rollouts(base - change)) / (2 * step)
  assert np.abs(whole - found).max() > 0.05, "it leaves out what the first token leads to"
  to_go = expected_gradient(student, lambda drawn, teacher: -0.5 * np.cumsum((drawn - teacher)[::-1])[::-1])
  np.testing.assert_allclose(to_go, whole, rtol=0, atol=1e-3)


# What it is set to


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"ratio": "word"}, r"rl\.ratio = 'word'; choose from token, sequence"),
    ({"scale": "std"}, r"rl\.scale = 'std'; choose from group_std, batch_std, none"),
    ({"normaliser": "row"}, r"rl\.normaliser = 'row'; choose from token, sequence, constant"),
    ({"clip_low": -0.1}, r"rl\.clip_low = -0\.1; give a number from 0 on"),
    ({"kl": float("nan")}, r"rl\.kl = nan; give a number from 0 on"),
    ({"dual_clip": 0.9}, r"rl\.dual_clip = 0\.9 .* give 0 or over 1"),
  ],
)
def test_a_value_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
  with pytest.raises(UserError, match=message):
    PolicyGradientConfig.from_config(ConfigDict(dataclasses.asdict(PLAIN) | changed))


def test_the_knobs_say_what_they_need() -> None:
  assert (PLAIN.student_scoring_passes, PLAIN.trains_on_all) == (0, False)
  assert (knobs(truncate=2.0).student_scoring_passes, knobs(truncate=2.0).trains_on_all) == (1, False)
  assert (knobs(truncate=2.0, kl=0.1).student_scoring_passes, knobs(kl=0.1).trains_on_all) == (2, True)
  assert (knobs(distill=1.0).student_scoring_passes, knobs(distill=1.0).trains_on_all) == (0, True)
