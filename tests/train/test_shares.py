"""What a token counts in its update does not hang on the micro-batch that it falls into."""

from __future__ import annotations

import numpy as np
import pytest

from score_jax.train.batch import Example, make_update, take_micro_batch
from score_jax.train.policy_gradient import make_loss_weight_fn


def learnt(count: int, *, of: int) -> Example:
  """A sequence whose last `count` tokens are learnt."""
  mask = np.zeros(of, np.float32)
  mask[of - count :] = 1.0
  return Example(np.arange(of, dtype=np.int32), mask, np.zeros(of, np.float32), 1.0)


ROWS = [[learnt(7, of=8)], [learnt(1, of=8)], [learnt(2, of=4), learnt(1, of=4)]]


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_of_fine_tuning_each_learnt_token_counts_one_of_all_that_are_learnt(micro: int) -> None:
  update = make_update(ROWS, length=8, micro=micro, most=3)
  parts = [take_micro_batch(update, i) for i in range(len(update.tokens))]
  for part in parts:
    assert part.loss_weight == pytest.approx(part.loss_mask / 11, abs=1e-7)
    assert part.denominator == 11.0
  assert sum(float(part.loss_weight.sum()) for part in parts) == pytest.approx(1.0)


@pytest.mark.parametrize(
  ("normaliser", "expected"),
  [
    ("token", [7 / 15, 1 / 15, 2 / 15, 1 / 15]),  # a rollout without advantage had 4 more tokens
    ("sequence", [1 / 5] * 4),
    ("constant", [7 / 40, 1 / 40, 2 / 40, 1 / 40]),
  ],
)
@pytest.mark.parametrize("micro", [1, 2, 3])
def test_of_policy_gradient_it_counts_one_of_the_whole_minibatch(
  normaliser: str, expected: list[float], micro: int
) -> None:
  """What each of the four sequences that are learnt from counts; the fifth rollout only counts in the mean."""
  share = make_loss_weight_fn(normaliser, [7, 1, 2, 1, 4], length=8)
  update = make_update(ROWS, length=8, micro=micro, most=3, share=share)
  rows = np.concatenate([take_micro_batch(update, i).loss_weight for i in range(len(update.tokens))])
  found = [rows[0].sum(), rows[1].sum(), rows[2, :4].sum(), rows[2, 4:].sum()]
  assert found == pytest.approx(expected, rel=1e-6)
