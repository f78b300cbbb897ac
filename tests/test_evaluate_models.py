"""Models from anywhere on benchmarks: in parts, resumed to the same bytes, whatever the model comes as."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from score_jax import evaluate, export, main
from score_jax.errors import UserError
from score_jax.evaluate import hash_weights
from score_jax.experiment.experiment import Experiment
from score_jax.model import lora
from score_jax.runtime.workdir import Workdir
from score_jax.teaching.worked_solution import ReferenceTeacher
from score_jax.train.checkpoints import Checkpoints
from score_jax.train.step import TrainState
from score_jax.trajectory import Question, Trajectory
from tests.chat.servers import scripted
from tests.configs import module, smoke_config
from tests.tasks.sources import write_lines

pytestmark = pytest.mark.usefixtures("on_one_device")

MATH = [{"question": f"How many are {i} and {i}?", "answer": str(2 * i)} for i in range(1, 4)]
QA = [{"id": f"k{i}", "question": f"Who sells {i} pens?", "answer": f"person {i}"} for i in range(2)]


def smoke(**more: Any) -> ConfigDict:
  """configs/evaluate.py:smoke, smaller still."""
  c = module("evaluate").get_config("smoke")
  c.sampler.slots, c.agent.acts, c.limit, c.eval.part = 8, 4, 5, 2
  c.update(more)
  return c


def files(folder: pathlib.Path) -> dict[str, bytes]:
  found = (p for p in folder.rglob("*.json*") if p.is_file() and p.name != "stages.jsonl")
  return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def rows(folder: pathlib.Path) -> list[dict[str, Any]]:
  return json.loads((folder / "results.json").read_text())["rows"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, ConfigDict]:
  """The shipped student on three benchmarks, two of them of own files."""
  folder = tmp_path_factory.mktemp("evaluated")
  c = smoke(benchmarks="word_problems,math500,hotpotqa")
  c.paths.math500, c.paths.hotpotqa = write_lines(folder / "m.jsonl", MATH), write_lines(folder / "q.jsonl", QA)
  main.run_job(c, str(folder / "w"))
  return folder / "w", c


def test_every_benchmark_has_a_row_and_a_record_of_every_try(finished: tuple[pathlib.Path, ConfigDict]) -> None:
  folder, _ = finished
  found = {row["benchmark"]: row for row in rows(folder)}
  assert {name: (row["n"], row["tries"], row["metric"]) for name, row in found.items()} == {
    "word_problems": (5, 2, "accuracy"),
    "math500": (3, 2, "accuracy"),
    "hotpotqa": (2, 2, "f1"),
  }
  records = folder / "eval/shipped-student"
  parts = sorted(p.name for p in records.glob("*.jsonl"))
  assert parts == [
    f"{name}-{i:05d}.jsonl" for name, n in (("hotpotqa", 1), ("math500", 2), ("word_problems", 3)) for i in range(n)
  ]
  for name, row in found.items():
    lines = [json.loads(line) for p in sorted(records.glob(f"{name}-*.jsonl")) for line in p.read_text().splitlines()]
    assert len(lines) == row["n"] * row["tries"]
    assert len({line["trajectory"]["name"] for line in lines}) == len(lines)
    grades = [line["trajectory"]["grade"] for line in lines]
    assert row["ungraded"] == grades.count(None) == 0
    assert row["accuracy"] == pytest.approx(sum(grades) / len(grades))
    assert (row["base"], row["stage"], len(row["weights_sha256"])) == ("shipped:student", "untrained", 64)


def test_the_page_and_the_table_have_every_benchmark(
  finished: tuple[pathlib.Path, ConfigDict], capsys: pytest.CaptureFixture[str]
) -> None:
  folder, c = finished
  before = files(folder)
  main.run_job(c, str(folder))
  said = capsys.readouterr().out
  for text in ("word_problems", "math500", "hotpotqa (F1)", "pass@k", "tries"):
    assert text in said and text in (folder / "report.html").read_text()
  assert "PFLOP" not in said  # of making the model nothing is known
  assert files(folder) == before


def test_killed_between_parts_it_goes_on_to_the_same_bytes(
  finished: tuple[pathlib.Path, ConfigDict], tmp_path: pathlib.Path
) -> None:
  folder, c = finished
  shutil.copytree(folder, tmp_path / "w")
  (tmp_path / "w/results.json").unlink()
  records = tmp_path / "w/eval/shipped-student"
  (records / "word_problems-00002.jsonl").rename(records / ".word_problems-00002.jsonl.draft")
  for path in (*records.glob("math500*"), *records.glob("hotpotqa*")):
    path.unlink()
  main.run_job(c, str(tmp_path / "w"))
  assert files(tmp_path / "w") == files(folder)


def test_a_damaged_part_is_named(finished: tuple[pathlib.Path, ConfigDict], tmp_path: pathlib.Path) -> None:
  folder, c = finished
  shutil.copytree(folder, tmp_path / "w")
  part = tmp_path / "w/eval/shipped-student/word_problems-00001.jsonl"
  part.write_text(part.read_text()[:-30])
  with pytest.raises(UserError, match=r"word_problems-00001\.jsonl is damaged .* delete it and start again"):
    main.run_job(c, str(tmp_path / "w"))


def test_a_stage_of_a_run_is_what_its_exported_folder_is(tmp_path: pathlib.Path) -> None:
  """The same tokens; and no question of its split is asked."""
  run_config, workdir = smoke_config(), Workdir(str(tmp_path / "run"))
  main.write_or_check_config(workdir, run_config)
  with Experiment(run_config, workdir) as run:
    trained, frozen = lora.split_trainable(run.student.weights)
    trained = jax.tree.map(lambda x: x + 0.01 * jnp.sin(jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)), trained)
    checkpoints = Checkpoints(workdir.checkpoint_folder("rl"), keep=1)
    checkpoints.save(TrainState(jnp.int32(1), trained, {"count": jnp.int32(1)}))
    checkpoints.close()
    digest = hash_weights(lora.merge_params(trained, frozen))
  stage = f"{tmp_path / 'run'}:rl"
  export.export_model(
    export.load_stage_model(str(tmp_path / "run"), "rl")[0],
    tmp_path / "out",
    dtype="float32",
    shard_gb=1.0,
    decoding={},
  )
  c = smoke(model=f"{stage},{tmp_path / 'out'}", limit=2, tries=1)
  main.run_job(c, str(tmp_path / "w"))
  first, second = rows(tmp_path / "w")
  assert first["weights_sha256"] == digest
  assert (first["base"], first["stage"]) == ("shipped:student", "rl")
  assert (second["base"], second["stage"]) == (str(tmp_path / "out"), "untrained")
  ours, theirs = (
    [json.loads(line)["trajectory"]["steps"] for line in path.read_text().splitlines()]
    for path in sorted((tmp_path / "w/eval").glob("*/word_problems-00000.jsonl"))
  )
  assert ours == theirs
  asked = [
    json.loads(line)["trajectory"]["question_id"] for line in path_of(tmp_path / "w", first).read_text().splitlines()
  ]
  workdir.write_json("split.json", {"mps": asked[:1], "test": asked[1:]})
  with evaluate.BenchmarkRun(stage, "x", c, Workdir(str(tmp_path / "w"))) as examined:
    questions = [q.id for q in examined.tasks.test]
  assert asked[0] not in questions and asked[1] in questions


def path_of(folder: pathlib.Path, row: dict[str, Any]) -> pathlib.Path:
  return folder / "eval" / row["model"] / f"{row['benchmark']}-00000.jsonl"


def test_an_endpoints_agent_is_the_teacher_that_the_config_names(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Here the worked solutions, which need no server; killed in its second part it asks nothing twice."""
  c = smoke(model="endpoint", limit=4)
  c.teacher.kind = "reference"
  asked: list[list[str]] = []
  demonstrate = ReferenceTeacher.demonstrate

  def killed(self: ReferenceTeacher, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    asked.append([name, *(q.id for q in questions)])
    if len(asked) == 4:  # the second try at the second part
      raise KeyboardInterrupt
    return demonstrate(self, questions, name=name)

  monkeypatch.setattr(ReferenceTeacher, "demonstrate", killed)
  with pytest.raises(KeyboardInterrupt):
    main.run_job(c, str(tmp_path / "w"))
  main.run_job(c, str(tmp_path / "w"))
  [row] = rows(tmp_path / "w")
  assert (row["accuracy"], row["n"], row["weights_sha256"], row["pass_at"]) == (1.0, 4, None, {"1": 1.0, "2": 1.0})
  first, again, second, cut, *rest = asked
  assert (first[0], again[0]) == ("eval/0", "eval/1") and first[1:] == again[1:]
  assert rest == [second, cut] and not set(first[1:]) & set(second[1:])
  main.run_job(c, str(tmp_path / "other"))
  assert files(tmp_path / "w") == files(tmp_path / "other")


def test_an_api_model_is_evaluated_as_the_prompted_agent(tmp_path: pathlib.Path) -> None:
  """Over a real connection, by a model that adds well but once; what it said is not asked for again."""

  def says(messages: list[dict[str, str]]) -> str:
    data = json.loads(messages[-1]["content"].splitlines()[-1])
    if "steps" not in data:
      return json.dumps({"thought": "add them"})
    [number] = re.findall(r"How many are (\d+)", data["question"])
    return json.dumps({"thought": "add", "code": f"final_answer_print({int(number) * (2 if number != '3' else 3)})"})

  c = smoke(model="endpoint", benchmarks="math500")
  c.paths.math500 = write_lines(tmp_path / "m.jsonl", MATH)
  with scripted(says) as server:
    c.chat.kind, c.chat.url, c.chat.model = "endpoint", server.url, "adder"
    main.run_job(c, str(tmp_path / "w"))
    asked = len(server.asked)
    [row] = rows(tmp_path / "w")
    (tmp_path / "w/eval/endpoint/math500-00001.jsonl").unlink()
    main.run_job(c, str(tmp_path / "w"))
    assert len(server.asked) == asked == 3 * 2 * 2  # questions, tries, and a plan and a step of each
  assert rows(tmp_path / "w") == [row]
  assert (row["accuracy"], row["n"], row["base"], row["ungraded"]) == (pytest.approx(2 / 3), 3, "adder", 0)


def test_what_was_recorded_of_other_weights_is_not_taken(tmp_path: pathlib.Path) -> None:
  c = smoke(model="endpoint", limit=2, tries=1)
  c.teacher.kind = "reference"
  workdir = Workdir(str(tmp_path / "w"))
  workdir.write_json("eval/endpoint/word_problems.json", {"identity": "another"})
  workdir.write("eval/endpoint/word_problems-00000.jsonl", "of another")
  workdir.write("eval/endpoint/word_problems-00007.jsonl", "of another")
  main.run_job(c, str(tmp_path / "w"))
  assert rows(tmp_path / "w")[0]["accuracy"] == 1.0
  assert [p.name for p in sorted((tmp_path / "w/eval/endpoint").glob("*.jsonl"))] == ["word_problems-00000.jsonl"]


def test_models_are_called_by_the_last_part_of_their_names_where_that_tells_them_apart() -> None:
  assert evaluate._folders("runs/a:rl, Qwen/Qwen3-8B,/x/out/") == {
    "a-rl": "runs/a:rl",
    "Qwen3-8B": "Qwen/Qwen3-8B",
    "out": "/x/out/",
  }
  assert list(evaluate._folders("runs/a/out,runs/b/out")) == ["runs-a-out", "runs-b-out"]


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"model": ""}, "model = ''; give a model folder"),
    ({"model": "none/at all"}, "model 'none/at all' does not exist"),
    ({"model": "runs/none:rl"}, "runs/none: there is no such folder"),
    ({"model": "a/b,a-b,c/b"}, "called alike"),
    ({"benchmarks": "word_problem"}, "did you mean word_problems"),
    ({"job": "dance"}, "job = 'dance'; choose from recipe, evaluate"),
  ],
)
def test_what_cannot_be_evaluated_is_refused(tmp_path: pathlib.Path, changes: dict[str, str], said: str) -> None:
  with pytest.raises(UserError, match=said):
    main.run_job(smoke(**changes), str(tmp_path / "w"))


def test_real_benchmarks_are_evaluated_from_files(tmp_path: pathlib.Path) -> None:
  if "SCORE_JAX_DATA" not in os.environ:
    pytest.skip("SCORE_JAX_DATA names no folder with math/math_500.json, qa/hotpotqa_500.json and a corpus")
  data = pathlib.Path(os.environ["SCORE_JAX_DATA"])
  c = smoke(benchmarks="math500,hotpotqa", limit=4, tries=1)
  c.paths.math500, c.paths.hotpotqa = str(data / "math/math_500.json"), str(data / "qa/hotpotqa_500.json")
  c.tools.search.kind, c.tools.search.path = "bm25", str(data / "multihop/corpus.jsonl")
  c.tools.search.index = str(tmp_path / "index")
  main.run_job(c, str(tmp_path / "w"))
  assert [(row["benchmark"], row["n"], row["ungraded"]) for row in rows(tmp_path / "w")] == [
    ("math500", 4, 0),
    ("hotpotqa", 4, 0),
  ]
