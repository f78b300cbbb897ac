from __future__ import annotations

from typing import Any

import pytest

from score_jax.errors import UserError
from score_jax.tasks.datasets import QuestionFields, build_questions
from score_jax.tasks.splits import DroppedQuestion, deduplicate_questions
from score_jax.trajectory import Question

PLAIN = QuestionFields()
REMEDY = "set tasks.fields.{kind} to one of them"


def made(*rows: dict[str, Any], fields: QuestionFields = PLAIN, prefix: str = "") -> list[Question]:
  wheres = (f"q.jsonl:{number}" for number in range(1, len(rows) + 1))
  return build_questions(zip(wheres, rows, strict=True), lambda _: fields, remedy=REMEDY, prefix=prefix)


def test_a_row_becomes_a_question() -> None:
  fields = QuestionFields("problem", "final", "key", "also")
  row = {"problem": " How many?\n", "final": 3, "key": 17, "also": ["three", " 3 ", "", "three"], "more": None}
  assert made(row, fields=fields, prefix="set/") == [Question("set/17", "How many?", "3", aliases=("three",))]


def test_the_id_is_of_the_words_where_no_field_gives_it() -> None:
  a, b, c = made(*({"question": text, "answer": "1"} for text in ("What is it?", "  what IS it", "What was it?")))
  assert a.id == b.id != c.id


def test_ids_of_other_formulas_differ() -> None:
  found = made(*({"question": text, "answer": "1"} for text in ("12 + 5", "12 - 5", "3 > 2", "3 < 2", "1.5", "15")))
  assert len({question.id for question in found}) == 6


@pytest.mark.parametrize(
  ("answer", "expected"),
  [
    ("42", ("42", ())),
    (42, ("42", ())),
    (42.0, ("42", ())),
    (0.5, ("0.5", ())),
    (1e300, ("1e+300", ())),
    (["Rome", "Roma"], ("Rome", ("Roma",))),
    (["Rome"], ("Rome", ())),
    ([], ("", ())),
    ("  ", ("", ())),
  ],
)
def test_numbers_become_text_and_lists_an_answer_with_others(answer: Any, expected: tuple[str, Any]) -> None:
  [question] = made({"question": "?a", "answer": answer})
  assert (question.answer, question.aliases) == expected


def test_a_dotted_name_leads_into_a_field_unless_it_is_one() -> None:
  row = {"q": {"text": "How?"}, "a.b": "so", "a": {"b": "otherwise"}, "x": {"value": "v", "others": ["w"]}}
  [question] = made(row, fields=QuestionFields("q.text", "a.b"))
  assert (question.text, question.answer) == ("How?", "so")
  [question] = made(row, fields=QuestionFields("q.text", "x.value", aliases="x.others"))
  assert (question.answer, question.aliases) == ("v", ("w",))


@pytest.mark.parametrize("kind", ["question", "answer", "id", "aliases"])
def test_a_missing_field_is_named_with_its_place_and_those_that_there_are(kind: str) -> None:
  names = {"question": "q", "answer": "a", "id": "n", "aliases": "o"}
  row = {"q": "How?", "a": "so", "n": 1, "o": ["or so"]}
  lacking = {name: value for name, value in row.items() if name != names[kind]}
  with pytest.raises(UserError) as error:
    made(row, lacking, fields=QuestionFields(**names))
  assert str(error.value) == (
    f"q.jsonl:2: there is no field {names[kind]!r}, only {', '.join(lacking)}; set tasks.fields.{kind} to one of them"
  )


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf"), "", " ", [], [None, float("nan")]])
def test_what_says_nothing_is_no_answer_and_no_question(value: Any) -> None:
  rows = [{"question": "How?", "answer": value}, {"question": value, "answer": "so"}, {"question": "Who?", "answer": 1}]
  kept, dropped = deduplicate_questions(made(*rows))
  assert [q.text for q in kept] == ["Who?"]
  assert dropped == [DroppedQuestion(made(rows[0])[0].id, "no_answer"), DroppedQuestion("q.jsonl:2", "no_question")]


def test_of_a_list_what_says_nothing_is_left_out() -> None:
  [question] = made(
    {"q": "How?", "a": [None, "so", float("nan"), "or so"], "n": float("nan")}, fields=QuestionFields("q", "a", "n")
  )
  [unnamed] = made({"question": "How?", "answer": "so"})
  assert (question.id, question.answer, question.aliases) == (unnamed.id, "so", ("or so",))


def test_a_text_that_reads_nan_is_an_answer() -> None:
  assert [q.answer for q in made({"question": "How?", "answer": "nan"})] == ["nan"]


@pytest.mark.parametrize("value", [True, {"a": 1}, [["x", {}]]])
def test_what_is_no_text_is_refused(value: Any) -> None:
  with pytest.raises(UserError, match=r"q\.jsonl:1: field 'answer' is .* give text, a number or a list"):
    made({"question": "How?", "answer": value})


@pytest.mark.parametrize("text", ["", "  \n", "?!"])
def test_an_empty_question_is_dropped_and_listed(text: str) -> None:
  asked = made({"question": "How?", "answer": "so"}, {"question": text, "answer": "so"})
  assert deduplicate_questions(asked)[1] == [DroppedQuestion("q.jsonl:2", "no_question")]


def test_one_id_for_two_texts_is_refused_with_both_places() -> None:
  rows = [{"question": text, "answer": "so", "id": name} for text, name in (("How?", "7"), ("Who?", "8"), ("Why?", 7))]
  with pytest.raises(UserError, match=r"q\.jsonl:3: the id '7' has another question at q\.jsonl:1"):
    made(*rows, fields=QuestionFields(id="id"))


def test_one_id_for_one_text_is_left_to_the_overlap() -> None:
  row = {"question": "How?", "answer": "so", "id": "7"}
  assert [q.id for q in made(row, row, fields=QuestionFields(id="id"))] == ["7", "7"]
