"""What the stages of a recipe cost at the roofline, and the table that shows it.

A bound that no chips beat, and no forecast: each stage's tokens (drawn, read, trained on) times the least time of a
token. It holds for trajectories as `ASSUMPTIONS_TEXT` describes them. The shapes of models and meshes come from the
config, without weights and without chips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from score_jax.agent.protocol import TAGS
from score_jax.experiment.stages import STAGES
from score_jax.model import pretrained
from score_jax.model.config import (
  MODEL_CONFIGS,
  TOKENIZER_SIZES,
  DecoderConfig,
  config_from_hugging_face,
  hugging_face_model_type,
)
from score_jax.model.pretrained import pad_vocab
from score_jax.model.sharding import MESH_AXES, Meshes, resolve_mesh_shape
from score_jax.plan.fit import PlannedProgram
from score_jax.plan.memory import GIB, Topology
from score_jax.train.policy_gradient import PolicyGradientConfig


def read_decoder_config(config: ConfigDict) -> DecoderConfig:
  """The decoder that the group `student` or `teacher` names, laid out as it says."""
  shape = (
    config_from_hugging_face(MODEL_CONFIGS[config.path])
    if config.path in MODEL_CONFIGS
    else pretrained.open_pretrained(config.path).padded_config()
  )
  return dataclasses.replace(shape, stacked=config.layer_scan, lora_rank=config.get("lora_rank", 0))


def pad_vocab_for_tags(model: DecoderConfig, multiple: int) -> DecoderConfig:
  """The decoder with room for the method's tags, which take spare rows first."""
  kind = hugging_face_model_type(model)
  used = TOKENIZER_SIZES[kind] if model.vocab >= TOKENIZER_SIZES[kind] else model.vocab
  size = max(model.vocab, used + len(TAGS))
  return pad_vocab(model, size, multiple=multiple)


def make_planning_meshes(shapes: ConfigDict, chips: Topology) -> Meshes:
  """The meshes of a topology: of its devices, or of nothing but sizes where there are none."""
  if chips.can_compile:
    return Meshes.of(shapes, chips.devices)
  sizes = {use: resolve_mesh_shape(shapes[use], chips.count, use) for use in ("train", "sample", "teacher")}
  meshes: Any = {use: AbstractMesh(s, MESH_AXES, axis_types=(AxisType.Auto,) * 3) for use, s in sizes.items()}
  return Meshes(**meshes)


#: tokens that one trajectory draws and reads, and its steps
ASSUMED_DRAWN_TOKENS, ASSUMED_READ_TOKENS, ASSUMED_STEPS = 1500, 1500, 5
#: share of the questions that the student fails at first; each of them is corrected once
ASSUMED_FAILURE_RATE = 0.5
#: what is left of a trajectory from one of its steps on, when each is as likely
MEAN_REMAINING_FRACTION = (ASSUMED_STEPS + 1) / (2 * ASSUMED_STEPS)
ASSUMPTIONS_TEXT = (
  f"if a trajectory has {ASSUMED_STEPS} steps, draws {ASSUMED_DRAWN_TOKENS} tokens and reads {ASSUMED_READ_TOKENS}, "
  f"and the student fails {ASSUMED_FAILURE_RATE:.0%} of the questions at first"
)


def estimate_stage_hours(
  config: ConfigDict, programs: Sequence[PlannedProgram], chips: Topology
) -> dict[str, dict[str, float]]:
  """Seconds and chip-hours of the stages that the config lists, other arms left out, and of evaluating their models."""
  costs = StageCosts(config, {(p.model, p.name): p.roofline_s / p.tokens for p in programs if p.tokens})
  seconds = {name: found for name in config.stages if (found := costs.stage_seconds(name)) is not None}
  seconds["eval"] = costs.evaluation_seconds()
  return {name: {"seconds": s, "chip_hours": s * chips.count / 3600} for name, s in seconds.items()}


class StageCosts:
  """Seconds, from those that a token takes in each program of each model; a program that is not there costs none."""

  def __init__(self, config: ConfigDict, per_token: Mapping[tuple[str, str], float]):
    self._config, self._per_token = config, per_token
    self._teaches = config.teacher.kind == "model"  # on these chips
    self._warm = config.tasks.train * config.warm_start.share
    self._mentored = config.tasks.train - self._warm

  def stage_seconds(self, stage: str) -> float | None:
    """Of a stage of that name; None where it is not known here what it takes."""
    c, known = self._config, STAGES[stage]
    if stage == "mps":
      return self.mentoring_seconds()
    if known.sft_data == "few_demonstrations":
      return self._warm * self.rollout_seconds("teacher") + self.training_seconds(self._warm * c.warm_start.epochs)
    if known.sft_data == "bought_demonstrations":
      bought = self._warm + self.teacher_rollouts() if self._teaches else c.tasks.train
      return bought * self.rollout_seconds("teacher") + self.training_seconds(bought * c.bc.epochs)
    if known.sft_data == "corrected":
      return self.training_seconds(self._mentored / 2 * c.sft.epochs)
    if known.rl_starts in ("prefixes", "questions_of_prefixes", "questions_for_rl"):
      return self.rl_seconds()
    return None

  def mentoring_seconds(self) -> float:
    """First tries, what locates their errors, and what goes on from the corrections."""
    c = self._config
    after = MEAN_REMAINING_FRACTION * (2 * c.mps.tries if c.mps.tries > 1 else 1)
    seconds = self._mentored * (1 + ASSUMED_FAILURE_RATE * after) * self.rollout_seconds("student")
    if self._teaches or (c.teacher.kind == "prompted" and c.teacher.locate != "prompted"):
      seconds += self.counterfactual_rollouts() * self.rollout_seconds(c.mps.continue_by)
    if self._teaches and c.mps.continue_by == "student":
      seconds += self.teacher_rollouts() * self.rollout_seconds("teacher")
    return seconds

  def teacher_rollouts(self) -> float:
    """The teacher's rollouts of mentoring: those that locate errors, or where the student's do, a step for each."""
    by_teacher = self._config.mps.continue_by == "teacher"
    return self.counterfactual_rollouts() if by_teacher else self._mentored * ASSUMED_FAILURE_RATE / ASSUMED_STEPS

  def counterfactual_rollouts(self) -> float:
    """Rollouts that locate errors by counterfactuals: M from every prefix of each failure."""
    return (
      self._mentored * ASSUMED_FAILURE_RATE * self._config.mps.continuations * ASSUMED_STEPS * MEAN_REMAINING_FRACTION
    )

  def rl_seconds(self) -> float:
    """RL: rollouts, their update, and what scores them before."""
    rl = self._config.rl
    rollouts = rl.steps * rl.prompts * rl.group_size
    scored = PolicyGradientConfig.from_config(rl).student_scoring_passes
    return (
      rollouts * self.rollout_seconds("student")
      + self.training_seconds(rollouts, "policy_gradient_step")
      + scored * self.training_seconds(rollouts, "score")
      + self.training_seconds(rollouts, "score", "teacher")
    )

  def evaluation_seconds(self) -> float:
    """The test questions by the untrained student, by each stage that trains, and by a teacher on these chips."""
    c = self._config
    students = 1 + sum(bool(STAGES[name].init_from) for name in c.stages)
    each = students * self.rollout_seconds("student") + self._teaches * self.rollout_seconds("teacher")
    return c.tasks.test * c.eval.tries * each

  def rollout_seconds(self, model: str) -> float:
    return ASSUMED_DRAWN_TOKENS * self._a_token(model, "decode") + ASSUMED_READ_TOKENS * self._a_token(model, "extend")

  def training_seconds(self, trajectories: float, program: str = "sft_step", model: str = "student") -> float:
    return trajectories * (ASSUMED_DRAWN_TOKENS + ASSUMED_READ_TOKENS) * self._a_token(model, program)

  def _a_token(self, model: str, program: str) -> float:
    return self._per_token.get((model, program), 0.0)


def format_program(program: PlannedProgram) -> str:
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


def format_summary(found: Mapping[str, Any]) -> str:
  """What stands below the programs."""
  kind = "compiled" if found["compiled"] else "estimated from shapes, not compiled"
  lines = ["", f"{found['topology']}: {found['chips']} chips of {found['memory_bytes'] / GIB:.2f} GiB; {kind}", ""]
  lines.append("resident on each chip, when most is")
  for stage, arrays in found["resident"].items():
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in arrays.items())
    lines.append(f"  {stage:<17} {sum(arrays.values()) / GIB:6.2f} GiB: {parts}")
  lines += ["", f"at the roofline, {ASSUMPTIONS_TEXT} (a bound, not a forecast)"]
  for stage, cost in found["stages"].items():
    lines.append(f"  {stage:<17} {cost['seconds'] / 3600:8.2f} h {cost['chip_hours']:10.1f} chip-hours")
  lines += ["", "everything fits" if found["fits"] else "NOT everything fits; see the remedies above"]
  return "\n".join(lines)
