"""What each stage trains on: demonstrations, corrected trajectories, verified prefixes, and what arms use instead.

`SFT_DATA` and `RL_STARTS` at the end map the names in experiment/stages.py to the functions here. Each function takes
the experiment and the name of the stage, and returns `TrainingData`: trajectories for SFT, `RolloutStart`s for RL.

    the method    warm_start_demonstrations -> warm_start, corrected_trajectories -> sft, verified_prefixes -> rl
    baselines     demonstrations for a budget of teacher tokens, or one of each question; RL from bare questions
    controls      the failures of mentoring, repaired with one ingredient missing:
      rejection_samples        no teacher: other tries of the student from the question
      redrawn_steps            the teacher locates the step; the student draws it again
      random_step_corrections  the teacher writes a step, but of a random place
      teacher_completions      the teacher writes the located step and all after it

Each control begins with the first attempts of mentoring in the SFT half. It tries as often as the teacher may correct
(teacher_completions: once) and yields at most as many repaired trajectories as mentoring did, so no arm has more data.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from score_jax.agent.rollout import RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
from score_jax.experiment.results import ledger_from_dict, load_stage_weights, require_stage_result
from score_jax.experiment.stages import STAGES, RlStartsName, SftDataName
from score_jax.experiment.teachers import open_teacher
from score_jax.tasks.splits import hash_fraction, split_by_hash
from score_jax.teaching.mentoring import (
  MentoredQuestion,
  RolloutStart,
  build_rollout_starts,
  cases_from_json,
  mentor_questions,
)
from score_jax.teaching.recorded import RandomStepTeacher
from score_jax.trajectory import Ledger, Question, Trajectory, sum_ledgers


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """What a stage trains on."""

  entries: Sequence[Any]  # trajectories (SFT) or rollout starts (RL)
  findings: Mapping[str, Any]  # counts, written into stages/<stage>.json
  cost: Ledger = Ledger()  # of making it, without what earlier stages have booked


# Questions, and the results of mentoring


def select_warm_start_questions(run: Experiment) -> list[Question]:
  """The training questions that the teacher demonstrates for the warm start, chosen by hash."""
  return split_by_hash(run.tasks.train, salt=f"{run.config.seed}/warm_start", first=run.config.warm_start.share)[0]


def select_mentored_questions(run: Experiment) -> list[Question]:
  """All other training questions, which go through mentoring."""
  return split_by_hash(run.tasks.train, salt=f"{run.config.seed}/warm_start", first=run.config.warm_start.share)[1]


def load_mentoring_results(run: Experiment) -> list[MentoredQuestion]:
  """What the mps stage left in the workdir."""
  return cases_from_json(
    run.workdir.read_json("trajectories/mps/cases.json") or [],
    questions=run.tasks.train,
    trajectories=run.workdir.read_parts("mps"),
    failed_attempts=run.workdir.read_parts("mps/attempts"),
  )


def sft_and_rl_halves(run: Experiment) -> tuple[list[MentoredQuestion], list[MentoredQuestion]]:
  """The results of mentoring, split in half by the hash of the question: for SFT, for RL."""
  salt = f"{run.config.seed}/half"
  cases = [(case, hash_fraction(case.question, salt) < 0.5) for case in load_mentoring_results(run)]
  return [case for case, first in cases if first], [case for case, first in cases if not first]


def compute_token_budget(run: Experiment, name: str, model: str) -> int:
  """Tokens that `model` generated in the stages that set the budget of a stage; measurements do not count."""
  return sum(
    ledger_from_dict(require_stage_result(run, other)["ledger"]).of(model).generated
    for other in STAGES[name].budget_from
  )


# The method: warm start, SFT, RL


def warm_start_demonstrations(run: Experiment, name: str) -> TrainingData:
  """Warm start: the teacher's trajectories that submit an answer and are graded right."""
  teacher = open_teacher(run, run.student.weights)
  return keep_correct(run, name, teacher.demonstrate(select_warm_start_questions(run), name=name))


def keep_correct(run: Experiment, name: str, shown: Sequence[Trajectory]) -> TrainingData:
  """The right ones of the teacher's trajectories; the cost includes the others."""
  right = [t for t in shown if t.right]
  run.log(f"{name}: {len(right)} of {len(shown)} demonstrations are right")
  run.workdir.write_part(name, 0, right)
  return TrainingData(right, {"demonstrations": len(shown), "right": len(right)}, sum_ledgers(t.ledger for t in shown))


def corrected_trajectories(run: Experiment, name: str) -> TrainingData:
  """SFT: the corrected trajectories of one half of the mentored questions, and some of those solved unaided."""
  cases, _ = sft_and_rl_halves(run)
  return add_unaided(run, name, cases, select_solved_trajectories(cases), Ledger())


def select_solved_trajectories(cases: Iterable[MentoredQuestion]) -> dict[str, Trajectory]:
  """The trajectories that corrections made right, by question id."""
  return {case.question.id: case.trajectory for case in cases if case.outcome == "solved"}


def add_unaided(
  run: Experiment, name: str, cases: Sequence[MentoredQuestion], repaired: Mapping[str, Trajectory], cost: Ledger
) -> TrainingData:
  """Repaired trajectories and some of those solved unaided, chosen by hash, so that every arm keeps the same ones."""
  salt, keep = f"{run.config.seed}/keep_unaided", run.config.sft.keep_unaided
  kept = [
    repaired.get(case.question.id, case.trajectory)
    for case in cases
    if case.question.id in repaired or (case.outcome == "unaided" and hash_fraction(case.question, salt) < keep)
  ]
  run.log(f"{name}: {len(kept)} trajectories, {len(repaired)} of them mended")
  return TrainingData(kept, {"trajectories": len(kept), "mended": len(repaired)}, cost)


def verified_prefixes(run: Experiment, name: str) -> TrainingData:
  """RL: the verified prefixes before the last corrections that are left, of the other half."""
  data = select_verified_starts(run, name)
  corrected = sum(s.correction is not None for s in data.entries)
  run.log(f"{name}: {len(data.entries)} starts, {corrected} of them before a corrected step")
  return data


def select_verified_starts(run: Experiment, name: str) -> TrainingData:
  """RL starts of RL's half of the mentored questions: before the corrections that are left, or at the question."""
  c, (_, cases) = run.config, sft_and_rl_halves(run)
  starts, beyond = build_rollout_starts(
    cases,
    acts=c.agent.acts,
    prefix=c.rl.prefix,
    fresh_horizon=c.rl.fresh_horizon,
    keep_unaided=c.rl.keep_unaided,
    keep_hard=c.rl.keep_hard,
    salt=f"{c.seed}/rl",
  )
  data = filter_starts_by_length(run, name, starts)
  return dataclasses.replace(data, findings={"beyond_horizon": beyond, **data.findings})


def filter_starts_by_length(run: Experiment, name: str, starts: Sequence[RolloutStart]) -> TrainingData:
  """The starts whose context leaves room for a token in rl.length; the others are counted."""
  length = run.config.rl.length
  kept = [s for s in starts if len(s.prefix.context() or run.protocol.encode_prompt(s.question.text)) < length]
  left_out = len(starts) - len(kept)
  if left_out:
    run.log(f"{name}: {left_out} of {len(starts)} starts leave no room in rl.length = {length}; left out")
  return TrainingData(kept, {"questions": len({s.question.id for s in kept}), "no_room": left_out})


# Baselines of RL: whole rollouts from the question


def questions_of_prefixes(run: Experiment, name: str) -> TrainingData:
  """The question of each start of `rl`, in the same order and as often, so that only the horizon differs.

  With rl.prefix = all a question comes as often as it has starts.
  """
  data = select_verified_starts(run, name)
  return dataclasses.replace(data, entries=[_at(run, start.question) for start in data.entries])


def all_rl_questions(run: Experiment, name: str) -> TrainingData:
  """All questions of RL's half, with those that `rl` leaves out, such as most of those solved unaided."""
  _, cases = sft_and_rl_halves(run)
  return filter_starts_by_length(run, name, [_at(run, case.question) for case in cases])


def all_mentored_questions(run: Experiment, name: str) -> TrainingData:
  """All questions of mentoring."""
  return filter_starts_by_length(run, name, [_at(run, question) for question in select_mentored_questions(run)])


def _at(run: Experiment, question: Question) -> RolloutStart:
  """The start of a whole rollout at the question, rewarded by its outcome."""
  return RolloutStart(question, empty_trajectory(question), None, run.config.agent.acts)


# Baselines of SFT: more demonstrations


def _demonstrations(run: Experiment) -> Iterator[Trajectory]:
  """The teacher's trajectories of all training questions, round after round without end.

  Each round is written to the workdir, so that arms share it.
  """
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
  """Demonstrations for as many teacher tokens as the stages of the budget took."""
  return _buy(run, name, _demonstrations(run))


def first_thought_demonstrations(run: Experiment, name: str) -> TrainingData:
  """Demonstrations for the same tokens; after round 0 they begin with a first thought that led to the answer."""
  return _buy(run, name, _demonstrations_from_first_thoughts(run, name))


def _demonstrations_from_first_thoughts(run: Experiment, name: str) -> Iterator[Trajectory]:
  """Round 0 is that of `_demonstrations`; later rounds continue the first thought of a question's first right one."""
  questions, teacher = run.tasks.train, open_teacher(run, run.student.weights)
  plans: dict[str, Trajectory] = {}
  for number in itertools.count():
    if number == 0:
      shown = list(itertools.islice(_demonstrations(run), len(questions)))
    else:
      begun = [(q, plans.get(q.id, empty_trajectory(q))) for q in questions]
      shown = teacher.finish(begun, name=f"{name}/{number}")
    yield from shown
    # the first right one of a question stays: the right operand of | wins
    plans = {t.question_id: t.prefix(1) for t in shown if t.right} | plans


def _buy(run: Experiment, name: str, shown: Iterator[Trajectory]) -> TrainingData:
  """The first trajectories within the budget of teacher tokens; one of each question if the teacher costs no tokens."""
  tokens = compute_token_budget(run, name, "teacher")
  count = len(run.tasks.train)
  bought = take_within_budget(tokens, shown, idle=count) if tokens else list(itertools.islice(shown, count))
  data = keep_correct(run, name, bought)
  return dataclasses.replace(data, findings={**data.findings, "token_budget": tokens})


def take_within_budget(tokens: int, shown: Iterable[Trajectory], *, idle: int) -> list[Trajectory]:
  """The first trajectories within a budget of teacher tokens; it ends after more than `idle` free ones in a row."""
  result: list[Trajectory] = []
  spent = free = 0
  for trajectory in shown:
    cost = trajectory.ledger.of("teacher").generated
    spent, free = spent + cost, 0 if cost else free + 1
    if spent > tokens or free > idle:
      break
    result.append(trajectory)
  return result


# Controls of mentoring: the same failures, repaired in another way


QuestionPrefixes = Sequence[tuple[Question, Trajectory]]


def rejection_samples(run: Experiment, name: str) -> TrainingData:
  """Rejection sampling: other tries of the student from the question."""
  cases, failed = _load_failed(run)
  found, cost = _try_again(run, name, [(case.question, empty_trajectory(case.question)) for case in failed])
  return _match_size(run, name, cases, found, cost + _first_attempts_cost(cases))


def redrawn_steps(run: Experiment, name: str) -> TrainingData:
  """The student draws again from before the step that the teacher located first."""
  cases, failed = _load_failed(run)
  found, cost = _try_again(run, name, _prefixes_before_error(failed))
  return _match_size(run, name, cases, found, cost)


def random_step_corrections(run: Experiment, name: str) -> TrainingData:
  """Mentoring again from the same first attempts; each round corrects a random step."""
  c, (cases, failed) = run.config, _load_failed(run)
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
  cost = unaided + sum_ledgers(case.ledger for case in again)
  return _match_size(run, name, cases, select_solved_trajectories(again), cost)


def teacher_completions(run: Experiment, name: str) -> TrainingData:
  """The teacher continues to the end from before the step that it located first."""
  cases, failed = _load_failed(run)
  ended = open_teacher(run, load_stage_weights(run, "warm_start")).finish(_prefixes_before_error(failed), name=name)
  right = {t.question_id: t for t in ended if t.right}
  return _match_size(run, name, cases, right, sum_ledgers(t.ledger for t in ended))


def _load_failed(run: Experiment) -> tuple[list[MentoredQuestion], list[MentoredQuestion]]:
  """The SFT half of the mentored questions, and those of it whose first attempt was wrong."""
  cases, _ = sft_and_rl_halves(run)
  failed = [case for case in cases if case.outcome not in ("unaided", "quarantined")]
  if not all(case.failed_attempt for case in failed):
    folder = run.workdir.root / "trajectories/mps/attempts"
    raise UserError(f"{folder}: first attempts are missing, of a run of an earlier version; give another --workdir")
  return cases, failed


def _prefixes_before_error(failed: Iterable[MentoredQuestion]) -> QuestionPrefixes:
  """First attempts up to the step that the teacher located first, where it located one."""
  return [
    (c.question, c.failed_attempt.prefix(c.first_error))
    for c in failed
    if c.failed_attempt and c.first_error is not None
  ]


def _first_attempts_cost(cases: Iterable[MentoredQuestion]) -> Ledger:
  """Cost of the student's first attempts."""
  return sum_ledgers((case.failed_attempt or case.trajectory).ledger for case in cases)


def _try_again(run: Experiment, name: str, begun: QuestionPrefixes) -> tuple[dict[str, Trajectory], Ledger]:
  """The first right try of each question, by id, and the cost of all: as many tries as a teacher may correct."""
  c = run.config
  if not c.mps.corrections:
    return {}, Ledger()
  requests = [RolloutRequest(f"{name}/{q.id}", q, prefix, c.agent.acts, c.mps.corrections) for q, prefix in begun]
  groups = run.student_agent.rollout(load_stage_weights(run, "warm_start"), requests)
  return select_first_correct(groups), sum_ledgers(t.ledger for group in groups for t in group)


def select_first_correct(groups: Iterable[Sequence[Trajectory]]) -> dict[str, Trajectory]:
  """The first right trajectory of each group that has one, by question id."""
  # reversed: of equal keys the last one in a dict wins
  return {t.question_id: t for group in groups for t in reversed(group) if t.right}


def select_by_hash(count: int, questions: Iterable[Question], salt: str) -> set[str]:
  """Ids of `count` of the questions, chosen by hash; of all if there are fewer."""
  return {q.id for q in sorted(questions, key=lambda q: hash_fraction(q, salt))[:count]}


def _match_size(
  run: Experiment, name: str, cases: Sequence[MentoredQuestion], found: Mapping[str, Trajectory], cost: Ledger
) -> TrainingData:
  """At most as many repaired trajectories as the stage `sft` has, and the same ones solved unaided."""
  chosen = select_by_hash(
    len(select_solved_trajectories(cases)),
    (c.question for c in cases if c.question.id in found),
    f"{run.config.seed}/mended",
  )
  repaired = {question: trajectory for question, trajectory in found.items() if question in chosen}
  data = add_unaided(run, name, cases, repaired, cost)
  run.workdir.write_part(name, 0, data.entries)
  return dataclasses.replace(data, findings={**data.findings, "right": len(found)})


#: the names of experiment/stages.py -> what selects the data
SFT_DATA: Mapping[SftDataName, Callable[[Experiment, str], TrainingData]] = {
  "few_demonstrations": warm_start_demonstrations,
  "bought_demonstrations": budgeted_demonstrations,
  "planned_demonstrations": first_thought_demonstrations,
  "all_demonstrations": all_demonstrations,
  "corrected": corrected_trajectories,
  "own_successes": rejection_samples,
  "redrawn": redrawn_steps,
  "random_corrections": random_step_corrections,
  "teacher_endings": teacher_completions,
}
RL_STARTS: Mapping[RlStartsName, Callable[[Experiment, str], TrainingData]] = {
  "prefixes": verified_prefixes,
  "questions_of_prefixes": questions_of_prefixes,
  "questions_for_rl": all_rl_questions,
  "mentored_questions": all_mentored_questions,
}
