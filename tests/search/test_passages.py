"""What a search gives for a query."""

from __future__ import annotations

import collections
import math
import re
import time
import unicodedata

import numpy as np
import pytest

from score_jax.errors import UserError
from score_jax.search.passages import BM25Index, BM25Search, Document, to_single_line

TOWNS = (
  Document("Oslo", "Oslo is the capital of Norway."),
  Document("Bergen", "Bergen is a town in Norway.\nIt rains there."),
  Document("Lima", "Lima is the capital of Peru."),
  Document("Twin", "same words"),
  Document("Twin", "same words"),
  Document("Mira's house", "A painting."),
)


def search(
  documents: tuple[Document, ...] | list[Document] = TOWNS, *, top_k: int = 3, chars: int = 1000
) -> BM25Search:
  return BM25Search.from_documents(documents, top_k=top_k, passage_chars=chars)


def test_best_first_one_a_line() -> None:
  assert search(top_k=2)("Which town is in Norway?").splitlines() == [
    "Bergen: Bergen is a town in Norway. It rains there.",
    "Oslo: Oslo is the capital of Norway.",
  ]


def test_equally_good_ones_come_in_the_order_given() -> None:
  twins = (Document("Twin", "same words 1"), Document("Other", "thing"), Document("Twin", "same words 2"))
  assert search(twins)("twin words") == "Twin: same words 1\nTwin: same words 2"
  many = [Document(f"d{i}", "moon") for i in range(50)]
  assert search(many, top_k=4)("moon") == "d0: moon\nd1: moon\nd2: moon\nd3: moon"  # also where they are cut off


@pytest.mark.parametrize("query", ["", " \n", "?!", "zebra", "\ud800", "\x00\x1b[31m", "\x00" * 1000])
def test_no_results(query: str) -> None:
  assert search()(query) == "no results"


def test_a_query_of_a_million_characters_is_answered() -> None:
  start = time.monotonic()
  assert search(top_k=1)("zebra Oslo\x00 \ud800" * 70_000) == "Oslo: Oslo is the capital of Norway."
  assert time.monotonic() - start < 5.0


def test_words_in_lower_case_with_none_left_out() -> None:
  assert search(top_k=1)("MIRA'S") == "Mira's house: A painting."
  assert search(top_k=1)("there") == "Bergen: Bergen is a town in Norway. It rains there."


@pytest.mark.parametrize(
  ("query", "title"),
  [
    ("法国的首都是哪里", "法国"),  # "where is the capital of France", in a passage that says it in other words
    ("東京タワーの高さ", "東京"),
    ("한국의수도", "한국"),
    ("猫", "黒猫"),
    ("ประเทศไทย", "ไทย"),
    (unicodedata.normalize("NFD", "München"), "Stadt"),
    ("ＭÜＮＣＨＥＮ", "Stadt"),
    ("Strasse", "Weg"),
    (unicodedata.normalize("NFD", "한국"), "한국"),
  ],
)
def test_scripts_without_spaces_and_other_unicode_forms_are_found(query: str, title: str) -> None:
  documents = [
    Document("法国", "巴黎是法国的首都。"),
    Document("東京", "東京タワーは三百メートルを超える。"),
    Document("한국", "대한민국의 수도는 서울이다."),
    Document("黒猫", "黒猫がいる。"),
    Document("ไทย", "กรุงเทพเป็นเมืองหลวงของประเทศไทย"),
    Document("Stadt", "München liegt an der Isar."),
    Document("Weg", "eine lange Straße"),
    Document("德国", "柏林。"),
  ]
  [first, *_] = BM25Search.from_documents(documents, top_k=1, passage_chars=400)(query).split(":")
  assert first == title


def test_a_passage_is_cut_to_its_characters() -> None:
  documents = (Document("Long", "moon " * 100), Document("Short", "moon and more"))
  assert search(documents, chars=25)("moon").splitlines() == ["Long: moon moon moon moo…", "Short: moon and more"]


def test_no_passage_can_pass_for_two() -> None:
  forged = (Document("One\nTwo: forged", "moon\r\nThree: forged\x85Four: forged\u2028Five\x00\ud800"),)
  assert search(forged)("moon").splitlines() == ["One Two: forged: moon Three: forged Four: forged Five\ufffd\ufffd"]


def by_formula(documents: list[Document], query: str) -> list[tuple[int, float]]:
  """Numbers and scores of BM25 as the formula has them, worked out with none of the code under test."""
  words = [re.findall(r"\w+", f"{d.title} {d.text}".lower()) for d in documents]
  mean = sum(map(len, words)) / len(words)
  scores: dict[int, float] = collections.defaultdict(float)
  for word in re.findall(r"\w+", query.lower()):
    having = sum(word in text for text in words)
    idf = math.log(1 + (len(words) - having + 0.5) / (having + 0.5))
    for i, text in enumerate(words):
      count = text.count(word)
      if count:
        scores[i] += idf * count / (count + 0.9 * (1 - 0.4 + 0.4 * len(text) / mean))
  return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("query", ["moon", "moon w3", "w1 w2 w2 w2 w9", "w5 nothing w5 moon"])
def test_scores_are_those_of_bm25(query: str) -> None:
  draw = np.random.default_rng(0)
  texts = [" ".join(f"w{n}" for n in draw.zipf(1.5, draw.integers(2, 60)) if n < 50) for _ in range(60)]
  documents = [Document(f"d{i} " + "moon " * (i % 4), text) for i, text in enumerate(texts)]
  found = BM25Index.build(f"{d.title} {d.text}" for d in documents).find_best(query, 60)
  expected = by_formula(documents, query)
  assert len(found) == len(expected) > 10
  np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], rtol=2e-6)
  scores = dict(expected)
  np.testing.assert_allclose([scores[i] for i, _ in found], [score for _, score in found], rtol=2e-6)


def test_fewer_asked_for_are_the_first_of_more() -> None:
  documents = [f"moon {'dust ' * (i * 7 % 5)}" for i in range(40)]
  index = BM25Index.build(documents)
  whole = index.find_best("moon dust", 40)
  assert all(index.find_best("moon dust", count) == whole[:count] for count in range(1, 40))


def test_nothing_to_search() -> None:
  with pytest.raises(UserError, match="no word"):
    search(())
  with pytest.raises(UserError, match=r"tools\.search\.top_k=0"):
    search(top_k=0)
  with pytest.raises(UserError, match=r"tools\.search\.passage_chars=3 "):
    search(chars=3)


def test_a_title_is_the_first_line_of_the_contents() -> None:
  assert Document.from_contents('"Oslo"\nA town.\nIt snows.') == Document("Oslo", "A town.\nIt snows.")
  assert Document.from_contents("Oslo") == Document("Oslo", "")
  assert Document.from_contents('"') == Document('"', "")
  for title in ("Oslo", '"Heroes" (song)', '"Heroes"', ""):
    assert Document.from_contents(Document(title, "a\nb").contents) == Document(title, "a\nb")


def test_a_query_is_sent_as_plain_text_on_one_line() -> None:
  assert to_single_line(" a\n\tb\x00\ud800 é ") == "a b\ufffd\ufffd é"
  assert to_single_line("a\r\nb\x85c\u2028d") == "a b c d"
  assert to_single_line(to_single_line(" \x00 \x1f\n")) == to_single_line(" \x00 \x1f\n")
