from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score_jax.tasks import benchmarks, datasets, word_problems
from score_jax.tasks.datasets import QuestionFields, build_questions
from score_jax.tasks.splits import (
  OVERLAP_WORDS,
  DroppedQuestion,
  decontaminate_questions,
  deduplicate_questions,
  normalise_question,
)
from score_jax.trajectory import Question

NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen".split()


def question(text: str, name: str = "t", answer: str = "1") -> Question:
  return Question(name, text, answer)


def reasons(training: str, evaluation: str, words: int = OVERLAP_WORDS) -> list[str]:
  _, dropped = decontaminate_questions([question(training)], [question(evaluation, "e")], words=words)
  return [d.why for d in dropped]


@pytest.mark.parametrize(
  ("training", "evaluation", "expected"),
  [
    ("How many?", "how MANY", ["same_text"]),
    ("How many?", "How many now?", []),
    (f"a {' '.join(NUMBERS[:12])} b", f"c {' '.join(NUMBERS[:12])} d", []),
    (f"a {' '.join(NUMBERS[:13])} b", f"c {' '.join(NUMBERS[:13])} d", ["same_words"]),
    (" ".join(NUMBERS[:13]), f"c {' '.join(NUMBERS[:13])} d", ["same_words"]),
    (" ".join(NUMBERS[:12]), f"c {' '.join(NUMBERS[:12])} d", []),  # shorter than 13 words: equality alone
    (" ".join(NUMBERS[:12]), " ".join(NUMBERS[:12]).upper(), ["same_text"]),
    (f"{', '.join(NUMBERS[:13])}!", f"x: {' '.join(NUMBERS[:13]).title()}; y", ["same_words"]),
    (" ".join([*NUMBERS[:6], "X", *NUMBERS[6:13]]), " ".join(NUMBERS[:13]), []),  # not in a row
    (" ".join(NUMBERS[1:14]), " ".join(NUMBERS[:13]), []),  # 12 of them at the edge
    (" ".join(NUMBERS[:14]), " ".join(NUMBERS[1:14]), ["same_words"]),
    (f"{' '.join(NUMBERS[:7])} + {' '.join(NUMBERS[7:13])}", f"{' '.join(NUMBERS[:7])} - {' '.join(NUMBERS[7:])}", []),
    (f"a {' '.join(NUMBERS[:13])} = 2", f"c - {' '.join(NUMBERS[:13])} = 3", ["same_words"]),
    ("(x+3)^2", "(x-3)^2", []),
    ("What is 1.5 x?", "What is 15 x?", []),
    ("(X+3)^2", "( x + 3 )²", ["same_text"]),
    (f"1{' '.join(NUMBERS[:13])}", f"{' '.join(NUMBERS[:13])}", []),  # within words does not count
  ],
)
def test_thirteen_words_in_a_row_overlap_and_twelve_do_not(training: str, evaluation: str, expected: list[str]) -> None:
  assert reasons(training, evaluation) == expected


def test_what_is_dropped_tells_both_ids_and_the_words() -> None:
  run = " ".join(NUMBERS[:13])
  training = [question(f"a {run} b", "t1"), question("Who?", "t2"), question("What?", "t3")]
  evaluation = [question("what", "e1"), question(f"{run} c", "e2"), question(f"d {run}", "e3")]
  kept, dropped = decontaminate_questions(training, evaluation)
  assert [q.id for q in kept] == ["t2"]
  assert dropped == [DroppedQuestion("t1", "same_words", "e2", run), DroppedQuestion("t3", "same_text", "e1", "what")]


def test_with_no_run_of_words_only_whole_texts_are_compared() -> None:
  assert reasons(f"a {' '.join(NUMBERS)}", f"b {' '.join(NUMBERS)}", words=0) == []
  assert reasons("a b", "A b?", words=0) == ["same_text"]


def test_repeated_and_unanswerable_questions_are_listed() -> None:
  asked = [question("Who?", "1"), question("who", "2"), question("Why?", "3", answer=""), question("What?", "4")]
  kept, dropped = deduplicate_questions(asked)
  assert [q.id for q in kept] == ["1", "4"]
  assert dropped == [DroppedQuestion("2", "duplicate", "1", "who"), DroppedQuestion("3", "no_answer")]


def test_other_formulas_are_no_duplicates() -> None:
  texts = ("12 + 5", "12 - 5", "(x-3)^2", "(x+3)^2", "3 > 2", "3 < 2", "1.5", "15", "x^2", "x 2")
  kept, dropped = deduplicate_questions([question(text, str(i)) for i, text in enumerate(texts)])
  assert ([q.text for q in kept], dropped) == ([*texts], [])


few_words = st.lists(st.sampled_from("ab"), max_size=20).map(" ".join)


@settings(deadline=None)
@given(st.lists(few_words, max_size=6), st.lists(few_words, max_size=6), st.integers(1, 5))
def test_the_runs_are_those_that_a_search_through_all_pairs_finds(
  training: list[str], evaluation: list[str], words: int
) -> None:
  def overlaps(a: str, b: str) -> bool:
    x, y = a.split(), b.split()
    return a == b or any(
      x[i : i + words] == y[j : j + words] for i in range(len(x) - words + 1) for j in range(len(y) - words + 1)
    )

  kept, dropped = decontaminate_questions(
    [question(t, str(i)) for i, t in enumerate(training)], [question(t, "e") for t in evaluation], words=words
  )
  expected = [str(i) for i, a in enumerate(training) if any(overlaps(a, b) for b in evaluation)]
  assert [d.id for d in dropped] == expected
  assert len(kept) + len(dropped) == len(training)


def test_generated_questions_share_runs_of_words_by_their_templates_and_no_whole_text() -> None:
  """Why runs of words are not looked for among them."""
  world = word_problems.World.generate(0)
  operations = ("add", "sub", "mul", "box", "shop")
  pool = word_problems.generate_questions(world, word_problems.Difficulty((3, 6), operations, 1), seed=0, count=680)
  assert [d.why for d in decontaminate_questions(pool[:380], pool[380:])[1]] == ["same_words"]
  assert decontaminate_questions(pool[:380], pool[380:], words=0)[1] == []


# Real questions


@pytest.fixture(scope="module")
def data() -> str:
  if "SCORE_JAX_DATA" not in os.environ:
    pytest.skip("SCORE_JAX_DATA names no folder with multihop/, qa/, math/ and gsm8k/")
  return os.environ["SCORE_JAX_DATA"]


def stored(path: str, **named: str) -> list[Question]:
  found = datasets.read_rows(path, split="", knob="")
  chosen = ((where, row) for where, row in found if all(row[name] == value for name, value in named.items()))
  return build_questions(chosen, lambda _: QuestionFields(id="id"), remedy="")


@pytest.mark.parametrize(
  ("name", "spelled", "shared"),
  [("hotpotqa", "hotpotqa", 15), ("musique", "musique", 17), ("2wiki", "2wikimultihopqa", 4)],
)
def test_the_known_overlaps_of_multihop_questions_are_found(data: str, name: str, spelled: str, shared: int) -> None:
  training = stored(f"{data}/multihop/questions.jsonl", dataset=spelled)
  evaluation = benchmarks.load_benchmark(name, f"{data}/qa/{name}_500.json", knob="")
  kept, dropped = decontaminate_questions(training, evaluation)
  assert Counter(d.why for d in dropped) == {"same_text": shared}
  assert not {normalise_question(q.text) for q in kept} & {normalise_question(q.text) for q in evaluation}


def test_runs_of_words_find_what_mathematics_questions_have_in_common(data: str) -> None:
  """19 of 1,000, most by a phrase of the contest and some by the same figure: no whole text."""
  training, unanswered = deduplicate_questions(stored(f"{data}/math/math_train_1000.json"))
  assert [d.why for d in unanswered] == ["no_answer", "no_answer"]
  evaluation = benchmarks.load_benchmark("math500", f"{data}/math/math_500.json", knob="")
  _, dropped = decontaminate_questions(training, evaluation)
  assert Counter(d.why for d in dropped) == {"same_words": 19}
  assert Counter(d.shared for d in dropped).most_common(1) == [
    ("is m / n where m and n are relatively prime positive integers find", 3)
  ]
