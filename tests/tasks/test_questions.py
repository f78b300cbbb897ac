from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.recipe import _write_overlap
from score_jax.runtime.workdir import Workdir
from score_jax.tasks import gsm8k
from score_jax.tasks import questions as source
from score_jax.tasks.questions import load_tasks
from score_jax.tasks.splits import normalise_question
from score_jax.trajectory import Question
from tests.configs import module
from tests.tasks.sources import ROWS, write_lines, written

SUMS = [{"problem": f"How much is {i} and {i + 1}?", "final": 2 * i + 1} for i in range(30)]
SMOKE = ("18f4b1633959", "9f63e0102e18", "b5e596b6fb1b")  # training, validation, test: the first of each
LONG = "In a town of nine bridges every bridge is crossed by {} people on each day of the week"


def config(**knobs: Any) -> ConfigDict:
  """The group `tasks` of the quickstart for questions of one's own, with other knobs."""
  c = module("quickstart").get_config().tasks
  c.kind, c.grader = "questions", "gsm8k"
  c.fields.question, c.fields.answer = "problem", "final"
  c.train, c.validation, c.test = 10, 4, 6
  for name, value in knobs.items():
    c[name] = value
  return c


def asked(questions: list[Question]) -> list[tuple[str, str, str, tuple[str, ...]]]:
  return [(q.id, q.text, q.answer, q.aliases) for q in questions]


def test_own_questions_are_cut_into_parts_that_are_as_large_as_asked(tmp_path: pathlib.Path) -> None:
  tasks = load_tasks(config(path=write_lines(tmp_path / "mine.jsonl", SUMS)), seed=0)
  parts = (tasks.train, tasks.validation, tasks.test)
  assert tuple(map(len, parts)) == (10, 4, 6)
  assert len({normalise_question(q.text) for part in parts for q in part}) == 20
  assert (tasks.benchmark, tasks.documents, tasks.dropped) == ("questions", [], ())
  assert {q.text: q.answer for part in parts for q in part}.items() <= {
    r["problem"]: str(r["final"]) for r in SUMS
  }.items()


def test_another_seed_chooses_others(tmp_path: pathlib.Path) -> None:
  path = write_lines(tmp_path / "mine.jsonl", SUMS)
  assert load_tasks(config(path=path), seed=0).test == load_tasks(config(path=path), seed=0).test
  assert load_tasks(config(path=path), seed=0).test != load_tasks(config(path=path), seed=1).test


def test_every_format_gives_the_same_questions_in_the_same_order(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  datasets = pytest.importorskip("datasets")
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
  fields = ConfigDict({"question": "text", "answer": "right", "id": "key", "aliases": "also"})
  found = {
    name: load_tasks(config(path=path, fields=fields, train=13), seed=3) for name, path in written(tmp_path).items()
  }
  expected = found["lines"]
  assert ("a2", ROWS[1]["text"], "1,042", ()) in asked(expected.train + expected.validation + expected.test)
  for tasks in found.values():
    for part in ("train", "validation", "test"):
      assert asked(getattr(tasks, part)) == asked(getattr(expected, part))
  assert len(found) == 9


def test_what_overlaps_the_test_questions_is_dropped_from_training_alone(tmp_path: pathlib.Path) -> None:
  planted = [
    {"problem": "How much is  3 and 4 ?!", "final": "7"},
    {"problem": f"{LONG.format('20')}. How many is that?", "final": "1260"},
    {"problem": "How much is 5 and 6?", "final": ""},
    {"problem": "how much is 6 and 7", "final": "13"},
  ]
  others = [{"problem": "How much is 3 and 4?", "final": 7}, {"problem": LONG.format("20"), "final": 1}]
  training = write_lines(tmp_path / "train.jsonl", [*planted, *SUMS[:3], *SUMS[6:]])
  test = write_lines(tmp_path / "test.jsonl", others)
  tasks = load_tasks(
    config(path=training, test_kind="questions", test_path=test, train=26, validation=1, test=2), seed=0
  )
  assert {q.text for q in tasks.test} == {row["problem"] for row in others}
  assert sorted((d.why, d.other in {q.id for q in tasks.test}) for d in tasks.dropped) == [
    ("duplicate", False),
    ("no_answer", False),
    ("same_text", True),
    ("same_words", True),
  ]
  assert not {"how much is 3 and 4", "how much is 5 and 6"} & {normalise_question(q.text) for q in tasks.train}
  assert len(tasks.train) + len(tasks.validation) == len(SUMS) - 3


def test_questions_that_differ_by_a_sign_are_all_asked(tmp_path: pathlib.Path) -> None:
  rows = [{"problem": f"What is {i + 10} {sign} {i}?", "final": 1} for i in range(5) for sign in "+-"]
  tasks = load_tasks(config(path=write_lines(tmp_path / "mine.jsonl", rows), train=5, validation=2, test=3), seed=0)
  asked_for = [*tasks.train, *tasks.validation, *tasks.test]
  assert {q.text for q in asked_for} == {row["problem"] for row in rows}
  assert (len({q.id for q in asked_for}), tasks.dropped) == (10, ())


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_without_an_answer_are_dropped_and_listed(tmp_path: pathlib.Path, suffix: str) -> None:
  """A column with holes, as pandas writes it: null in one file, NaN in the other."""
  pandas = pytest.importorskip("pandas")
  problems = [row["problem"] for row in SUMS]
  table = pandas.DataFrame({"problem": problems, "final": [float(row["final"]) for row in SUMS]})
  table.loc[[3, 5], "final"] = float("nan")
  path = tmp_path / f"mine.{suffix}"
  if suffix == "parquet":
    table.to_parquet(path)
  else:
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dict("records")), encoding="utf-8")
  tasks = load_tasks(config(path=str(path), train=18), seed=0)
  assert {q.answer for q in (*tasks.train, *tasks.validation, *tasks.test)} == {
    str(row["final"]) for i, row in enumerate(SUMS) if i not in (3, 5)
  }
  assert [d.why for d in tasks.dropped] == ["no_answer", "no_answer"]
  with pytest.raises(UserError, match=r"has 2 such questions \(dropped: 2 no_answer\); ask for fewer"):
    load_tasks(config(path=str(path), train=20), seed=0)


def test_dropped_questions_are_listed_in_the_workdir_and_told(tmp_path: pathlib.Path) -> None:
  path = write_lines(tmp_path / "mine.jsonl", SUMS)
  test = write_lines(tmp_path / "test.jsonl", [{"problem": "how much is 3 and 4", "final": 7}])
  tasks = load_tasks(config(path=path, test_kind="questions", test_path=test, test=1), seed=0)

  class Run:
    workdir = Workdir(str(tmp_path / "w"))
    said: list[str] = []  # noqa: RUF012

    @classmethod
    def log(cls, text: str) -> None:
      cls.said.append(text)

  run: Any = Run()
  run.tasks = tasks
  _write_overlap(run)
  [same] = tasks.dropped
  assert run.workdir.read_json("overlap.json") == {
    "schema": 1,
    "words": 13,
    "dropped": [{"id": same.id, "why": "same_text", "other": tasks.test[0].id, "shared": "how much is 3 and 4"}],
  }
  assert len(run.said) == 1 and "1 same_text (overlap.json)" in run.said[0]


def test_training_on_own_questions_and_testing_on_a_benchmark(tmp_path: pathlib.Path) -> None:
  hard = [{"input": f"How much is {i} and {10**9}?", "target": float(i + 10**9)} for i in range(8)]
  path, test = write_lines(tmp_path / "mine.jsonl", SUMS), write_lines(tmp_path / "hard.jsonl", hard)
  tasks = load_tasks(config(path=path, test_kind="gsm_hard", test_path=test), seed=0)
  assert tasks.benchmark == "gsm_hard"
  assert {q.answer for q in tasks.test} <= {str(i + 10**9) for i in range(8)}
  assert tasks.notes == ("gsm_hard: 6 of 8 questions; the paper evaluates 1319",)


def test_training_and_test_questions_are_graded_each_in_their_way(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  made: list[str] = []

  def grader(benchmark: str, judge: object) -> Callable[[Question, str], tuple[float, str]]:
    made.append(benchmark)
    return lambda question, answer: (1.0, benchmark)

  monkeypatch.setattr(source, "make_grader", grader)
  path = write_lines(tmp_path / "mine.jsonl", SUMS)
  hard = write_lines(tmp_path / "hard.jsonl", [{"input": f"How many {i}?", "target": i} for i in range(8)])
  tasks = load_tasks(config(path=path, test_kind="gsm_hard", test_path=hard), seed=0)
  assert [tasks.grader(q, "")[1] for q in (tasks.train[0], tasks.validation[0], tasks.test[0])] == [
    "gsm8k",
    "gsm8k",
    "gsm_hard",
  ]
  made.clear()
  load_tasks(config(path=path), seed=0)
  assert made == ["gsm8k"]


def test_graders_that_hold_something_are_closed_with_the_one_for_both(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  closed: list[str] = []

  class Holding:
    def __init__(self, name: str):
      self.name = name

    def __call__(self, question: Question, answer: str) -> tuple[float, str]:
      return 1.0, self.name

    def __enter__(self) -> Holding:
      return self

    def __exit__(self, *error: object) -> None:
      closed.append(self.name)

  monkeypatch.setattr(
    source, "make_grader", lambda name, judge: Holding(name) if name == "gsm8k" else lambda q, a: (1.0, name)
  )
  path = write_lines(tmp_path / "mine.jsonl", SUMS)
  hard = write_lines(tmp_path / "hard.jsonl", [{"input": f"How many {i}?", "target": i} for i in range(8)])
  grader: Any = load_tasks(config(path=path, test_kind="gsm_hard", test_path=hard), seed=0).grader
  with grader:
    assert closed == []
  assert closed == ["gsm8k"]


def test_a_benchmark_may_be_cut_into_parts_too(tmp_path: pathlib.Path) -> None:
  rows = [{"problem": f"What is {i}?", "answer": i} for i in range(30)]
  path = write_lines(tmp_path / "aime.jsonl", rows)
  tasks = load_tasks(config(kind="aime24", path=path), seed=0)
  assert tuple(map(len, (tasks.train, tasks.validation, tasks.test))) == (10, 4, 6)
  assert all(q.id.startswith("aime24/") for q in tasks.test)


def test_of_a_benchmark_that_is_only_trained_on_nothing_is_told(tmp_path: pathlib.Path) -> None:
  test = write_lines(tmp_path / "t.jsonl", [{"input": "?a", "target": 1}])
  fields = ConfigDict({"question": "input", "answer": "target", "id": "", "aliases": ""})
  knobs = {"test_kind": "questions", "test_path": test, "fields": fields, "test": 1}
  write_lines(tmp_path / "aime.jsonl", [{"question": row["problem"], "answer": row["final"]} for row in SUMS])
  assert load_tasks(config(kind="aime24", path=str(tmp_path / "aime.jsonl"), **knobs), seed=0).notes == ()
  assert len(load_tasks(config(kind="aime24", path=str(tmp_path / "aime.jsonl")), seed=0).notes) == 1


def test_generated_questions_may_be_trained_on_and_real_ones_tested_on(tmp_path: pathlib.Path) -> None:
  path = write_lines(tmp_path / "mine.jsonl", SUMS)
  tasks = load_tasks(config(kind="word_problems", test_kind="questions", test_path=path), seed=0)
  alone = load_tasks(config(kind="word_problems"), seed=0)
  assert (tasks.train, tasks.validation) == (alone.train, alone.validation)
  assert (tasks.words, alone.words) == (13, 0)
  assert {q.text for q in tasks.test} <= {row["problem"] for row in SUMS}


@pytest.mark.parametrize(
  ("knobs", "said"),
  [
    ({"kind": "math50"}, r"tasks\.kind = 'math50'; did you mean math500\? choose from word_problems, gsm8k"),
    ({"test_kind": "hotpot"}, r"tasks\.test_kind = 'hotpot'; did you mean hotpotqa\? choose from"),
    ({"test_kind": "word_problems"}, r"tasks\.test_kind = 'word_problems'; choose from gsm8k"),
    ({"grader": ""}, r"tasks\.grader = ''; choose from gsm8k, word_problems, aime24"),
    ({"grader": "gsm9k"}, r"tasks\.grader = 'gsm9k'; did you mean gsm8k\?"),
    ({"path": ""}, r"tasks\.path = ''; give the file, folder, ORG/NAME of the hub or tfds:NAME of your questions"),
    ({"test_kind": "questions"}, r"tasks\.test_path = ''; give the file"),
    ({"test_path": "t.jsonl"}, r"tasks\.test_path = 't\.jsonl' without tasks\.test_kind; name the kind"),
    ({"train": 25}, r"tasks\.train = 25, but .*mine\.jsonl has 24 such questions; ask for fewer"),
    ({"validation": 15}, r"tasks\.validation = 15, but .*mine\.jsonl has 14 such questions"),
    ({"test": 31}, r"tasks\.train = 10, but .*mine\.jsonl has 0 such questions"),
    (
      {"test_kind": "questions", "test_path": "nowhere.jsonl"},
      r"tasks\.test_path = 'nowhere\.jsonl': there is no such",
    ),
  ],
)
def test_what_cannot_be_had_is_refused_by_its_knob(tmp_path: pathlib.Path, knobs: dict[str, Any], said: str) -> None:
  path = write_lines(tmp_path / "mine.jsonl", SUMS)
  with pytest.raises(UserError, match=said) as error:
    load_tasks(config(**{"path": path, **knobs}), seed=0)
  assert "\n" not in str(error.value)


def test_a_missing_field_names_its_knob(tmp_path: pathlib.Path) -> None:
  path = write_lines(tmp_path / "mine.jsonl", [*SUMS, {"problem": "Why?", "answer": 1}])
  with pytest.raises(
    UserError, match=r"mine\.jsonl:31: .* 'final', only problem, answer; set tasks\.fields\.answer to"
  ):
    load_tasks(config(path=path), seed=0)


def test_an_id_of_a_training_and_of_a_test_question_is_refused(tmp_path: pathlib.Path) -> None:
  fields = ConfigDict({"question": "problem", "answer": "final", "id": "n", "aliases": ""})
  path = write_lines(tmp_path / "mine.jsonl", [{**row, "n": i} for i, row in enumerate(SUMS)])
  test = write_lines(tmp_path / "test.jsonl", [{"problem": "Who?", "final": "5", "n": 5}])
  knobs = {"path": path, "fields": fields, "test_kind": "questions", "test_path": test, "train": 30}
  with pytest.raises(
    UserError, match=r"the id '5' is of a training and of another test question; set tasks\.fields\.id"
  ):
    load_tasks(config(**knobs, validation=0, test=1), seed=0)


read_once = functools.cache(gsm8k.load_gsm8k)


@pytest.fixture
def gsm8k_path(monkeypatch: pytest.MonkeyPatch) -> str:
  if "SCORE_JAX_DATA" not in os.environ:
    pytest.skip("SCORE_JAX_DATA names no folder with gsm8k/train.jsonl")
  monkeypatch.setattr(gsm8k, "load_gsm8k", read_once)
  return str(pathlib.Path(os.environ["SCORE_JAX_DATA"]) / "gsm8k")


def test_real_training_questions_that_share_words_with_test_questions_are_dropped(gsm8k_path: str) -> None:
  tasks = load_tasks(config(kind="gsm8k", path=gsm8k_path, train=6253, validation=500, test=1319), seed=0)
  assert [d.why for d in tasks.dropped] == ["same_words"] * 4
  ids = {q.id for q in tasks.test}
  assert len(ids) == 1319 and all(d.other in ids for d in tasks.dropped)
  assert all(len(d.shared.split()) == 13 for d in tasks.dropped)


def test_the_questions_of_the_smoke_run_stay_what_they_are(gsm8k_path: str) -> None:
  """Should this change, runs that were begun before go on with other questions."""
  tasks = load_tasks(config(kind="gsm8k", path=gsm8k_path, train=18, validation=2, test=6), seed=0)
  assert (tasks.train[0].id, tasks.validation[0].id, tasks.test[0].id) == SMOKE
  assert tasks.dropped == ()
