"""What some weights say of tokens that others drew, and weights that wait in the host's memory until they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from score_jax.mesh.sharding import fetch, sharding
from score_jax.model import adapters
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, Weights
from score_jax.train.batch import Batch, Sample, fill, pack
from score_jax.train.steps import Passes, log_probabilities, place
from score_jax.trajectory import Ledger, Usage


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
    passes: Passes,
    *,
    length: int,
    micro: int,
    frozen: Weights = adapters.NOTHING,
  ):
    self.mesh, self.length, self.micro, self.frozen = mesh, length, micro, frozen

    def score(trained: Weights, frozen: Weights, batch: Batch) -> jax.Array:
      return log_probabilities(graph, mesh, passes, trained, frozen, batch)[0]

    self.program = jax.jit(score, out_shardings=sharding(mesh))

  def __call__(self, weights: Weights, samples: Sequence[Sample]) -> list[np.ndarray]:
    """The log-probabilities of each sample's learnt tokens, float32 [n], 0 elsewhere.

    Raises:
      ValueError: a sample fits no row.
    """
    rows = pack(sorted(samples, key=lambda s: -len(s.tokens)), length=self.length)
    found: dict[int, np.ndarray] = {}
    for first in range(0, len(rows), self.micro):
      part = rows[first : first + self.micro]
      batch = fill(part, length=self.length, count=self.micro, denominator=1.0)
      logp_BxT = fetch(self.program(weights, self.frozen, place(self.mesh, batch)))
      for row, logp_T in zip(part, logp_BxT, strict=False):  # rows beyond the last are empty
        ends = np.cumsum([len(one.tokens) for one in row])
        for one, end in zip(row, ends, strict=True):
          found[id(one)] = logp_T[end - len(one.tokens) : end] * one.learnt
    return [found[id(one)] for one in samples]


def to_host(weights: Weights) -> Weights:
  """The same arrays, as they are split, in the memory of the hosts that their devices belong to."""
  return _moved(weights, "pinned_host")


def to_devices(weights: Weights) -> Weights:
  """What `to_host` was given, back where it lay."""
  return _moved(weights, "device")


def _moved(weights: Weights, memory: str) -> Any:
  return jax.device_put(weights, jax.tree.map(lambda x: x.sharding.with_memory_kind(memory), weights))


def scoring_cost(model: str, config: DecoderConfig, samples: Sequence[Sample], passes: int) -> Ledger:
  """Tokens that a model scored in some forward passes, and their FLOPs."""
  tokens = sum(len(s.tokens) for s in samples)
  flops = sum(len(s.tokens) * config.flops_per_token(len(s.tokens) // 2) for s in samples)
  return Ledger({model: Usage(scored=tokens * passes, flops=flops * passes)})
