from __future__ import annotations

import dataclasses
import errno
import json
import pathlib

import pytest
from etils import epath

from score_jax.errors import UserError
from score_jax.runtime.metrics import MetricsWriter
from score_jax.runtime.workdir import Workdir
from score_jax.trajectory import Step, Trajectory
from tests import small_disk

PLAN = Step("first_thought", 'plan: \u2028 add é 𝄞\nand "so" on\r', tokens=(1, 2), logprobs=(-0.5, -0.25))


def trajectory(name: str) -> Trajectory:
  return Trajectory(name, f"How many {name}?", (1, 2), (PLAN,), "bad_format", grade=0.0, name=name)


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> Workdir:
  return Workdir(str(tmp_path / "runs" / "one"))


def files(workdir: Workdir) -> set[str]:
  return {str(p.relative_to(workdir.root)) for p in pathlib.Path(workdir.root).rglob("*") if p.is_file()}


def test_a_new_folder_is_made_and_left_empty(workdir: Workdir) -> None:
  assert workdir.root.is_dir()
  assert files(workdir) == set()


@pytest.mark.parametrize("below", ["", "run", "runs/run"])
def test_a_folder_that_cannot_be_is_refused_in_a_line(tmp_path: pathlib.Path, below: str) -> None:
  (tmp_path / "taken").write_text("a file")
  root = str(tmp_path / "taken" / below)
  with pytest.raises(UserError, match=r"cannot be written.*--workdir") as refused:
    Workdir(root)
  assert root.rstrip("/") in str(refused.value)
  assert "\n" not in str(refused.value)


def test_what_is_written_stands_there_whole(workdir: Workdir) -> None:
  workdir.write("deep/er/a.txt", "é\n")
  assert (workdir.root / "deep/er/a.txt").read_text() == "é\n"
  workdir.write("deep/er/a.txt", "other\n")
  assert (workdir.root / "deep/er/a.txt").read_text() == "other\n"
  assert files(workdir) == {"deep/er/a.txt"}


def test_a_write_that_breaks_off_leaves_the_old_file(workdir: Workdir, monkeypatch: pytest.MonkeyPatch) -> None:
  """As when the disk is full: half of the text is written, then it fails."""
  workdir.write_json("results.json", {"old": 1})
  kind = type(workdir.root)
  whole = kind.write_bytes

  def half(path: epath.Path, data: bytes) -> None:
    whole(path, data[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(kind, "write_bytes", half)
  with pytest.raises(UserError, match=r"results\.json cannot be written \(No space left on device\); mend that"):
    workdir.write_json("results.json", {"new": 2})
  with pytest.raises(UserError, match="No space"):
    workdir.write_part("mps", 1, [trajectory("a")])
  monkeypatch.undo()
  assert workdir.read_json("results.json") == {"old": 1}
  assert list(workdir.read_parts("mps")) == []
  assert files(workdir) == {"results.json"}, "what is half written takes no room"


def test_a_full_disk_is_told_in_a_line_and_what_was_there_stays(tmp_path: pathlib.Path) -> None:
  """Parts, metrics and a journal; and once there is room it goes on."""
  code = f"""
import pathlib
from score_jax.agent.journal import Journal
from score_jax.errors import UserError
from score_jax.runtime.metrics import MetricsWriter
from score_jax.runtime.workdir import Workdir
from tests.runtime.test_workdir import trajectory
workdir = Workdir({str(tmp_path)!r})
journal, metrics = Journal(workdir, config="", every_s=0.0), MetricsWriter(workdir, "rl")
filler = pathlib.Path({str(tmp_path)!r}) / "filler"
def work(first):
  with journal.stage("rl"):
    for number in range(first, 600):
      journal.add(journal.key(number), trajectory(str(number)))
      journal.write_if_due()
      workdir.write_part("rl", number, [trajectory(str(number))])
      metrics.write(number, {{"loss": 1.0}})
      metrics.flush()
filler.write_bytes(bytes(3 << 20))
try:
  work(0)
except UserError as error:
  print(error)
try:
  metrics.close()
except UserError as error:
  print("closing:", error)
whole = len(list(workdir.read_parts("rl")))
filler.unlink()
with journal.stage("rl"):
  found = sum(journal.find(journal.key(number)) is not None for number in range(600))
metrics = MetricsWriter(workdir, "rl")
work(whole)
print(0 < whole < 599, 0 <= found - whole <= 1, len(list(workdir.read_parts("rl"))))
"""
  said = small_disk.run(code, tmp_path, kilobytes=6 << 10).splitlines()
  assert said[-1] == "True True 600"
  assert len(said) in (2, 3)
  for line in said[:-1]:
    assert "cannot be written (No space left on device); mend that and start again: everything up to here" in line


def test_a_folder_that_can_only_be_read_is_refused(tmp_path: pathlib.Path) -> None:
  code = f"""
from score_jax.errors import UserError
from score_jax.runtime.workdir import Workdir
try:
  Workdir({str(tmp_path)!r})
except UserError as error:
  print(error)
"""
  said = small_disk.run(code, tmp_path, kilobytes=None)
  assert said == f"workdir {str(tmp_path)!r} cannot be written (Read-only file system); give another --workdir\n"


def test_permission_lost_in_the_midst_is_told_in_a_line(workdir: Workdir) -> None:
  """Here it is a file that stands where a folder has to be."""
  workdir.write_part("rl", 0, [trajectory("a")])
  (workdir.root / "metrics").write_text("")
  with pytest.raises(UserError, match=r"metrics/rl\.jsonl cannot be written \((Not a directory|File exists)\)"):
    MetricsWriter(workdir, "rl").write(0, {"loss": 1.0})
  assert list(workdir.read_parts("rl")) == [trajectory("a")]


def test_json_comes_back_and_equal_data_gives_equal_files(workdir: Workdir) -> None:
  workdir.write_json("stages/mps.json", {"b": [1, 0.1], "a": None})
  assert workdir.read_json("stages/mps.json") == {"a": None, "b": [1, 0.1]}
  first = (workdir.root / "stages/mps.json").read_text()
  workdir.write_json("stages/mps.json", {"a": None, "b": [1, 0.1]})
  assert (workdir.root / "stages/mps.json").read_text() == first
  assert workdir.read_json("stages/sft.json") is None


@pytest.mark.parametrize("damaged", [b"", b"{", b'{"a": 1}}', b"\xff\xfe\x00", b'{"a": "\xc3'])
def test_damaged_json_is_named_in_a_line(workdir: Workdir, damaged: bytes) -> None:
  (workdir.root / "config.json").write_bytes(damaged)
  with pytest.raises(UserError, match=r"config\.json is damaged") as refused:
    workdir.read_json("config.json")
  assert "\n" not in str(refused.value)


def test_parts_come_back_in_order(workdir: Workdir) -> None:
  names = [[f"t{number}.{i}" for i in range(3)] for number in range(12)]
  for number in (11, 3, 0, 10, 1, 2, 9, 4, 5, 8, 7, 6):
    workdir.write_part("rl", number, map(trajectory, names[number]))
  everything = [trajectory(n) for part in names for n in part]
  assert list(workdir.read_parts("rl")) == everything
  assert list(workdir.read_parts("rl", below=4)) == everything[:12]
  assert list(workdir.read_parts("rl", below=0)) == []
  assert list(workdir.read_parts("mps")) == []
  assert "trajectories/rl/part-00011.jsonl" in files(workdir)


def test_a_part_written_again_replaces_the_old_one(workdir: Workdir) -> None:
  workdir.write_part("rl", 0, [trajectory("a"), trajectory("b")])
  workdir.write_part("rl", 0, [trajectory("c")])
  workdir.write_part("rl", 1, [])
  assert list(workdir.read_parts("rl")) == [trajectory("c")]


def test_a_part_that_is_missing_is_named(workdir: Workdir) -> None:
  for number in (0, 2):
    workdir.write_part("rl", number, [trajectory("a")])
  with pytest.raises(UserError, match=r"part-00001\.jsonl is missing; delete checkpoints/rl and start again"):
    list(workdir.read_parts("rl", below=3))


@pytest.mark.parametrize("damaged", [b"{", b'{"schema": 0}\n', b"\xff\n"])
def test_a_damaged_part_is_named_in_a_line(workdir: Workdir, damaged: bytes) -> None:
  workdir.write_part("rl", 0, [trajectory("a")])
  path = workdir.root / "trajectories/rl/part-00000.jsonl"
  path.write_bytes(path.read_bytes() + damaged)
  with pytest.raises(UserError, match=r"part-00000\.jsonl is damaged") as refused:
    list(workdir.read_parts("rl"))
  assert "\n" not in str(refused.value)


def test_what_is_appended_stands_there_once(workdir: Workdir) -> None:
  workdir.append("events", b"abc", 0)
  workdir.append("events", b"abcdef", 3)
  assert (workdir.root / "events").read_bytes() == b"abcdef"


def test_metrics_are_lines_of_numbers(workdir: Workdir) -> None:
  metrics = MetricsWriter(workdir, "sft")
  metrics.write(0, {"loss": 2.5, "tokens": 10})
  metrics.write(1, {"loss": 1.5, "tokens": 12})
  metrics.close()
  lines = [json.loads(line) for line in (workdir.root / "metrics/sft.jsonl").read_text().splitlines()]
  assert [{k: v for k, v in line.items() if k != "time"} for line in lines] == [
    {"step": 0, "loss": 2.5, "tokens": 10.0},
    {"step": 1, "loss": 1.5, "tokens": 12.0},
  ]
  assert 1.6e9 < lines[0]["time"] <= lines[1]["time"]
  assert any("tfevents" in name for name in files(workdir))
  assert "metrics/sft.jsonl" in files(workdir)


def test_metrics_go_on_after_a_restart(workdir: Workdir) -> None:
  for step in (0, 1):
    metrics = MetricsWriter(workdir, "sft")
    metrics.write(step, {"loss": 1.0})
    metrics.close()
  lines = (workdir.root / "metrics/sft.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [0, 1]


def test_checkpoints_of_a_stage_have_a_folder_of_their_own(workdir: Workdir) -> None:
  assert workdir.checkpoint_folder("sft") == workdir.root / "checkpoints" / "sft"


def test_lone_surrogates_are_told_apart_from_text(workdir: Workdir) -> None:
  """They cannot be written as UTF-8; nothing in a run produces them, and one that does fails at once."""
  odd = dataclasses.replace(trajectory("a"), answer="\ud800")
  with pytest.raises(UnicodeEncodeError):
    workdir.write_part("rl", 0, [odd])
  assert list(workdir.read_parts("rl")) == []
