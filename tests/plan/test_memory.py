"""What is resident when, on numbers that tell every array from every other."""

from __future__ import annotations

from score_jax.plan.memory import (
  MEMORY_COLUMNS,
  PHASE_ARRAYS,
  STAGE_PHASES,
  list_peak_arrays_by_stage,
  sum_peak_by_column,
)

NAMES = [name for names in MEMORY_COLUMNS.values() for name in names]
ARRAYS = {name: 2**i for i, name in enumerate(sorted(NAMES))}


def test_every_array_has_one_column_and_every_moment_a_stage() -> None:
  assert sorted(NAMES) == sorted(set(NAMES)) == sorted({n for names in PHASE_ARRAYS.values() for n in names})
  assert {m for moments in STAGE_PHASES.values() for m in moments} == set(PHASE_ARRAYS)


def test_the_teacher_is_never_there_when_the_student_is_trained() -> None:
  for moment in ("training", "rolling out"):
    assert not [name for name in PHASE_ARRAYS[moment] if name.startswith("teacher")]
  assert "moments" not in PHASE_ARRAYS["exploring"]


def test_the_fullest_moment_counts() -> None:
  found = sum_peak_by_column(ARRAYS, ("mentoring", "training"))
  sizes = {m: sum(ARRAYS[n] for n in PHASE_ARRAYS[m]) for m in ("mentoring", "training")}
  assert sum(found.values()) == max(sizes.values())
  assert sum_peak_by_column({"moments": 3, "trained weights": 5}, ("training",)) == {
    "weights": 5,
    "optimizer": 3,
    "cache": 0,
  }


def test_a_stage_shows_its_fullest_moment() -> None:
  found = list_peak_arrays_by_stage({"student weights": 1, "moments": 5, "student cache": 9}, ("rl", "sft"))
  assert found == {
    "rl": {"student weights": 1, "moments": 5, "student cache": 9},
    "sft": {"student weights": 1, "moments": 5},
  }
