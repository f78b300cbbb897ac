"""Optimizers on clipped gradients, and learning-rate schedules.

A departure from the paper: its release leaves AdamW's b2 at PyTorch's 0.999; here it is ADAM_B2 (docs/fidelity.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import optax

from score_jax.errors import UserError
from score_jax.model.sharding import parameter_axes

#: decay of AdamW's mean of squared gradients; below the usual 0.999 since a stage has only tens to hundreds of updates
ADAM_B2 = 0.95


def make_schedule(*, peak: float, steps: int, warmup: float, kind: str) -> optax.Schedule:
  """Learning rate by step: linear warm-up over `warmup` (fraction of `steps`), then "cosine" to 0 or "constant".

  The first step's rate is not 0: a stage of one step must learn too.
  """
  rise = max(1, round(warmup * steps)) if warmup else 0
  if kind == "cosine":
    return optax.warmup_cosine_decay_schedule(peak / (rise + 1), peak, rise, max(steps, rise + 1))
  if kind == "constant":
    return optax.join_schedules([optax.linear_schedule(peak / (rise + 1), peak, max(rise, 1)), lambda _: peak], [rise])
  raise ValueError(f"schedule {kind!r}; choose cosine or constant")


def make_optimizer(
  name: str, learning_rate: optax.Schedule, *, weight_decay: float, max_norm: float
) -> optax.GradientTransformation:
  """The optimizer of that name, on gradients clipped to a global norm of `max_norm`."""
  if name not in OPTIMIZERS:
    raise UserError(f"train.optimizer = {name!r}; choose from {', '.join(OPTIMIZERS)}")
  return optax.chain(optax.clip_by_global_norm(max_norm), OPTIMIZERS[name](learning_rate, weight_decay))


def _adamw(learning_rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
  """AdamW with b1 = 0.9 and b2 = ADAM_B2."""
  return optax.adamw(learning_rate, b1=0.9, b2=ADAM_B2, weight_decay=weight_decay)


def _muon(learning_rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
  """Muon on the layers' matrices and adapters, AdamW with Nesterov momentum on the rest (embeddings, norms, biases).

  Each layer's matrix is orthogonalised by itself, also where layers are stacked. Muon's updates are scaled to a root
  mean square of 0.2, so that one learning rate serves both.
  """

  def matrices(weights: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: MUON_MATRIX_DIMS if _is_matrix(path) else None, weights)

  return optax.contrib.muon(
    learning_rate,
    weight_decay=weight_decay,
    adam_b2=ADAM_B2,
    adam_weight_decay=weight_decay,
    adam_learning_rate=learning_rate,
    muon_weight_dimension_numbers=matrices,
    consistent_rms=0.2,
  )


#: a matrix [in, out]; an axis of stacked layers before these two is looped over
MUON_MATRIX_DIMS = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)


def _is_matrix(path: Sequence[Any]) -> bool:
  """Whether a parameter is a linear map between activations. Its name decides: rank and shape do not tell."""
  axes = parameter_axes(path)
  return axes is not None and len(axes) == 2 and "vocab" not in axes


OPTIMIZERS = {"adamw": _adamw, "muon": _muon}
