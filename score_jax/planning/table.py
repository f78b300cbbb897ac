"""The plan in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from score_jax.planning.chips import GIB, Topology
from score_jax.planning.verdict import Planned
from score_jax.train.policy_gradient import PolicyGradient

#: tokens that one trajectory draws and reads, with which stages are costed
DRAWN, READ = 1500, 1500


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


def stages(config: ConfigDict, programs: Sequence[Planned], chips: Topology) -> dict[str, dict[str, float]]:
  """Seconds and chip-hours of each stage at the roofline, for `DRAWN` tokens drawn and `READ` read a trajectory."""
  by_name = {(p.model, p.name): p for p in programs}

  def per_token(model: str, name: str) -> float:
    program = by_name.get((model, name))
    return program.roofline_s / program.tokens if program and program.tokens else 0.0

  def rollout(model: str) -> float:
    return DRAWN * per_token(model, "decode") + READ * per_token(model, "extend")

  def training(trajectories: float, passes: float, name: str = "sft_step", model: str = "student") -> float:
    return trajectories * passes * (DRAWN + READ) * per_token(model, name)

  c, scores = config, PolicyGradient.of(config.rl).student_scores
  warm, mentored = c.tasks.train * c.warm_start.share, c.tasks.train * (1 - c.warm_start.share)
  rollouts = c.rl.steps * c.rl.prompts * c.rl.group_size
  seconds = {
    "warm_start": warm * rollout("teacher") + training(warm, c.warm_start.epochs),
    "mps": mentored * (2 * rollout("student") + rollout("teacher")),
    "sft": training(mentored / 2, c.sft.epochs),
    "rl": rollouts * rollout("student")
    + training(rollouts, 1, "policy_gradient_step")
    + training(rollouts, scores, "score")
    + training(rollouts, 1, "score", "teacher"),
    "eval": c.tasks.test * c.eval.tries * rollout("student"),
  }
  return {name: {"seconds": s, "chip_hours": s * chips.count / 3600} for name, s in seconds.items()}


def render(found: Mapping[str, Any]) -> str:
  """What stands below the programs."""
  kind = "compiled" if found["compiled"] else "estimated from shapes, not compiled"
  lines = ["", f"{found['topology']}: {found['chips']} chips of {found['memory_bytes'] / GIB:.2f} GiB; {kind}", ""]
  lines.append("resident on each chip, when most is")
  for stage, arrays in found["resident"].items():
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in arrays.items())
    lines.append(f"  {stage:<17} {sum(arrays.values()) / GIB:6.2f} GiB: {parts}")
  lines += ["", f"at the roofline, if a trajectory draws {DRAWN} tokens and reads {READ} (a bound, not a forecast)"]
  for stage, cost in found["stages"].items():
    lines.append(f"  {stage:<17} {cost['seconds'] / 3600:8.2f} h {cost['chip_hours']:10.1f} chip-hours")
  lines += ["", "everything fits" if found["fits"] else "NOT everything fits; see the remedies above"]
  return "\n".join(lines)
