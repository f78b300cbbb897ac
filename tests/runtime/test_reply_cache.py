"""A workdir under gs:// is like a local one."""

from __future__ import annotations

import json

import pytest

from score_jax.agent.journal import Journal
from score_jax.errors import UserError
from score_jax.runtime.metrics import MetricsWriter
from score_jax.runtime.workdir import Workdir
from tests.fake_store import Store, store
from tests.runtime.test_workdir import trajectory

__all__ = ["store"]


@pytest.fixture
def workdir(store: type[Store]) -> Workdir:
  return Workdir("gs://bucket/runs/one")


def test_what_is_written_stands_there_whole(workdir: Workdir, store: type[Store]) -> None:
  workdir.write_json("results.json", {"é": 1})
  workdir.write_json("results.json", {"é": 2})
  assert workdir.read_json("results.json") == {"é": 2}
  assert workdir.read_json("stages/sft.json") is None
  assert list(store.store) == ["/bucket/runs/one/results.json"]


def test_parts_come_back_in_order(workdir: Workdir) -> None:
  for number in (1, 0, 2):
    workdir.write_part("rl", number, [trajectory(f"t{number}")])
  assert list(workdir.read_parts("rl")) == [trajectory(f"t{number}") for number in range(3)]
  assert list(workdir.read_parts("rl", below=1)) == [trajectory("t0")]
  with pytest.raises(UserError, match=r"part-00003\.jsonl is missing"):
    list(workdir.read_parts("rl", below=4))


def test_metrics_go_on_after_a_restart(workdir: Workdir, store: type[Store]) -> None:
  for step in (0, 2):
    metrics = MetricsWriter(workdir, "sft")
    metrics.write(step, {"loss": 1.0})
    metrics.write(step + 1, {"loss": 1.0})
    metrics.close()
  lines = (workdir.root / "metrics/sft.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]
  assert any("tfevents" in name for name in store.store)


def test_a_journal_is_found_again_and_goes_when_its_stage_is_done(workdir: Workdir, store: type[Store]) -> None:
  first = Journal(workdir, config="c", every_s=0.0)
  with pytest.raises(KeyboardInterrupt), first.stage("eval/sft"):
    for name in ("a", "b"):
      first.add(first.key(name), trajectory(name))
      first.write_if_due()
    raise KeyboardInterrupt
  assert [name for name in store.store if "part" in name] == [
    f"/bucket/runs/one/journal/eval/sft/part-0000{i}.jsonl" for i in range(2)
  ]
  again = Journal(workdir, config="c", every_s=0.0)
  with again.stage("eval/sft"):
    assert [again.find(again.key(name)) for name in ("b", "a", "c")] == [trajectory("b"), trajectory("a"), None]
  assert not [name for name in store.store if "part" in name]
