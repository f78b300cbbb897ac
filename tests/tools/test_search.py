from __future__ import annotations

import json
import math
import os
import pathlib
import re

import pytest

from score_jax.errors import UserError
from score_jax.tools.search import Document, Search

TOWNS = (
  Document("Oslo", "Oslo is the capital of Norway."),
  Document("Bergen", "Bergen is a town in Norway.\nIt rains there."),
  Document("Lima", "Lima is the capital of Peru."),
  Document("Twin", "same words"),
  Document("Twin", "same words"),
  Document("Mira's house", "A painting."),
)


def test_best_first_one_a_line() -> None:
  search = Search(TOWNS, top_k=2)
  assert search("Which town is in Norway?").splitlines() == [
    "Bergen: Bergen is a town in Norway. It rains there.",
    "Oslo: Oslo is the capital of Norway.",
  ]


def test_equally_good_ones_come_in_the_order_given() -> None:
  twins = (Document("Twin", "same words 1"), Document("Other", "thing"), Document("Twin", "same words 2"))
  assert Search(twins, top_k=3)("twin words") == "Twin: same words 1\nTwin: same words 2"


@pytest.mark.parametrize("query", ["", "?!", "zebra", "\ud800"])
def test_no_results(query: str) -> None:
  assert Search(TOWNS, top_k=3)(query) == "no results"


def test_words_in_lower_case_with_none_left_out() -> None:
  search = Search(TOWNS, top_k=1)
  assert search("MIRA'S") == "Mira's house: A painting."
  assert search("there") == "Bergen: Bergen is a town in Norway. It rains there."


def test_scores_are_those_of_bm25() -> None:
  """The order for a query of one word is that of the formula, worked out here for each document."""
  documents = [Document(f"d{i}", "moon " * (i % 5) + "dust " * (i * 7 % 23)) for i in range(40)]
  words = [re.findall(r"\w+", f"{d.title} {d.text}") for d in documents]
  mean = sum(map(len, words)) / len(words)

  def score(i: int) -> float:
    count = words[i].count("moon")
    return count / (count + 0.9 * (1 - 0.4 + 0.4 * len(words[i]) / mean))

  expected = sorted((i for i in range(40) if i % 5), key=lambda i: -round(score(i), 6))
  got = [int(line.partition(":")[0][1:]) for line in Search(documents, top_k=40)("moon").splitlines()]
  assert [round(score(i), 6) for i in got] == [round(score(i), 6) for i in expected]
  assert math.isclose(score(got[0]), max(map(score, range(40))))


def test_nothing_to_search() -> None:
  with pytest.raises(UserError, match="no word"):
    Search((), top_k=1)
  with pytest.raises(UserError, match="top_k=0"):
    Search(TOWNS, top_k=0)


@pytest.mark.skipif("SCORE_JAX_DATA" not in os.environ, reason="SCORE_JAX_DATA names no folder with real data")
def test_it_finds_what_multi_hop_questions_need() -> None:
  """One search finds all pages of 73 % of HotpotQA questions among its ten, as measured elsewhere."""
  folder = pathlib.Path(os.environ["SCORE_JAX_DATA"]) / "multihop"
  passages = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
  questions = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
  asked = [q for q in questions if q["dataset"] == "hotpotqa" and q["split"] == "dev"]
  search = Search([Document(p["title"], p["text"]) for p in passages], top_k=10)

  def complete(question: dict[str, object]) -> bool:
    lines = search(question["question"]).splitlines()
    return all(any(line.startswith(f"{title}:") for line in lines) for title in question["gold_titles"])

  assert abs(sum(map(complete, asked)) / len(asked) - 0.73) < 0.02
