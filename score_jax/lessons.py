"""What the stages learn from: the questions, what became of them, and what is chosen of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from score_jax.arms import STAGES
from score_jax.mentor.mentoring import Mentored
from score_jax.mentor.starts import Start, starts
from score_jax.run import Run
from score_jax.stages import decoded, needed
from score_jax.tasks.split import share, split
from score_jax.trajectory import Ledger, Question, Trajectory, total


@dataclasses.dataclass(frozen=True)
class Lesson:
  """What a stage learns from."""

  material: Sequence[Any]  # trajectories or starts
  findings: Mapping[str, Any]  # counts, which its file in stages/ shows
  cost: Ledger = Ledger()  # of making it; what other stages made is theirs


def warm_questions(run: Run) -> list[Question]:
  """The part of the training questions that the teacher demonstrates on."""
  return split(run.tasks.train, salt=f"{run.config.seed}/warm_start", first=run.config.warm_start.share)[0]


def mentored_questions(run: Run) -> list[Question]:
  return split(run.tasks.train, salt=f"{run.config.seed}/warm_start", first=run.config.warm_start.share)[1]


def budget(run: Run, name: str, model: str) -> int:
  """Tokens that a model generated in the stages that a stage goes by; those that only measured do not count."""
  return sum(decoded(needed(run, other)["ledger"]).of(model).generated for other in STAGES[name].goes_by)


def right_of(run: Run, name: str, shown: Sequence[Trajectory]) -> Lesson:
  """The right ones of the teacher's trajectories; the others are paid for too."""
  right = [t for t in shown if t.right]
  run.say(f"{name}: {len(right)} of {len(shown)} demonstrations are right")
  run.workdir.write_part(name, 0, right)
  return Lesson(right, {"demonstrations": len(shown), "right": len(right)}, total(t.ledger for t in shown))


def mentored_cases(run: Run) -> list[Mentored]:
  """What the mps stage left in the workdir."""
  questions = {q.id: q for q in run.tasks.train}
  attempts = {t.question_id: t for t in run.workdir.read_parts("mps/attempts")}
  found = run.workdir.read_json("trajectories/mps/cases.json") or []
  return [
    Mentored(
      question := questions[case["question"]],
      trajectory,
      case["outcome"],
      case["first_error"],
      Ledger(),
      attempts.get(question.id),
    )
    for case, trajectory in zip(found, run.workdir.read_parts("mps"), strict=True)
  ]


def halves(run: Run) -> tuple[list[Mentored], list[Mentored]]:
  """What mentoring yielded, for SFT and for RL."""
  cases = mentored_cases(run)
  salt = f"{run.config.seed}/half"
  return [c for c in cases if share(c.question, salt) < 0.5], [c for c in cases if share(c.question, salt) >= 0.5]


def verified_starts(run: Run, name: str) -> Lesson:
  """The starts of RL's half of the mentored questions: before surviving corrections, or at the question."""
  c, (_, cases) = run.config, halves(run)
  found, beyond = starts(
    cases,
    acts=c.agent.acts,
    prefix=c.rl.prefix,
    fresh_horizon=c.rl.fresh_horizon,
    keep_unaided=c.rl.keep_unaided,
    keep_hard=c.rl.keep_hard,
    salt=f"{c.seed}/rl",
  )
  lesson = with_room(run, name, found)
  return dataclasses.replace(lesson, findings={"beyond_horizon": beyond, **lesson.findings})


def with_room(run: Run, name: str, begin: Sequence[Start]) -> Lesson:
  """Those starts after which a rollout can draw a token: rl.length holds its whole context. The others are counted."""
  length = run.config.rl.length
  kept = [s for s in begin if len(s.trajectory.context() or run.protocol.prompt(s.question.text)) < length]
  if kept != begin:
    run.say(f"{name}: {len(begin) - len(kept)} of {len(begin)} starts leave no room in rl.length = {length}; left out")
  return Lesson(kept, {"questions": len({s.question.id for s in kept}), "no_room": len(begin) - len(kept)})


def solved(cases: Iterable[Mentored]) -> dict[str, Trajectory]:
  """By question, the trajectories that corrections made right."""
  return {case.question.id: case.trajectory for case in cases if case.outcome == "solved"}


def with_unaided(
  run: Run, name: str, cases: Sequence[Mentored], mended: Mapping[str, Trajectory], cost: Ledger
) -> Lesson:
  """Mended trajectories with those solved unaided, of which the same ones are kept in every arm."""
  salt, keep = f"{run.config.seed}/keep_unaided", run.config.sft.keep_unaided
  kept = [
    mended.get(case.question.id, case.trajectory)
    for case in cases
    if case.question.id in mended or (case.outcome == "unaided" and share(case.question, salt) < keep)
  ]
  run.say(f"{name}: {len(kept)} trajectories, {len(mended)} of them mended")
  return Lesson(kept, {"trajectories": len(kept), "mended": len(mended)}, cost)
