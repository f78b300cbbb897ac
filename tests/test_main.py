"""The command itself: exit statuses, one-line errors, stopping and starting again, what is there at the end."""

import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import pytest
from etils import epath
from ml_collections import ConfigDict

from score_jax import main
from score_jax.errors import UserError
from score_jax.model.sharding import Meshes
from score_jax.runtime import lock
from score_jax.runtime.workdir import Workdir
from tests.configs import smoke_config
from tests.documents import generic, metrics

ROOT = pathlib.Path(__file__).parent.parent

MESHES_OF = Meshes.of

pytestmark = pytest.mark.usefixtures("lenient_promotion", "on_one_device")  # of the optimiser and its schedules


def command(*args: str) -> subprocess.CompletedProcess[str]:
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  line = [sys.executable, "-m", "score_jax.main", *args]
  return subprocess.run(line, cwd="/", env=environment, capture_output=True, text=True, timeout=300, check=False)


def refused(status: int, *args: str) -> str:
  """The one line that a refused command says."""
  done = command(*args)
  said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert done.returncode == status, done.stderr
  assert len(said) == 1, done.stderr
  assert "Traceback" not in done.stderr
  return said[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The workdir of an undisturbed run."""
  folder = tmp_path_factory.mktemp("run") / "undisturbed"
  main.run_job(smoke_config(), str(folder))
  return folder


def results(folder: pathlib.Path) -> dict:
  return json.loads((folder / "results.json").read_text())


def test_every_model_stands_in_the_results(finished: pathlib.Path) -> None:
  rows = results(finished)["rows"]
  begun = {"untrained": "", "warm_start": "untrained", "bc": "untrained", "sft": "warm_start", "rl": "sft"}
  assert [(row["model"], row["from"]) for row in rows] == [*(begun | {"rl_from_question": "sft"}).items()]
  for row in rows:
    assert 0.0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1.0
    assert row["n"] == smoke_config().tasks.test
    assert len(row["weights_sha256"]) == 64
  cost = {row["model"]: row["ledger"]["tool_calls"] for row in rows}
  assert cost["untrained"] == 0 < cost["warm_start"] <= cost["sft"] <= cost["rl"]


def test_a_row_has_the_costs_of_what_its_model_is_made_from(finished: pathlib.Path) -> None:
  """BC goes by what mentoring cost, RL from the question by what RL did: neither is made from it."""
  tool_calls = {row["model"]: row["ledger"]["tool_calls"] for row in results(finished)["rows"]}
  own = {p.stem: json.loads(p.read_text())["ledger"]["tool_calls"] for p in (finished / "stages").glob("*.json")}
  assert tool_calls["bc"] == own["bc"]
  assert tool_calls["sft"] == own["warm_start"] + own["mps"] + own["sft"]
  assert tool_calls["rl_from_question"] == tool_calls["sft"] + own["rl_from_question"]


def test_an_arm_is_added_to_a_finished_run(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
  folder, config = tmp_path / "more", smoke_config()
  shutil.copytree(finished, folder)
  config.arms = ("sft_redraw",)
  config.profile.steps, config.profile.skip, config.profile.stages = 1, 0, ("sft_redraw",)
  main.run_job(config, str(folder))
  for kind in ("rounds", "updates"):
    assert len([*(folder / "profile/sft_redraw" / kind).rglob("*.xplane.pb")]) == 1
  before, after = results(finished)["rows"], results(folder)["rows"]
  assert [row for row in after if row["model"] != "sft_redraw"] == before
  [row] = [row for row in after if row["model"] == "sft_redraw"]
  assert row["from"] == "warm_start"
  assert json.loads((folder / "config.json").read_text())["config"]["arms"] == ["sft_redraw"]
  main.run_job(smoke_config(), str(folder))
  assert results(folder)["rows"] == after, "what is there stays in the table"


def test_what_each_stage_took_is_booked(finished: pathlib.Path) -> None:
  lines = [json.loads(line) for line in (finished / "metrics/stages.jsonl").read_text().splitlines()]
  assert [line["stage"] for line in lines][:3] == ["warm_start", "mps", "sft"]
  assert {"eval_rl", "eval_untrained"} <= {line["stage"] for line in lines}
  assert all(line["done"] and line["seconds"] > 0 and line["devices"] == jax.device_count() for line in lines)


def test_the_report_is_written(finished: pathlib.Path) -> None:
  assert "<html" in (finished / "report.html").read_text()


def test_every_metric_is_explained(finished: pathlib.Path) -> None:
  """docs/report.md has what stages write; what of it this run had nothing to measure for is its business."""
  of_stages = [path for path in (finished / "metrics").glob("*.jsonl") if path.name != "stages.jsonl"]
  lines = [json.loads(line) for path in of_stages for line in path.read_text().splitlines()]
  found = {generic(name) for line in lines for name in line}
  assert found <= metrics() and len(found) > 50


def test_every_trajectory_of_mentoring_reads_back(finished: pathlib.Path) -> None:
  cases = json.loads((finished / "trajectories/mps/cases.json").read_text())
  trajectories = list(Workdir(str(finished)).read_parts("mps"))
  split = json.loads((finished / "split.json").read_text())
  assert [c["question"] for c in cases] == [t.question_id for t in trajectories] == split["mps"]
  for case, trajectory in zip(cases, trajectories, strict=True):
    assert (case["outcome"] in ("unaided", "solved")) == trajectory.right
    assert all(c.verified == "student_success" for c in trajectory.corrections if trajectory.right)


def test_the_parts_of_the_questions_are_disjoint(finished: pathlib.Path) -> None:
  parts = json.loads((finished / "split.json").read_text()).values()
  everything = [question for part in parts for question in part]
  assert len(everything) == len(set(everything))


def test_what_was_dropped_is_listed(finished: pathlib.Path) -> None:
  """Of generated questions, whose texts all differ, nothing."""
  assert json.loads((finished / "overlap.json").read_text()) == {"schema": 1, "words": 0, "dropped": []}


def test_finished_it_says_so_and_changes_nothing(finished: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
  def files() -> dict[pathlib.Path, bytes]:
    """All but the list of starts."""
    return {p: p.read_bytes() for p in finished.rglob("*.json*") if p.is_file() and p.name != "stages.jsonl"}

  before = files()
  main.run_job(smoke_config(), str(finished))
  assert "nothing was left to do" in capsys.readouterr().out
  assert before == files()


def test_asked_to_end_in_the_midst_again_and_again_it_ends_the_same(
  finished: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """By a signal after so many files were written, each time some more; nothing is lost and nothing doubled."""
  root, write, left = tmp_path / "stopped", Workdir.write_bytes, 0

  def counted(self: Workdir, name: str, data: bytes) -> None:
    nonlocal left
    write(self, name, data)
    left -= 1
    if left == 0:
      signal.raise_signal(signal.SIGTERM)

  monkeypatch.setattr(Workdir, "write_bytes", counted)
  for left in (5, 8, 11, 14):  # noqa: B007
    with pytest.raises(SystemExit) as stopped:
      main.run_job(smoke_config(), str(root))
    assert stopped.value.code == 143
    assert not (root / "results.json").exists()
  main.run_job(smoke_config(), str(root))
  assert not list(root.glob("journal/*"))
  assert (root / "results.json").read_bytes() == (finished / "results.json").read_bytes()
  folders = (root, finished)
  ours, theirs = (sorted(p.relative_to(f) for p in f.glob("trajectories/**/*")) for f in folders)
  assert ours == theirs
  for name in ours:
    if (finished / name).is_file():
      assert (root / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_workdir_in_use_is_refused(tmp_path: pathlib.Path) -> None:
  with lock.hold_lock(epath.Path(tmp_path)):
    said = refused(1, "--config=configs/quickstart.py:smoke", f"--workdir={tmp_path}")
  assert said.startswith(f"error: workdir {tmp_path} is in use by the run with process id {os.getpid()} on ")


@pytest.mark.parametrize("key", ["tasks.test", "tasks.train", "rl.steps"])
def test_a_negative_count_is_refused(key: str, tmp_path: pathlib.Path) -> None:
  said = refused(1, "--config=configs/quickstart.py:smoke", f"--config.{key}=-1", f"--workdir={tmp_path}")
  assert said == f"error: {key} = -1: must be a whole number of at least 1; set --config.{key} to one"


def test_how_it_is_to_survive_may_be_changed(finished: pathlib.Path) -> None:
  config = smoke_config()
  config.survival.journal_s, config.survival.grace_s = 7.0, 3.0
  main.write_or_check_config(Workdir(str(finished)), config)


def test_a_workdir_of_another_config_is_refused(finished: pathlib.Path) -> None:
  config = smoke_config()
  config.rl.clip_low = 0.3
  with pytest.raises(UserError, match=r"rl\.clip_low is 0\.2 there and 0\.3 here; give another --workdir"):
    main.run_job(config, str(finished))


def test_a_workdir_with_another_split_is_refused(tmp_path: pathlib.Path) -> None:
  """A file of questions that was changed, or a version that splits otherwise, must not mix two splits."""
  (tmp_path / "split.json").write_text('{"warm_start": ["a"], "mps": [], "validation": [], "test": []}')
  with pytest.raises(UserError, match=r"split\.json of .* has other questions than tasks gives now"):
    main.run_job(smoke_config(), str(tmp_path))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tensorstore reports each file too
def test_of_a_truncated_checkpoint_the_one_before_it_is_used(
  finished: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
  folder = tmp_path / "truncated"
  shutil.copytree(finished, folder)
  for name in ("results.json", "stages/rl.json", "stages/rl_from_question.json"):
    (folder / name).unlink()
  first, second = sorted((folder / "checkpoints/rl").iterdir())
  for file in second.rglob("*"):
    if file.is_file():
      file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  with caplog.at_level(logging.WARNING, logger="score_jax"):
    main.run_job(smoke_config(), str(folder))
  assert f"checkpoint {second} cannot be read" in caplog.text
  assert first.exists() and "using the one before it" in caplog.text
  assert (folder / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_an_unknown_key_is_refused_with_the_nearest() -> None:
  said = refused(2, "--config=configs/quickstart.py:smoke", "--config.rl.group_sise=8")
  assert said == "error: --config.rl.group_sise: there is no such key; the nearest is rl.group_size"


def test_a_config_that_does_not_exist_or_does_not_load_is_refused() -> None:
  assert refused(2, "--config=configs/none.py").startswith("error: --config=configs/none.py: there is no such file; ")
  assert "choose quickstart.py or quickstart.py:smoke" in refused(2, "--config=configs/quickstart.py:none")
  assert refused(2, "--config", "configs/none.py").startswith("error: --config=configs/none.py: there is no")
  assert "--config=FILE is missing" in refused(2)


def test_a_missing_tasks_file_is_refused(tmp_path: pathlib.Path) -> None:
  pytest.importorskip("gguf", reason="needs the extra smollm2")
  said = refused(
    1, "--config=configs/smollm2_gsm8k.py:smoke", "--config.tasks.path=/no/such/folder", f"--workdir={tmp_path / 'w'}"
  )
  assert "/no/such/folder" in said


def test_an_unwritable_workdir_is_refused(tmp_path: pathlib.Path) -> None:
  (tmp_path / "file").write_text("")
  assert "cannot be written" in refused(
    1, "--config=configs/quickstart.py:smoke", f"--workdir={tmp_path / 'file' / 'w'}"
  )


def test_a_stage_that_does_not_exist_is_refused(tmp_path: pathlib.Path) -> None:
  config: ConfigDict = smoke_config()
  config.stages = ("warm_start", "magic")
  with pytest.raises(UserError, match="'magic' is none; choose from warm_start"):
    main.run_job(config, str(tmp_path / "w"))


def test_eight_devices_run_the_recipe(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(Meshes, "of", MESHES_OF)
  config = smoke_config()
  config.mesh.train, config.mesh.sample = (2, 2, 2), (4, 1, 2)
  config.stages = ("warm_start",)
  assert jax.device_count() == 8
  main.run_job(config, str(tmp_path / "w"))
  assert [row["model"] for row in results(tmp_path / "w")["rows"]] == ["untrained", "warm_start"]
