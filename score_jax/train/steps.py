"""The two train steps as jitted, sharded programs over one state.

What happens in one update: for each micro-batch the rows' log-probabilities, the
loss, and its gradient (float32), added to those before; then the optimiser, whose
moments are float32 too, and new weights. SFT and RL differ by the loss alone.
With adapters only they are trained, and all other weights are an argument.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from score_jax.errors import UserError
from score_jax.mesh.sharding import abstract, sharding, traced_for, weight_shardings
from score_jax.model import adapters, attention
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, Weights, structure
from score_jax.train.batch import Batch
from score_jax.train.losses import learnt_mean, policy_gradient_loss, sft_loss, token_logprobs

Metrics = dict[str, jax.Array]


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


def clipped_policy_gradient(*, clip: float, dual_clip: float) -> Loss:
  """The loss of RL."""

  def loss(logp: jax.Array, entropy: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
    value, numbers = policy_gradient_loss(logp, batch, clip=clip, dual_clip=dual_clip)
    return value, numbers | {"entropy": learnt_mean(entropy, batch)}

  return loss


@dataclasses.dataclass(frozen=True)
class Passes:
  """How the train step computes."""

  temperature: float  # that log-probabilities are of
  logit_chunk: int  # positions of a row whose logits exist at a time
  attention: str  # a key of attention.ROWS, or auto
  remat: str  # a key of decoder.REMAT
  dtype: str  # of the passes
  weights_dtype: str  # of the trained weights


class Programs(NamedTuple):
  """The jitted programs of one update."""

  zeros: Callable[[Weights], Weights]  # a gradient of nothing, for these weights
  clear: Callable[[Weights], Weights]  # the same in the place of a gradient
  add_gradient: Callable[[Weights, Weights, Weights, Batch], tuple[Weights, Metrics]]
  apply: Callable[[TrainState, Weights], tuple[TrainState, Metrics]]


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
    self._rows, self._scalar = sharding(mesh, "rows", None), sharding(mesh)
    self._programs: Programs | None = None
    self._gradient: Weights | None = None  # of the update before, whose memory the next one uses

    def objective(trained: Weights, frozen: Weights, batch: Batch) -> tuple[jax.Array, Metrics]:
      mix = attention.rows(passes.attention, mesh.devices.flat[0].platform, passes.dtype)
      with traced_for(mesh):
        weights = adapters.together(_cast(trained, passes.dtype), frozen)
        logp, entropy = token_logprobs(
          graph,
          weights,
          batch,
          temperature=passes.temperature,
          chunk=passes.logit_chunk,
          mix=mix,
          remat=passes.remat,
        )
        return loss(logp, entropy, batch)

    self.objective = objective

  def programs(self, state: TrainState) -> Programs:
    """The programs for states of these shapes; what each leaves lies as the next call wants it."""

    def add_gradient(total: Weights, trained: Weights, frozen: Weights, batch: Batch) -> tuple[Weights, Metrics]:
      (value, numbers), gradient = jax.value_and_grad(self.objective, has_aux=True)(trained, frozen, batch)
      return jax.tree.map(lambda a, b: a + b.astype(jnp.float32), total, gradient), numbers | {"loss": value}

    def apply(state: TrainState, gradient: Weights) -> tuple[TrainState, Metrics]:
      weights32 = _cast(state.weights, "float32")
      update, moments = self.optimizer.update(gradient, state.optimizer, weights32)
      weights: Any = _cast(optax.apply_updates(weights32, update), self.passes.weights_dtype)
      return TrainState(state.step + 1, weights, moments), {"grad_norm": optax.tree.norm(gradient)}

    places = weight_shardings(self.mesh, state)
    return Programs(
      zeros=jax.jit(
        lambda weights: jax.tree.map(jnp.zeros_like, _cast(weights, "float32")), out_shardings=places.weights
      ),
      clear=jax.jit(
        lambda total: jax.tree.map(jnp.zeros_like, total),
        donate_argnums=0,
        keep_unused=True,  # its values are not, its memory is
        out_shardings=places.weights,
      ),
      add_gradient=jax.jit(add_gradient, donate_argnums=0, out_shardings=(places.weights, self._scalar)),
      apply=jax.jit(apply, donate_argnums=0, out_shardings=(places, self._scalar)),
    )

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

  def __call__(self, state: TrainState, batches: Sequence[Batch]) -> tuple[TrainState, Metrics]:
    """One update on the host micro-batches of it; the state passed in is used up.

    Metrics are the update's: sums over its micro-batches, the greatest for names that end in `_max`.
    """
    programs = self._programs = self._programs or self.programs(state)
    kept, self._gradient = self._gradient, None  # it is used up, also where the update fails
    gradient = programs.zeros(state.weights) if kept is None else programs.clear(kept)
    parts: list[Any] = []
    for batch in batches:
      gradient, numbers = programs.add_gradient(gradient, state.weights, self.frozen, self.place(batch))
      parts.append(numbers)
    state, norm = programs.apply(state, gradient)
    self._gradient = gradient
    total: Any = {k: (max if k.endswith("_max") else sum)(p[k] for p in parts) for k in parts[0]}
    return state, total | norm

  def rest(self) -> None:
    """Gives the gradient's memory back, for what lies on the devices until the next update."""
    self._gradient = None

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


def _cast(weights: Any, dtype: str) -> Any:
  return jax.tree.map(lambda x: x.astype(dtype), weights)
