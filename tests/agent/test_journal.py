"""A rollout that was broken off goes on as if it had not been: nothing lost, nothing drawn twice, the same costs."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Callable

import jax
import pytest

from score_jax.agent.journal import Journal
from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.model.decoder import Weights
from score_jax.model.fingerprint import checksum_weights
from score_jax.runtime import interrupt
from score_jax.runtime.workdir import Workdir
from score_jax.trajectory import Question, Trajectory
from tests.agent.scripted import Stage, act, plan, python_tool, search

Real = tuple[Agent, Weights]
REQUESTS = [
  RolloutRequest(f"j/q{i}", q, empty_trajectory(q), 3, 1 + 2 * (i % 2))
  for i, q in enumerate(Question(f"q{i}", f"add {i}", "12") for i in range(12))
]
COUNT = sum(r.copies for r in REQUESTS)
Groups = list[list[Trajectory]]


@pytest.fixture(scope="module")
def undisturbed(real: Real) -> Groups:
  agent, weights = real
  return agent.rollout(weights, REQUESTS)


def kept(real: Real, root: pathlib.Path, *, every_s: float = 0.0) -> tuple[Agent, Journal]:
  """The agent with a journal, as a process that has just started has them."""
  journal = Journal(Workdir(str(root)), config="c", every_s=every_s)
  return dataclasses.replace(real[0], journal=journal), journal


def go_on(real: Real, root: pathlib.Path) -> tuple[Groups, int]:
  """What a process that starts there comes to, and how many trajectories it found."""
  agent, journal = kept(real, root)
  told: list[tuple[int, str]] = []
  with journal.stage("mps"):
    groups = agent.rollout(real[1], REQUESTS, progress=lambda count, note: told.append((count, note)))
  assert sum(count for count, _ in told) == COUNT
  assert not (root / "journal/mps").exists()
  return groups, sum(count for count, note in told if note == "from the journal")


def broken_off(real: Real, root: pathlib.Path, *, after: int, act: Callable[[], None], every_s: float) -> None:
  """A rollout in which something happens when so many trajectories have ended."""
  agent, journal = kept(real, root, every_s=every_s)
  ended = 0

  def progress(count: int, note: str) -> None:
    nonlocal ended
    ended += count
    if ended == after:
      act()

  with interrupt.handle_signals(1e6), journal.stage("mps"):
    agent.rollout(real[1], REQUESTS, progress=progress)


@pytest.mark.parametrize("after", [1, 9, COUNT - 1])
def test_asked_to_end_it_keeps_what_is_finished_to_the_last(
  real: Real, undisturbed: Groups, tmp_path: pathlib.Path, after: int
) -> None:
  with pytest.raises(interrupt.RunInterrupted):
    broken_off(real, tmp_path, after=after, act=lambda: signal.raise_signal(signal.SIGTERM), every_s=1e9)
  groups, found = go_on(real, tmp_path)
  assert groups == undisturbed
  assert after <= found < COUNT


def test_killed_it_loses_what_was_not_written(real: Real, undisturbed: Groups, tmp_path: pathlib.Path) -> None:
  """A kill leaves the files as they are: here a copy of them, taken in the midst."""
  live, left = tmp_path / "live", tmp_path / "left"
  broken_off(real, live, after=14, act=lambda: (shutil.copytree(live, left), None)[1], every_s=0.0)
  (left / "journal/mps/.part-00099.jsonl.draft").write_text("half a")
  groups, found = go_on(real, left)
  assert groups == undisturbed
  assert 0 < found < COUNT


def test_damaged_parts_are_told_and_drawn_again(
  real: Real, undisturbed: Groups, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
  with pytest.raises(interrupt.RunInterrupted):
    broken_off(real, tmp_path, after=COUNT - 1, act=lambda: signal.raise_signal(signal.SIGTERM), every_s=0.0)
  parts = sorted((tmp_path / "journal/mps").iterdir())
  assert len(parts) > 3
  whole = parts[0].read_bytes()
  parts[0].write_bytes(whole[: len(whole) // 2])  # the disk lost the rest
  parts[1].write_bytes(parts[1].read_bytes().replace(b"add", b"\xffdd", 1))  # a bit of it turned
  parts[2].write_bytes(b"")
  with caplog.at_level(logging.WARNING, logger="score_jax"):
    groups, found = go_on(real, tmp_path)
  assert groups == undisturbed
  assert 0 < found < COUNT - 1
  told = [r.getMessage() for r in caplog.records if r.name.startswith("score_jax")]
  assert told == [f"{part} is damaged; what it held is drawn again" for part in parts[:3]]


def test_of_a_group_only_what_is_missing_is_drawn(real: Real, tmp_path: pathlib.Path) -> None:
  """Whichever copies are missing: the others are as they were, and one alone has read the prompt."""
  agent, weights = real
  request = dataclasses.replace(REQUESTS[1], copies=4)
  [group] = agent.rollout(weights, [request])
  for known in ((0,), (1, 3), (0, 1, 2), (3,)):
    agent, journal = kept(real, tmp_path)
    keys = agent.journal_keys(journal, checksum_weights(weights), request)
    with pytest.raises(KeyboardInterrupt), journal.stage("mps"):
      for copy in known:
        journal.add(keys[copy], group[copy])
      raise KeyboardInterrupt
    agent, journal = kept(real, tmp_path)
    told: list[int] = []
    with journal.stage("mps"):
      assert agent.rollout(weights, [request], progress=lambda count, _, told=told: told.append(count)) == [group]
    assert told == [len(known)] + [1] * (4 - len(known))


@pytest.mark.parametrize("other", ["weights", "seed", "start", "acts", "decoding", "config"])
def test_what_was_drawn_for_something_else_is_not_found(real: Real, tmp_path: pathlib.Path, other: str) -> None:
  agent, journal = kept(real, tmp_path)
  request = REQUESTS[0]
  with pytest.raises(KeyboardInterrupt), journal.stage("mps"):
    agent.rollout(real[1], [request])
    raise KeyboardInterrupt
  agent, journal = kept(real, tmp_path)
  weights = real[1]
  if other == "weights":
    weights = jax.tree.map(lambda x: x, weights)
    scale = weights["norm"]["scale"]
    scale.set_value(scale[...].at[3].add(1e-6))
  elif other == "seed":
    agent = dataclasses.replace(agent, seed=7)
  elif other == "decoding":
    agent = dataclasses.replace(agent, decoding=dataclasses.replace(agent.decoding, top_k=3))
  elif other == "start":
    request = dataclasses.replace(request, start=dataclasses.replace(request.start, prompt_tokens=(1, 2, 3)))
  elif other == "acts":
    request = dataclasses.replace(request, max_acts=2)
  else:
    journal = Journal(Workdir(str(tmp_path)), config="another", every_s=0.0)
    agent = dataclasses.replace(agent, journal=journal)
  told: list[str] = []
  with journal.stage("mps"):
    agent.rollout(weights, [request], progress=lambda _, note: told.append(note))
  assert told
  assert "from the journal" not in told


def test_what_three_processes_finished_is_found_by_the_fourth(tmp_path: pathlib.Path) -> None:
  """Each ends in the midst of the stage, and writes beside what those before it have left."""
  for process in range(3):
    journal = Journal(Workdir(str(tmp_path)), config="c", every_s=0.0)
    with pytest.raises(KeyboardInterrupt), journal.stage("mps"):
      journal.add(f"key{process}", Trajectory(f"q{process}", "How many?", (process,), status="step_limit", grade=0.0))
      raise KeyboardInterrupt
  assert len(list((tmp_path / "journal/mps").glob("part-*.jsonl"))) == 3
  journal = Journal(Workdir(str(tmp_path)), config="c", every_s=0.0)
  with journal.stage("mps"):
    found = [journal.find(f"key{process}") for process in range(3)]
  assert [t and t.question_id for t in found] == ["q0", "q1", "q2"]


def test_what_is_in_two_checkpoints_goes(real: Real, tmp_path: pathlib.Path) -> None:
  agent, journal = kept(real, tmp_path)

  def parts() -> int:
    return len(list((tmp_path / "journal/rl").glob("part-*")))

  with journal.stage("rl"):
    agent.rollout(real[1], REQUESTS[:2])
    journal.prune_checkpointed()
    first = parts()
    assert first >= 1
    agent.rollout(real[1], REQUESTS[2:3])
    journal.prune_checkpointed()
    second = parts()
    assert second >= 1
    journal.prune_checkpointed()
    assert parts() == 0


def test_all_known_nothing_is_loaded(real: Real, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  agent, journal = kept(real, tmp_path)
  with pytest.raises(KeyboardInterrupt), journal.stage("mps"):
    expected = agent.rollout(real[1], REQUESTS[:3])
    raise KeyboardInterrupt
  agent, journal = kept(real, tmp_path)
  monkeypatch.delattr("score_jax.agent.rollout.Slots")
  with journal.stage("mps"):
    assert agent.rollout(real[1], REQUESTS[:3]) == expected


def test_outside_of_a_stage_nothing_is_kept(real: Real, undisturbed: Groups, tmp_path: pathlib.Path) -> None:
  agent, _ = kept(real, tmp_path)
  assert agent.rollout(real[1], REQUESTS) == undisturbed
  assert list(tmp_path.iterdir()) == []


# The tool pool killed


def test_a_killed_tool_pool_changes_nothing(real: Real, undisturbed: Groups) -> None:
  """Its processes are killed again and again while a rollout goes on: they are made anew, states are built again.

  The process that they are forked from takes them along. One session killed alone, at a step, looks as if its code had
  done it.
  """
  told, killed = 0, []
  with python_tool(search) as tool:

    def kill(count: int, note: str) -> None:
      nonlocal told
      told += 1
      if told % 5 == 0:
        end = time.monotonic() + 60.0
        while (zygote := tool._supervisor._zygote) is None or zygote in killed or not zygote.ready:
          assert time.monotonic() < end, "none was made in the place of the killed one"
          time.sleep(0.01)
        os.killpg(zygote._popen.pid, signal.SIGKILL)
        killed.append(zygote)

    agent = dataclasses.replace(real[0], tool=tool)
    assert agent.rollout(real[1], REQUESTS, progress=kill) == undisturbed
  assert told == COUNT
  assert len(killed) == COUNT // 5 > 2


def test_what_the_host_failed_is_not_kept(
  stage: Stage, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """The next run may have better luck."""
  monkeypatch.setattr("score_jax.agent.rollout.checksum_weights", lambda weights: "scripted")
  for luck, status in ((False, "tool_failure"), (True, "step_limit")):
    journal = Journal(Workdir(str(tmp_path)), config="c", every_s=0.0)
    agent = dataclasses.replace(stage.agent(), journal=journal)
    code = "print(1)" if luck else 'print(web_search("broken"))'
    weights = stage.weights(lambda _, text, code=code: act(code) if "user" in text and "plan" in text else plan())
    with pytest.raises(KeyboardInterrupt), journal.stage("mps"):
      [[trajectory]] = agent.rollout(weights, [dataclasses.replace(REQUESTS[0], max_acts=1)])
      raise KeyboardInterrupt
    assert trajectory.status == status
