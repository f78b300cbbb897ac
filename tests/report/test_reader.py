"""Reading what a run has left."""

from __future__ import annotations

import pytest

from score_jax.report.reader import pick_evenly


@pytest.mark.parametrize(
  ("count", "expected"), [(0, []), (1, [0]), (3, [0, 3, 6]), (4, [0, 2, 5, 7]), (99, [*range(10)])]
)
def test_some_items_are_taken_evenly_over_all(count: int, expected: list[int]) -> None:
  assert pick_evenly(range(10), count) == expected
