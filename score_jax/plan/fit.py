"""Whether a program fits: compiled ahead of time where that can be done, estimated from shapes elsewhere."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from score_jax.plan.memory import GIB, Topology, compute_roofline_seconds, sum_peak_by_column
from score_jax.plan.programs import DeviceProgram, count_collectives


@dataclasses.dataclass(frozen=True)
class PlannedProgram:
  """What came of one program."""

  name: str
  model: str
  fits: bool
  compiled: bool  # else its figures are estimates
  bytes: dict[str, int]  # on a device: weights, optimizer, cache, activations, total
  flops: float  # of one call, all devices
  roofline_s: float  # of one call
  tokens: int
  compile_s: float
  collectives: list[dict[str, Any]]
  remedy: str  # empty where it fits


def plan_program(program: DeviceProgram, arrays: Mapping[str, int], chips: Topology) -> PlannedProgram:
  """Compiles one program, or estimates what it needs where that cannot be done here."""
  columns = sum_peak_by_column(arrays, program.phases)
  start = time.perf_counter()
  refused, found = "", []
  if not chips.can_compile:
    activations = int(program.temporary_bytes)
  else:
    try:
      compiled = program.lower().compile()
    except Exception as error:  # XLA's, which says how much it wanted
      refused = _reason(error)
      activations = 0
    else:
      memory = compiled.memory_analysis()
      kept = memory.output_size_in_bytes - memory.alias_size_in_bytes
      activations = memory.temp_size_in_bytes + max(kept, 0) + memory.generated_code_size_in_bytes
      found = [dataclasses.asdict(c) for c in count_collectives(compiled.as_text())]
  total = sum(columns.values()) + activations
  fits = not refused and total <= chips.chip.memory_gib * GIB
  return PlannedProgram(
    program.name,
    program.model,
    fits,
    chips.can_compile and not refused,
    {**columns, "activations": activations, "total": total},
    program.flops,
    compute_roofline_seconds(program.flops, program.bytes_read, chips.chip, chips.count),
    program.tokens,
    time.perf_counter() - start if chips.can_compile else 0.0,
    found,
    "" if fits else f"{refused + '; ' if refused else ''}{program.advice}",
  )


def _reason(error: Exception) -> str:
  """The line of XLA's message that says what was too much; any other error is a bug and goes on.

  Raises:
    Exception: the one given.
  """
  if "RESOURCE_EXHAUSTED" not in str(error):
    raise error
  lines = [line.strip() for line in str(error).splitlines() if "Used" in line or "exceeds" in line.lower()]
  return (lines or [str(error).splitlines()[0]])[0][:200]
