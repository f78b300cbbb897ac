"""The allowed values of every number in a config, in one table; checked once, when a config is opened.

A count below what makes sense would otherwise slice (`questions[:-1]`), loop zero times or divide by zero, silently.
What depends on several settings, such as rl.group_size of 1 without rl.distill, is checked where they are used.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import math
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from score_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class NumberLimit:
  """The numbers that a setting, or each number of a tuple, may be."""

  whole: bool = False  # an integer
  min_value: float = -math.inf
  max_value: float = math.inf
  exclude_min: bool = False  # `min_value` itself is not allowed
  extra_values: tuple[float, ...] = ()  # allowed although it is out of bounds

  def allows(self, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
      return False
    inside = (
      math.isfinite(value)
      and self.min_value <= value <= self.max_value
      and not (self.exclude_min and value == self.min_value)
    )
    return inside or value in self.extra_values

  def __str__(self) -> str:
    kind = "a whole number" if self.whole else "a number"
    bounds = []
    if self.min_value > -math.inf:
      bounds.append(f"above {self.min_value:g}" if self.exclude_min else f"of at least {self.min_value:g}")
    if self.max_value < math.inf:
      bounds.append(f"of at most {self.max_value:g}")
    others = "".join(f", or {value:g}" for value in self.extra_values)
    return " ".join([kind, " and ".join(bounds) or "that is finite"]) + others


POSITIVE_INT = NumberLimit(whole=True, min_value=1)
NON_NEGATIVE_INT = NumberLimit(whole=True, min_value=0)  # 0: none, all, or no limit, as the config's comment says
NON_NEGATIVE = NumberLimit(min_value=0.0)
POSITIVE = NumberLimit(min_value=0.0, exclude_min=True)
FRACTION = NumberLimit(min_value=0.0, max_value=1.0)
POSITIVE_FRACTION = NumberLimit(min_value=0.0, max_value=1.0, exclude_min=True)
FINITE = NumberLimit()
PORT = NumberLimit(whole=True, min_value=0, max_value=65535)  # 0: a free one

#: key -> its allowed values; * matches any text
NUMBER_LIMITS: dict[str, NumberLimit] = {
  "seed": NON_NEGATIVE_INT,
  "mesh.*": NumberLimit(whole=True, min_value=1, extra_values=(-1,)),  # -1: all devices that are left
  "hosts.timeout_s": POSITIVE,
  # models
  **dict.fromkeys(("teacher.temperature", "student.temperature"), NON_NEGATIVE),  # 0: the likeliest token
  "teacher.*_temperature": NON_NEGATIVE,
  **dict.fromkeys(("teacher.top_k", "student.top_k"), NON_NEGATIVE_INT),
  **dict.fromkeys(("teacher.top_p", "student.top_p", "chat.top_p"), POSITIVE_FRACTION),
  **dict.fromkeys(("teacher.repetition_penalty", "student.repetition_penalty"), POSITIVE),
  "teacher.reply_tokens": POSITIVE_INT,
  "student.lora_rank": NON_NEGATIVE_INT,
  **{f"chat.{name}": POSITIVE_INT for name in ("slots", "length", "block", "concurrency")},
  "chat.timeout_s": POSITIVE,
  **{f"chat.{name}": NON_NEGATIVE for name in ("patience_s", "budget_s", "budget_usd", "usd_per_million")},
  # questions
  "tasks.train": POSITIVE_INT,
  "tasks.validation": POSITIVE_INT,
  "tasks.test": POSITIVE_INT,
  **dict.fromkeys(("tasks.acts", "word_problems.acts"), POSITIVE_INT),
  **dict.fromkeys(("tasks.distractors", "word_problems.distractors"), NON_NEGATIVE_INT),
  **dict.fromkeys(("tries", "limit"), NON_NEGATIVE_INT),  # of an evaluation
  **dict.fromkeys(("eval.tries", "eval.part"), POSITIVE_INT),
  # tools and the agent
  **{f"tools.{name}": POSITIVE_INT for name in ("workers", "sessions", "memory_mb", "files_mb", "output_chars")},
  **dict.fromkeys(("tools.timeout_s", "tools.search.timeout_s"), POSITIVE),
  **{f"tools.search.{name}": POSITIVE_INT for name in ("top_k", "passage_chars")},
  "tools.search.retries": NON_NEGATIVE_INT,
  "tools.search.per_second": NON_NEGATIVE,
  **{f"agent.{name}": POSITIVE_INT for name in ("acts", "turn_tokens")},
  "sampler.*": POSITIVE_INT,
  # training
  "train.weight_decay": NON_NEGATIVE,
  "train.max_norm": POSITIVE,
  **{f"train.{name}": POSITIVE_INT for name in ("logit_chunk", "length", "rows", "micro_rows", "checkpoint_every")},
  **{f"train.{name}": POSITIVE_INT for name in ("keep_checkpoints", "epochs")},
  "train.warmup": FRACTION,
  "train.checkpoint_minutes": POSITIVE,
  "warm_start.share": FRACTION,
  "*.learning_rate": POSITIVE,
  **{f"{stage}.epochs": POSITIVE_INT for stage in ("warm_start", "sft", "bc")},
  "mps.corrections": NON_NEGATIVE_INT,
  **{f"mps.{name}": POSITIVE_INT for name in ("continuations", "tries", "draws")},
  **dict.fromkeys(("mps.delta", "mps.alpha"), POSITIVE_FRACTION),
  "mps.depth_probe": NON_NEGATIVE_INT,
  "*.keep_unaided": FRACTION,
  "rl.keep_hard": FRACTION,
  **{f"rl.{name}": POSITIVE_INT for name in ("steps", "prompts", "group_size", "minibatch", "micro_rows", "length")},
  "rl.checkpoint_every": POSITIVE_INT,
  "rl.temperature": POSITIVE,
  **{f"rl.{name}": NON_NEGATIVE for name in ("weight_decay", "clip_low", "clip_high", "dual_clip", "truncate")},
  **{f"rl.{name}": NON_NEGATIVE for name in ("kl", "distill")},
  **{f"rl.{name}": FINITE for name in ("final", "key", "avoid")},
  # alarms, profiling, interrupts
  "alarms.window": POSITIVE_INT,
  "alarms.probe": NON_NEGATIVE_INT,
  "alarms.stale_prefix": NumberLimit(max_value=0.0),
  "alarms.*": NON_NEGATIVE,
  **{f"profile.{name}": NON_NEGATIVE_INT for name in ("steps", "skip")},
  "survival.journal_s": NON_NEGATIVE,
  "survival.grace_s": NON_NEGATIVE,
  # the models that ship
  "vocab": POSITIVE_INT,
  "search_results": POSITIVE_INT,
  **{f"*.{name}": POSITIVE_INT for name in ("kv_heads", "heads", "context", "layers", "width", "head_width", "mlp")},
  **{f"*.lessons.*.{name}": POSITIVE_INT for name in ("worlds", "questions", "acts")},
  "*.lessons.*.distractors": NON_NEGATIVE_INT,
  **{f"*.lessons.*.{name}": FRACTION for name in ("detours", "slips")},
}


def find_limit(key: str) -> NumberLimit | None:
  """The allowed values of a setting; None if the table has no line for it."""
  return NUMBER_LIMITS.get(key) or next(
    (limit for name, limit in NUMBER_LIMITS.items() if fnmatch.fnmatchcase(key, name)), None
  )


def iter_numbers(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields (dotted key, number) for each number of a config; a tuple gives one pair per number."""
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from iter_numbers(value, f"{prefix}{name}.")
    else:
      for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, int | float) and not isinstance(one, bool):
          yield prefix + name, one


def check_numbers(config: ConfigDict) -> None:
  """Raises UserError for the first number that is out of its limits."""
  for key, value in iter_numbers(config):
    limit = find_limit(key)
    if limit is not None and not limit.allows(value):
      raise UserError(f"{key} = {value!r}: must be {limit}; set --config.{key} to one")


def make_argparse_type(limit: NumberLimit) -> Callable[[str], Any]:
  """The `type` of a number on a command line, for argparse."""

  def parse(text: str) -> int | float:
    try:
      value = int(text) if limit.whole else float(text)
    except ValueError:
      value = math.nan
    if not limit.allows(value):
      raise argparse.ArgumentTypeError(f"{text}: must be {limit}")
    return value

  return parse
