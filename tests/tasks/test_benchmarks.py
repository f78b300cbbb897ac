from __future__ import annotations

import base64
import os
import pathlib
from typing import Any

import pytest

from score_jax.errors import UserError
from score_jax.tasks.benchmarks import BENCHMARKS, describe_question_counts, load_benchmark
from score_jax.tasks.splits import deduplicate_questions
from score_jax.trajectory import Question
from tests.tasks.sources import write_lines

KEY = "a key of any length"


def ciphered(text: str) -> str:
  """The other way round: each byte of the text and the next one of the key, as base64."""
  mixed = [byte ^ KEY.encode()[i % len(KEY)] for i, byte in enumerate(text.encode())]
  return base64.b64encode(bytes(mixed)).decode()


#: rows as the hub has them: of a benchmark's place, one that is kept and, after it, one that is not
HUB: dict[str, list[dict[str, Any]]] = {
  "HuggingFaceH4/aime_2024": [{"id": 60, "problem": "P?", "solution": "…", "answer": "204", "url": "", "year": "2024"}],
  "math-ai/aime25": [{"problem": "P?", "answer": "204", "id": "0"}],
  "HuggingFaceH4/MATH-500": [
    {"problem": "P?", "solution": "…", "answer": "204", "unique_id": "test/1.json", "level": 2}
  ],
  "RUC-AIBOX/OlymMATH:en-easy": [{"problem": "P?", "answer": "204", "subject": "Algebra", "unique_id": "EASY-0-EN"}],
  "RUC-AIBOX/OlymMATH:en-hard": [{"problem": "Q?", "answer": "9", "subject": "Algebra", "unique_id": "HARD-0-EN"}],
  "hotpotqa/hotpot_qa:distractor": [{"id": "5a", "question": "P?", "answer": "204", "type": "bridge", "level": "hard"}],
  "framolfese/2WikiMultihopQA": [{"id": "5a", "question": "P?", "answer": "204", "type": "bridge"}],
  "dgslibisey/MuSiQue": [
    {
      "id": "2hop__1",
      "question": "P?",
      "answer": "204",
      "answer_aliases": ["two hundred and four"],
      "answerable": True,
    },
    {"id": "2hop__2", "question": "Q?", "answer": "9", "answer_aliases": [], "answerable": False},
  ],
  "chiayewken/bamboogle": [{"Question": "P?", "Answer": "204"}],
  "gaia-benchmark/GAIA:2023_all": [
    {"task_id": "c6", "Question": "P?", "Level": "1", "Final answer": "204", "file_name": ""},
    {"task_id": "c7", "Question": "Q?", "Level": "1", "Final answer": "9", "file_name": "c7.pdf"},
  ],
  "callanwu/WebWalkerQA": [{"question": "P?", "answer": "204", "root_url": "", "info": {"lang": "en"}}],
  "cais/hle": [
    {"id": "66", "question": "P?", "answer": "204", "image": "", "answer_type": "exactMatch"},
    {"id": "67", "question": "Q?", "answer": "9", "image": "data:image/png;base64,", "answer_type": "exactMatch"},
  ],
  "xbench/DeepSearch": [{"id": 1, "prompt": ciphered("P?"), "answer": ciphered("204"), "canary": KEY}],
  "reasoning-machines/gsm-hard": [{"input": "P?", "code": "…", "target": 204.0}],
}
IDS = {
  "math500": "test/1.json",
  "olymmath": "EASY-0-EN",
  "musique": "2hop__1",
  "gaia": "c6",
  "hle": "66",
  "xbench": "1",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
  """Has rows of every benchmark; lists what was asked of it."""
  datasets = pytest.importorskip("datasets")
  asked: list[str] = []

  def load_dataset(path: str, name: str | None, *, split: str) -> Any:
    place = f"{path}:{name}" if name else path
    asked.append(f"{place} {split}")
    return datasets.Dataset.from_list(HUB[place])

  monkeypatch.setattr(datasets, "load_dataset", load_dataset)
  return asked


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_is_read_from_its_place_on_the_hub(hub: list[str], name: str) -> None:
  found = load_benchmark(name, "", knob="tasks.path")
  benchmark = BENCHMARKS[name]
  assert hub == [f"{place} {benchmark.split}" for place in benchmark.hub_datasets]
  assert len(found) == len(benchmark.hub_datasets)  # what has a picture, a file or no answer is left out
  assert (found[0].text, found[0].answer) == ("P?", "204")
  assert found[0].aliases == (("two hundred and four",) if name == "musique" else ())
  assert found[0].id.startswith(f"{name}/") and found[0].id.endswith(IDS.get(name, ""))


def test_the_names_are_the_methods_twelve_and_gsm_hard() -> None:
  assert " ".join(sorted(BENCHMARKS)) == (
    "2wiki aime24 aime25 bamboogle gaia gsm_hard hle hotpotqa math500 musique olymmath webwalkerqa xbench"
  )
  assert {name for name, benchmark in BENCHMARKS.items() if benchmark.gated} == {"gaia", "hle"}


@pytest.mark.parametrize("name", ["gaia", "hle"])
def test_a_gated_benchmark_without_a_token_says_how_to_come_to_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
  datasets = pytest.importorskip("datasets")

  def load_dataset(path: str, *_: Any, **__: Any) -> Any:
    raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{path}' is a gated dataset on the Hub.")

  monkeypatch.setattr(datasets, "load_dataset", load_dataset)
  with pytest.raises(UserError, match=r"is gated: \(1\) sign in at https.* \(2\) .* \(3\) .*HF_TOKEN") as error:
    load_benchmark(name, "", knob="tasks.test_path")
  repository = BENCHMARKS[name].hub_datasets[0].partition(":")[0]
  assert f"https://huggingface.co/datasets/{repository} " in str(error.value)
  assert "set tasks.test_path to a file" in str(error.value)


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("of_the_hub", [True, False])
def test_a_file_may_stand_in_for_the_hub(tmp_path: pathlib.Path, name: str, of_the_hub: bool) -> None:
  plain = [{"id": 7, "question": "P?", "answer": "204", "aliases": ["CCIV"]}, {"question": "Q?", "answer": "9"}]
  path = write_lines(tmp_path / "a.jsonl", HUB[BENCHMARKS[name].hub_datasets[0]] if of_the_hub else plain)
  first, *others = load_benchmark(name, path, knob="tasks.path")
  assert (first.text, first.answer) == ("P?", "204")
  if not of_the_hub:
    assert first == Question(f"{name}/7", "P?", "204", aliases=("CCIV",))
    assert [q.text for q in others] == ["Q?"]


def test_a_row_of_another_form_is_refused_with_the_forms_that_are_read(tmp_path: pathlib.Path) -> None:
  path = write_lines(tmp_path / "a.jsonl", [{"prompt": "P?", "answer": "1"}])
  with pytest.raises(
    UserError, match=r"a\.jsonl:1: .*'problem', only prompt, answer; aime24 has 'problem' and 'answer'"
  ):
    load_benchmark("aime24", path, knob="tasks.path")


def test_what_cannot_be_deciphered_is_refused_by_its_place(tmp_path: pathlib.Path) -> None:
  path = write_lines(tmp_path / "a.jsonl", [{"prompt": "no base64", "answer": "=", "canary": KEY}])
  with pytest.raises(UserError, match=r"a\.jsonl:1 cannot be deciphered"):
    load_benchmark("xbench", path, knob="tasks.path")


def test_another_number_of_questions_than_it_should_have_is_told() -> None:
  assert describe_question_counts("aime24", "", 30, 30) == []
  [note] = describe_question_counts("aime24", "", 31, 30)
  assert "31 questions on the hub, not 30" in note
  assert describe_question_counts("aime24", "mine.jsonl", 31, 30) == []
  assert describe_question_counts("hotpotqa", "", 7405, 100) == [
    "hotpotqa: 100 of 7405 questions; the paper evaluates 200"
  ]


@pytest.mark.parametrize(
  ("name", "file", "count", "apart"),
  [
    ("math500", "math/math_500.json", 500, 500),
    ("olymmath", "math/olymmath_200.json", 200, 200),
    ("hotpotqa", "qa/hotpotqa_500.json", 500, 500),
    ("2wiki", "qa/2wiki_500.json", 500, 500),
    ("musique", "qa/musique_500.json", 500, 499),  # one question stands there twice
    ("bamboogle", "qa/bamboogle_125.json", 125, 125),
    ("hotpotqa", "multihop/questions.jsonl", 1264, 1264),
  ],
)
def test_real_files_have_as_many_questions_as_they_should(name: str, file: str, count: int, apart: int) -> None:
  if "SCORE_JAX_DATA" not in os.environ:
    pytest.skip(f"SCORE_JAX_DATA names no folder with {file}")
  found = load_benchmark(name, str(pathlib.Path(os.environ["SCORE_JAX_DATA"]) / file), knob="tasks.path")
  assert len(found) == len({q.id for q in found}) == count
  assert len(deduplicate_questions(found)[0]) == apart
  assert not any(q.id != q.id.strip() or " " in q.id for q in found)  # one of MuSiQue's has a space before it
  assert sum(bool(q.aliases) for q in found) == (89 if "multihop" in file else 0)
