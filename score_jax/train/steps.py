"""The two train steps, each one jitted, sharded program over one state.

What happens in one update: for each micro-batch the rows' log-probabilities, the
loss, and its gradient (float32), added to those before; then the optimiser, whose
moments are float32 too, and new weights. SFT and RL differ by the loss alone.
With adapters only they are trained, and all other weights are an argument.
All of it is one program, so that an update takes its memory in one piece.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from score_jax.errors import UserError
from score_jax.mesh.sharding import abstract, put, sharding, traced_for, weight_shardings
from score_jax.model import adapters, attention
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, Weights, structure
from score_jax.train.batch import Batch, micro_batch
from score_jax.train.losses import learnt_mean, sft_loss, token_logprobs
from score_jax.train.policy_gradient import PolicyGradient, policy_gradient_loss

Metrics = dict[str, jax.Array]

#: logical axes of an update's arrays [M, B, T], of a micro-batch's the last two; its denominator has none
GRID = (None, "rows", None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that a training stage carries from step to step."""

  step: jax.Array  # int32, updates done
  weights: Weights  # those that are trained
  optimizer: Any  # optax state


Loss = Callable[[jax.Array, jax.Array, Batch], tuple[jax.Array, Metrics]]  # (logp, entropy, batch)


def likelihood() -> Loss:
  """The loss of SFT."""

  def loss(logp: jax.Array, entropy: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
    return sft_loss(logp, batch), {"entropy": learnt_mean(entropy, batch)}

  return loss


def policy_gradient(knobs: PolicyGradient) -> Loss:
  """The loss of RL."""

  def loss(logp: jax.Array, entropy: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
    value, numbers = policy_gradient_loss(logp, batch, knobs=knobs)
    return value, numbers | {"entropy": learnt_mean(entropy, batch)}

  return loss


@dataclasses.dataclass(frozen=True)
class Passes:
  """How train steps, and scorers, compute."""

  temperature: float  # that log-probabilities are of
  logit_chunk: int  # positions of a row whose logits exist at a time
  attention: str  # a key of attention.ROWS, or auto
  remat: str  # a key of decoder.REMAT
  dtype: str  # of the passes
  weights_dtype: str  # of the trained weights


def log_probabilities(
  graph: nnx.GraphDef[Decoder], mesh: Mesh, passes: Passes, trained: Weights, frozen: Weights, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """token_logprobs as `passes` says, traced for a mesh."""
  mix = attention.rows(passes.attention, mesh.devices.flat[0].platform, passes.dtype)
  with traced_for(mesh):
    return token_logprobs(
      graph,
      adapters.together(_cast(trained, passes.dtype), frozen),
      batch,
      temperature=passes.temperature,
      chunk=passes.logit_chunk,
      mix=mix,
      remat=passes.remat,
    )


def place(mesh: Mesh, batch: Batch) -> Batch:
  """An update or a micro-batch on a mesh, its rows split over data and fsdp.

  Raises:
    UserError: they cannot be split so.
  """
  data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
  rows = batch.tokens.shape[-2]
  if rows % (data * fsdp):
    raise UserError(
      f"micro_rows = {rows} cannot be split over the mesh's data and fsdp axes ({data} x {fsdp}); choose a multiple"
    )
  return jax.tree.map(lambda x: put(x, placed(mesh, x.ndim)), batch)


def placed(mesh: Mesh, axes: int) -> NamedSharding:
  """Where an array of a batch lies that has so many axes."""
  return sharding(mesh, *GRID[len(GRID) - axes :])


class Trainer:
  """The jitted train step of one loss, and the placing of states and batches on the mesh.

  Args:
    frozen: the weights that are not trained, on the mesh; none, where there are no adapters.
  """

  def __init__(
    self,
    graph: nnx.GraphDef[Decoder],
    optimizer: optax.GradientTransformation,
    loss: Loss,
    mesh: Mesh,
    passes: Passes,
    frozen: Weights = adapters.NOTHING,
  ):
    self.mesh, self.optimizer, self.passes, self.frozen = mesh, optimizer, passes, frozen
    self._program: Any = None

    def objective(trained: Weights, frozen: Weights, batch: Batch) -> tuple[jax.Array, Metrics]:
      logp, entropy = log_probabilities(graph, mesh, passes, trained, frozen, batch)
      return loss(logp, entropy, batch)

    self.objective = objective

  def program(self, state: TrainState) -> Any:
    """The jitted update of states of these shapes, (state, frozen, update) to (state, metrics).

    It leaves the state where the next call wants it.
    """
    places = weight_shardings(self.mesh, state)

    def update(state: TrainState, frozen: Weights, batch: Batch) -> tuple[TrainState, Metrics]:
      def differentiated(part: Batch) -> tuple[Metrics, Weights]:
        (loss, numbers), gradient = jax.value_and_grad(self.objective, has_aux=True)(state.weights, frozen, part)
        return numbers | {"loss": loss}, _cast(gradient, "float32")

      def add(index: jax.Array, sums: tuple[Metrics, Weights]) -> tuple[Metrics, Weights]:
        numbers, gradient = differentiated(micro_batch(batch, index))
        found = {k: (jnp.maximum if k.endswith("_max") else jnp.add)(x, numbers[k]) for k, x in sums[0].items()}
        return found, jax.lax.with_sharding_constraint(jax.tree.map(jnp.add, sums[1], gradient), places.weights)

      first = micro_batch(batch, 0)
      if len(batch.tokens) == 1:  # of a loop of one turn XLA makes two copies
        numbers, gradient = differentiated(first)
      else:
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(differentiated, first))
        filled = jnp.sum(jnp.any(batch.segments > 0, axis=(1, 2)))
        numbers, gradient = jax.lax.fori_loop(0, filled, add, nothing)
      weights32 = _cast(state.weights, "float32")
      change, moments = self.optimizer.update(gradient, state.optimizer, weights32)
      weights: Any = _cast(optax.apply_updates(weights32, change), self.passes.weights_dtype)
      return TrainState(state.step + 1, weights, moments), numbers | {"grad_norm": optax.tree.norm(gradient)}

    return jax.jit(update, donate_argnums=0, out_shardings=(places, sharding(self.mesh)))

  def start(self, trained: Weights) -> TrainState:
    """A state at step 0; the weights are copied, since states are donated."""
    places = weight_shardings(self.mesh, jax.eval_shape(self._begin, trained))
    return jax.jit(self._begin, out_shardings=places)(trained)

  def _begin(self, trained: Weights) -> TrainState:
    copied = jax.tree.map(jnp.copy, _cast(trained, self.passes.weights_dtype))
    return TrainState(jnp.zeros((), jnp.int32), copied, self.optimizer.init(_cast(trained, "float32")))

  def abstract(self, config: DecoderConfig) -> TrainState:
    """Shapes and shardings of a state of a decoder, for restoring one."""
    shapes = jax.eval_shape(self._begin, adapters.parts(structure(config)[1])[0])
    return abstract(shapes, weight_shardings(self.mesh, shapes))

  def whole(self, state: TrainState) -> Weights:
    """All the weights of the model in that state."""
    return adapters.together(state.weights, self.frozen)

  def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One update on its micro-batches, [M, B, T] on the host; the state passed in is used up.

    Micro-batches are filled from the first on, and empty ones cost nothing. Metrics are the update's: sums over its
    micro-batches, the greatest for names that end in `_max`.
    """
    self._program = self._program or self.program(state)
    return self._program(state, self.frozen, place(self.mesh, batch))


def _cast(weights: Any, dtype: str) -> Any:
  return jax.tree.map(lambda x: x.astype(dtype), weights)
