"""Trajectories packed into rows of fixed length, with separate masks for padding and for what is learnt.

Two trajectories may share a row; `segments` tells them apart (0 is padding), and
positions start at 0 in each. Masks stand at the token they speak of: a token
carries loss when the policy wrote it, and its log-probability is that of
predicting it from the tokens before it.
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
  """Rows of packed trajectories; those of an update are cut into micro-batches, [M, B, T] in the place of [B, T]."""

  tokens: Array  # int32 [B, T]
  positions: Array  # int32 [B, T], place within its trajectory
  segments: Array  # int32 [B, T], 1, 2, … within a row; 0 is padding
  loss_mask: Array  # float32 [B, T], 1 where the token carries loss
  advantages: Array  # float32 [B, T], 0 outside `learnt`; of no use to SFT
  loss_weight: Array  # float32 [B, T], how much the token counts in the loss of its update, 0 outside `learnt`
  sampling_logprobs: Array  # float32 [B, T], log-probability when drawn, 0 outside `learnt`; of no use to SFT
  old_logprobs: Array  # float32 [B, T], that which ratios are against, 0 outside `learnt`; of no use to SFT
  reference_logprobs: (
    Array  # float32 [B, T], that of the weights not to go far from, 0 outside `learnt`; of no use to SFT
  )
  denominator: Array  # float32 [], learnt tokens of the update, which means of metrics are over


@dataclasses.dataclass(frozen=True)
class Example:
  """One trajectory as arrays of equal length, before packing."""

  tokens: np.ndarray  # int32 [n]
  loss_mask: np.ndarray  # float32 [n]
  sampling_logprobs: np.ndarray  # float32 [n]
  advantage: float | np.ndarray = 0.0  # of the trajectory, or float32 [n] of each token
  old_logprobs: np.ndarray | None = None  # float32 [n]; None: as sampled
  reference_logprobs: np.ndarray | None = None  # float32 [n]; None: there is none


StepFilter = Callable[[int, Step], bool]  # (index of the step, step) -> whether its tokens carry loss


def every_step(index: int, step: Step) -> bool:
  """Loss on all that the agent wrote, student or teacher (paper, SFT)."""
  del index, step
  return True


def teacher_steps(index: int, step: Step) -> bool:
  """Loss on the teacher's steps alone."""
  del index
  return step.author == "teacher"


def make_example(trajectory: Trajectory, *, carries_loss: StepFilter = every_step, advantage: float = 0.0) -> Example:
  """A trajectory's whole context as one sequence; only the turns' own tokens can carry loss."""
  prompt = len(trajectory.prompt_tokens)
  learnt: list[float] = [0.0] * prompt
  sampled: list[float] = [0.0] * prompt
  last = len(trajectory.steps) - 1
  tokens = list(trajectory.prompt_tokens)
  for index, step in enumerate(trajectory.steps):
    chosen = carries_loss(index, step)
    after = step.observation_tokens if index < last else ()
    tokens += step.tokens + after
    learnt += [float(chosen)] * len(step.tokens) + [0.0] * len(after)
    drawn = step.logprobs if chosen and step.logprobs else (0.0,) * len(step.tokens)
    sampled += [*drawn] + [0.0] * len(after)
  return Example(np.array(tokens, np.int32), np.array(learnt, np.float32), np.array(sampled, np.float32), advantage)


def split_by_length(samples: Sequence[Example], *, length: int) -> tuple[list[Example], list[Example]]:
  """The samples that fit a row of `length`, and those that do not."""
  return [s for s in samples if len(s.tokens) <= length], [s for s in samples if len(s.tokens) > length]


def pack_examples(samples: Sequence[Example], *, length: int) -> list[list[Example]]:
  """First-fit in the given order: rows of samples that together have at most `length` tokens.

  Raises:
    ValueError: a sample is longer than a row. Callers leave it out, and count it (`fitting`), or never make it.
  """
  rows: list[list[Example]] = []
  room: list[int] = []
  for one in samples:
    size = len(one.tokens)
    if size > length:
      raise ValueError(f"a sample of {size} tokens does not fit a row of {length}")
    place = next((i for i, free in enumerate(room) if free >= size), None)
    if place is None:
      rows.append([])
      room.append(length)
      place = len(rows) - 1
    rows[place].append(one)
    room[place] -= size
  return rows


LossWeightFn = Callable[[int], float]  # learnt tokens of a sample -> how much each counts in the loss of its update


def fill_batch(
  rows: Sequence[Sequence[Example]], *, length: int, count: int, denominator: float, share: LossWeightFn | None = None
) -> Batch:
  """`count` rows of `length`, those beyond the given ones empty; without `share` the loss is the mean over tokens."""
  grids = (np.zeros((count, length), t) for t in (np.int32,) * 3 + (np.float32,) * 6)
  batch = Batch(*grids, denominator=np.float32(denominator))
  for row, samples in enumerate(rows):
    at = 0
    for number, one in enumerate(samples, start=1):
      span = slice(at, at + len(one.tokens))
      batch.tokens[row, span] = one.tokens
      batch.positions[row, span] = np.arange(len(one.tokens))
      batch.segments[row, span] = number
      batch.loss_mask[row, span] = one.loss_mask
      batch.advantages[row, span] = one.advantage * one.loss_mask
      batch.loss_weight[row, span] = one.loss_mask * (share(int(one.loss_mask.sum())) if share else 1.0 / denominator)
      batch.sampling_logprobs[row, span] = one.sampling_logprobs
      batch.old_logprobs[row, span] = (
        one.sampling_logprobs if one.old_logprobs is None else one.old_logprobs * one.loss_mask
      )
      batch.reference_logprobs[row, span] = (
        0.0 if one.reference_logprobs is None else one.reference_logprobs * one.loss_mask
      )
      at = span.stop
  return batch


def make_update(
  rows: Sequence[Sequence[Example]], *, length: int, micro: int, most: int, share: LossWeightFn | None = None
) -> Batch:
  """The rows of one update in micro-batches of `micro`, whose losses and gradients add up to the update's.

  There are as many as `most` rows fill, so that all updates of a stage have one shape; those beyond the given rows are
  empty. The loss is the mean over the learnt tokens of all rows, unless `share` says otherwise.
  """
  learnt = sum(float(one.loss_mask.sum()) for row in rows for one in row)
  parts = -(-most // micro)
  whole = fill_batch(rows, length=length, count=parts * micro, denominator=max(learnt, 1.0), share=share)
  return jax.tree.map(lambda x: x.reshape(parts, micro, length) if x.ndim else x, whole)


def take_micro_batch(update: Batch, index: Any) -> Batch:
  """One micro-batch of an update."""
  return jax.tree.map(lambda x: x[index] if x.ndim else x, update)


def iter_updates(
  samples: Sequence[Example], *, rows: int, micro: int, length: int, epochs: int, seed: int
) -> Iterator[Batch]:
  """The updates of a training stage: each epoch shuffled anew, packed, and cut into updates of `rows` rows.

  The seed alone decides the order, so that a run can go on at any update.
  """
  for epoch in range(epochs):
    order = np.random.default_rng((seed, epoch)).permutation(len(samples))
    packed = pack_examples([samples[i] for i in order], length=length)
    for i in range(0, len(packed), rows):
      yield make_update(packed[i : i + rows], length=length, micro=micro, most=rows)


def count_updates(samples: Sequence[Example], *, rows: int, length: int, epochs: int, seed: int) -> int:
  """How many updates `epochs` gives."""
  orders = (np.random.default_rng((seed, epoch)).permutation(len(samples)) for epoch in range(epochs))
  return sum(-(-len(pack_examples([samples[i] for i in order], length=length)) // rows) for order in orders)
