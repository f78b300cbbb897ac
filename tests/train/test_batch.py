"""Masks, packing and the order of training on examples worked out by hand."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from score_jax.train.batch import (
  Batch,
  Example,
  count_updates,
  every_step,
  fill_batch,
  iter_updates,
  make_example,
  make_update,
  pack_examples,
  split_by_length,
  take_micro_batch,
  teacher_steps,
)
from score_jax.trajectory import Step, Trajectory

PLAN = Step("first_thought", "plan", tokens=(10, 11), logprobs=(-0.1, -0.2), observation_tokens=(90,))
FIXED = Step("act", "teacher's", author="teacher", tokens=(20, 21, 22), observation_tokens=(91, 92))
LAST = Step("act", "student's", tokens=(30, 31), logprobs=(-0.3, -0.4), observation_tokens=(93, 94, 95))
TRAJECTORY = Trajectory("q", "question", (1, 2, 3), (PLAN, FIXED, LAST))
TOKENS = [1, 2, 3, 10, 11, 90, 20, 21, 22, 91, 92, 30, 31]  # nothing follows the last turn


def test_only_what_the_agent_wrote_carries_loss() -> None:
  found = make_example(TRAJECTORY, carries_loss=every_step, advantage=0.5)
  assert found.tokens.tolist() == TOKENS
  assert found.loss_mask.tolist() == [0, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1]
  np.testing.assert_allclose(found.sampling_logprobs, [0, 0, 0, -0.1, -0.2, 0, 0, 0, 0, 0, 0, -0.3, -0.4])
  assert found.advantage == 0.5
  assert (found.tokens.dtype, found.loss_mask.dtype, found.sampling_logprobs.dtype) == (
    np.int32,
    np.float32,
    np.float32,
  )


def test_loss_on_chosen_steps_alone() -> None:
  assert make_example(TRAJECTORY, carries_loss=teacher_steps).loss_mask.tolist() == [
    0,
    0,
    0,
    0,
    0,
    0,
    1,
    1,
    1,
    0,
    0,
    0,
    0,
  ]
  second_on = make_example(TRAJECTORY, carries_loss=lambda index, _: index >= 2)
  assert second_on.loss_mask.tolist() == [0] * 11 + [1, 1]
  np.testing.assert_allclose(second_on.sampling_logprobs, [0] * 11 + [-0.3, -0.4])


def simple(size: int, first: int, *, learnt: int = 1, advantage: float = 1.0) -> Example:
  """`size` tokens from `first` on, of which the last `learnt` carry loss."""
  mask = np.zeros(size, np.float32)
  mask[size - learnt :] = 1
  return Example(np.arange(first, first + size, dtype=np.int32), mask, -0.5 * mask, advantage)


def test_samples_go_where_they_first_fit() -> None:
  parts = [simple(5, 10), simple(4, 20), simple(3, 30), simple(1, 50), simple(8, 60), simple(2, 70)]
  rows = pack_examples(parts, length=8)
  assert [[int(one.tokens[0]) for one in row] for row in rows] == [[10, 30], [20, 50, 70], [60]]


def test_a_row_is_filled_as_worked_out_by_hand() -> None:
  one, two = simple(3, 10, learnt=2, advantage=-2.0), simple(2, 20, advantage=0.25)
  batch = fill_batch([[one, two]], length=7, count=2, denominator=3.0)
  assert batch.tokens.tolist() == [[10, 11, 12, 20, 21, 0, 0], [0] * 7]
  assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0, 0], [0] * 7]
  assert batch.segments.tolist() == [[1, 1, 1, 2, 2, 0, 0], [0] * 7]
  assert batch.loss_mask.tolist() == [[0, 1, 1, 0, 1, 0, 0], [0] * 7]
  assert batch.advantages.tolist() == [[0, -2, -2, 0, 0.25, 0, 0], [0] * 7]
  assert batch.sampling_logprobs.tolist() == [[0, -0.5, -0.5, 0, -0.5, 0, 0], [0] * 7]
  assert batch.old_logprobs.tolist() == batch.sampling_logprobs.tolist(), "ratios are against what was drawn"
  assert not batch.reference_logprobs.any()
  assert batch.denominator == 3.0
  np.testing.assert_allclose(batch.loss_weight, batch.loss_mask / 3)
  assert {x.dtype for x in (batch.tokens, batch.positions, batch.segments)} == {np.dtype(np.int32)}
  floats = (
    batch.loss_mask,
    batch.advantages,
    batch.loss_weight,
    batch.sampling_logprobs,
    batch.old_logprobs,
    batch.reference_logprobs,
    batch.denominator,
  )
  assert {x.dtype for x in floats} == {np.dtype(np.float32)}


def test_each_token_may_have_its_own_advantage_and_other_log_probabilities() -> None:
  """What stands at places that are not learnt does not get into the batch."""
  values = np.array([9.0, 1.0, -1.0], np.float32)
  one = dataclasses.replace(
    simple(3, 10, learnt=2), advantage=values, old_logprobs=values - 2, reference_logprobs=values - 3
  )
  batch = fill_batch([[one]], length=4, count=1, denominator=2.0)
  assert batch.advantages.tolist() == [[0, 1, -1, 0]]
  assert batch.old_logprobs.tolist() == [[0, -1, -3, 0]]
  assert batch.reference_logprobs.tolist() == [[0, -2, -4, 0]]


def test_micro_batches_share_the_denominator_of_their_update() -> None:
  rows = [[simple(4, 10, learnt=3)], [simple(4, 20, learnt=2)], [simple(4, 30, learnt=2)]]
  update = make_update(rows, length=4, micro=2, most=5)
  assert update.tokens.shape == (3, 2, 4), "room for five rows"
  assert update.denominator == 7.0 and take_micro_batch(update, 2).denominator == 7.0
  assert take_micro_batch(update, 0).tokens.tolist() == [[10, 11, 12, 13], [20, 21, 22, 23]]
  assert update.segments.tolist() == [[[1] * 4, [1] * 4], [[1] * 4, [0] * 4], [[0] * 4, [0] * 4]]
  np.testing.assert_allclose(update.loss_weight, update.loss_mask / 7)
  shared = make_update(rows, length=4, micro=3, most=3, share=lambda count: count / 10)
  assert shared.denominator == 7.0, "means of metrics are over what is learnt"
  np.testing.assert_allclose(shared.loss_weight.sum(axis=(0, 2)), [0.9, 0.4, 0.4], rtol=1e-6)
  assert make_update([], length=4, micro=1, most=1).denominator == 1.0, "no division by zero"
  with pytest.raises(IndexError):
    make_update(rows, length=4, micro=1, most=2)


def firsts(update: Batch) -> list[int]:
  """The samples of an update, by their first token."""
  return [int(t) for t in update.tokens[(update.segments > 0) & (update.positions == 0)]]


def test_an_epoch_sees_each_sample_once_in_an_order_that_the_seed_decides() -> None:
  samples = [simple(2 + i % 5, 100 * (i + 1)) for i in range(23)]
  settings = {"rows": 2, "length": 8, "epochs": 3}
  first = [firsts(update) for update in iter_updates(samples, micro=1, seed=1, **settings)]
  again = [firsts(update) for update in iter_updates(samples, micro=2, seed=1, **settings)]
  other = [firsts(update) for update in iter_updates(samples, micro=1, seed=2, **settings)]
  assert first == again != other
  assert len(first) == count_updates(samples, seed=1, **settings)
  seen = [number for update in first for number in update]
  orders = [tuple(seen[i : i + 23]) for i in range(0, 69, 23)]
  assert all(set(order) == {100 * (i + 1) for i in range(23)} for order in orders)
  assert len(set(orders)) == 3, "the epochs differ"
  assert set(Counter(seen).values()) == {3}


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_an_update_has_its_rows_whatever_the_micro_batches(micro: int) -> None:
  samples = [simple(8, 100 * i) for i in range(7)]
  settings = {"rows": 3, "length": 8, "epochs": 1, "seed": 0}
  found = list(iter_updates(samples, micro=micro, **settings))
  assert [(len(firsts(update)), update.denominator) for update in found] == [(3, 3.0), (3, 3.0), (1, 1.0)]
  assert {update.tokens.shape for update in found} == {(-(-3 // micro), micro, 8)}, "one shape, one program"


def test_packing_leaves_nothing_out() -> None:
  """An example that fits no row is an error: whoever leaves it out before has to say so."""
  samples = [simple(8, 100), simple(9, 200), simple(3, 300)]
  with pytest.raises(ValueError, match="an example of 9 tokens does not fit a row of 8"):
    pack_examples(samples, length=8)
  kept, long = split_by_length(samples, length=8)
  assert [int(one.tokens[0]) for one in kept] == [100, 300]
  assert [int(one.tokens[0]) for one in long] == [200]
