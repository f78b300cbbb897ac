"""The allowed values of every number in a config, in one table; checked once, when a config is opened.

A count below what makes sense would otherwise slice (`questions[:-1]`), loop zero times or divide by zero, silently.
What hangs on several settings, such as rl.group_size of 1 without rl.distill, is checked where they are used.
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
class Limit:
  """The numbers that a setting, or each number of a tuple, may be."""

  whole: bool = False  # an integer
  low: float = -math.inf
  high: float = math.inf
  above: bool = False  # `low` itself is not allowed
  also: tuple[float, ...] = ()  # allowed although it is out of bounds

  def allows(self, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
      return False
    inside = math.isfinite(value) and self.low <= value <= self.high and not (self.above and value == self.low)
    return inside or value in self.also

  def __str__(self) -> str:
    kind = "a whole number" if self.whole else "a number"
    bounds = []
    if self.low > -math.inf:
      bounds.append(f"above {self.low:g}" if self.above else f"of at least {self.low:g}")
    if self.high < math.inf:
      bounds.append(f"of at most {self.high:g}")
    others = "".join(f", or {value:g}" for value in self.also)
    return " ".join([kind, " and ".join(bounds) or "that is finite"]) + others


COUNT = Limit(whole=True, low=1)
COUNT_OR_NONE = Limit(whole=True, low=0)  # 0: none, all, or no limit, as the config's comment says
AMOUNT = Limit(low=0.0)
POSITIVE = Limit(low=0.0, above=True)
SHARE = Limit(low=0.0, high=1.0)
POSITIVE_SHARE = Limit(low=0.0, high=1.0, above=True)
FINITE = Limit()
PORT = Limit(whole=True, low=0, high=65535)  # 0: a free one

#: key -> what it may be; * stands for any text
LIMITS: dict[str, Limit] = {
  "seed": COUNT_OR_NONE,
  "mesh.*": Limit(whole=True, low=1, also=(-1,)),  # -1: what devices are left
  "hosts.timeout_s": POSITIVE,
  # models
  **dict.fromkeys(("teacher.temperature", "student.temperature"), AMOUNT),  # 0: the likeliest token
  "teacher.*_temperature": AMOUNT,
  **dict.fromkeys(("teacher.top_k", "student.top_k"), COUNT_OR_NONE),
  **dict.fromkeys(("teacher.top_p", "student.top_p", "chat.top_p"), POSITIVE_SHARE),
  **dict.fromkeys(("teacher.repetition_penalty", "student.repetition_penalty"), POSITIVE),
  "teacher.reply_tokens": COUNT,
  "student.lora_rank": COUNT_OR_NONE,
  **{f"chat.{name}": COUNT for name in ("slots", "length", "block", "concurrency")},
  "chat.timeout_s": POSITIVE,
  **{f"chat.{name}": AMOUNT for name in ("patience_s", "budget_s", "budget_usd", "usd_per_million")},
  # questions
  "tasks.train": COUNT,
  "tasks.validation": COUNT,
  "tasks.test": COUNT,
  **dict.fromkeys(("tasks.acts", "word_problems.acts"), COUNT),
  **dict.fromkeys(("tasks.distractors", "word_problems.distractors"), COUNT_OR_NONE),
  **dict.fromkeys(("tries", "limit"), COUNT_OR_NONE),  # of an evaluation
  **dict.fromkeys(("eval.tries", "eval.part"), COUNT),
  # tools and the agent
  **{f"tools.{name}": COUNT for name in ("workers", "sessions", "memory_mb", "files_mb", "output_chars")},
  **dict.fromkeys(("tools.timeout_s", "tools.search.timeout_s"), POSITIVE),
  **{f"tools.search.{name}": COUNT for name in ("top_k", "passage_chars")},
  "tools.search.retries": COUNT_OR_NONE,
  "tools.search.per_second": AMOUNT,
  **{f"agent.{name}": COUNT for name in ("acts", "turn_tokens")},
  "sampler.*": COUNT,
  # training
  "train.weight_decay": AMOUNT,
  "train.max_norm": POSITIVE,
  **{f"train.{name}": COUNT for name in ("logit_chunk", "length", "rows", "micro_rows", "checkpoint_every")},
  **{f"train.{name}": COUNT for name in ("keep_checkpoints", "epochs")},
  "train.warmup": SHARE,
  "train.checkpoint_minutes": POSITIVE,
  "warm_start.share": SHARE,
  "*.learning_rate": POSITIVE,
  **{f"{stage}.epochs": COUNT for stage in ("warm_start", "sft", "bc")},
  "mps.corrections": COUNT_OR_NONE,
  **{f"mps.{name}": COUNT for name in ("continuations", "tries", "draws")},
  **dict.fromkeys(("mps.delta", "mps.alpha"), POSITIVE_SHARE),
  "mps.depth_probe": COUNT_OR_NONE,
  "*.keep_unaided": SHARE,
  "rl.keep_hard": SHARE,
  **{f"rl.{name}": COUNT for name in ("steps", "prompts", "group_size", "minibatch", "micro_rows", "length")},
  "rl.checkpoint_every": COUNT,
  "rl.temperature": POSITIVE,
  **{f"rl.{name}": AMOUNT for name in ("weight_decay", "clip_low", "clip_high", "dual_clip", "truncate")},
  **{f"rl.{name}": AMOUNT for name in ("kl", "distill")},
  **{f"rl.{name}": FINITE for name in ("final", "key", "avoid")},
  # what is watched
  "alarms.window": COUNT,
  "alarms.probe": COUNT_OR_NONE,
  "alarms.stale_prefix": Limit(high=0.0),
  "alarms.*": AMOUNT,
  **{f"profile.{name}": COUNT_OR_NONE for name in ("steps", "skip")},
  "survival.journal_s": AMOUNT,
  "survival.grace_s": AMOUNT,
  # the models that ship
  "vocab": COUNT,
  "search_results": COUNT,
  **{f"*.{name}": COUNT for name in ("kv_heads", "heads", "context", "layers", "width", "head_width", "mlp")},
  **{f"*.lessons.*.{name}": COUNT for name in ("worlds", "questions", "acts")},
  "*.lessons.*.distractors": COUNT_OR_NONE,
  **{f"*.lessons.*.{name}": SHARE for name in ("detours", "slips")},
}


def limit_of(key: str) -> Limit | None:
  """What the setting may be; None where the table has no line for it."""
  return LIMITS.get(key) or next((limit for name, limit in LIMITS.items() if fnmatch.fnmatchcase(key, name)), None)


def numbers(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Each number of a config under its dotted key; those of a tuple one by one."""
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from numbers(value, f"{prefix}{name}.")
    else:
      for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, int | float) and not isinstance(one, bool):
          yield prefix + name, one


def check(config: ConfigDict) -> None:
  """
  Raises:
    UserError: a number is none that makes sense.
  """
  for key, value in numbers(config):
    limit = limit_of(key)
    if limit is not None and not limit.allows(value):
      raise UserError(f"{key} = {value!r}: must be {limit}; set --config.{key} to one")


def flag(limit: Limit) -> Callable[[str], Any]:
  """The `type` of a number on a command line, for argparse."""

  def parsed(text: str) -> int | float:
    try:
      value = int(text) if limit.whole else float(text)
    except ValueError:
      value = math.nan
    if not limit.allows(value):
      raise argparse.ArgumentTypeError(f"{text}: must be {limit}")
    return value

  return parsed
