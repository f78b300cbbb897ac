"""Traces of some steps of a stage, read back as xprof reads them."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import get_args

import jax
import jax.numpy as jnp
import pytest
from etils import epath
from jax.profiler import ProfileData
from ml_collections import ConfigDict

from score_jax import profiling
from score_jax.errors import UserError


def config(**settings: object) -> ConfigDict:
  return ConfigDict({"steps": 2, "skip": 1, "stages": ()} | settings)


def work(root: pathlib.Path, kinds: Sequence[profiling.Kind], **settings: object) -> list[str]:
  """A stage with a step of each of these kinds, one after the other; what is said of it."""
  said: list[str] = []
  with profiling.of_stage(config(**settings), epath.Path(root), "rl", said.append):
    for kind in kinds:
      with profiling.step(kind):
        jax.block_until_ready(jnp.arange(4.0) + 1.0)
  return said


def traced(root: pathlib.Path, kind: profiling.Kind) -> list[int]:
  """The numbers of the steps in the trace of one kind."""
  (path,) = (root / "profile/rl" / kind).rglob("*.xplane.pb")
  lines = [line for plane in ProfileData.from_file(str(path)).planes for line in plane.lines]
  events = [
    event for line in lines for event in line.events if event.name.partition("#")[0] in get_args(profiling.Kind)
  ]
  return sorted(int(dict(event.stats)["step_num"]) for event in events if event.name.partition("#")[0] == kind)


def test_as_many_steps_of_each_kind_are_traced_as_are_asked_for(tmp_path: pathlib.Path) -> None:
  said = work(tmp_path, ["rounds", "rounds", "rounds", "rounds", "updates", "updates", "updates", "updates"])
  assert traced(tmp_path, "rounds") == traced(tmp_path, "updates") == [1, 2]
  assert said == [f"profile: {tmp_path}/profile/rl/rounds", f"profile: {tmp_path}/profile/rl/updates"]


def test_one_trace_waits_for_the_other(tmp_path: pathlib.Path) -> None:
  work(tmp_path, ["rounds", "updates", "rounds", "updates", "updates", "rounds", "updates", "updates"])
  assert traced(tmp_path, "rounds") == [1, 2] and traced(tmp_path, "updates") == [3, 4]


def test_a_stage_that_ends_early_leaves_what_there_was(tmp_path: pathlib.Path) -> None:
  said = work(tmp_path, ["rounds", "rounds", "updates"], steps=5)
  assert traced(tmp_path, "rounds") == [1]
  assert said[1] == "profile: the stage had 1 updates, no more than profile.skip = 1; none traced"


@pytest.mark.parametrize("settings", [{"steps": 0}, {"stages": ("sft",)}])
def test_nothing_is_traced_that_is_not_asked_for(tmp_path: pathlib.Path, settings: dict[str, object]) -> None:
  assert work(tmp_path, ["rounds", "rounds", "rounds"], **settings) == [] and not list(tmp_path.iterdir())


def test_a_number_that_makes_no_sense_is_refused(tmp_path: pathlib.Path) -> None:
  with pytest.raises(UserError, match=r"profile.steps = -1, profile.skip = 1; neither can be less than 0"):
    work(tmp_path, [], steps=-1)
