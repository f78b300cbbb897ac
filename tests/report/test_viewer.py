"""Which trajectories the browser shows."""

from __future__ import annotations

import pathlib

from etils import epath

from score_jax.report.viewer import MAX_TRAJECTORIES, collect_groups
from score_jax.runtime.workdir import Workdir
from score_jax.trajectory import Step, Trajectory


def test_of_seven_parts_as_many_are_shown_as_fit(tmp_path: pathlib.Path) -> None:
  """Nine of each would be 63. What was given of a rollout carries no loss, and what was drawn does."""
  steps = (Step("first_thought", "plan"), Step("act", "add", "x = 1"))
  one = Trajectory("q", "How many?", (1,), steps, "step_limit", grade=0.0, prefix_steps=1)
  for part in range(7):
    Workdir(str(tmp_path)).write_part("rl", part, [one] * 10)
  [group] = collect_groups(epath.Path(tmp_path))
  assert len(group["trajectories"]) == MAX_TRAJECTORIES == 60
  assert [(step["given"], step["loss"]) for step in group["trajectories"][0]["steps"]] == [(True, False), (False, True)]
