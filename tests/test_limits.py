"""Numbers of configs and command lines: each has its limits, and what makes no sense is refused."""

from __future__ import annotations

import argparse
import math
from typing import Any

import pytest
from ml_collections import ConfigDict

from score_jax.command import flatten_dict
from score_jax.config import load_config
from score_jax.errors import UserError
from score_jax.limits import (
  NUMBER_LIMITS,
  PORT,
  POSITIVE,
  POSITIVE_INT,
  check_numbers,
  find_limit,
  iter_numbers,
  make_argparse_type,
)
from tests.configs import ROOT, module

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def with_value(key: str, value: Any) -> ConfigDict:
  """A config with this one setting, whatever its type."""
  for part in reversed(key.split(".")):
    value = ConfigDict({part: value})
  return value


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_a_shipped_config_has_limits_and_keeps_them(name: str) -> None:
  """A new knob needs a line in the table."""
  config = module(name).get_config("")
  found = list(iter_numbers(config))
  assert [key for key, _ in found if find_limit(key) is None] == []
  check_numbers(config)
  # counted another way: every number that the config as JSON data has
  leaves = [
    one for v in flatten_dict(config.to_dict()).values() for one in (v if isinstance(v, list | tuple) else (v,))
  ]
  assert len(found) == sum(isinstance(one, int | float) and not isinstance(one, bool) for one in leaves)


@pytest.mark.parametrize("name", ["quickstart", "evaluate", "quickstart_pretrain", "smollm2_gsm8k", "smollm2_prompted"])
def test_the_smoke_configs_keep_the_limits(name: str) -> None:
  check_numbers(load_config(str(ROOT / "configs" / f"{name}.py:smoke")))


@pytest.mark.parametrize("key", sorted(NUMBER_LIMITS))
def test_nan_infinity_and_truth_values_are_refused_everywhere(key: str) -> None:
  limit = NUMBER_LIMITS[key]
  assert not any(map(limit.allows, (math.nan, math.inf, -math.inf, True, False, "1", None)))
  assert limit.allows(1.5) == (not limit.whole and limit.max_value > 1.5 and limit.min_value < 1.5)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("limit", -1),
    ("tries", -1),
    ("tasks.test", -1),
    ("tasks.train", -1),
    ("tasks.train", 0),
    ("tasks.validation", -1),
    ("eval.tries", 0),
    ("eval.part", 0),
    ("agent.acts", 0),
    ("agent.turn_tokens", -5),
    ("sampler.slots", 0),
    ("sampler.rows", (8, 0)),
    ("train.epochs", 1.5),
    ("bc.epochs", -1),
    ("sft.epochs", 0),
    ("rl.steps", -1),
    ("rl.steps", 0),
    ("rl.group_size", 0),
    ("rl.length", 1.5),
    ("rl.clip_low", math.nan),
    ("rl.temperature", 0.0),
    ("rl.keep_hard", 1.5),
    ("warm_start.share", -0.1),
    ("warm_start.share", 1.1),
    ("mps.delta", 0.0),
    ("mps.tries", 0),
    ("mps.depth_probe", -1),
    ("student.top_p", 0.0),
    ("student.top_p", 1.1),
    ("student.top_k", -1),
    ("student.temperature", -0.1),
    ("teacher.step_temperature", -0.1),
    ("student.repetition_penalty", 0.0),
    ("student.lora_rank", -1),
    ("warm_start.learning_rate", 0.0),
    ("train.warmup", 1.5),
    ("train.max_norm", 0.0),
    ("train.keep_checkpoints", 0),
    ("mesh.train", (-2, 1, 1)),
    ("mesh.sample", (0, 1, 1)),
    ("hosts.timeout_s", 0.0),
    ("tools.timeout_s", -1.0),
    ("tools.search.retries", -1),
    ("chat.usd_per_million", (0.0, -1.0)),
    ("survival.grace_s", -1.0),
    ("alarms.cut_off", -0.1),
    ("alarms.stale_prefix", 0.5),
    ("profile.steps", -1),
    ("teacher.lessons.short.worlds", 0),
    ("teacher.lessons.full.detours", 1.5),
    ("seed", -1),
  ],
)
def test_what_makes_no_sense_is_refused_by_name_and_value(key: str, value: Any) -> None:
  with pytest.raises(UserError) as refused:
    check_numbers(with_value(key, value))
  bad = next(
    v for v in (value if isinstance(value, tuple) else (value,)) if (limit := find_limit(key)) and not limit.allows(v)
  )
  assert str(refused.value).startswith(f"{key} = {bad!r}: must be a ")
  assert str(refused.value).endswith(f"; set --config.{key} to one")


@pytest.mark.parametrize(
  ("key", "value"),
  [("limit", 0), ("mesh.train", (-1, 1, 1)), ("student.temperature", 0.0), ("rl.kl", 0), ("alarms.stale_prefix", -1.0)],
)
def test_what_the_comments_offer_is_allowed(key: str, value: Any) -> None:
  check_numbers(with_value(key, value))


@pytest.mark.parametrize(
  ("limit", "text", "value"), [(POSITIVE_INT, "3", 3), (PORT, "0", 0), (PORT, "65535", 65535), (POSITIVE, "0.5", 0.5)]
)
def test_a_flag_is_read(limit: Any, text: str, value: float) -> None:
  assert make_argparse_type(limit)(text) == value


@pytest.mark.parametrize(
  ("limit", "text"),
  [
    (POSITIVE_INT, "0"),
    (POSITIVE_INT, "-1"),
    (POSITIVE_INT, "1.5"),
    (POSITIVE_INT, "x"),
    (PORT, "-1"),
    (PORT, "65536"),
  ],
)
def test_a_flag_out_of_its_limits_is_refused(limit: Any, text: str) -> None:
  with pytest.raises(argparse.ArgumentTypeError, match=f"{text}: must be a whole number"):
    make_argparse_type(limit)(text)
