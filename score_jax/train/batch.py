"""Trajectories packed into rows of fixed length, with separate masks for padding and for loss.

Several trajectories may share a row: `segments` numbers them (0 is padding), and `positions` start at 0 in each.
Masks and log-probabilities are stored at the token itself: a token carries loss if the policy wrote it, and its
log-probability is that of predicting it from the tokens before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from score_jax.trajectory import Step, Trajectory

Array = Any  # of numpy on the host, of jax on the mesh


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Rows of packed trajectories, [B, T]; an update has a leading axis of micro-batches, [M, B, T]."""

  tokens: Array  # int32 [B, T]
  positions: Array  # int32 [B, T], index within the trajectory
  segments: Array  # int32 [B, T], number of the trajectory in its row, from 1; 0 is padding
  loss_mask: Array  # float32 [B, T], 1 where the token carries loss; the [B, T] below are 0 elsewhere
  advantages: Array  # float32 [B, T]; not used by SFT
  loss_weight: Array  # float32 [B, T], weight of the token in the loss of its update
  sampling_logprobs: Array  # float32 [B, T], log-probability when it was sampled; not used by SFT
  old_logprobs: Array  # float32 [B, T], denominator of the policy ratio; not used by SFT
  reference_logprobs: Array  # float32 [B, T], under the reference policy of the KL term; not used by SFT
  denominator: Array  # float32 [], tokens of the update under the loss mask; means of metrics are over them


@dataclasses.dataclass(frozen=True)
class Example:
  """One trajectory as arrays of one length n, before packing."""

  tokens: np.ndarray  # int32 [n]
  loss_mask: np.ndarray  # float32 [n]
  sampling_logprobs: np.ndarray  # float32 [n]
  advantage: float | np.ndarray = 0.0  # of the trajectory, or float32 [n] per token
  old_logprobs: np.ndarray | None = None  # float32 [n]; None: sampling_logprobs
  reference_logprobs: np.ndarray | None = None  # float32 [n]; None: no reference policy


StepFilter = Callable[[int, Step], bool]  # (index of the step, step) -> whether its tokens carry loss


def every_step(index: int, step: Step) -> bool:
  """Loss on every step of the agent, written by student or teacher (paper, SFT)."""
  del index, step
  return True


def teacher_steps(index: int, step: Step) -> bool:
  """Loss on the teacher's steps only."""
  del index
  return step.author == "teacher"


def make_example(trajectory: Trajectory, *, carries_loss: StepFilter = every_step, advantage: float = 0.0) -> Example:
  """A trajectory's whole context as one sequence. Only tokens of turns can carry loss, never prompt or observations."""
  prompt = len(trajectory.prompt_tokens)
  mask: list[float] = [0.0] * prompt
  logprobs: list[float] = [0.0] * prompt
  last = len(trajectory.steps) - 1
  tokens = list(trajectory.prompt_tokens)
  for index, step in enumerate(trajectory.steps):
    chosen = carries_loss(index, step)
    after = step.observation_tokens if index < last else ()
    tokens += step.tokens + after
    mask += [float(chosen)] * len(step.tokens) + [0.0] * len(after)
    drawn = step.logprobs if chosen and step.logprobs else (0.0,) * len(step.tokens)
    logprobs += [*drawn] + [0.0] * len(after)
  return Example(np.array(tokens, np.int32), np.array(mask, np.float32), np.array(logprobs, np.float32), advantage)


def split_by_length(samples: Sequence[Example], *, length: int) -> tuple[list[Example], list[Example]]:
  """The examples that fit a row of `length`, and those that do not."""
  return [s for s in samples if len(s.tokens) <= length], [s for s in samples if len(s.tokens) > length]


def pack_examples(samples: Sequence[Example], *, length: int) -> list[list[Example]]:
  """Packs examples into rows of at most `length` tokens: first fit, in the given order.

  Raises:
    ValueError: an example is longer than a row. Callers remove such examples before (`split_by_length`).
  """
  rows: list[list[Example]] = []
  room: list[int] = []
  for example in samples:
    size = len(example.tokens)
    if size > length:
      raise ValueError(f"an example of {size} tokens does not fit a row of {length}")
    place = next((i for i, free in enumerate(room) if free >= size), None)
    if place is None:
      rows.append([])
      room.append(length)
      place = len(rows) - 1
    rows[place].append(example)
    room[place] -= size
  return rows


LossWeightFn = Callable[[int], float]  # tokens of an example under the loss mask -> weight of each in the loss


def fill_batch(
  rows: Sequence[Sequence[Example]], *, length: int, count: int, denominator: float, share: LossWeightFn | None = None
) -> Batch:
  """A batch of `count` rows of `length`; further rows are empty. Without `share` the loss is the mean over tokens."""
  grids = (np.zeros((count, length), t) for t in (np.int32,) * 3 + (np.float32,) * 6)
  batch = Batch(*grids, denominator=np.float32(denominator))
  for row, samples in enumerate(rows):
    at = 0
    for number, example in enumerate(samples, start=1):
      span = slice(at, at + len(example.tokens))
      batch.tokens[row, span] = example.tokens
      batch.positions[row, span] = np.arange(len(example.tokens))
      batch.segments[row, span] = number
      batch.loss_mask[row, span] = example.loss_mask
      batch.advantages[row, span] = example.advantage * example.loss_mask
      batch.loss_weight[row, span] = example.loss_mask * (
        share(int(example.loss_mask.sum())) if share else 1.0 / denominator
      )
      batch.sampling_logprobs[row, span] = example.sampling_logprobs
      batch.old_logprobs[row, span] = (
        example.sampling_logprobs if example.old_logprobs is None else example.old_logprobs * example.loss_mask
      )
      batch.reference_logprobs[row, span] = (
        0.0 if example.reference_logprobs is None else example.reference_logprobs * example.loss_mask
      )
      at = span.stop
  return batch


def make_update(
  rows: Sequence[Sequence[Example]], *, length: int, micro: int, most: int, share: LossWeightFn | None = None
) -> Batch:
  """Cuts the rows of one update into micro-batches of `micro` rows, whose losses and gradients add up to the update's.

  There are always enough micro-batches for `most` rows, so that all updates of a stage have one shape; further rows are
  empty. The loss is the mean over the tokens under the loss mask of all rows, unless `share` gives other weights.
  """
  loss_tokens = sum(float(example.loss_mask.sum()) for row in rows for example in row)
  parts = -(-most // micro)
  whole = fill_batch(rows, length=length, count=parts * micro, denominator=max(loss_tokens, 1.0), share=share)
  return jax.tree.map(lambda x: x.reshape(parts, micro, length) if x.ndim else x, whole)


def take_micro_batch(update: Batch, index: Any) -> Batch:
  """The micro-batch [B, T] at an index of an update [M, B, T]."""
  return jax.tree.map(lambda x: x[index] if x.ndim else x, update)


def iter_updates(
  samples: Sequence[Example], *, rows: int, micro: int, length: int, epochs: int, seed: int
) -> Iterator[Batch]:
  """The updates of a training stage: each epoch is shuffled, packed, and cut into updates of `rows` rows.

  The order follows from the seed only, so that a run can resume at any update.
  """
  for epoch in range(epochs):
    order = np.random.default_rng((seed, epoch)).permutation(len(samples))
    packed = pack_examples([samples[i] for i in order], length=length)
    for i in range(0, len(packed), rows):
      yield make_update(packed[i : i + rows], length=length, micro=micro, most=rows)


def count_updates(samples: Sequence[Example], *, rows: int, length: int, epochs: int, seed: int) -> int:
  """Number of updates that `iter_updates` yields."""
  orders = (np.random.default_rng((seed, epoch)).permutation(len(samples)) for epoch in range(epochs))
  return sum(-(-len(pack_examples([samples[i] for i in order], length=length)) // rows) for order in orders)
