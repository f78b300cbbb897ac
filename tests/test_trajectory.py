from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score_jax.trajectory import (
  SCHEMA,
  Correction,
  Ledger,
  Step,
  Trajectory,
  Usage,
  count_generated_tokens,
  parse_trajectories,
  sum_ledgers,
  trajectory_from_json,
  trajectory_to_json,
)

ids = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
logprobs = st.lists(st.floats(max_value=0.0, width=32, allow_nan=False), max_size=5).map(tuple)
texts = st.text(max_size=20)
numbers = st.dictionaries(texts, st.floats(allow_nan=False), max_size=2)
authors = st.sampled_from(["student", "teacher"])
steps = st.builds(
  Step,
  kind=st.sampled_from(["first_thought", "act"]),
  thought=texts,
  code=texts,
  observation=texts,
  reason=texts,
  answer=st.none() | texts,
  author=authors,
  tokens=ids,
  logprobs=logprobs,
  observation_tokens=ids,
)
usages = st.builds(Usage, st.integers(0, 2**53), st.integers(0, 9), st.integers(0, 9), st.floats(0, 1e30))
ledgers = st.builds(Ledger, st.dictionaries(texts, usages, max_size=2), st.integers(0, 9), st.integers(0, 9))
corrections = st.builds(
  Correction, st.integers(0, 9), st.lists(steps, max_size=2).map(tuple), steps, texts, texts, numbers, texts
)
trajectories = st.builds(
  Trajectory,
  question_id=texts,
  question=texts,
  prompt_tokens=ids,
  steps=st.lists(steps, max_size=3).map(tuple),
  status=st.sampled_from(["running", "answered", "step_limit", "replay_mismatch"]),
  answer=st.none() | texts,
  grade=st.none() | st.floats(0, 1),
  grade_reason=texts,
  name=texts,
  prefix_steps=st.integers(0, 3),
  corrections=st.lists(corrections, max_size=2).map(tuple),
  ledger=ledgers,
)

PLAN = Step("first_thought", "plan: add", tokens=(10, 11), observation_tokens=(12,))
FIRST = Step("act", "add", "x = 1", "", "ok", tokens=(20,), logprobs=(-0.5,), observation_tokens=(21, 22))
SECOND = Step("act", "answer", "final_answer_print(x)", "", "ok", tokens=(30, 31, 32))
WHOLE = Trajectory(
  "q",
  "How many?",
  (1, 2, 3),
  (PLAN, FIRST, SECOND),
  "answered",
  "1",
  1.0,
  "equal",
  "mps/q/0",
  1,
  corrections=(Correction(0, (), PLAN), Correction(2, (), SECOND)),
  ledger=Ledger({"student": Usage(6)}),
)


@settings(deadline=None)
@given(trajectory=trajectories)
def test_json_gives_an_equal_trajectory_back(trajectory: Trajectory) -> None:
  line = trajectory_to_json(trajectory)
  assert "\n" not in line
  assert "\r" not in line
  back = trajectory_from_json(line)
  assert back == trajectory
  assert trajectory_to_json(back) == line


@settings(deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=1))
def test_logprobs_keep_all_their_bits(values: list[float]) -> None:
  step = dataclasses.replace(FIRST, logprobs=tuple(values))
  trajectory = dataclasses.replace(WHOLE, steps=(step,), corrections=(Correction(0, (step,), step),))
  back = trajectory_from_json(trajectory_to_json(trajectory))
  for read in (back.steps[0], back.corrections[0].mistakes[0], back.corrections[0].replacement):
    assert np.array_equal(np.array(read.logprobs, np.float32), np.array(values, np.float32), equal_nan=True)
    assert [np.float32(x) == x or np.isnan(x) for x in read.logprobs] == [True] * len(values)


def test_logprobs_are_written_short() -> None:
  step = dataclasses.replace(FIRST, logprobs=(float(np.float32(-0.1)),))
  assert '"logprobs":[-0.1]' in trajectory_to_json(dataclasses.replace(WHOLE, steps=(step,)))


def test_lines_are_read_one_by_one() -> None:
  other = dataclasses.replace(WHOLE, question="a\u2028b\x85c\nd")
  text = trajectory_to_json(WHOLE) + "\n\n" + trajectory_to_json(other) + "\n"
  assert list(parse_trajectories(text.split("\n"))) == [WHOLE, other]


def test_the_schema_before_this_one_is_read() -> None:
  """It did not say how a correction was located."""
  data = json.loads(trajectory_to_json(WHOLE)) | {"schema": 1}
  for correction in data["corrections"]:
    del correction["located"]
  assert trajectory_from_json(json.dumps(data)) == WHOLE
  with pytest.raises(ValueError, match="located"):
    trajectory_from_json(json.dumps(data | {"schema": SCHEMA}))


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, str(SCHEMA), None, True])
def test_another_schema_is_refused(schema: object) -> None:
  data = json.loads(trajectory_to_json(WHOLE)) | {"schema": schema}
  with pytest.raises(ValueError, match="schema"):
    trajectory_from_json(json.dumps(data))


@pytest.mark.parametrize("line", ["", "{", "[]", "3", "null", '"schema"', "{}"])
def test_what_is_no_trajectory_is_refused(line: str) -> None:
  with pytest.raises(ValueError):
    trajectory_from_json(line)


PARTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
  "trajectory": lambda t: t,
  "step": lambda t: t["steps"][0],
  "correction": lambda t: t["corrections"][0],
  "replacement": lambda t: t["corrections"][0]["replacement"],
  "ledger": lambda t: t["ledger"],
  "usage": lambda t: t["ledger"]["models"]["student"],
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_missing_and_unknown_fields_are_refused(part: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
  for name in part(json.loads(trajectory_to_json(WHOLE))):
    data = json.loads(trajectory_to_json(WHOLE))
    del part(data)[name]
    with pytest.raises(ValueError):
      trajectory_from_json(json.dumps(data))
  data = json.loads(trajectory_to_json(WHOLE))
  part(data)["colour"] = "red"
  with pytest.raises(ValueError, match="colour"):
    trajectory_from_json(json.dumps(data))


def test_context_is_the_prompt_and_all_that_followed() -> None:
  assert WHOLE.context() == (1, 2, 3, 10, 11, 12, 20, 21, 22, 30, 31, 32)
  assert WHOLE.context(0) == (1, 2, 3)
  assert WHOLE.context(2) == (1, 2, 3, 10, 11, 12, 20, 21, 22)


def test_prefix_is_unfinished_and_keeps_the_corrections_among_its_steps() -> None:
  prefix = WHOLE.prefix(2)
  assert prefix == Trajectory(
    "q", "How many?", (1, 2, 3), (PLAN, FIRST), prefix_steps=2, corrections=WHOLE.corrections[:1]
  )
  assert prefix.context() == WHOLE.context(2)
  assert WHOLE.prefix(0).corrections == ()
  assert WHOLE.prefix(3).corrections == WHOLE.corrections


def test_acts_are_those_after_the_prefix() -> None:
  assert [dataclasses.replace(WHOLE, prefix_steps=n).acts for n in range(4)] == [2, 2, 1, 0]


@pytest.mark.parametrize(
  ("status", "grade", "right"),
  [("answered", 1.0, True), ("answered", 0.5, False), ("answered", None, False), ("step_limit", 1.0, False)],
)
def test_right_is_answered_with_full_marks(status: Any, grade: float | None, right: bool) -> None:
  assert dataclasses.replace(WHOLE, status=status, grade=grade).right is right


def test_generated_tokens_are_those_of_the_turns() -> None:
  assert count_generated_tokens(WHOLE.steps) == 6


def test_ledgers_add_up_by_model() -> None:
  a = Ledger({"student": Usage(1, 2, 3, 4.0)}, 5, 6)
  b = Ledger({"teacher": Usage(10, 20, 30, 40.0), "student": Usage(100, 200, 300, 400.0)}, 7, 8)
  assert a + b == Ledger({"student": Usage(101, 202, 303, 404.0), "teacher": Usage(10, 20, 30, 40.0)}, 12, 14)
  assert sum_ledgers([a, b, a]) == a + b + a
  assert sum_ledgers([]) == Ledger()
  assert (a.of("student"), a.of("teacher")) == (Usage(1, 2, 3, 4.0), Usage())
