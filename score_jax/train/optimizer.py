"""The optimisers, behind a clipped gradient, and the schedules of their rates."""

from __future__ import annotations

from typing import Any

import jax
import optax

from score_jax.errors import UserError


def schedule(*, peak: float, steps: int, warmup: float, kind: str) -> optax.Schedule:
  """Learning rate by step: linear warm-up over `warmup` (a share of `steps`), then "cosine" to 0 or "constant".

  The first step's rate is not 0: a stage of one step must learn too.
  """
  rise = max(1, round(warmup * steps)) if warmup else 0
  if kind == "cosine":
    return optax.warmup_cosine_decay_schedule(peak / (rise + 1), peak, rise, max(steps, rise + 1))
  if kind == "constant":
    return optax.join_schedules([optax.linear_schedule(peak / (rise + 1), peak, max(rise, 1)), lambda _: peak], [rise])
  raise ValueError(f"schedule {kind!r}; choose cosine or constant")


def optimizer(
  name: str, learning_rate: optax.Schedule, *, weight_decay: float, max_norm: float
) -> optax.GradientTransformation:
  """The optimiser of that name on gradients clipped to a global norm of `max_norm`.

  Raises:
    UserError: there is no such optimiser.
  """
  if name not in OPTIMIZERS:
    raise UserError(f"train.optimizer = {name!r}; choose from {', '.join(OPTIMIZERS)}")
  return optax.chain(optax.clip_by_global_norm(max_norm), OPTIMIZERS[name](learning_rate, weight_decay))


def _adamw(learning_rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
  """AdamW (b1 0.9, b2 0.95)."""
  return optax.adamw(learning_rate, b1=0.9, b2=0.95, weight_decay=weight_decay)


def _muon(learning_rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
  """Muon on the layers' matrices, AdamW with Nesterov momentum on the rest (embeddings, norms, biases).

  Muon's updates are scaled to a root mean square of 0.2: one learning rate serves both.
  """

  def matrices(weights: Any) -> Any:
    def one(path: Any, x: jax.Array) -> Any:
      is_matrix = x.ndim == 2 and "embedding" not in jax.tree_util.keystr(path)
      return optax.contrib.MuonDimensionNumbers() if is_matrix else None

    return jax.tree_util.tree_map_with_path(one, weights)

  return optax.contrib.muon(
    learning_rate,
    weight_decay=weight_decay,
    adam_b2=0.95,
    adam_weight_decay=weight_decay,
    adam_learning_rate=learning_rate,
    muon_weight_dimension_numbers=matrices,
    consistent_rms=0.2,
  )


OPTIMIZERS = {"adamw": _adamw, "muon": _muon}
