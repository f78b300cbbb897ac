"""AdamW behind a clipped gradient, with the two schedules that the method uses."""

from __future__ import annotations

import optax


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


def adamw(learning_rate: optax.Schedule, *, weight_decay: float, max_norm: float) -> optax.GradientTransformation:
  """AdamW (b1 0.9, b2 0.95) on gradients clipped to a global norm of `max_norm`."""
  return optax.chain(
    optax.clip_by_global_norm(max_norm),
    optax.adamw(learning_rate, b1=0.9, b2=0.95, weight_decay=weight_decay),
  )
