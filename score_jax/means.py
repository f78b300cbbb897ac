"""What of a configuration decides what a run computes, and what only how it comes about."""

from __future__ import annotations

import json
from typing import Any

from ml_collections import ConfigDict

from score_jax.chat import open_chat
from score_jax.tools import open_search

#: keys that change how something is had and not what it is: they may differ between the starts of a run
MEANS = frozenset(
  (*(f"tools.search.{name}" for name in open_search.MEANS), *(f"chat.{name}" for name in open_chat.MEANS))
)
#: groups and keys of the same kind, what is only watched, and which stages and arms are asked for
APART = frozenset(("survival", "hosts", "alarms", "profile", "trackers", "stages", "arms"))


def resolved(config: ConfigDict) -> dict[str, Any]:
  """A configuration as JSON data."""
  return json.loads(config.to_json_best_effort())


def essential(data: Any, prefix: str = "") -> Any:
  """A configuration as JSON data without what is only means."""
  if not isinstance(data, dict):
    return data
  kept = {name: value for name, value in data.items() if prefix + name not in MEANS | APART}
  return {name: essential(value, f"{prefix}{name}.") for name, value in kept.items()}
