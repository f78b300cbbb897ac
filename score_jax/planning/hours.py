"""What the stages of a recipe take at the roofline: what each one draws, reads and trains on, by what a token takes.

A bound that no chips beat, and no forecast. It is worth no more than what it takes a run to be, which stands first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from score_jax.arms import STAGES
from score_jax.planning.chips import Topology
from score_jax.planning.verdict import Planned
from score_jax.train.policy_gradient import PolicyGradient

#: tokens that one trajectory draws and reads, and its steps
DRAWN, READ, STEPS = 1500, 1500, 5
#: share of the questions that the student fails at first; each of them is corrected once
FAILED = 0.5
#: what is left of a trajectory from one of its steps on, when each is as likely
REST = (STEPS + 1) / (2 * STEPS)
ASSUMED = (
  f"if a trajectory has {STEPS} steps, draws {DRAWN} tokens and reads {READ}, and the student fails {FAILED:.0%} of "
  "the questions at first"
)


def hours(config: ConfigDict, programs: Sequence[Planned], chips: Topology) -> dict[str, dict[str, float]]:
  """Seconds and chip-hours of the stages that the config lists, other arms left out, and of evaluating their models."""
  costs = Costs(config, {(p.model, p.name): p.roofline_s / p.tokens for p in programs if p.tokens})
  seconds = {name: found for name in config.stages if (found := costs.of(name)) is not None}
  seconds["eval"] = costs.evaluation()
  return {name: {"seconds": s, "chip_hours": s * chips.count / 3600} for name, s in seconds.items()}


class Costs:
  """Seconds, from those that a token takes in each program of each model; a program that is not there costs none."""

  def __init__(self, config: ConfigDict, per_token: Mapping[tuple[str, str], float]):
    self._config, self._per_token = config, per_token
    self._teaches = config.teacher.kind == "model"  # on these chips
    self._warm = config.tasks.train * config.warm_start.share
    self._mentored = config.tasks.train - self._warm

  def of(self, stage: str) -> float | None:
    """Of a stage of that name; None where it is not known here what it takes."""
    c, known = self._config, STAGES[stage]
    if stage == "mps":
      return self.mentoring()
    if known.lessons == "few_demonstrations":
      return self._warm * self.rollout("teacher") + self.training(self._warm * c.warm_start.epochs)
    if known.lessons == "bought_demonstrations":
      bought = self._warm + self.written() if self._teaches else c.tasks.train
      return bought * self.rollout("teacher") + self.training(bought * c.bc.epochs)
    if known.lessons == "corrected":
      return self.training(self._mentored / 2 * c.sft.epochs)
    if known.starts in ("prefixes", "questions_of_prefixes", "questions_for_rl"):
      return self.exploring()
    return None

  def mentoring(self) -> float:
    """First tries, what locates their errors, and what goes on from the corrections."""
    c = self._config
    after = REST * (2 * c.mps.tries if c.mps.tries > 1 else 1)
    seconds = self._mentored * (1 + FAILED * after) * self.rollout("student")
    if self._teaches or (c.teacher.kind == "prompted" and c.teacher.locate != "prompted"):
      seconds += self.taught() * self.rollout(c.mps.continue_by)
    if self._teaches and c.mps.continue_by == "student":
      seconds += self.written() * self.rollout("teacher")
    return seconds

  def written(self) -> float:
    """The teacher's rollouts of mentoring: those that locate errors, or where the student's do, a step for each."""
    by_teacher = self._config.mps.continue_by == "teacher"
    return self.taught() if by_teacher else self._mentored * FAILED / STEPS

  def taught(self) -> float:
    """Rollouts that locate errors by counterfactuals: M from every prefix of each failure."""
    return self._mentored * FAILED * self._config.mps.continuations * STEPS * REST

  def exploring(self) -> float:
    """RL: rollouts, their update, and what scores them before."""
    rl = self._config.rl
    rollouts = rl.steps * rl.prompts * rl.group_size
    scored = PolicyGradient.of(rl).student_scores
    return (
      rollouts * self.rollout("student")
      + self.training(rollouts, "policy_gradient_step")
      + scored * self.training(rollouts, "score")
      + self.training(rollouts, "score", "teacher")
    )

  def evaluation(self) -> float:
    """The test questions by the untrained student, by each stage that trains, and by a teacher on these chips."""
    c = self._config
    students = 1 + sum(bool(STAGES[name].begin) for name in c.stages)
    each = students * self.rollout("student") + self._teaches * self.rollout("teacher")
    return c.tasks.test * c.eval.tries * each

  def rollout(self, model: str) -> float:
    return DRAWN * self._a_token(model, "decode") + READ * self._a_token(model, "extend")

  def training(self, trajectories: float, program: str = "sft_step", model: str = "student") -> float:
    return trajectories * (DRAWN + READ) * self._a_token(model, program)

  def _a_token(self, model: str, program: str) -> float:
    return self._per_token.get((model, program), 0.0)
