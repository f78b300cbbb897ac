"""The two train steps as jitted, sharded programs over one state.

What happens in one update: for each micro-batch the rows' log-probabilities, the
loss, and its gradient (float32), added to those before; then AdamW and new
weights. SFT and RL differ by the loss alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from score_jax.errors import UserError
from score_jax.mesh.sharding import sharding, weight_shardings
from score_jax.model.decoder import Decoder, Weights
from score_jax.train.batch import Batch
from score_jax.train.losses import learnt_mean, policy_gradient_loss, sft_loss, token_logprobs

Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that a training stage carries from step to step."""

  step: jax.Array  # int32, updates done
  weights: Weights
  optimizer: Any  # optax state


Loss = Callable[[jax.Array, jax.Array, Batch], tuple[jax.Array, Metrics]]  # (logp, entropy, batch)


def likelihood() -> Loss:
  """The loss of SFT."""

  def loss(logp: jax.Array, entropy: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
    return sft_loss(logp, batch), {"entropy": learnt_mean(entropy, batch)}

  return loss


def clipped_policy_gradient(*, clip: float, dual_clip: float) -> Loss:
  """The loss of RL."""

  def loss(logp: jax.Array, entropy: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
    value, numbers = policy_gradient_loss(logp, batch, clip=clip, dual_clip=dual_clip)
    return value, numbers | {"entropy": learnt_mean(entropy, batch)}

  return loss


class Trainer:
  """The jitted train step of one loss, and the placing of states and batches on the mesh."""

  def __init__(
    self,
    graph: nnx.GraphDef[Decoder],
    optimizer: optax.GradientTransformation,
    loss: Loss,
    mesh: Mesh,
    *,
    temperature: float,
    logit_chunk: int,
  ):
    self.mesh, self.optimizer = mesh, optimizer
    self._rows, self._scalar = sharding(mesh, "rows", None), sharding(mesh)

    def objective(weights: Weights, batch: Batch) -> tuple[jax.Array, Metrics]:
      logp, entropy = token_logprobs(graph, weights, batch, temperature=temperature, chunk=logit_chunk)
      return loss(logp, entropy, batch)

    def add_gradient(total: Weights, weights: Weights, batch: Batch) -> tuple[Weights, Metrics]:
      (value, numbers), gradient = jax.value_and_grad(objective, has_aux=True)(weights, batch)
      return jax.tree.map(jnp.add, total, gradient), numbers | {"loss": value}

    def apply(state: TrainState, gradient: Weights) -> tuple[TrainState, Metrics]:
      update, moments = optimizer.update(gradient, state.optimizer, state.weights)
      weights: Any = optax.apply_updates(state.weights, update)
      return TrainState(state.step + 1, weights, moments), {"grad_norm": optax.tree.norm(gradient)}

    def programs(state: TrainState) -> tuple[Callable, Callable, Callable]:
      """What each leaves lies where the table says, so that the next call finds it as the first one did."""
      places = weight_shardings(mesh, state)
      return (
        jax.jit(lambda weights: jax.tree.map(jnp.zeros_like, weights), out_shardings=places.weights),
        jax.jit(add_gradient, donate_argnums=0, out_shardings=(places.weights, self._scalar)),
        jax.jit(apply, donate_argnums=0, out_shardings=(places, self._scalar)),
      )

    self._compile, self._programs = programs, None
    self.objective = objective

  def start(self, weights: Weights) -> TrainState:
    """A state at step 0; the weights are copied, since states are donated."""

    def build(weights: Weights) -> TrainState:
      copied = jax.tree.map(jnp.copy, weights)
      return TrainState(jnp.zeros((), jnp.int32), copied, self.optimizer.init(copied))

    shapes = jax.eval_shape(build, weights)
    return jax.jit(build, out_shardings=weight_shardings(self.mesh, shapes))(weights)

  def abstract(self, weights: Weights) -> TrainState:
    """Shapes and shardings of a state, for restoring one."""
    shapes = jax.eval_shape(lambda w: TrainState(jnp.zeros((), jnp.int32), w, self.optimizer.init(w)), weights)
    places = weight_shardings(self.mesh, shapes)
    return jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, places)

  def __call__(self, state: TrainState, batches: Sequence[Batch]) -> tuple[TrainState, Metrics]:
    """One update on the host micro-batches of it; the state passed in is used up.

    Metrics are the update's: sums over its micro-batches, the greatest for names that end in `_max`.
    """
    self._programs = self._programs or self._compile(state)
    zeros, add_gradient, apply = self._programs
    gradient = zeros(state.weights)
    parts: list[Metrics] = []
    for batch in batches:
      gradient, numbers = add_gradient(gradient, state.weights, self.place(batch))
      parts.append(numbers)
    state, norm = apply(state, gradient)
    total = {k: (max if k.endswith("_max") else sum)(p[k] for p in parts) for k in parts[0]}
    return state, total | norm

  def place(self, batch: Batch) -> Batch:
    """The batch on the mesh, its rows split over data and fsdp.

    Raises:
      UserError: they cannot be split so.
    """
    data, fsdp = self.mesh.shape["data"], self.mesh.shape["fsdp"]
    if len(batch.tokens) % (data * fsdp):
      raise UserError(
        f"micro_rows = {len(batch.tokens)} cannot be split over the mesh's data and fsdp axes ({data} x {fsdp}); "
        "choose a multiple"
      )
    rows = jax.tree.map(lambda x: self._rows if x.ndim else self._scalar, batch)
    return jax.device_put(batch, rows)
