from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score_jax.tasks.splits import hash_fraction, normalise_question, split_by_hash
from score_jax.trajectory import Question

MANY = [Question(str(i), f"How much is {i} and {i}?", str(2 * i)) for i in range(2000)]
questions = st.lists(st.text(max_size=10), max_size=20).map(
  lambda texts: [Question(str(i), text, "1") for i, text in enumerate(texts)]
)


@pytest.mark.parametrize("first", [0.1, 0.2, 0.5])
def test_the_first_part_is_about_as_large_as_asked(first: float) -> None:
  """Within four standard deviations of a fair draw."""
  low, high = split_by_hash(MANY, salt="0/warm_start", first=first)
  assert len(low) + len(high) == len(MANY)
  assert abs(len(low) - first * len(MANY)) < 4 * (len(MANY) * first * (1 - first)) ** 0.5


def test_nothing_and_everything() -> None:
  assert split_by_hash(MANY, salt="s", first=0.0) == ([], MANY)
  assert split_by_hash(MANY, salt="s", first=1.0) == (MANY, [])


@settings(deadline=None)
@given(questions=questions, first=st.floats(0, 1))
def test_every_question_is_in_one_part_in_the_given_order(questions: list[Question], first: float) -> None:
  low, high = split_by_hash(questions, salt="s", first=first)
  assert sorted((*low, *high), key=lambda q: int(q.id)) == questions
  for part in (low, high):
    assert [int(q.id) for q in part] == sorted(int(q.id) for q in part)
  assert not {normalise_question(q.text) for q in low} & {normalise_question(q.text) for q in high}


def test_copies_under_other_ids_and_spellings_fall_into_the_same_part() -> None:
  copies = [Question(f"copy of {q.id}", f"  {q.text.upper()} !", q.answer) for q in MANY]
  low, high = split_by_hash([*MANY, *copies], salt="s", first=0.3)
  assert {q.id for q in low} == {i for q in MANY for i in (q.id, f"copy of {q.id}") if hash_fraction(q, "s") < 0.3}
  assert len(low) % 2 == len(high) % 2 == 0


def test_the_order_and_the_company_of_a_question_do_not_matter() -> None:
  shuffled = random.Random(0).sample(MANY, len(MANY))
  some = shuffled[:100]
  whole = {q.id for q in split_by_hash(MANY, salt="s", first=0.3)[0]}
  assert {q.id for q in split_by_hash(shuffled, salt="s", first=0.3)[0]} == whole
  assert {q.id for q in split_by_hash(some, salt="s", first=0.3)[0]} == whole & {q.id for q in some}


def test_each_salt_decides_anew() -> None:
  """Of those below a half for one salt about a half are for another."""
  low, _ = split_by_hash(MANY, salt="0/half", first=0.5)
  again, _ = split_by_hash(low, salt="1/half", first=0.5)
  assert 0.4 * len(low) < len(again) < 0.6 * len(low)


def test_shares_stay_what_they_are() -> None:
  """The first 16 hexadecimal digits of the SHA-256 of "0/half/tom has 14 plums", over 16**16.

  Should this change, questions move between the parts of runs that were begun before.
  """
  assert hash_fraction(Question("q", "Tom has 14 plums.", "14"), "0/half") == pytest.approx(
    0.9787369898575513, abs=1e-15
  )
