"""Alarm rules of RL training: what each rule measures, what it means, and the remedy. Pure functions of the metrics.

Each rule reads one metric. A metric of every step is averaged over the last `alarms.window` steps; a metric that is
measured only at checkpoints is used as it is. A `relative` rule divides that mean by the first mean of the stage.
Alarms depend on metrics and thresholds only, so a resumed run raises the same alarms.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from score_jax.errors import UserError

StepMetrics = Mapping[str, float]  # metrics of one step, by name


@dataclasses.dataclass(frozen=True)
class AlarmRule:
  """One kind of alarm. `name` is also the name of its threshold in the config group `alarms`."""

  name: str
  metric: str
  above: bool  # fires above its threshold; False: below it
  meaning: str
  remedy: str
  relative: bool = False
  min_first_value: float = 0.0  # with a first mean at or below this the rule is not evaluated: nothing can fall
  at_checkpoints_only: bool = False  # measured only when a checkpoint is saved

  @property
  def quantity(self) -> str:
    """The quantity that is compared with the threshold, in words."""
    return f"{self.metric} / what it was at first" if self.relative else self.metric


ALARM_RULES = (
  AlarmRule(
    "no_signal",
    "no_signal_groups",
    True,
    "nearly all groups earn the same throughout, so nothing is learnt from them",
    "no_signal_right: take harder starts; no_signal_wrong: easier ones (more SFT, rl.keep_hard = 0), or a greater "
    "rl.group_size",
  ),
  AlarmRule(
    "length_bias",
    "length_ratio",
    True,
    "wrong rollouts grow longer against right ones: the loss may pay for length",
    "rl.normaliser = 'constant' with rl.scale = 'none' (Dr. GRPO)",
    relative=True,
  ),
  AlarmRule(
    "cut_off",
    "cut_off",
    True,
    "rollouts end at a limit of acts, tokens or context, and earn nothing whatever they were about to do",
    "raise agent.acts, agent.turn_tokens or sampler.length (with rl.length)",
  ),
  AlarmRule(
    "thought_entropy",
    "entropy_thought",
    False,
    "thoughts are nearly always the same: the policy is collapsing",
    "raise rl.clip_high (DAPO), lower rl.learning_rate, or set rl.kl",
    relative=True,
    min_first_value=0.02,
  ),
  AlarmRule(
    "code_entropy",
    "entropy_code",
    False,
    "code is nearly always the same: the policy is collapsing",
    "raise rl.clip_high (DAPO), lower rl.learning_rate, or set rl.kl",
    relative=True,
    min_first_value=0.02,
  ),
  AlarmRule(
    "first_steps",
    "distinct_first_steps",
    False,
    "a group's rollouts begin with the same step, so that they explore nothing",
    "raise rl.temperature, set rl.kl, or go back to an earlier checkpoint",
    relative=True,
    min_first_value=0.1,
  ),
  AlarmRule(
    "pass_at_g",
    "probe_pass",
    False,
    "fewer of the probe's questions are solved in any of G tries: the policy narrows down",
    "go back to an earlier checkpoint; set rl.kl or lower rl.learning_rate",
    relative=True,
    at_checkpoints_only=True,
  ),
  AlarmRule(
    "bad_format",
    "bad_format",
    True,
    "turns are malformed",
    "more warm start or SFT (epochs), or a lower rl.learning_rate",
  ),
  AlarmRule(
    "code_free",
    "code_free",
    True,
    "acts hold no code: the policy talks instead of computing",
    "look at the trajectories; more SFT, or grade on what code shows",
  ),
  AlarmRule(
    "kl",
    "kl_from_start",
    True,
    "the policy is far from the weights that RL began with",
    "set rl.kl, lower rl.learning_rate, or take fewer steps",
    at_checkpoints_only=True,
  ),
  AlarmRule(
    "ess",
    "ess_least",
    False,
    "the later updates of a step learn from rollouts that are no longer the policy's",
    "fewer updates a step (raise rl.minibatch) or a lower rl.learning_rate",
  ),
  AlarmRule(
    "clipped",
    "clip_share_greatest",
    True,
    "clipping stops much of the gradient in the later updates of a step",
    "fewer updates a step (raise rl.minibatch) or a lower rl.learning_rate",
  ),
  AlarmRule(
    "stale_prefix",
    "prefix_logprob_change",
    False,
    "the policy would not write the prefixes that it starts from any more",
    "mentor once more with the weights as they are, or take fewer steps",
    at_checkpoints_only=True,
  ),
  AlarmRule(
    "unsupported",
    "unsupported_right",
    True,
    "right answers are submitted that nothing computed, found or given supports: guesses, or a grader that is fooled",
    "read such rollouts in the report; mend the grader, or leave out questions that can be guessed",
  ),
)


@dataclasses.dataclass(frozen=True)
class Alarm:
  """A rule that fired, with the step at which it first did."""

  rule: AlarmRule
  step: int
  value: float
  threshold: float

  def __str__(self) -> str:
    side = "over" if self.rule.above else "under"
    return (
      f"alarm {self.rule.name} at step {self.step}: {self.rule.quantity} is {self.value:.3g}, {side} "
      f"{self.threshold:g}. {_sentence(self.rule.meaning)} Remedy: {self.rule.remedy}"
    )


def _sentence(text: str) -> str:
  return f"{text[0].upper()}{text[1:]}."


def measure_worst_update(numbers: StepMetrics) -> dict[str, float]:
  """The lowest ESS and the greatest clip share among the updates of a step (metrics NAME/0, NAME/1, …)."""

  def of_updates(name: str) -> list[float]:
    return [value for key, value in numbers.items() if key.startswith(f"{name}/")]

  ess, low, high = (of_updates(name) for name in ("ess", "clip_share_low", "clip_share_high"))
  return {"ess_least": min(ess), "clip_share_greatest": max(map(sum, zip(low, high, strict=True)))} if ess else {}


def compute_rule_value(rule: AlarmRule, lines: Sequence[StepMetrics], window: int) -> float | None:
  """The value to compare with the threshold after these steps; None: not measured in the last, or too few steps."""
  size = 1 if rule.at_checkpoints_only else window
  if not lines or rule.metric not in lines[-1]:
    return None
  values = [line[rule.metric] for line in lines if rule.metric in line]
  if len(values) < size:
    return None
  # fmean rounds once; the result of the built-in sum of floats changed in Python 3.12
  now, first = statistics.fmean(values[-size:]), statistics.fmean(values[:size])
  if not rule.relative:
    return now
  return now / first if first > rule.min_first_value else None


def evaluate_rules(lines: Sequence[StepMetrics], step: int, settings: Mapping[str, Any]) -> dict[str, Alarm | None]:
  """The alarm of each rule that can be evaluated after these steps, by name; None: the rule does not fire.

  Args:
    lines: metrics of the stage so far; the last entry is of `step`.
  """
  alarms: dict[str, Alarm | None] = {}
  for rule in ALARM_RULES:
    threshold = settings[rule.name]
    now = compute_rule_value(rule, lines, settings["window"]) if threshold else None
    if now is not None:
      fires = now > threshold if rule.above else now < threshold
      alarms[rule.name] = Alarm(rule, step, now, threshold) if fires else None
  return alarms


def find_fired_alarms(lines: Sequence[StepMetrics], settings: Mapping[str, Any]) -> Iterator[Alarm]:
  """The alarms that a stage's logged metrics record, each at the step where it first fired.

  `lines` hold their step under the key "step".
  """
  for rule in ALARM_RULES:
    first = next((i for i, line in enumerate(lines) if line.get(f"alarm/{rule.name}") == 1.0), None)
    if first is not None and (now := compute_rule_value(rule, lines[: first + 1], settings["window"])) is not None:
      yield Alarm(rule, int(lines[first]["step"]), now, settings[rule.name])


def check_alarm_config(settings: Mapping[str, Any]) -> None:
  """Rejects invalid settings of the config group `alarms`."""
  names = [rule.name for rule in ALARM_RULES]
  for name in settings["stop"]:
    if name not in names:
      raise UserError(f"alarms.stop: there is no alarm {name!r}; choose from {', '.join(names)}")
  if settings["window"] < 1:
    raise UserError(f"alarms.window = {settings['window']}; give 1 step or more")
  if settings["probe"] < 0:
    raise UserError(f"alarms.probe = {settings['probe']}; give a number of questions, or 0 for none")
