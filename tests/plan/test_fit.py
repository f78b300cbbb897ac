"""Whether a program fits, at the last byte."""

from __future__ import annotations

import pytest

from score_jax.plan.fit import plan_program
from score_jax.plan.memory import Chip, Topology
from score_jax.plan.programs import DeviceProgram

#: a chip of 1 GiB that nothing can be compiled for
SMALL = Topology("small:1", Chip("gpu", 1.0, 1e12, 1e9), 1, ())
ARRAYS = {"student weights": 2**29, "student cache": 2**28, "teacher weights": 2**40}


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_a_chip_of_one_gib_holds_its_last_byte(more: int, fits: bool) -> None:
  """Weights take a half of it, the cache a quarter, the program the rest; the teacher is not there at that moment."""

  def lower() -> None:
    raise AssertionError("nothing can be compiled")

  program = DeviceProgram("decode", "student", ("evaluating",), lower, 1e9, 1, 2e9, 2**28 + more, "lower it")
  found = plan_program(program, ARRAYS, SMALL)
  assert found.bytes["total"] == 2**30 + more
  assert (found.fits, found.compiled, found.remedy) == (fits, False, "" if fits else "lower it")
  assert found.roofline_s == 2.0, "2 GB at 1 GB/s"
