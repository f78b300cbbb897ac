"""A model on a benchmark: every try rolled out once and recorded, part by part, and the row that the records come to.

    eval/<model>/<benchmark>.json         the identity of what is examined: weights, questions, tries
    eval/<model>/<benchmark>-NNNNN.jsonl  a part: all tries at some questions, a record a try

A part is written whole when its last try has ended. A killed evaluation goes on after the last one; nothing is ever
tried again. Records of another identity are deleted first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax

from score_jax.agent.rollout import Agent, Request, at_question
from score_jax.errors import UserError
from score_jax.mentor.teacher import Teacher
from score_jax.mesh import hosts
from score_jax.mesh.sharding import fetch
from score_jax.model.decoder import Weights
from score_jax.progress import Progress
from score_jax.stages import encoded
from score_jax.tasks.exam import Exam
from score_jax.tasks.scores import Groups
from score_jax.trajectory import Ledger, Question, Trajectory, from_json, to_json, total
from score_jax.workdir import Workdir

#: (questions, tries) -> the graded tries at each question; what a question's tries give hangs on nothing else
Solve = Callable[[Sequence[Question], int], Groups]


@dataclasses.dataclass(frozen=True)
class Candidate:
  """Who is examined."""

  name: str  # of its folder and in its rows
  solve: Solve
  weights_sha256: str | None  # None: its weights are not at hand


def by_rollout(agent: Agent, weights: Weights, *, acts: int) -> Solve:
  """The agent on its own."""

  def solve(questions: Sequence[Question], tries: int) -> Groups:
    requests = [Request(f"eval/{q.id}", q, at_question(q), acts, tries) for q in questions]
    with Progress("eval", len(questions) * tries, "rollouts") as progress:
      return agent.rollout(weights, requests, progress=progress)

  return solve


def by_demonstration(teacher: Teacher) -> Solve:
  """A teacher that solves the questions itself."""

  def solve(questions: Sequence[Question], tries: int) -> Groups:
    rounds = [teacher.demonstrate(questions, name=f"eval/{number}") for number in range(tries)]
    return list(zip(*rounds, strict=True))

  return solve


def examine(
  workdir: Workdir, candidate: Candidate, exam: Exam, *, part: int, say: Callable[[str], None]
) -> list[list[Trajectory]]:
  """The tries of a candidate at each question of an exam, in order; those that are not in the workdir yet are made.

  Args:
    part: questions of a part.
    say: told of every part that is begun.

  Raises:
    UserError: `part` is no number of questions, or a part in the workdir is damaged.
  """
  if part < 1:
    raise UserError(f"eval.part = {part}; give the questions of a part, 1 or more")
  stem = f"eval/{candidate.name}/{exam.benchmark}"
  _claim(workdir, stem, _identity(candidate, exam, part))
  groups: list[list[Trajectory]] = []
  for number, start in enumerate(range(0, len(exam.questions), part)):
    name, questions = f"{stem}-{number:05d}.jsonl", exam.questions[start : start + part]
    if not (found := _read(workdir, name, exam.tries)):
      say(f"eval: {candidate.name}, {exam.benchmark}, {start} of {len(exam.questions)} questions done")
      found = _made(workdir, name, candidate, questions, exam.tries)
    groups += found
  return groups


def row(
  candidate: Candidate,
  benchmark: str,
  found: dict[str, Any],
  *,
  ledger: Ledger,
  measured: Ledger,
  tries: Sequence[Sequence[Trajectory]],
) -> dict[str, Any]:
  """A row of results.json.

  Args:
    ledger: what making the model took.
    measured: what was spent to measure on the way to it.
    tries: of this evaluation, whose cost is `evaluated`.
  """
  who = {"model": candidate.name, "benchmark": benchmark, "weights_sha256": candidate.weights_sha256}
  evaluated = total(t.ledger for group in tries for t in group)
  costs = {"ledger": ledger, "measured": measured, "evaluated": evaluated}
  return who | found | {name: encoded(cost) for name, cost in costs.items()}


def fingerprint(weights: Weights) -> str:
  """SHA-256 over the weights' bytes, in the order of their names."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(fetch(leaf).tobytes())
  return digest.hexdigest()


def _identity(candidate: Candidate, exam: Exam, part: int) -> str:
  data = [candidate.weights_sha256, [q.id for q in exam.questions], exam.tries, part]
  return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]


def _claim(workdir: Workdir, stem: str, identity: str) -> None:
  """Makes the records under `stem` those of this identity."""
  if workdir.read_json(f"{stem}.json") == {"identity": identity}:
    return
  folder, _, benchmark = stem.rpartition("/")
  for name in workdir.read_all(folder, f"{benchmark}-*.jsonl"):
    workdir.remove(name)
  workdir.write_json(f"{stem}.json", {"identity": identity})


def _made(
  workdir: Workdir, name: str, candidate: Candidate, questions: Sequence[Question], tries: int
) -> list[list[Trajectory]]:
  groups = [list(group) for group in candidate.solve(questions, tries)]
  records = [
    {"question_steps": q.steps, "reference": q.answer, "trajectory": json.loads(to_json(t))}
    for q, group in zip(questions, groups, strict=True)
    for t in group
  ]
  workdir.write(name, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
  return groups


def _read(workdir: Workdir, name: str, tries: int) -> list[list[Trajectory]]:
  """The tries in a part, by question; none where it is not there.

  Raises:
    UserError: the part is damaged.
  """
  path = workdir.root / name
  text = hosts.from_first(f"read {name}", lambda: path.read_text(encoding="utf-8") if path.exists() else "")
  if not text:
    return []
  try:
    found = [from_json(json.dumps(json.loads(line)["trajectory"])) for line in text.split("\n") if line]
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} is damaged ({error}); delete it and start again") from error
  return [found[start : start + tries] for start in range(0, len(found), tries)]
