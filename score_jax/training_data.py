"""What the stages learn from: the questions, what became of them, and what is chosen of that.

MERGED What the baselines learn from: the teacher's whole trajectories, and questions without prefixes (arms.py).

MERGED What the controls of mentoring learn from: the same failures, mended otherwise, one ingredient missing at a time.

    own_successes       no teacher: other tries of the student's from the question (rejection sampling)
    redrawn             the teacher says where; the student draws the step again
    random_corrections  the teacher writes the step, but not the earliest error's
    teacher_endings     the teacher writes the step and all after it

Each starts from the first attempts of mentoring on the SFT half of its questions,
tries as often as the teacher may correct (the endings: once), and gives at most
as many mended trajectories as mentoring did, so that no arm learns from more.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from score_jax.agent.rollout import RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
from score_jax.experiment.results import ledger_from_dict, load_stage_weights, require_stage_result
from score_jax.experiment.stages import STAGES
from score_jax.experiment.teachers import open_teacher
from score_jax.tasks.splits import hash_fraction, split_by_hash
from score_jax.teaching.mentoring import MentoredQuestion, RolloutStart, build_rollout_starts, mentor_questions
from score_jax.teaching.recorded import RandomStepTeacher
from score_jax.trajectory import Ledger, Question, Trajectory, sum_ledgers


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """What a stage learns from."""

  entries: Sequence[Any]  # trajectories or starts
  findings: Mapping[str, Any]  # counts, which its file in stages/ shows
  cost: Ledger = Ledger()  # of making it; what other stages made is theirs


def select_warm_start_questions(run: Experiment) -> list[Question]:
  """The part of the training questions that the teacher demonstrates on."""
  return split_by_hash(run.tasks.train, salt=f"{run.config.seed}/warm_start", first=run.config.warm_start.share)[0]


def select_mentored_questions(run: Experiment) -> list[Question]:
  return split_by_hash(run.tasks.train, salt=f"{run.config.seed}/warm_start", first=run.config.warm_start.share)[1]


def compute_token_budget(run: Experiment, name: str, model: str) -> int:
  """Tokens that a model generated in the stages that a stage goes by; those that only measured do not count."""
  return sum(
    ledger_from_dict(require_stage_result(run, other)["ledger"]).of(model).generated
    for other in STAGES[name].budget_from
  )


def keep_correct(run: Experiment, name: str, shown: Sequence[Trajectory]) -> TrainingData:
  """The right ones of the teacher's trajectories; the others are paid for too."""
  right = [t for t in shown if t.right]
  run.log(f"{name}: {len(right)} of {len(shown)} demonstrations are right")
  run.workdir.write_part(name, 0, right)
  return TrainingData(right, {"demonstrations": len(shown), "right": len(right)}, sum_ledgers(t.ledger for t in shown))


def load_mentoring_results(run: Experiment) -> list[MentoredQuestion]:
  """What the mps stage left in the workdir."""
  questions = {q.id: q for q in run.tasks.train}
  attempts = {t.question_id: t for t in run.workdir.read_parts("mps/attempts")}
  found = run.workdir.read_json("trajectories/mps/cases.json") or []
  return [
    MentoredQuestion(
      question := questions[case["question"]],
      trajectory,
      case["outcome"],
      case["first_error"],
      Ledger(),
      attempts.get(question.id),
    )
    for case, trajectory in zip(found, run.workdir.read_parts("mps"), strict=True)
  ]


def sft_and_rl_halves(run: Experiment) -> tuple[list[MentoredQuestion], list[MentoredQuestion]]:
  """What mentoring yielded, for SFT and for RL."""
  cases = load_mentoring_results(run)
  salt = f"{run.config.seed}/half"
  return [c for c in cases if hash_fraction(c.question, salt) < 0.5], [
    c for c in cases if hash_fraction(c.question, salt) >= 0.5
  ]


def select_verified_starts(run: Experiment, name: str) -> TrainingData:
  """The starts of RL's half of the mentored questions: before surviving corrections, or at the question."""
  c, (_, cases) = run.config, sft_and_rl_halves(run)
  found, beyond = build_rollout_starts(
    cases,
    acts=c.agent.acts,
    prefix=c.rl.prefix,
    fresh_horizon=c.rl.fresh_horizon,
    keep_unaided=c.rl.keep_unaided,
    keep_hard=c.rl.keep_hard,
    salt=f"{c.seed}/rl",
  )
  lesson = filter_starts_by_length(run, name, found)
  return dataclasses.replace(lesson, findings={"beyond_horizon": beyond, **lesson.findings})


def filter_starts_by_length(run: Experiment, name: str, begin: Sequence[RolloutStart]) -> TrainingData:
  """Those starts after which a rollout can draw a token: rl.length holds its whole context. The others are counted."""
  length = run.config.rl.length
  kept = [s for s in begin if len(s.prefix.context() or run.protocol.encode_prompt(s.question.text)) < length]
  if kept != begin:
    run.log(f"{name}: {len(begin) - len(kept)} of {len(begin)} starts leave no room in rl.length = {length}; left out")
  return TrainingData(kept, {"questions": len({s.question.id for s in kept}), "no_room": len(begin) - len(kept)})


def select_solved_trajectories(cases: Iterable[MentoredQuestion]) -> dict[str, Trajectory]:
  """By question, the trajectories that corrections made right."""
  return {case.question.id: case.trajectory for case in cases if case.outcome == "solved"}


def add_unaided(
  run: Experiment, name: str, cases: Sequence[MentoredQuestion], mended: Mapping[str, Trajectory], cost: Ledger
) -> TrainingData:
  """Mended trajectories with those solved unaided, of which the same ones are kept in every arm."""
  salt, keep = f"{run.config.seed}/keep_unaided", run.config.sft.keep_unaided
  kept = [
    mended.get(case.question.id, case.trajectory)
    for case in cases
    if case.question.id in mended or (case.outcome == "unaided" and hash_fraction(case.question, salt) < keep)
  ]
  run.log(f"{name}: {len(kept)} trajectories, {len(mended)} of them mended")
  return TrainingData(kept, {"trajectories": len(kept), "mended": len(mended)}, cost)


def questions_of_prefixes(run: Experiment, name: str) -> TrainingData:
  """The question of each start that `rl` has, in the same order and as often: they differ by their horizon alone.

  With rl.prefix = all a question comes as often as it has starts.
  """
  lesson = select_verified_starts(run, name)
  return dataclasses.replace(lesson, entries=[_at(run, start.question) for start in lesson.entries])


def all_rl_questions(run: Experiment, name: str) -> TrainingData:
  """All questions of RL's half of the mentored ones, those too that `rl` leaves out, such as most of the unaided."""
  _, cases = sft_and_rl_halves(run)
  return filter_starts_by_length(run, name, [_at(run, case.question) for case in cases])


def all_mentored_questions(run: Experiment, name: str) -> TrainingData:
  """Every question that mentoring had."""
  return filter_starts_by_length(run, name, [_at(run, question) for question in select_mentored_questions(run)])


def _at(run: Experiment, question: Question) -> RolloutStart:
  """A whole rollout, rewarded by its outcome."""
  return RolloutStart(question, empty_trajectory(question), None, run.config.agent.acts)


def _demonstrations(run: Experiment) -> Iterator[Trajectory]:
  """The teacher's trajectories of all training questions, round after round; rounds stay in the workdir."""
  for number in itertools.count():
    shown = run.workdir.read_part("demonstrations", number)
    if not shown:
      shown = open_teacher(run, run.student.weights).demonstrate(run.tasks.train, name=f"bc/{number}")
      run.workdir.write_part("demonstrations", number, shown)
    yield from shown


def all_demonstrations(run: Experiment, name: str) -> TrainingData:
  """One demonstration of every training question."""
  return keep_correct(run, name, list(itertools.islice(_demonstrations(run), len(run.tasks.train))))


def budgeted_demonstrations(run: Experiment, name: str) -> TrainingData:
  """Demonstrations for the teacher tokens of what the stage goes by."""
  return _bought(run, name, _demonstrations(run))


def first_thought_demonstrations(run: Experiment, name: str) -> TrainingData:
  """The same, but after the first round they go on from the first thought of their question's first right one."""
  return _bought(run, name, _going_on_from_plans(run, name))


def _going_on_from_plans(run: Experiment, name: str) -> Iterator[Trajectory]:
  questions, teacher = run.tasks.train, open_teacher(run, run.student.weights)
  plans: dict[str, Trajectory] = {}
  for number in itertools.count():
    if number == 0:
      shown = list(itertools.islice(_demonstrations(run), len(questions)))
    else:
      begun = [(q, plans.get(q.id, empty_trajectory(q))) for q in questions]
      shown = teacher.finish(begun, name=f"{name}/{number}")
    yield from shown
    plans = {t.question_id: t.prefix(1) for t in shown if t.right} | plans


def _bought(run: Experiment, name: str, shown: Iterator[Trajectory]) -> TrainingData:
  """The first trajectories that the budget of teacher tokens pays for; one a question, where teaching costs none."""
  tokens = compute_token_budget(run, name, "teacher")
  bought = (
    take_within_budget(tokens, shown, idle=len(run.tasks.train))
    if tokens
    else list(itertools.islice(shown, len(run.tasks.train)))
  )
  lesson = keep_correct(run, name, bought)
  return dataclasses.replace(lesson, findings={**lesson.findings, "token_budget": tokens})


def take_within_budget(tokens: int, shown: Iterable[Trajectory], *, idle: int) -> list[Trajectory]:
  """The first trajectories that so many teacher tokens pay for; none after `idle` in a row that cost nothing."""
  result: list[Trajectory] = []
  spent = free = 0
  for trajectory in shown:
    cost = trajectory.ledger.of("teacher").generated
    spent, free = spent + cost, 0 if cost else free + 1
    if spent > tokens or free > idle:
      break
    result.append(trajectory)
  return result


QuestionPrefixes = Sequence[tuple[Question, Trajectory]]


def rejection_samples(run: Experiment, name: str) -> TrainingData:
  """Rejection sampling: other tries of the student's from the question."""
  cases, failed = _failed(run)
  found, cost = _tried_again(run, name, [(case.question, empty_trajectory(case.question)) for case in failed])
  return _mended(run, name, cases, found, cost + _attempts(cases))


def redrawn_steps(run: Experiment, name: str) -> TrainingData:
  """The student draws the step again that the teacher located first."""
  cases, failed = _failed(run)
  found, cost = _tried_again(run, name, _before_the_error(failed))
  return _mended(run, name, cases, found, cost)


def random_step_corrections(run: Experiment, name: str) -> TrainingData:
  """Mentoring once more from the same attempts, each round with a step named by lot."""
  c, (cases, failed) = run.config, _failed(run)
  weights = load_stage_weights(run, "warm_start")
  again = mentor_questions(
    [case.question for case in failed],
    student=run.student_agent,
    weights=weights,
    teacher=RandomStepTeacher(open_teacher(run, weights), f"{c.seed}/lot"),
    acts=c.agent.acts,
    corrections=c.mps.corrections,
    tries=1,
    draws=c.mps.draws,
    report=lambda line: run.log(f"{name}: {line}"),
    name=name,
    attempts=[attempt for case in failed if (attempt := case.failed_attempt)],
  )
  unaided = sum_ledgers(case.trajectory.ledger for case in cases if case.outcome == "unaided")
  return _mended(
    run, name, cases, select_solved_trajectories(again), unaided + sum_ledgers(case.ledger for case in again)
  )


def teacher_completions(run: Experiment, name: str) -> TrainingData:
  """The teacher goes on to the end from before the step that it located first."""
  cases, failed = _failed(run)
  ended = open_teacher(run, load_stage_weights(run, "warm_start")).finish(_before_the_error(failed), name=name)
  return _mended(run, name, cases, {t.question_id: t for t in ended if t.right}, sum_ledgers(t.ledger for t in ended))


def _failed(run: Experiment) -> tuple[list[MentoredQuestion], list[MentoredQuestion]]:
  """The SFT half of what was mentored, and those of it whose first attempt was wrong.

  Raises:
    UserError: the attempts are not in the workdir.
  """
  cases, _ = sft_and_rl_halves(run)
  failed = [case for case in cases if case.outcome not in ("unaided", "quarantined")]
  if not all(case.failed_attempt for case in failed):
    folder = run.workdir.root / "trajectories/mps/attempts"
    raise UserError(f"{folder}: first attempts are missing, of a run of an earlier version; give another --workdir")
  return cases, failed


def _before_the_error(failed: Iterable[MentoredQuestion]) -> QuestionPrefixes:
  return [
    (c.question, c.failed_attempt.prefix(c.first_error))
    for c in failed
    if c.failed_attempt and c.first_error is not None
  ]


def _attempts(cases: Iterable[MentoredQuestion]) -> Ledger:
  """What the student's first attempts cost."""
  return sum_ledgers((case.failed_attempt or case.trajectory).ledger for case in cases)


def _tried_again(run: Experiment, name: str, begun: QuestionPrefixes) -> tuple[dict[str, Trajectory], Ledger]:
  """From each prefix the student goes on as often as a teacher may correct.

  Returns:
    By question, the first try that is right, where one is; and what all tries cost.
  """
  c = run.config
  if not c.mps.corrections:
    return {}, Ledger()
  requests = [RolloutRequest(f"{name}/{q.id}", q, prefix, c.agent.acts, c.mps.corrections) for q, prefix in begun]
  groups = run.student_agent.rollout(load_stage_weights(run, "warm_start"), requests)
  return select_first_correct(groups), sum_ledgers(t.ledger for group in groups for t in group)


def select_first_correct(groups: Iterable[Sequence[Trajectory]]) -> dict[str, Trajectory]:
  """By question, the first right trajectory of each group that has one."""
  return {t.question_id: t for group in groups for t in reversed(group) if t.right}


def select_by_hash(count: int, questions: Iterable[Question], salt: str) -> set[str]:
  """The ids of `count` of the questions, or of all where there are no more, chosen by hash."""
  return {q.id for q in sorted(questions, key=lambda q: hash_fraction(q, salt))[:count]}


def _mended(
  run: Experiment, name: str, cases: Sequence[MentoredQuestion], found: Mapping[str, Trajectory], cost: Ledger
) -> TrainingData:
  """At most as many mended trajectories as SFT learns from, and the unaided ones that it does."""
  chosen = select_by_hash(
    len(select_solved_trajectories(cases)),
    (c.question for c in cases if c.question.id in found),
    f"{run.config.seed}/mended",
  )
  mended = {question: trajectory for question, trajectory in found.items() if question in chosen}
  lesson = add_unaided(run, name, cases, mended, cost)
  run.workdir.write_part(name, 0, lesson.entries)
  return dataclasses.replace(lesson, findings={**lesson.findings, "right": len(found)})
