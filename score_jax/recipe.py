"""The method, top to bottom: each stage reads the workdir, adds to it, and is skipped when it is done.

    warm_start        the teacher demonstrates on a few questions; the student learns to run the loop
    mps               the student acts, the teacher corrects its earliest error, the student goes on
    sft               the student learns from the corrected trajectories
    rl                short-horizon policy gradient from the verified prefixes
    bc                baseline: as many teacher trajectories as the whole of SCoRe's teaching cost
    rl_from_question  baseline: from the sft weights, whole rollouts on rl's own questions, outcome reward, equal
                      student tokens

The other arms are listed in arms.py. Whatever trains learns either from
trajectories (LESSONS) or by policy gradient from states (STARTS), and differs
from its neighbours in these, in where it starts and in its settings.

Then every model is evaluated (evaluate.py). A stage that is done is skipped (stages.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from score_jax.errors import UserError
from score_jax.evaluate import measure_validation_accuracy
from score_jax.experiment import stages
from score_jax.experiment.experiment import Experiment, make_forward_config
from score_jax.experiment.results import (
  is_stage_complete,
  ledger_to_dict,
  load_stage_weights,
  make_stage_config,
  require_same_identity,
  write_stage_result,
)
from score_jax.experiment.stages import STAGES, resolve_stages
from score_jax.experiment.teachers import open_teacher
from score_jax.model import lora
from score_jax.rl.loop import require_signal, train_policy_gradient
from score_jax.tasks.splits import describe_dropped
from score_jax.teaching.counterfactual import CounterfactualTeacher, count_success_by_depth
from score_jax.teaching.mentoring import MentoredQuestion, MentoringRound, mentor_questions
from score_jax.teaching.prompted import PromptedTeacher
from score_jax.teaching.recorded import RecordedTeacher
from score_jax.teaching.teacher import Teacher
from score_jax.train.batch import every_step, make_example, teacher_steps
from score_jax.train.sft import fine_tune
from score_jax.training_data import (
  TrainingData,
  add_unaided,
  all_demonstrations,
  all_mentored_questions,
  all_rl_questions,
  budgeted_demonstrations,
  compute_token_budget,
  first_thought_demonstrations,
  keep_correct,
  questions_of_prefixes,
  random_step_corrections,
  redrawn_steps,
  rejection_samples,
  select_mentored_questions,
  select_solved_trajectories,
  select_verified_starts,
  select_warm_start_questions,
  sft_and_rl_halves,
  teacher_completions,
)
from score_jax.trajectory import Ledger, sum_ledgers

STEP_FILTERS = {"every_step": every_step, "teacher_steps": teacher_steps}


def run_recipe(run: Experiment) -> None:
  """Runs the stages that the config lists, in order, then its arms; those that are done are skipped.

  Raises:
    UserError: a stage does not exist, or cannot be done with what there is.
  """
  names = resolve_stages(run.config.stages, run.config.arms)
  for name in names:  # before any is done: hours would be lost
    if STAGES[name].rl_starts and (note := require_signal(run.config, name)):
      run.log(note)
  _write_split(run)
  for name in names:
    if is_stage_complete(run, name):
      run.log(f"{name}: done already")
      run.journal.remove_stage(name)  # the run may have ended between the two
      continue
    require_same_identity(run, name)
    _ = run.trackers  # one that cannot be had ends the run here, not after hours of demonstrations
    run.log(f"{name}: starts")
    with run.timed_stage_scope(name):
      write_stage_result(run, name, _do(run, name))
    run.log(f"{name}: done in {run.stage_seconds[name]:.0f} s")


def _do(run: Experiment, name: str) -> dict[str, Any]:
  """What a stage finds."""
  stage = STAGES[name]
  if stage.sft_data:
    return sft_stage(run, name, SFT_DATA[stage.sft_data](run, name))
  if stage.rl_starts:
    return rl_stage(run, name, RL_STARTS[stage.rl_starts](run, name))
  return mentoring_stage(run)


def sft_stage(run: Experiment, name: str, lesson: TrainingData) -> dict[str, Any]:
  """Fine-tunes the weights that the stage starts from on trajectories; the new ones are in its checkpoints."""
  stage = STAGES[name]
  settings = make_stage_config(run.config, name)[stage.group]
  loss = settings.loss if stage.group == "sft" else "every_step"
  if loss not in STEP_FILTERS:
    raise UserError(f"{stage.group}.loss = {loss!r}; choose from {', '.join(STEP_FILTERS)}")
  samples = [make_example(t, carries_loss=STEP_FILTERS[loss]) for t in lesson.entries]
  learnt = [one for one in samples if one.loss_mask.any()]
  if len(learnt) < len(samples):
    run.log(f"{name}: {len(samples) - len(learnt)} of {len(samples)} trajectories have no step that carries loss")
  run.free_teacher()
  trained = fine_tune(
    name,
    [learnt],
    config=run.student.config,
    graph=run.student.graph,
    begin=lambda: lora.split_trainable(load_stage_weights(run, stage.init_from))[0],
    frozen=lora.split_trainable(run.student.weights)[1],
    mesh=run.meshes.train,
    settings=run.make_sft_config(settings),
    passes=make_forward_config(run.config, 1.0),
    seed=run.config.seed,
    workdir=run.workdir,
    metrics=run.open_metrics(name),
    log=run.log,
    validate=lambda weights: measure_validation_accuracy(run, weights),
  )
  left_out = {"without_loss": len(samples) - len(learnt), **trained.left_out}
  found = {"updates": trained.updates, **lesson.findings, "left_out": left_out}
  return {"ledger": ledger_to_dict(lesson.cost + trained.cost), **found}


def rl_stage(run: Experiment, name: str, lesson: TrainingData) -> dict[str, Any]:
  """Policy gradient on the weights that the stage starts from; for as many student tokens as what it goes by took."""
  stage = STAGES[name]
  if not lesson.entries:
    raise UserError(f"{name}: mentoring left nothing to start from; give it more questions (tasks.train)")
  run.free_teacher()
  tokens = compute_token_budget(run, name, "student") if stage.budget_from else None
  trained = train_policy_gradient(run, name, lesson.entries, stage.init_from, token_budget=tokens)
  found = {"updates": trained.updates, "starts": len(lesson.entries), **lesson.findings}
  return {"ledger": ledger_to_dict(trained.cost)} | found | ({} if tokens is None else {"token_budget": tokens})


# The questions and their parts


def _write_split(run: Experiment) -> None:
  warm, mentored = select_warm_start_questions(run), select_mentored_questions(run)
  parts = {"warm_start": warm, "mps": mentored, "validation": run.tasks.validation, "test": run.tasks.test}
  ids = {name: [q.id for q in part] for name, part in parts.items()}
  if (run.workdir.read_json("split.json") or ids) != ids:
    raise UserError(
      f"split.json of {run.workdir.root} has other questions than tasks gives now: the file of questions, or the rule "
      "by which this version splits them, is another one; give another --workdir, or what the run began with"
    )
  run.workdir.write_json("split.json", ids)
  _write_overlap(run)


def _write_overlap(run: Experiment) -> None:
  """Lists the questions that are not used, and says how many they are."""
  dropped = [dataclasses.asdict(d) for d in run.tasks.dropped]
  run.workdir.write_json("overlap.json", {"schema": 1, "words": run.tasks.words, "dropped": dropped})
  told = describe_dropped(run.tasks.dropped)
  run.log(f"tasks: questions dropped for overlap with the test questions or within their own: {told} (overlap.json)")
  for note in run.tasks.notes:
    run.log(f"tasks: {note}")


# What the stages of the method learn from


def warm_start_demonstrations(run: Experiment, name: str) -> TrainingData:
  """Warm start: only trajectories that submit an answer and are graded right."""
  return keep_correct(
    run, name, open_teacher(run, run.student.weights).demonstrate(select_warm_start_questions(run), name=name)
  )


def mentoring_stage(run: Experiment) -> dict[str, Any]:
  """Mentored problem solving with the warm-started student."""
  c, weights = run.config, load_stage_weights(run, "warm_start")
  teacher = open_teacher(run, weights)
  cases = mentor_questions(
    select_mentored_questions(run),
    student=run.student_agent,
    weights=weights,
    teacher=teacher,
    acts=c.agent.acts,
    corrections=c.mps.corrections,
    tries=c.mps.tries,
    draws=c.mps.draws,
    report=lambda line: run.log(f"mps: {line}"),
  )
  ledger, measured = sum_ledgers(case.ledger for case in cases), sum_ledgers(case.measurement_ledger for case in cases)
  run.workdir.write_part("mps", 0, (case.trajectory for case in cases))
  run.workdir.write_part("mps/attempts", 0, (case.failed_attempt for case in cases if case.failed_attempt))
  run.workdir.write_json("trajectories/mps/cases.json", [_case(case) for case in cases])
  summary = _summary(cases) | _told(teacher)
  if isinstance(teacher, CounterfactualTeacher):
    right = [(case.question, case.trajectory) for case in cases if case.outcome == "unaided"]
    table, cost = count_success_by_depth(teacher, right[: c.mps.depth_probe])
    summary["teacher_success_by_depth"], measured = table, measured + cost
  run.workdir.write_json("trajectories/mps/summary.json", summary)
  return {"ledger": ledger_to_dict(ledger), "measured": ledger_to_dict(measured), "summary": summary}


def _told(teacher: Teacher) -> dict[str, Any]:
  """What a teacher that is asked, or that looks up, has to say of how that went."""
  return teacher.counts() if isinstance(teacher, PromptedTeacher | RecordedTeacher) else {}


def _case(case: MentoredQuestion) -> dict[str, Any]:
  rounds = [_round(one) for one in case.rounds]
  return {
    "question": case.question.id,
    "outcome": case.outcome,
    "first_error": case.first_error,
    "rounds": rounds,
  }


def _round(one: MentoringRound) -> dict[str, Any]:
  """What a round found, by what counts: `drawn` has (steps kept, right, tries) of each prefix gone on from."""
  found = one.finding
  return {
    "verdict": found.verdict,
    "step": found.step,
    "located": found.located,
    "drawn": found.prefix_counts,
    "replacements": len(found.tried_replacements),
    "lifts": one.lifts,
  }


def _counts(values: Iterable[Any]) -> dict[str, int]:
  found = list(values)
  return {str(v): found.count(v) for v in sorted(set(found))}


def _summary(cases: Sequence[MentoredQuestion]) -> dict[str, Any]:
  """The counts that the report shows."""
  outcomes = [case.outcome for case in cases]
  solved = [case for case in cases if case.outcome == "solved"]
  lifts = [lift for case in cases for one in case.rounds for lift in one.lifts]
  return {
    "questions": len(cases),
    "solved_unaided": outcomes.count("unaided"),
    "solved": _counts(len(case.trajectory.corrections) for case in solved),
    **{name: outcomes.count(name) for name in ("hard", "undecided", "unlocated", "not_kept", "quarantined")},
    "first_error_step": _counts(case.first_error for case in cases if case.first_error is not None),
    "lift_mean": float(np.mean(lifts)) if lifts else None,
    "lift_n": len(lifts),
  }


def corrected_trajectories(run: Experiment, name: str) -> TrainingData:
  """SFT: the corrected trajectories, and some of those that needed no correction."""
  cases, _ = sft_and_rl_halves(run)
  return add_unaided(run, name, cases, select_solved_trajectories(cases), Ledger())


def verified_prefixes(run: Experiment, name: str) -> TrainingData:
  """RL: the verified prefixes before the last surviving corrections."""
  lesson = select_verified_starts(run, name)
  corrected = sum(s.correction is not None for s in lesson.entries)
  run.log(f"{name}: {len(lesson.entries)} starts, {corrected} of them before a corrected step")
  return lesson


SFT_DATA: Mapping[stages.SftDataName, Callable[[Experiment, str], TrainingData]] = {
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
RL_STARTS: Mapping[stages.RlStartsName, Callable[[Experiment, str], TrainingData]] = {
  "prefixes": verified_prefixes,
  "questions_of_prefixes": questions_of_prefixes,
  "questions_for_rl": all_rl_questions,
  "mentored_questions": all_mentored_questions,
}
