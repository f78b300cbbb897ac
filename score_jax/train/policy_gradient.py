"""The policy gradient as independent knobs: how rewards become advantages, what a ratio is of, how tokens are averaged,
where clipping begins, and what is added. docs/policy_gradient.md gives the settings that the literature has names for.

With p now the probability of a drawn token, the loss of a token with advantage A is

    w max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), for A < 0 at most w (-A dual_clip),  + kl k3

r = p now / p old, of the token or the geometric mean over the rollout's tokens; p old is what the sampler drew it with,
or, where `truncate` is on, what the trainer gives it before the step's first update: then w = min(p old / p drawn,
truncate), else 1. The gradient goes through p now alone; all others are given.
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
  """The knobs, which stand in the group `rl` of a config under these names."""

  ratio: str  # token; sequence: of a rollout's drawn tokens, length-normalised (GSPO, Zheng et al. 2025, eq. 7)
  scale: str  # of advantages: by the group's standard deviation, by the step's, or none (Dr. GRPO)
  normaliser: str  # mean over tokens; over rollouts of their means over tokens; constant: rollouts times rl.length
  clip_low: float  # a ratio counts down to 1 - this
  clip_high: float  # and up to 1 + this
  dual_clip: float  # bound of a bad token's ratio (Ye et al. 2020); 0: none
  truncate: float  # C, bound of the weight p old / p drawn (Yao et al. 2025); 0: no weight, and old is as drawn
  kl: float  # coefficient of the divergence from the weights that RL began with; 0: none
  distill: float  # coefficient of the token's log p drawn - log p teacher in its advantage, negated; 0: none

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
    """The knobs that the group `rl` of a config sets."""
    return cls(**{f.name: config[f.name] for f in dataclasses.fields(cls)})

  @property
  def trains_on_all(self) -> bool:
    """Whether rollouts without advantage are learnt from too."""
    return self.kl > 0.0 or self.distill > 0.0

  @property
  def student_scoring_passes(self) -> int:
    """How often a rollout is scored by the student beside the updates."""
    return (self.truncate > 0.0) + (self.kl > 0.0)


def compute_advantages(groups: Sequence[Sequence[float]], *, scale: str) -> list[np.ndarray]:
  """(r - mean of the group) / what `scale` says, float32, for the rewards of each group of a step (GRPO).

  Where all of a group are equal they are exactly 0. One 1.0 among fifteen 0 gives 3.87 by the group's standard
  deviation, and so does one 0.1: the division cancels the size of a reward. That of the step, over all its rollouts
  about their groups' means, does not, nor does `none` (Dr. GRPO).
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
  """An advantage with minus the coefficient times log p drawn - log p teacher added at each token, float32 [n].

  With s the contexts that the student's rollouts come to, it gives the gradient of the sum over s of the coefficient
  times KL(student(. | s) || teacher(. | s)), s held fixed (on-policy distillation: Agarwal et al. 2024; as an
  advantage, Lu 2025). That is not the gradient of the divergence of whole rollouts: a token is not charged for the
  contexts that it leads to. There each token's term is the sum of its own and all later ones (MiniLLM, Gu et al. 2023).
  """
  return (advantage - coefficient * (sampled - teacher)).astype(np.float32)


def make_loss_weight_fn(normaliser: str, counts: Sequence[int], *, length: int) -> Callable[[int], float]:
  """How much one drawn token of a rollout with so many counts in the loss of its update.

  Args:
    counts: drawn tokens of each rollout of the update, of those too that it does not learn from.
    length: the constant that Dr. GRPO divides a rollout's sum by.
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
  """The clipped surrogate that the module's docstring writes down, by each token's share.

  Returns:
    The loss, and means over the learnt tokens of the update's rows, with w = p now / p drawn: `clip_share_low`,
    `clip_share_high`, `clip_share_dual` (tokens whose gradient a clip has stopped), `truncated_share`, `kl_sampler`
    (w - 1 - log w, an estimate of the divergence from the sampling policy), `kl_reference`, `weight` (w),
    `weight_square`; and `logprob_gap_max`, the greatest |log w|. Those of a knob that is off are missing.
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
  """How far the policy has gone from the one that drew the tokens."""
  difference = (logp_BxT - batch.sampling_logprobs) * batch.loss_mask
  weight = jnp.exp(difference)
  return {
    "kl_sampler": masked_mean(weight - 1.0 - difference, batch),
    "weight": masked_mean(weight, batch),
    "weight_square": masked_mean(jnp.square(weight), batch),
    "logprob_gap_max": jnp.max(jnp.abs(difference)),
  }


def effective_sample_fraction(weight: float, weight_square: float) -> float:
  """Effective sample size of importance weights by their number, (sum w)² / (n sum w²), from the means of w and w²."""
  return weight * weight / weight_square


#: numbers of an update that a step shows for each of its updates, under NAME/0, NAME/1, …
PER_UPDATE_METRICS = ("ess", "clip_share_low", "clip_share_high", "kl_sampler")


def summarize_updates(updates: Sequence[tuple[bool, dict[str, float]]], gap: float | None) -> dict[str, float]:
  """The numbers of a step from those of its updates, each with whether it had anything to learn from.

  Means over the updates that had; where none had, there is nothing to tell but a loss and a gradient of 0.

  Args:
    gap: greatest difference of trainer and sampler before the first update. `logprob_gap` is the greater of it and the
      first update's, whose weights are those that sampled too; it is missing where no token was drawn.
  """
  told = {i: _with_ess(numbers) for i, (full, numbers) in enumerate(updates) if full}
  gaps = [x for x in (gap, told[0]["logprob_gap_max"] if 0 in told else None) if x is not None]
  found = {"logprob_gap": max(gaps)} if gaps else {}
  if not told:
    return {"loss": 0.0, "grad_norm": 0.0} | found
  names = next(iter(told.values())).keys() - {"logprob_gap_max"}
  means = {name: float(np.mean([numbers[name] for numbers in told.values()])) for name in sorted(names)}
  return means | found | {f"{name}/{i}": numbers[name] for name in PER_UPDATE_METRICS for i, numbers in told.items()}


def _with_ess(numbers: dict[str, float]) -> dict[str, float]:
  """An update's numbers with the effective share of its samples in the place of the moments that give it."""
  rest = {name: value for name, value in numbers.items() if name not in ("weight", "weight_square")}
  return rest | {"ess": effective_sample_fraction(numbers["weight"], numbers["weight_square"])}
