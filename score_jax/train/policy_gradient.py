"""The policy gradient with independent settings: advantages, ratios, averaging, clipping, and added terms.

docs/policy_gradient.md gives the settings of the methods in the literature. With p_now the probability of a sampled
token under the current weights, the loss of a token with advantage A is

    w max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), for A < 0 at most w (-A dual_clip),  + kl k3

r = p_now / p_old, of the token, or the geometric mean over the rollout's tokens. Without `truncate`, p_old is the
probability with which the sampler drew the token, and w = 1. With `truncate`, p_old is the trainer's probability before
the first update of the step, and w = min(p_old / p_sampled, truncate). Only p_now has a gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.train.batch import Batch
from score_jax.train.losses import masked_mean, sequence_mean, weighted_sum

KNOB_CHOICES = {
  "ratio": ("token", "sequence"),
  "scale": ("group_std", "batch_std", "none"),
  "normaliser": ("token", "sequence", "constant"),
}


@dataclasses.dataclass(frozen=True)
class PolicyGradientConfig:
  """The settings of the policy gradient, under the names that they have in the config group `rl`."""

  ratio: str  # token; sequence: over a rollout's sampled tokens, length-normalised (GSPO, Zheng et al. 2025, eq. 7)
  scale: str  # advantages are divided by the std of the group, of the step, or not (none; Dr. GRPO)
  normaliser: str  # token: mean over tokens; sequence: mean of rollout means; constant: sum / (rollouts * rl.length)
  clip_low: float  # lower bound of the ratio is 1 - this
  clip_high: float  # upper bound of the ratio is 1 + this
  dual_clip: float  # bound of the ratio where A < 0 (Ye et al. 2020); 0: none
  truncate: float  # bound of w = p_old / p_sampled (Yao et al. 2025); 0: w = 1 and p_old = p_sampled
  kl: float  # coefficient of the KL divergence from the weights at the start of RL; 0: none
  distill: float  # subtracts this * (log p_sampled - log p_teacher) from a token's advantage; 0: none

  def __post_init__(self) -> None:
    for name, choices in KNOB_CHOICES.items():
      if (value := getattr(self, name)) not in choices:
        raise UserError(f"rl.{name} = {value!r}; choose from {', '.join(choices)}")
    for name in ("clip_low", "clip_high", "dual_clip", "truncate", "kl", "distill"):
      if not 0.0 <= (value := getattr(self, name)) < float("inf"):
        raise UserError(f"rl.{name} = {value}; give a number from 0 on")
    if 0.0 < self.dual_clip <= 1.0:
      raise UserError(
        f"rl.dual_clip = {self.dual_clip} would bound ratios that clipping leaves alone; give 0 or over 1"
      )

  @classmethod
  def from_config(cls, config: ConfigDict) -> PolicyGradientConfig:
    """The settings in the config group `rl`."""
    return cls(**{f.name: config[f.name] for f in dataclasses.fields(cls)})

  @property
  def trains_on_all(self) -> bool:
    """Whether rollouts with advantage 0 are trained on too."""
    return self.kl > 0.0 or self.distill > 0.0

  @property
  def student_scoring_passes(self) -> int:
    """Forward passes of the student over a rollout, besides the updates."""
    return (self.truncate > 0.0) + (self.kl > 0.0)


def compute_advantages(groups: Sequence[Sequence[float]], *, scale: str) -> list[np.ndarray]:
  """(reward - group mean) / scale, float32, for the rewards of each group of a step (GRPO).

  If all rewards of a group are equal, its advantages are exactly 0. With group_std, one 1.0 among fifteen 0 gives 3.87,
  and so does one 0.1: the division cancels the size of a reward. batch_std, the standard deviation over all rollouts of
  the step about their group means, does not, nor does none (Dr. GRPO).
  """
  centred = [_centred(np.asarray(rewards, np.float64)) for rewards in groups]
  together = np.concatenate([np.zeros(0), *centred])
  overall = float(np.sqrt(np.mean(np.square(together)))) if together.any() else 1.0
  by = {"group_std": lambda c: c.std() or 1.0, "batch_std": lambda _: overall, "none": lambda _: 1.0}[scale]
  return [(c / by(c) if c.any() else c).astype(np.float32) for c in centred]


def _centred(rewards: np.ndarray) -> np.ndarray:
  return rewards - rewards.mean() if len(rewards) and np.any(rewards != rewards[0]) else np.zeros(len(rewards))


def add_distillation(
  advantage: float | np.ndarray, *, sampled: np.ndarray, teacher: np.ndarray, coefficient: float
) -> np.ndarray:
  """The advantage minus coefficient * (log p_sampled - log p_teacher) at each token, float32 [n].

  With s the contexts in the student's rollouts, this gives the gradient of the sum over s of coefficient *
  KL(student(. | s) || teacher(. | s)) with s held fixed (on-policy distillation: Agarwal et al. 2024; as an advantage:
  Lu 2025). It is not the gradient of the divergence of whole rollouts, where a token also pays for the contexts that it
  leads to: its term is then the sum of its own and all later ones (MiniLLM, Gu et al. 2023).
  """
  return (advantage - coefficient * (sampled - teacher)).astype(np.float32)


def make_loss_weight_fn(normaliser: str, counts: Sequence[int], *, length: int) -> Callable[[int], float]:
  """The weight in the loss of each sampled token of a rollout, as a function of the rollout's sampled tokens.

  Args:
    counts: sampled tokens of each rollout of the update, also of rollouts that are not trained on.
    length: the constant by which Dr. GRPO divides a rollout's sum.
  """
  rollouts, tokens = max(len(counts), 1), max(sum(counts), 1)
  return {
    "token": lambda _: 1.0 / tokens,
    "sequence": lambda count: 1.0 / (rollouts * max(count, 1)),
    "constant": lambda _: 1.0 / (rollouts * length),
  }[normaliser]


def policy_gradient_loss(
  logp_BxT: jax.Array, batch: Batch, *, knobs: PolicyGradientConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The clipped surrogate of the module's docstring, weighted by each token's `loss_weight`.

  Returns:
    The loss, and means over the loss-mask tokens of the update, with w = p_now / p_sampled: `clip_share_low`,
    `clip_share_high`, `clip_share_dual` (tokens whose gradient a clip has set to 0), `truncated_share`, `kl_sampler`
    (w - 1 - log w, an estimate of the divergence from the sampling policy), `kl_reference`, `weight` (w),
    `weight_square`; and `logprob_gap_max`, the maximum of |log w|. Metrics of a setting that is off are missing.
  """
  learnt, advantage = batch.loss_mask, batch.advantages
  drift = (logp_BxT - batch.old_logprobs) * learnt
  ratio = jnp.exp(sequence_mean(drift, batch) if knobs.ratio == "sequence" else drift)
  low, high = 1.0 - knobs.clip_low, 1.0 + knobs.clip_high
  loss = jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, low, high))
  stopped = {
    "clip_share_low": (advantage < 0) & (ratio < low),
    "clip_share_high": (advantage > 0) & (ratio > high),
  }
  if knobs.dual_clip:
    loss = jnp.where(advantage < 0, jnp.minimum(loss, -advantage * knobs.dual_clip), loss)
    stopped["clip_share_dual"] = (advantage < 0) & (ratio > knobs.dual_clip)
  if knobs.truncate:
    weight = jnp.exp((batch.old_logprobs - batch.sampling_logprobs) * learnt)
    loss = loss * jnp.minimum(weight, knobs.truncate)
    stopped["truncated_share"] = weight > knobs.truncate
  numbers = {name: masked_mean(where.astype(jnp.float32), batch) for name, where in stopped.items()}
  if knobs.kl:
    away = (batch.reference_logprobs - logp_BxT) * learnt
    k3 = jnp.exp(away) - away - 1.0  # Schulman 2020
    loss = loss + knobs.kl * k3
    numbers["kl_reference"] = masked_mean(k3, batch)
  return weighted_sum(loss, batch), numbers | sampler_drift_metrics(logp_BxT, batch)


def sampler_drift_metrics(logp_BxT: jax.Array, batch: Batch) -> dict[str, jax.Array]:
  """Metrics of the distance between the current policy and the one that sampled the tokens."""
  difference = (logp_BxT - batch.sampling_logprobs) * batch.loss_mask
  weight = jnp.exp(difference)
  return {
    "kl_sampler": masked_mean(weight - 1.0 - difference, batch),
    "weight": masked_mean(weight, batch),
    "weight_square": masked_mean(jnp.square(weight), batch),
    "logprob_gap_max": jnp.max(jnp.abs(difference)),
  }


def effective_sample_fraction(weight: float, weight_square: float) -> float:
  """Effective sample size of importance weights per sample, (sum w)² / (n sum w²), from the means of w and w²."""
  return weight * weight / weight_square


#: metrics that a step reports for each of its updates too, as NAME/0, NAME/1, …
PER_UPDATE_METRICS = ("ess", "clip_share_low", "clip_share_high", "kl_sampler")


def summarize_updates(updates: Sequence[tuple[bool, dict[str, float]]], gap: float | None) -> dict[str, float]:
  """The metrics of a step: means over its updates that had tokens to train on; loss and gradient 0 if none had.

  Args:
    updates: for each update, whether it had tokens to train on, and its metrics.
    gap: largest |log-probability of trainer - of sampler| before the first update. `logprob_gap` is the maximum of it
      and the first update's value, which has the sampler's weights too; it is missing where no token was sampled.
  """
  trained = {i: _with_ess(numbers) for i, (full, numbers) in enumerate(updates) if full}
  gaps = [x for x in (gap, trained[0]["logprob_gap_max"] if 0 in trained else None) if x is not None]
  found = {"logprob_gap": max(gaps)} if gaps else {}
  if not trained:
    return {"loss": 0.0, "grad_norm": 0.0} | found
  names = next(iter(trained.values())).keys() - {"logprob_gap_max"}
  means = {name: float(np.mean([numbers[name] for numbers in trained.values()])) for name in sorted(names)}
  return means | found | {f"{name}/{i}": numbers[name] for name in PER_UPDATE_METRICS for i, numbers in trained.items()}


def _with_ess(numbers: dict[str, float]) -> dict[str, float]:
  """An update's metrics with `ess`, the effective sample fraction, in place of the means that it comes from."""
  rest = {name: value for name, value in numbers.items() if name not in ("weight", "weight_square")}
  return rest | {"ess": effective_sample_fraction(numbers["weight"], numbers["weight_square"])}
