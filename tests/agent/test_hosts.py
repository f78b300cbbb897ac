"""Two processes roll out as one: each runs the code of some sessions, and both take the same decisions."""

from __future__ import annotations

import json
from typing import Any

from tests.runtime.processes import by_hand, ended, start


def rolled_out(count: int) -> list[dict[str, Any]]:
  """What each of so many processes has: the trajectories, and how many pieces of code it ran."""
  statuses, outputs, errors = ended(start(["-m", "tests.agent.hosts"], by_hand(count)), timeout_s=300.0)
  assert statuses == [0] * count, [error[-2000:] for error in errors]
  return [json.loads(text.strip().splitlines()[-1]) for text in outputs]


def test_two_processes_roll_out_as_one() -> None:
  first, second = rolled_out(2)
  assert first["trajectories"] == second["trajectories"]
  (alone,) = rolled_out(1)
  ours, theirs = first["trajectories"], alone["trajectories"]
  assert len(ours) == 36 and sum(s["reason"] == "ok" for t in ours for s in t["steps"]) > 10, "no code has run"
  assert [t["steps"] for t in ours] == [t["steps"] for t in theirs]
  ran = [first["ran"], second["ran"]]
  assert sum(ran) == alone["ran"], "each piece of code ran once"
  assert min(ran) > alone["ran"] / 5, "both ran their share"
