"""Which questions the arms of RL start from, taken by the real selection from recorded cases of mentoring."""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from score_jax import recipe
from score_jax.errors import UserError
from score_jax.experiment.results import compute_stage_identity, require_same_identity
from score_jax.experiment.stages import STAGES
from score_jax.runtime.workdir import Workdir
from score_jax.tasks.splits import hash_fraction
from score_jax.trajectory import Correction, Question, Step, Trajectory
from tests.configs import module

ACTS = 8
PLAN = Step("first_thought", "plan", tokens=(10,), observation_tokens=(11,))
ACT = Step("act", "add", "x = 12", "", "ok", tokens=(20,), observation_tokens=(21,))
#: outcome and places of the surviving corrections, forty questions of each
KINDS = {
  "u": ("unaided", ()),
  "h": ("hard", ()),
  "n": ("not_kept", (2,)),
  "q": ("quarantined", (1,)),
  "t": ("solved", (0,)),
  "s": ("solved", (3,)),
  "m": ("solved", (2, 5)),
  "b": ("solved", (9,)),  # beyond the horizon
  "w": ("solved", (4, 9)),  # its last one is
}


def recorded(kind: str, number: int) -> tuple[Question, Trajectory, str]:
  outcome, places = KINDS[kind]
  question = Question(f"{kind}{number}", f"Question {kind}{number}?", "12")
  corrections = tuple(Correction(k, (ACT,), ACT, "wrong") for k in places)
  trajectory = Trajectory(
    question.id, question.text, (1, 2), (PLAN, *(ACT,) * 10), "answered", "12", 1.0, corrections=corrections
  )
  return question, trajectory, outcome


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Any:
  """What the mps stage leaves behind, in files."""
  cases = [recorded(kind, number) for kind in KINDS for number in range(40)]
  workdir = Workdir(str(tmp_path))
  workdir.write_part("mps", 0, (trajectory for _, trajectory, _ in cases))
  lines = [{"question": q.id, "outcome": outcome, "first_error": None} for q, _, outcome in cases]
  workdir.write_json("trajectories/mps/cases.json", lines)
  config = module("quickstart").get_config()
  config.agent.acts = ACTS
  return SimpleNamespace(
    config=config,
    workdir=workdir,
    tasks=SimpleNamespace(train=[q for q, _, _ in cases]),
    log=lambda line: None,
    protocol=SimpleNamespace(encode_prompt=lambda text: (1, 2)),
  )


def lot(salt: str, name: str) -> float:
  """Where the seeded hash puts a question, between 0 and 1."""
  return hash_fraction(Question(name, f"Question {name}?", "12"), salt)


def counted(prefix: str) -> Counter[str]:
  """How many starts each question of RL's half should have, by the rules as docs/method.md tells them."""
  kept = {"u": 0.1, "h": 0.5, "n": 0.5, "q": 0.0}
  found: Counter[str] = Counter()
  for kind, (_, places) in KINDS.items():
    for name in (f"{kind}{number}" for number in range(40)):
      if lot("0/half", name) < 0.5:
        continue  # SFT's half
      if kind in kept:
        found[name] += lot("0/rl", name) < kept[kind]
      else:
        within = [place <= ACTS for place in places]
        found[name] += {"last": within[-1], "first": within[0], "all": sum(within)}[prefix]
  return +found


def asked(run: Any, stage: str) -> list[str]:
  """The questions of a stage's starts, in order."""
  starts = STAGES[stage].rl_starts
  assert starts
  return [start.question.id for start in recipe.RL_STARTS[starts](run, stage).entries]


@pytest.mark.parametrize("prefix", ["last", "first", "all"])
def test_rl_from_the_question_takes_the_questions_of_rls_starts(run: Any, prefix: str) -> None:
  """The same ones, in the same order, as often: a question with two starts comes twice."""
  run.config.rl.prefix = prefix
  expected = counted(prefix)
  assert 50 < expected.total() < 180, "some are left out"
  assert max(expected.values()) == (2 if prefix == "all" else 1)
  assert Counter(asked(run, "rl")) == expected
  assert asked(run, "rl_from_question") == asked(run, "rl")
  whole = recipe.RL_STARTS["questions_of_prefixes"](run, "rl_from_question").entries
  assert {(start.horizon, start.correction, start.prefix.steps) for start in whole} == {(ACTS, None, ())}


def test_rl_from_all_questions_takes_the_whole_half_once(run: Any) -> None:
  half = [q.id for q in run.tasks.train if lot("0/half", q.id) >= 0.5]
  assert asked(run, "rl_from_all_questions") == half
  assert set(asked(run, "rl_from_question")) < set(half)


def test_starts_that_leave_no_room_are_left_out_of_both_and_counted(run: Any) -> None:
  """A prefix of k steps has 2 + 2 k tokens; rl.length holds it and one more."""
  said: list[str] = []
  run.log, run.config.rl.length, run.config.rl.prefix = said.append, 9, "all"
  lesson = recipe.RL_STARTS["prefixes"](run, "rl")
  expected = counted("all")
  left = sum(n for name, n in expected.items() if name[0] == "w") + sum(
    n == 2 for k, n in expected.items() if k[0] == "m"
  )
  assert left > 20
  assert lesson.findings["no_room"] == left
  assert len(lesson.entries) == expected.total() - left
  assert lesson.findings["questions"] == len({s.question.id for s in lesson.entries})
  assert f"rl: {left} of {expected.total()} starts leave no room in rl.length = 9; left out" in said
  assert asked(run, "rl_from_question") == [s.question.id for s in lesson.entries]


def test_what_an_earlier_version_made_of_a_stage_is_refused(run: Any) -> None:
  """Its checkpoints would be taken for the new stage's."""
  path = run.workdir.root / "stages/rl_from_question.json"
  run.workdir.write_json(
    "stages/rl_from_question.json", {"identity": compute_stage_identity(run.config, "rl_from_question")}
  )
  require_same_identity(run, "rl_from_question")
  path.write_text(json.dumps({"identity": "another"}))
  with pytest.raises(UserError, match=r"stage rl_from_question in .* was done by another version of score_jax"):
    require_same_identity(run, "rl_from_question")
