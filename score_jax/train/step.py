"""The two train steps, each one jitted, sharded program over one state.

What happens in one update: for each micro-batch the rows' log-probabilities, the
loss, and its gradient (float32), added to those before; then the optimiser, whose
moments are float32 too, and new weights. SFT and RL differ by the loss alone.
With adapters only they are trained, and all other weights are an argument.
All of it is one program, so that an update takes its memory in one piece.

MERGED What some weights say of tokens that others drew, and weights that wait in the host's memory until they are asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from score_jax.errors import UserError
from score_jax.model import attention, lora
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, Weights, abstract_decoder
from score_jax.model.sharding import (
  add_shardings,
  fetch_to_host,
  named_sharding,
  put_on_mesh,
  trace_under_mesh,
  weight_shardings,
)
from score_jax.train.batch import Batch, Example, fill_batch, pack_examples, take_micro_batch
from score_jax.train.losses import masked_mean, sft_loss, token_logprobs
from score_jax.train.policy_gradient import PolicyGradientConfig, policy_gradient_loss
from score_jax.trajectory import Ledger, Usage

MetricArrays = dict[str, jax.Array]

#: logical axes of an update's arrays [M, B, T], of a micro-batch's the last two; its denominator has none
BATCH_AXES = (None, "rows", None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that a training stage carries from step to step."""

  step: jax.Array  # int32, updates done
  weights: Weights  # those that are trained
  optimizer: Any  # optax state


LossFn = Callable[[jax.Array, jax.Array, Batch], tuple[jax.Array, MetricArrays]]  # (logp, entropy, batch)


def make_sft_loss() -> LossFn:
  """The loss of SFT."""

  def loss(logp: jax.Array, entropy: jax.Array, batch: Batch) -> tuple[jax.Array, MetricArrays]:
    return sft_loss(logp, batch), {"entropy": masked_mean(entropy, batch)}

  return loss


def make_policy_gradient_loss(knobs: PolicyGradientConfig) -> LossFn:
  """The loss of RL."""

  def loss(logp: jax.Array, entropy: jax.Array, batch: Batch) -> tuple[jax.Array, MetricArrays]:
    value, numbers = policy_gradient_loss(logp, batch, knobs=knobs)
    return value, numbers | {"entropy": masked_mean(entropy, batch)}

  return loss


@dataclasses.dataclass(frozen=True)
class ForwardConfig:
  """How train steps, and scorers, compute."""

  temperature: float  # that log-probabilities are of
  logit_chunk: int  # positions of a row whose logits exist at a time
  attention: str  # a key of attention.ROWS, or auto
  remat: str  # a key of decoder.REMAT
  dtype: str  # of the passes
  weights_dtype: str  # of the trained weights


def forward_logprobs(
  graph: nnx.GraphDef[Decoder], mesh: Mesh, passes: ForwardConfig, trained: Weights, frozen: Weights, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """token_logprobs as `passes` says, traced for a mesh."""
  mix = attention.select_row_attention(passes.attention, mesh.devices.flat[0].platform, passes.dtype)
  with trace_under_mesh(mesh):
    return token_logprobs(
      graph,
      lora.merge_params(_cast(trained, passes.dtype), frozen),
      batch,
      temperature=passes.temperature,
      chunk=passes.logit_chunk,
      mix=mix,
      remat=passes.remat,
    )


def place_batch(mesh: Mesh, batch: Batch) -> Batch:
  """An update or a micro-batch on a mesh, its rows split over data and fsdp."""
  data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
  rows = batch.tokens.shape[-2]
  if rows % (data * fsdp):
    raise UserError(
      f"micro_rows = {rows} cannot be split over the mesh's data and fsdp axes ({data} x {fsdp}); choose a multiple"
    )
  return jax.tree.map(lambda x: put_on_mesh(x, batch_sharding(mesh, x.ndim)), batch)


def batch_sharding(mesh: Mesh, axes: int) -> NamedSharding:
  """Where an array of a batch lies that has so many axes."""
  return named_sharding(mesh, *BATCH_AXES[len(BATCH_AXES) - axes :])


class Trainer:
  """The jitted train step of one loss, and the placing of states and batches on the mesh.

  Args:
    frozen: the weights that are not trained, on the mesh; none, where there are no adapters.
  """

  def __init__(
    self,
    graph: nnx.GraphDef[Decoder],
    optimizer: optax.GradientTransformation,
    loss: LossFn,
    mesh: Mesh,
    passes: ForwardConfig,
    frozen: Weights = lora.NO_PARAMS,
  ):
    self.mesh, self.optimizer, self.passes, self.frozen = mesh, optimizer, passes, frozen
    self._program: Any = None

    def objective(trained: Weights, frozen: Weights, batch: Batch) -> tuple[jax.Array, MetricArrays]:
      logp, entropy = forward_logprobs(graph, mesh, passes, trained, frozen, batch)
      return loss(logp, entropy, batch)

    self.objective = objective

  def jit_update(self, state: TrainState) -> Any:
    """The jitted update of states of these shapes, (state, frozen, update) to (state, metrics).

    It leaves the state where the next call wants it.
    """
    places = weight_shardings(self.mesh, state)

    def update(state: TrainState, frozen: Weights, batch: Batch) -> tuple[TrainState, MetricArrays]:
      def differentiated(part: Batch) -> tuple[MetricArrays, Weights]:
        (loss, numbers), gradient = jax.value_and_grad(self.objective, has_aux=True)(state.weights, frozen, part)
        return numbers | {"loss": loss}, _cast(gradient, "float32")

      def add(index: jax.Array, sums: tuple[MetricArrays, Weights]) -> tuple[MetricArrays, Weights]:
        numbers, gradient = differentiated(take_micro_batch(batch, index))
        found = {k: (jnp.maximum if k.endswith("_max") else jnp.add)(x, numbers[k]) for k, x in sums[0].items()}
        return found, jax.lax.with_sharding_constraint(jax.tree.map(jnp.add, sums[1], gradient), places.weights)

      first = take_micro_batch(batch, 0)
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

    return jax.jit(update, donate_argnums=0, out_shardings=(places, named_sharding(self.mesh)))

  def init_state(self, trained: Weights) -> TrainState:
    """A state at step 0; the weights are copied, since states are donated."""
    places = weight_shardings(self.mesh, jax.eval_shape(self._begin, trained))
    return jax.jit(self._begin, out_shardings=places)(trained)

  def _begin(self, trained: Weights) -> TrainState:
    copied = jax.tree.map(jnp.copy, _cast(trained, self.passes.weights_dtype))
    return TrainState(jnp.zeros((), jnp.int32), copied, self.optimizer.init(_cast(trained, "float32")))

  def abstract_state(self, config: DecoderConfig) -> TrainState:
    """Shapes and shardings of a state of a decoder, for restoring one."""
    shapes = jax.eval_shape(self._begin, lora.split_trainable(abstract_decoder(config)[1])[0])
    return add_shardings(shapes, weight_shardings(self.mesh, shapes))

  def full_weights(self, state: TrainState) -> Weights:
    """All the weights of the model in that state."""
    return lora.merge_params(state.weights, self.frozen)

  def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, MetricArrays]:
    """One update on its micro-batches, [M, B, T] on the host; the state passed in is used up.

    Micro-batches are filled from the first on, and empty ones cost nothing. Metrics are the update's: sums over its
    micro-batches, the greatest for names that end in `_max`.
    """
    self._program = self._program or self.jit_update(state)
    return self._program(state, self.frozen, place_batch(self.mesh, batch))


def _cast(weights: Any, dtype: str) -> Any:
  return jax.tree.map(lambda x: x.astype(dtype), weights)


class Scorer:
  """The jitted forward pass over micro-batches [B, T] that gives the log-probability of each token.

  Args:
    length, micro: tokens of a row, rows of a micro-batch.
    frozen: the weights beside those that are given, on the mesh; none, where there are no adapters.
  """

  def __init__(
    self,
    graph: nnx.GraphDef[Decoder],
    mesh: Mesh,
    passes: ForwardConfig,
    *,
    length: int,
    micro: int,
    frozen: Weights = lora.NO_PARAMS,
  ):
    self.mesh, self.length, self.micro, self.frozen = mesh, length, micro, frozen

    def score(trained: Weights, frozen: Weights, batch: Batch) -> jax.Array:
      return forward_logprobs(graph, mesh, passes, trained, frozen, batch)[0]

    self.program = jax.jit(score, out_shardings=named_sharding(mesh))

  def __call__(self, weights: Weights, samples: Sequence[Example]) -> list[np.ndarray]:
    """The log-probabilities of each sample's learnt tokens, float32 [n], 0 elsewhere.

    Raises:
      ValueError: a sample fits no row.
    """
    rows = pack_examples(sorted(samples, key=lambda s: -len(s.tokens)), length=self.length)
    found: dict[int, np.ndarray] = {}
    for first in range(0, len(rows), self.micro):
      part = rows[first : first + self.micro]
      batch = fill_batch(part, length=self.length, count=self.micro, denominator=1.0)
      logp_BxT = fetch_to_host(self.program(weights, self.frozen, place_batch(self.mesh, batch)))
      for row, logp_T in zip(part, logp_BxT, strict=False):  # rows beyond the last are empty
        ends = np.cumsum([len(one.tokens) for one in row])
        for one, end in zip(row, ends, strict=True):
          found[id(one)] = logp_T[end - len(one.tokens) : end] * one.loss_mask
    return [found[id(one)] for one in samples]


def offload_to_host(weights: Weights) -> Weights:
  """The same arrays, as they are split, in the memory of the hosts that their devices belong to."""
  return _moved(weights, "pinned_host")


def restore_to_devices(weights: Weights) -> Weights:
  """What `to_host` was given, back where it lay."""
  return _moved(weights, "device")


def _moved(weights: Weights, memory: str) -> Any:
  return jax.device_put(weights, jax.tree.map(lambda x: x.sharding.with_memory_kind(memory), weights))


def scoring_cost(model: str, config: DecoderConfig, samples: Sequence[Example], passes: int) -> Ledger:
  """Tokens that a model scored in some forward passes, and their FLOPs."""
  tokens = sum(len(s.tokens) for s in samples)
  flops = sum(len(s.tokens) * config.flops_per_token(len(s.tokens) // 2) for s in samples)
  return Ledger({model: Usage(scored=tokens * passes, flops=flops * passes)})
