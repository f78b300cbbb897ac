"""The plan in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from score_jax.planning.chips import GIB
from score_jax.planning.hours import ASSUMED
from score_jax.planning.verdict import Planned


def line(program: Planned) -> str:
  """One program."""
  b = {name: size / GIB for name, size in program.bytes.items()}
  verdict = "fits" if program.fits else "DOES NOT FIT"
  how = f"compiled in {program.compile_s:.0f} s" if program.compiled else "estimate"
  parts = " + ".join(f"{name} {b[name]:.2f}" for name in ("weights", "optimizer", "cache", "activations"))
  text = (
    f"{program.model:>8} {program.name:<21} {verdict:<12} {b['total']:6.2f} GiB ({parts}), "
    f"{program.flops / 1e12:,.1f} TFLOP, at least {program.roofline_s * 1e3:,.1f} ms, {how}"
  )
  if program.collectives:
    found = (f"{c['count']} {c['kind']} of {c['bytes'] / 2**20:,.0f} MiB" for c in program.collectives)
    text += f"\n{'':>30} {', '.join(found)} (in a loop: once a layer or step)"
  return text if program.fits else f"{text}\n{'':>30} {program.remedy}"


def render(found: Mapping[str, Any]) -> str:
  """What stands below the programs."""
  kind = "compiled" if found["compiled"] else "estimated from shapes, not compiled"
  lines = ["", f"{found['topology']}: {found['chips']} chips of {found['memory_bytes'] / GIB:.2f} GiB; {kind}", ""]
  lines.append("resident on each chip, when most is")
  for stage, arrays in found["resident"].items():
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in arrays.items())
    lines.append(f"  {stage:<17} {sum(arrays.values()) / GIB:6.2f} GiB: {parts}")
  lines += ["", f"at the roofline, {ASSUMED} (a bound, not a forecast)"]
  for stage, cost in found["stages"].items():
    lines.append(f"  {stage:<17} {cost['seconds'] / 3600:8.2f} h {cost['chip_hours']:10.1f} chip-hours")
  lines += ["", "everything fits" if found["fits"] else "NOT everything fits; see the remedies above"]
  return "\n".join(lines)
