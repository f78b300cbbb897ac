"""The jitted train step (SFT and RL) and the jitted scorer.

One update: for each micro-batch the log-probabilities of its rows, the loss, and the gradient in float32, summed over
the micro-batches; then the optimizer, whose moments are float32, and the new weights. SFT and RL differ by the loss
only. With LoRA only the adapters are trained; all other weights are an argument. An update is one program, so that it
allocates its memory in one piece.

The scorer gives the log-probabilities of tokens that another policy sampled. Weights that are needed only now and then
can wait in host memory (`offload_to_host`, `restore_to_devices`).
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
from ml_collections import ConfigDict

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

#: logical axes of an update's arrays [M, B, T]; a micro-batch [B, T] has the last two, the denominator [] none
BATCH_AXES = (None, "rows", None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """The state of training after some updates."""

  step: jax.Array  # int32, updates done
  weights: Weights  # the trained weights: all, or only the adapters
  optimizer: Any  # optax state


LossFn = Callable[[jax.Array, jax.Array, Batch], tuple[jax.Array, MetricArrays]]  # (logp, entropy, batch)


def make_sft_loss() -> LossFn:
  """The loss function of SFT; also reports the entropy."""

  def loss(logp: jax.Array, entropy: jax.Array, batch: Batch) -> tuple[jax.Array, MetricArrays]:
    return sft_loss(logp, batch), {"entropy": masked_mean(entropy, batch)}

  return loss


def make_policy_gradient_loss(knobs: PolicyGradientConfig) -> LossFn:
  """The loss function of RL; also reports the entropy."""

  def loss(logp: jax.Array, entropy: jax.Array, batch: Batch) -> tuple[jax.Array, MetricArrays]:
    value, numbers = policy_gradient_loss(logp, batch, knobs=knobs)
    return value, numbers | {"entropy": masked_mean(entropy, batch)}

  return loss


@dataclasses.dataclass(frozen=True)
class ForwardConfig:
  """How the forward pass of train steps and scorers computes."""

  temperature: float  # of the distribution whose log-probabilities are computed
  logit_chunk: int  # positions of a row whose logits are in memory at a time
  attention: str  # a key of attention.ROW_ATTENTIONS, or auto
  remat: str  # a key of decoder.REMAT_POLICIES
  dtype: str  # of the forward pass
  weights_dtype: str  # of the trained weights


def make_forward_config(config: ConfigDict, temperature: float) -> ForwardConfig:
  """How the student's train steps compute; log-probabilities are of a temperature."""
  c = config.train
  return ForwardConfig(temperature, c.logit_chunk, c.attention, c.remat, config.student.dtype, c.weights_dtype)


def forward_logprobs(
  graph: nnx.GraphDef[Decoder], mesh: Mesh, passes: ForwardConfig, trained: Weights, frozen: Weights, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """Log-probability and entropy of each token, float32 [B, T], as `passes` says; traced for a mesh."""
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
  """Places an update or a micro-batch on a mesh, its rows split over data and fsdp."""
  data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
  rows = batch.tokens.shape[-2]
  if rows % (data * fsdp):
    raise UserError(
      f"micro_rows = {rows} cannot be split over the mesh's data and fsdp axes ({data} x {fsdp}); choose a multiple"
    )
  return jax.tree.map(lambda x: put_on_mesh(x, batch_sharding(mesh, x.ndim)), batch)


def batch_sharding(mesh: Mesh, axes: int) -> NamedSharding:
  """The sharding of a batch's array with `axes` dimensions."""
  return named_sharding(mesh, *BATCH_AXES[len(BATCH_AXES) - axes :])


class Trainer:
  """The jitted train step of one loss; places states and batches on the mesh.

  Args:
    frozen: the weights that are not trained, on the mesh; none without adapters.
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
    """The jitted update for states of these shapes: (state, frozen, update) -> (state, metrics).

    The state is donated: the new one takes its memory and has the same shardings.
    """
    shardings = weight_shardings(self.mesh, state)

    def update(state: TrainState, frozen: Weights, batch: Batch) -> tuple[TrainState, MetricArrays]:
      def compute_gradient(part: Batch) -> tuple[MetricArrays, Weights]:
        (loss, numbers), gradient = jax.value_and_grad(self.objective, has_aux=True)(state.weights, frozen, part)
        return numbers | {"loss": loss}, _cast(gradient, "float32")

      def add(index: jax.Array, sums: tuple[MetricArrays, Weights]) -> tuple[MetricArrays, Weights]:
        numbers, gradient = compute_gradient(take_micro_batch(batch, index))
        totals = {k: (jnp.maximum if k.endswith("_max") else jnp.add)(x, numbers[k]) for k, x in sums[0].items()}
        return totals, jax.lax.with_sharding_constraint(jax.tree.map(jnp.add, sums[1], gradient), shardings.weights)

      first = take_micro_batch(batch, 0)
      if len(batch.tokens) == 1:  # XLA would compile a loop of one iteration with two copies of the gradient
        numbers, gradient = compute_gradient(first)
      else:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(compute_gradient, first))
        # Micro-batches are filled from the first on: the loop ends before the empty ones.
        filled = jnp.sum(jnp.any(batch.segments > 0, axis=(1, 2)))
        numbers, gradient = jax.lax.fori_loop(0, filled, add, zeros)
      weights32 = _cast(state.weights, "float32")
      change, moments = self.optimizer.update(gradient, state.optimizer, weights32)
      weights: Any = _cast(optax.apply_updates(weights32, change), self.passes.weights_dtype)
      return TrainState(state.step + 1, weights, moments), numbers | {"grad_norm": optax.tree.norm(gradient)}

    return jax.jit(update, donate_argnums=0, out_shardings=(shardings, named_sharding(self.mesh)))

  def init_state(self, trained: Weights) -> TrainState:
    """A state at step 0. The weights are copied: states are donated, the given weights are not."""
    shardings = weight_shardings(self.mesh, jax.eval_shape(self._make_state, trained))
    return jax.jit(self._make_state, out_shardings=shardings)(trained)

  def _make_state(self, trained: Weights) -> TrainState:
    """A state at step 0, traced by `init_state`."""
    copied = jax.tree.map(jnp.copy, _cast(trained, self.passes.weights_dtype))
    return TrainState(jnp.zeros((), jnp.int32), copied, self.optimizer.init(_cast(trained, "float32")))

  def abstract_state(self, config: DecoderConfig) -> TrainState:
    """Shapes and shardings of a decoder's train state, for restoring one."""
    shapes = jax.eval_shape(self._make_state, lora.split_trainable(abstract_decoder(config)[1])[0])
    return add_shardings(shapes, weight_shardings(self.mesh, shapes))

  def full_weights(self, state: TrainState) -> Weights:
    """All weights of the model, trained and frozen."""
    return lora.merge_params(state.weights, self.frozen)

  def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, MetricArrays]:
    """One update on its micro-batches, [M, B, T] on the host. The given state is donated and cannot be used again.

    Micro-batches are filled from the first on; empty ones cost nothing. Metrics are sums over the micro-batches, maxima
    for names that end in `_max`.
    """
    self._program = self._program or self.jit_update(state)
    return self._program(state, self.frozen, place_batch(self.mesh, batch))


def _cast(weights: Any, dtype: str) -> Any:
  return jax.tree.map(lambda x: x.astype(dtype), weights)


class Scorer:
  """The jitted forward pass over micro-batches [B, T] that gives the log-probability of each token.

  Args:
    length, micro: tokens per row, rows per micro-batch.
    frozen: all weights but the trained ones, on the mesh; none without adapters.
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

  def __call__(self, weights: Weights, examples: Sequence[Example]) -> list[np.ndarray]:
    """The log-probabilities of each example's tokens under the loss mask, float32 [n], 0 elsewhere.

    Raises:
      ValueError: an example is longer than a row.
    """
    rows = pack_examples(sorted(examples, key=lambda s: -len(s.tokens)), length=self.length)
    logprobs_of: dict[int, np.ndarray] = {}
    for first in range(0, len(rows), self.micro):
      part = rows[first : first + self.micro]
      batch = fill_batch(part, length=self.length, count=self.micro, denominator=1.0)
      logp_BxT = fetch_to_host(self.program(weights, self.frozen, place_batch(self.mesh, batch)))
      for row, logp_T in zip(part, logp_BxT, strict=False):  # further rows of logp_BxT are empty
        ends = np.cumsum([len(one.tokens) for one in row])
        for one, end in zip(row, ends, strict=True):
          logprobs_of[id(one)] = logp_T[end - len(one.tokens) : end] * one.loss_mask
    return [logprobs_of[id(one)] for one in examples]


def offload_to_host(weights: Weights) -> Weights:
  """The same arrays with the same shardings, in pinned memory of the hosts."""
  return _move(weights, "pinned_host")


def restore_to_devices(weights: Weights) -> Weights:
  """The arrays of `offload_to_host`, back in device memory."""
  return _move(weights, "device")


def _move(weights: Weights, memory: str) -> Any:
  return jax.device_put(weights, jax.tree.map(lambda x: x.sharding.with_memory_kind(memory), weights))


def scoring_cost(model: str, config: DecoderConfig, examples: Sequence[Example], passes: int) -> Ledger:
  """Tokens that `model` scored in `passes` forward passes over the examples, and their FLOPs."""
  tokens = sum(len(s.tokens) for s in examples)
  flops = sum(len(s.tokens) * config.flops_per_token(len(s.tokens) // 2) for s in examples)
  return Ledger({model: Usage(scored=tokens * passes, flops=flops * passes)})
