from __future__ import annotations

import json
import os
import pathlib
import random
import re

import pytest

from score_jax.agent.scripted import run_scripts
from score_jax.errors import UserError
from score_jax.grading.numbers import grade_number
from score_jax.sandbox.sandbox import Sandbox
from score_jax.tasks import gsm8k
from score_jax.tasks.gsm8k import _brought, find_numbers, parse_worked_answer
from score_jax.tasks.splits import deduplicate_questions
from score_jax.teaching.demonstrations import build_worked_script
from score_jax.trajectory import Question

ASKED = "Natalia sold clips to 48 friends in April, and half as many in May. How many clips altogether?"
WORKED = (
  "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
  "Natalia sold 48+24 = $<<48+24=72>>72 clips altogether in April and May.\n"
)


def write(folder: pathlib.Path, *rows: object) -> str:
  (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(folder)


def codes(question: str, worked: str, answer: str) -> list[str]:
  """The code of each act, without its print; nothing where the solution is not trusted."""
  return [code.split("\n")[0] for _, code in parse_worked_answer(question, worked, answer)[1:]]


def test_a_row_becomes_a_question_with_its_script(tmp_path: pathlib.Path) -> None:
  [question] = gsm8k.load_gsm8k(write(tmp_path, {"question": ASKED, "answer": f"{WORKED}#### 72"}), "train")
  assert (question.text, question.answer, question.steps) == (ASKED, "72", 3)
  assert question.solution == (
    ("plan: Natalia sold clips in May; Natalia sold clips altogether in April and May", ""),
    ("Natalia sold 48/2", "a1 = 48 / 2\nprint(a1)"),
    ("Natalia sold 48+24", "a2 = 48 + a1\nprint(a2)"),
    ("answer", "final_answer_print(a2)"),
  )


def test_the_id_depends_on_the_words_alone(tmp_path: pathlib.Path) -> None:
  rows = [{"question": text, "answer": "#### 1,080"} for text in ("What is it?", "  what IS it", "What was it?")]
  a, b, c = gsm8k.load_gsm8k(write(tmp_path, *rows), "train")
  assert a.id == b.id != c.id
  assert (a.answer, a.steps, a.solution) == ("1080", 0, ())


@pytest.mark.parametrize("nothing", [None, float("nan"), ""])
def test_a_row_without_question_or_answer_is_dropped_and_listed(tmp_path: pathlib.Path, nothing: object) -> None:
  whole = {"question": ASKED, "answer": f"{WORKED}#### 72"}
  path = write(tmp_path, whole, {"question": nothing, "answer": "#### 1"}, {"question": "Who?", "answer": nothing})
  kept, dropped = deduplicate_questions(gsm8k.load_gsm8k(path, "train"))
  assert [q.text for q in kept] == [ASKED]
  assert [(d.id.rpartition("/")[2], d.why) for d in dropped] == [
    ("train.jsonl:2", "no_question"),
    ("train.jsonl:3", "no_answer"),
  ]


def test_operands_become_variables_only_where_they_can_come_from_nowhere_else() -> None:
  given = "<<6*6=36>>36 and <<36+48=84>>84"
  assert codes("6 times 6", given, "84") == ["a1 = 6 * 6", "a2 = a1 + 48", "final_answer_print(a2)"]
  assert codes("6 times 6, or 36", given, "84")[1] == "a2 = 36 + 48"
  assert codes("a dozen", "<<4*3=12>> <<12*9=108>>", "108")[1] == "a2 = 12 * 9"
  assert codes("", "<<40+7=47>> <<50-3=47>> <<47*9=423>>", "423")[2] == "a3 = 47 * 9"


def test_numbers_are_cleaned_and_rounded_where_floats_miss() -> None:
  assert codes("", "<<1,000*5%=50>>50", "50")[0] == "a1 = 1000 * (5 / 100)"
  assert codes("", "<<.1*3=.30>>", "0.3")[0] == "a1 = round(0.1 * 3, 2)"
  assert codes("", "<<007+(2-.5)=8.5>>", "8.5")[0] == "a1 = 7 + (2 - 0.5)"


@pytest.mark.parametrize(
  ("question", "worked", "answer"),
  [
    ("", "There are no annotations.", "4"),
    ("", "<<2+3=6>>", "6"),  # the value is not what the expression comes to
    ("", "<<1/3=0.33>>", "0.33"),  # nor here
    ("", "<<2+3=5>> <<3+4=7>>", "5"),  # the last value is not the answer
    ("", "<<2+3>>", "5"),
    ("", "<<2**3=8>>", "8"),
    ("", "<<7//2=3>>", "3"),
    ("", "<<5/0=5>>", "5"),
    ("", "<<__import__('os').getpid()=5>>", "5"),
    ("", "<<2+=2>>", "2"),
    ("2 and 3", "so x = <<5=5>>", "5"),  # states the answer
    ("2 and 3", "<<5+0=5>>", "5"),  # uses it
    ("2 and 3", "<<9=9>> <<9-4=5>>", "5"),  # states a number
  ],
)
def test_what_cannot_be_trusted_has_no_script(question: str, worked: str, answer: str) -> None:
  assert parse_worked_answer(question, worked, answer) == ()


def test_a_thought_does_not_tell_what_is_to_be_computed() -> None:
  [_, (thought, _), _] = parse_worked_answer("8 and 5", "So the 3 left over are 8-5=<<8-5=3>>3.", "3")
  assert thought == "work out 8 - 5"
  [_, (thought, _), (second, _), _] = parse_worked_answer(
    "8 and 5", "She has 8-5=<<8-5=3>>3 figs and 5+8 = <<5+8=13>>13 pears.", "13"
  )
  assert (thought, second) == ("She has 8-5", "She has 3 figs and 5+8")


@pytest.mark.parametrize(
  ("line", "named"),
  [
    ("{", "no JSON"),
    ('{"question": "?"}', "question and answer"),
    ("[]", "question and answer"),
    ('{"question": "?", "answer": "no mark"}', "####"),
    ('{"question": "?", "answer": "#### many"}', "many"),
  ],
)
def test_rows_of_another_form_are_refused_by_line(tmp_path: pathlib.Path, line: str, named: str) -> None:
  (tmp_path / "train.jsonl").write_text('{"question": "?", "answer": "#### 1"}\n' + line + "\n")
  with pytest.raises(UserError, match=r"train\.jsonl:2: ") as error:
    gsm8k.load_gsm8k(str(tmp_path), "train")
  assert named in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_names_the_setting(tmp_path: pathlib.Path) -> None:
  with pytest.raises(UserError, match=r"test\.jsonl does not exist; set tasks\.path"):
    gsm8k.load_gsm8k(str(tmp_path), "test")


def test_without_a_folder_and_without_the_hub_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
  datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
  constants = pytest.importorskip("huggingface_hub").constants
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", "/nonexistent")
  with pytest.raises(UserError, match=r"openai/gsm8k cannot be fetched .*set tasks\.path"):
    gsm8k.load_gsm8k("", "train")


@pytest.fixture(scope="module")
def train() -> list[Question]:
  if "SCORE_JAX_DATA" not in os.environ:
    pytest.skip("SCORE_JAX_DATA names no folder with gsm8k/train.jsonl")
  return gsm8k.load_gsm8k(str(pathlib.Path(os.environ["SCORE_JAX_DATA"]) / "gsm8k"), "train")


def test_how_many_of_the_real_questions_have_a_script(train: list[Question]) -> None:
  assert len(train) == len({q.id for q in train}) == 7473
  assert sum(bool(q.solution) for q in train) == 6757
  assert all(q.steps == max(0, len(q.solution) - 1) for q in train)


def test_no_real_plan_has_a_number(train: list[Question]) -> None:
  plans = [q.solution[0][0] for q in train if q.solution]
  assert not [p for p in plans if re.search(r"\d", p)]
  assert all(len(p) < 450 for p in plans)


def test_real_scripts_run_and_end_right_and_tell_no_answer_before_it_is_computed(train: list[Question]) -> None:
  solved = [q for q in train if q.solution]
  chosen = random.Random(0).sample(solved, 300)
  chosen += [q for q in solved if any("round(" in code for _, code in q.solution)]
  settings = {"isolation": "process", "workers": 2, "sessions": 64, "timeout_s": 30.0, "memory_mb": 256}
  settings |= {"files_mb": 16, "output_chars": 400}
  with Sandbox(**settings, search=None) as tool:
    played = run_scripts([(q, build_worked_script(q)) for q in chosen], tool)
  for question, trajectory in zip(chosen, played, strict=True):
    assert grade_number(question, trajectory.answer or "")[0] == 1.0
    assert [s.reason for s in trajectory.steps[1:]] == ["ok"] * question.steps
    [answer] = find_numbers(question.answer)
    said = find_numbers(question.text) | _brought(question.text)
    for step in trajectory.steps:
      assert answer in said or answer not in find_numbers(re.sub(r"\ba\d+", "", f"{step.thought} {step.code}"))
      said |= find_numbers(step.observation)
