"""When each alarm goes off: a planted pathology and a healthy stage for every one, with the values written down."""

from __future__ import annotations

from typing import Any

import pytest

from score_jax.errors import UserError
from score_jax.rl.alarms import (
  ALARM_RULES,
  Alarm,
  check_alarm_config,
  compute_rule_value,
  evaluate_rules,
  find_fired_alarms,
  measure_worst_update,
)
from tests.configs import module

SETTINGS: dict[str, Any] = module("quickstart").get_config().alarms.to_dict()
BY_NAME = {sign.name: sign for sign in ALARM_RULES}

Series = list[float]
#: alarm -> (metric by step that sets it off, its value then; one that does not)
PLANTED: dict[str, tuple[Series, float, Series]] = {
  "no_signal": ([0.5, 1.0, 1.0, 1.0, 1.0, 0.8], 0.96, [1.0, 0.5, 1.0, 1.0, 1.0]),  # the healthy mean is 0.9
  "length_bias": ([1.0] * 5 + [2.0, 2.0, 2.0], 1.6, [2.0] * 5 + [2.8] * 5),  # wrong ones were longer from the start
  "cut_off": ([0.3, 0.4, 0.4, 0.5, 0.5], 0.42, [0.4] * 9),
  "thought_entropy": ([1.0] * 5 + [0.1] * 4, 0.28, [0.01] * 5 + [0.001] * 5),  # a confident student is no collapsed one
  "code_entropy": ([0.5] * 5 + [0.05] * 4, 0.28, [0.5] * 5 + [0.2] * 5),
  "first_steps": ([0.5] * 5 + [0.02] * 4, 0.232, [0.05] * 5 + [0.0] * 5),  # nor one whose plan is the only one
  "pass_at_g": ([0.8, 0.9, 0.2], 0.25, [0.8, 1.0, 0.4]),
  "bad_format": ([0.0, 0.0, 0.0, 0.8, 0.8], 0.32, [1.0, 0.1, 0.1, 0.1, 0.1]),
  "code_free": ([0.25] * 5, 0.25, [0.2] * 5),
  "kl": ([0.0, 0.1, 0.7], 0.7, [0.0, 0.1, 0.5]),
  "ess": ([0.4, 0.4, 0.4, 0.4, 0.6], 0.44, [0.9, 0.1, 0.9, 0.9, 0.9]),  # once is not yet an alarm
  "clipped": ([0.4] * 5, 0.4, [0.1, 0.1, 0.9, 0.1, 0.1]),
  "stale_prefix": ([-0.2, -1.5], -1.5, [-0.2, -1.0]),
  "unsupported": ([0.2, 0.6, 0.6, 0.6, 0.6], 0.52, [0.5] * 8),
}


def lines_of(name: str, values: Series) -> list[dict[str, float]]:
  return [{"step": i, BY_NAME[name].metric: value} for i, value in enumerate(values)]


def off(name: str, values: Series) -> Alarm | None:
  lines = lines_of(name, values)
  return evaluate_rules(lines, len(lines) - 1, SETTINGS).get(name)


def test_every_alarm_has_a_pathology_and_a_threshold() -> None:
  assert PLANTED.keys() == BY_NAME.keys() == SETTINGS.keys() - {"stop", "window", "probe"}
  assert all(SETTINGS[name] for name in BY_NAME)
  assert SETTINGS["window"] == 5, "which the values above are for"


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_pathology_sets_its_alarm_off(name: str) -> None:
  planted, expected, _ = PLANTED[name]
  alarm = off(name, planted)
  assert alarm is not None
  assert alarm.value == pytest.approx(expected)
  assert (alarm.step, alarm.threshold) == (len(planted) - 1, SETTINGS[name])
  assert all(off(name, planted[:end]) is None for end in range(1, len(planted))), "not before"


@pytest.mark.parametrize("name", PLANTED)
def test_a_healthy_stage_sets_none_off(name: str) -> None:
  healthy = PLANTED[name][2]
  assert [off(name, healthy[:end]) for end in range(1, len(healthy) + 1)] == [None] * len(healthy)


@pytest.mark.parametrize("name", PLANTED)
def test_a_threshold_of_0_turns_it_off(name: str) -> None:
  lines = lines_of(name, PLANTED[name][0])
  assert evaluate_rules(lines, 9, SETTINGS | {name: 0}) == {}


def test_a_mean_is_rounded_once_on_every_python() -> None:
  """Added one by one, ten times 0.1 is 0.9999999999999999, and alarms of one run would differ between Pythons."""
  lines = lines_of("no_signal", [0.1] * 10)
  assert compute_rule_value(BY_NAME["no_signal"], lines, 10) == 0.1


def test_a_relative_sign_is_held_against_the_first_window() -> None:
  """The mean of the last two, 1, by that of the first two, 2; by the first alone it would be 1."""
  lines = lines_of("thought_entropy", [1.0, 3.0, 1.5, 0.5])
  assert compute_rule_value(BY_NAME["thought_entropy"], lines, 2) == 0.5


def test_steps_without_the_number_do_not_count() -> None:
  sign = BY_NAME["pass_at_g"]
  lines: list[dict[str, float]] = [{"probe_pass": 0.8}, {"loss": 0.0}, {"probe_pass": 0.2}, {"loss": 0.0}]
  assert compute_rule_value(sign, lines[:3], 5) == 0.25
  assert compute_rule_value(sign, lines, 5) is None, "the last line has none"
  assert compute_rule_value(sign, [], 5) is None
  assert compute_rule_value(sign, [{"probe_pass": 0.0}, {"probe_pass": 0.0}], 5) is None, "no part of nothing"


def test_the_worst_update_of_a_step_counts() -> None:
  """Of the eighth of a batch's updates clipping takes 0.35, which the mean over all would hide."""
  drifting = {f"ess/{i}": 1.0 - 0.1 * i for i in range(8)} | {f"clip_share_low/{i}": 0.02 * i for i in range(8)}
  found = measure_worst_update(drifting | {f"clip_share_high/{i}": 0.03 * i for i in range(8)} | {"ess": 0.65})
  assert found == pytest.approx({"ess_least": 0.3, "clip_share_greatest": 0.35})
  assert measure_worst_update({"loss": 0.0, "grad_norm": 0.0}) == {}, "a step that learnt nothing"


def test_what_metrics_say_is_told_once_where_it_was_first() -> None:
  """As after a restart, with other thresholds: those alarms have been told."""
  lines = lines_of("kl", [0.1, 0.7, 0.9])
  lines = [line | {"alarm/kl": float(i > 0), "alarm/ess": 0.0} for i, line in enumerate(lines)]
  (alarm,) = find_fired_alarms(lines, SETTINGS | {"kl": 5.0})
  assert (alarm.rule.name, alarm.step, alarm.value) == ("kl", 1, 0.7)


def test_an_alarm_says_what_it_means_and_what_to_do() -> None:
  text = str(Alarm(BY_NAME["code_entropy"], 7, 0.2812, 0.3))
  assert text == (
    "alarm code_entropy at step 7: entropy_code / what it was at first is 0.281, under 0.3. Code is nearly always the "
    "same: the policy is collapsing. Remedy: raise rl.clip_high (DAPO), lower rl.learning_rate, or set rl.kl"
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"stop": ("entropie",)}, "there is no alarm 'entropie'; choose from no_signal, length_bias"),
    ({"window": 0}, "alarms.window = 0; give 1 step or more"),
    ({"probe": -1}, "alarms.probe = -1; give a number of questions"),
  ],
)
def test_settings_without_sense_are_refused(change: dict[str, Any], message: str) -> None:
  check_alarm_config(SETTINGS)
  with pytest.raises(UserError, match=message):
    check_alarm_config(SETTINGS | change)
