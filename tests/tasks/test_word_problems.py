from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.grading.numbers import grade_number
from score_jax.tasks import word_problems
from score_jax.tasks.questions import load_tasks
from score_jax.tasks.splits import normalise_question
from score_jax.tasks.word_problems import ACTS_PER_OPERATION, Difficulty, World, generate_question, generate_questions

WORLD = World.generate(1)
ASKED = generate_questions(WORLD, Difficulty((3, 9), distractors=3), seed=2, count=300)


def test_questions_differ_by_id_and_by_text() -> None:
  assert len({q.id for q in ASKED}) == len(ASKED)
  assert len({normalise_question(q.text) for q in ASKED}) == len(ASKED)


def test_the_same_seed_gives_the_same_questions_and_another_seed_others() -> None:
  difficulty = Difficulty((3, 9), distractors=3)
  assert generate_questions(World.generate(1), difficulty, seed=2, count=300) == ASKED
  assert generate_questions(WORLD, difficulty, seed=2, count=100) == ASKED[:100]
  assert not {q.id for q in ASKED} & {q.id for q in generate_questions(WORLD, difficulty, seed=3, count=100)}


def test_excluded_questions_do_not_come_again() -> None:
  difficulty = Difficulty((3, 9), distractors=3)
  others = generate_questions(WORLD, difficulty, seed=2, count=50, exclude=ASKED[:100])
  assert others == ASKED[100:150]


@settings(deadline=None, max_examples=60)
@given(
  bounds=st.tuples(st.integers(2, 5), st.integers(0, 2)).map(lambda b: (b[0], b[0] + b[1])),
  operations=st.lists(st.sampled_from(sorted(ACTS_PER_OPERATION)), min_size=1, unique=True).map(tuple),
  seed=st.integers(0, 999),
)
def test_acts_lie_within_the_bounds_or_are_refused(
  bounds: tuple[int, int], operations: tuple[str, ...], seed: int
) -> None:
  """Sums of the operations' costs, by brute force."""
  sums = {0}
  for _ in range(bounds[1]):
    sums |= {s + ACTS_PER_OPERATION[k] for s in sums for k in operations if s + ACTS_PER_OPERATION[k] < bounds[1]}
  if not any(bounds[0] <= s + 1 <= bounds[1] for s in sums):
    with pytest.raises(UserError, match=r"tasks\.acts"):
      Difficulty(bounds, operations)
    return
  for index in range(3):
    question = generate_question(WORLD, Difficulty(bounds, operations), seed, index)
    assert bounds[0] <= question.steps <= bounds[1]
    assert question.steps == len(question.solution) - 1


def test_all_acts_within_the_bounds_occur() -> None:
  assert {q.steps for q in ASKED} == set(range(3, 10))


@pytest.mark.parametrize(
  ("acts", "operations"),
  [((1, 3), ("add",)), ((3, 3), ("shop",)), ((5, 4), ("add",)), ((2, 4), ("root",)), ((2, 4), ())],
)
def test_what_cannot_be_is_refused_in_a_line(acts: tuple[int, int], operations: tuple[str, ...]) -> None:
  with pytest.raises(UserError, match=r"tasks\.") as refused:
    Difficulty(acts, operations)
  assert "\n" not in str(refused.value)


def test_what_cannot_be_found_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
  """Doubled fourteen times even five is beyond 999; and the first three questions are all that three draws give."""
  with pytest.raises(UserError, match="1 to 999"):
    generate_question(WORLD, Difficulty((15, 15), ("mul",)), 0, 0)
  known = generate_questions(WORLD, Difficulty(), seed=0, count=3)
  monkeypatch.setattr(word_problems, "MAX_ATTEMPTS", 3)
  with pytest.raises(UserError, match="only 0 different questions of 1"):
    generate_questions(WORLD, Difficulty(), seed=0, count=1, exclude=known)


def test_counts_stay_between_1_and_999() -> None:
  """Every number of the count's way, worked out here from the codes."""
  difficulty = Difficulty((6, 12), ("mul", "add", "sub", "odd"))
  for question in generate_questions(WORLD, difficulty, seed=4, count=100):
    x = 0
    for _, code in question.solution[1:-1]:
      left, sign, right = re.fullmatch(r"x = (x|\d+) ([-+*]) (\d+)\nprint\(x\)", code).groups()  # type: ignore
      x = x if left == "x" else int(left)
      x = {"+": x + int(right), "-": x - int(right), "*": x * int(right)}[sign]
      assert 1 <= x <= 999
    assert question.answer == str(x)


def test_a_plan_says_in_order_what_the_question_says_and_computes_nothing() -> None:
  for question in ASKED:
    plan, code = question.solution[0]
    assert code == ""
    place = 0
    for part in plan.removeprefix("plan: ").split(", "):
      odd = re.fullmatch(r"odd (\d) even (\d)", part)
      shop = re.fullmatch(r"buys (\d) at (\w+)'s", part)
      said = (
        rf"odd \w+ wins {odd[1]}, if even \w+ drops {odd[2]}"
        if odd
        else rf"buys {shop[1]} boxes at {shop[2]}'s shop"
        if shop
        else re.escape(part)
      )
      found = re.compile(said).search(question.text, place)
      assert found, (part, question.text)
      place = found.end()


def test_nothing_is_said_twice_of_somebody_while_there_are_other_words() -> None:
  """Otherwise a step of the plan would not point at one sentence."""
  for question in generate_questions(WORLD, Difficulty((3, 6), distractors=0), seed=2, count=300):
    sentences = re.sub(r"\d+", "#", question.text).split(". ")
    assert len(set(sentences)) == len(sentences), question.text


def test_facts_differ_between_worlds() -> None:
  one, other = World.generate(1), World.generate(2)
  assert one == World.generate(1)
  for name in ("container_sizes", "town_of_shop", "box_size_of_town"):
    facts, others = getattr(one, name), getattr(other, name)
    assert facts.keys() == others.keys()
    assert sum(facts[k] != others[k] for k in facts) > len(facts) / 2


def test_every_fact_is_in_a_document() -> None:
  texts = {(d.title, d.text) for d in WORLD.documents()}
  assert len(texts) == len(WORLD.documents())
  assert all((f"{c} of {i}", f"{n} in each") in texts for (c, i), n in WORLD.container_sizes.items())
  assert all((f"{p}'s shop", f"boxes from {t}") in texts for p, t in WORLD.town_of_shop.items())
  assert all((t, f"{n} in a box") in texts for t, n in WORLD.box_size_of_town.items())


def test_distractors_are_about_somebody_else_and_change_nothing() -> None:
  """Without the distractors a question has the same solution; those that there are name other people and items."""
  found = 0
  for question in ASKED:
    who = question.text.split()[0]
    item = re.search(r"How many (\w+) does", question.text)[1]  # type: ignore
    noise = re.findall(r"(\w+) has \d+ (\w+)\.", question.text)[1:]
    found += len(noise)
    assert all(other != who and thing != item for other, thing in noise)
    codes = " ".join(code for _, code in question.solution)
    assert len(noise) <= 3
    assert codes.startswith(" ")
    first = next(code for _, code in question.solution[1:] if code.startswith("x = "))
    assert first.split()[2] == question.text.split()[2]
  assert found > len(ASKED)
  assert all(
    " has " in q.text and len(re.findall(" has ", q.text)) == 1
    for q in generate_questions(WORLD, Difficulty(distractors=0), seed=2, count=50)
  )


def config(train: int, validation: int, test: int) -> ConfigDict:
  return ConfigDict(
    {
      "kind": "word_problems",
      "path": "",
      "train": train,
      "validation": validation,
      "test": test,
      "acts": (3, 5),
      "operations": tuple(ACTS_PER_OPERATION),
      "distractors": 1,
      "test_kind": "",
      "test_path": "",
    }
  )


@pytest.mark.parametrize("counts", [(20, 5, 10), (20, 0, 10), (20, 5, 0), (0, 0, 3)])
def test_the_parts_of_a_run_are_disjoint_and_as_large_as_asked(counts: tuple[int, int, int]) -> None:
  tasks = load_tasks(config(*counts), seed=1)
  parts = [tasks.train, tasks.validation, tasks.test]
  assert tuple(map(len, parts)) == counts
  assert len({normalise_question(q.text) for part in parts for q in part}) == sum(counts)
  assert len({q.id for part in parts for q in part}) == sum(counts)
  assert all(grade_number(q, q.answer) == (1.0, "equal") for part in parts for q in part)
  assert tasks.documents == World.generate(1).documents()


def test_another_seed_is_another_world() -> None:
  assert load_tasks(config(5, 1, 1), seed=1).documents != load_tasks(config(5, 1, 1), seed=2).documents


def test_an_unknown_kind_is_refused() -> None:
  wrong = config(1, 1, 1)
  wrong.kind = "chess"
  with pytest.raises(UserError, match=r"tasks\.kind = 'chess'"):
    load_tasks(wrong, seed=0)
