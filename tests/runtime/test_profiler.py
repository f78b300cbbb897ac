"""Traces of some steps of a stage, read back."""

from __future__ import annotations

import gzip
import json
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import pytest
from etils import epath
from ml_collections import ConfigDict

from score_jax.agent.journal import Journal
from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
from score_jax.runtime import profiler
from score_jax.runtime.interrupt import RunInterrupted
from score_jax.runtime.workdir import Workdir
from tests.configs import smoke_config


def config(**settings: object) -> ConfigDict:
  return ConfigDict({"steps": 2, "skip": 1, "stages": ()} | settings)


def work(root: pathlib.Path, kinds: Sequence[profiler.StepKind], **settings: object) -> list[str]:
  """A stage with a step of each of these kinds, one after the other; what is said of it."""
  said: list[str] = []
  with profiler.profile_stage(config(**settings), epath.Path(root), "rl", said.append, stages=("sft", "rl")):
    for kind in kinds:
      with profiler.profile_step(kind):
        jax.block_until_ready(jnp.arange(4.0) + 1.0)
  return said


def traced(root: pathlib.Path, kind: profiler.StepKind) -> list[int]:
  """The numbers of the steps in the trace of one kind.

  From the JSON beside the protocol buffer. JAX's own reader, ProfileData, warns on Python 3.13 from within its C++,
  and ends the whole interpreter where warnings are errors, as they are in tests.
  """
  folder = root / "profile/rl" / kind
  (path,), (_,) = folder.rglob("*.trace.json.gz"), folder.rglob("*.xplane.pb")
  events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
  return sorted(int(event["args"]["step_num"]) for event in events if event.get("name", "").partition("#")[0] == kind)


def test_as_many_steps_of_each_kind_are_traced_as_are_asked_for(tmp_path: pathlib.Path) -> None:
  said = work(tmp_path, ["rounds", "rounds", "rounds", "rounds", "updates", "updates", "updates", "updates"])
  assert traced(tmp_path, "rounds") == traced(tmp_path, "updates") == [1, 2]
  assert said == [f"profile: {tmp_path}/profile/rl/rounds", f"profile: {tmp_path}/profile/rl/updates"]


def test_a_trace_does_not_wait_while_the_other_kind_goes_on(tmp_path: pathlib.Path) -> None:
  work(tmp_path, ["rounds", "updates", "rounds", "updates", "updates", "rounds", "updates", "updates"])
  assert traced(tmp_path, "rounds") == [1] and traced(tmp_path, "updates") == [1, 2]


def test_a_stage_that_ends_early_leaves_what_there_was(tmp_path: pathlib.Path) -> None:
  said = work(tmp_path, ["rounds", "rounds", "updates"], steps=5)
  assert traced(tmp_path, "rounds") == [1]
  assert said[1].startswith("profile: none of 1 updates was traced; the first 1 never are (profile.skip)")


def test_a_trace_that_is_lost_does_not_hide_what_ended_the_stage(
  tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
  (tmp_path / "profile").write_text("in the way")
  with (
    pytest.raises(KeyboardInterrupt),
    profiler.profile_stage(config(skip=0), epath.Path(tmp_path), "rl", print, stages=("rl",)),
  ):
    with profiler.profile_step("rounds"):
      pass
    raise KeyboardInterrupt
  assert "what was traced last is lost: " in caplog.text and "cannot be written" in caplog.text
  work(tmp_path / "next", ["rounds"], skip=0, steps=1)
  assert traced(tmp_path / "next", "rounds") == [0]


@pytest.mark.parametrize("settings", [{"steps": 0}, {"stages": ("sft",)}])
def test_nothing_is_traced_that_is_not_asked_for(tmp_path: pathlib.Path, settings: dict[str, object]) -> None:
  assert work(tmp_path, ["rounds", "rounds", "rounds"], **settings) == [] and not list(tmp_path.iterdir())


def test_a_number_that_makes_no_sense_is_refused(tmp_path: pathlib.Path) -> None:
  with pytest.raises(UserError, match=r"profile.steps = -1, profile.skip = 1; neither can be less than 0"):
    work(tmp_path, [], steps=-1)
  with pytest.raises(UserError, match=r"profile.stages: 'sfft' is no stage; choose from sft, rl, eval_ and"):
    work(tmp_path, [], stages=("eval_rl", "sfft"))


def test_a_run_that_is_asked_to_end_keeps_what_it_has_drawn_before_a_trace(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  order: list[str] = []
  monkeypatch.setattr(Journal, "_write", lambda _: order.append("journal"))
  close = profiler._StageProfile.close
  monkeypatch.setattr(profiler._StageProfile, "close", lambda self: (order.append("trace"), close(self)))
  c = smoke_config()
  c.profile.steps = 1
  with pytest.raises(RunInterrupted), Experiment(c, Workdir(str(tmp_path))) as run, run.stage_scope("rl"):
    raise RunInterrupted(15)
  assert order == ["journal", "trace"]
  assert json.loads((tmp_path / "metrics/stages.jsonl").read_text())["done"] is False


def test_what_cannot_be_booked_does_not_hide_what_ended_the_stage(tmp_path: pathlib.Path) -> None:
  (tmp_path / "metrics/stages.jsonl").mkdir(parents=True)
  with Experiment(smoke_config(), Workdir(str(tmp_path))) as run:
    with pytest.raises(RunInterrupted), run.stage_scope("rl"):
      raise RunInterrupted(15)
    with pytest.raises(UserError, match=r"metrics/stages.jsonl cannot be written"), run.stage_scope("rl"):
      pass
