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

from score_jax import arms
from score_jax.arms import STAGES, planned
from score_jax.baselines import (
  all_demonstrations,
  all_mentored_questions,
  bought_demonstrations,
  planned_demonstrations,
  questions_for_rl,
  questions_of_prefixes,
)
from score_jax.controls import own_successes, random_corrections, redrawn, teacher_endings
from score_jax.errors import UserError
from score_jax.evaluate import validate
from score_jax.lessons import (
  Lesson,
  budget,
  halves,
  mentored_questions,
  right_of,
  solved,
  verified_starts,
  warm_questions,
  with_unaided,
)
from score_jax.mentor.counterfactual import CounterfactualTeacher, success_by_depth
from score_jax.mentor.mentoring import Mentored, Round, mentor
from score_jax.mentor.prompted import PromptedTeacher
from score_jax.mentor.recorded import RecordedTeacher
from score_jax.mentor.teacher import Teacher
from score_jax.model import adapters
from score_jax.reinforce import reinforce, require_signal
from score_jax.run import Run, passes
from score_jax.stages import configured, encoded, finish, require_none_of_another, weights_of, whole
from score_jax.tasks.overlap import reasons
from score_jax.teachers import open_teacher
from score_jax.train.batch import every_step, sample, teacher_steps
from score_jax.train.supervised import fine_tune
from score_jax.trajectory import Ledger, total

CHOOSERS = {"every_step": every_step, "teacher_steps": teacher_steps}


def walk(run: Run) -> None:
  """Runs the stages that the config lists, in order, then its arms; those that are done are skipped.

  Raises:
    UserError: a stage does not exist, or cannot be done with what there is.
  """
  names = planned(run.config.stages, run.config.arms)
  for name in names:  # before any is done: hours would be lost
    if STAGES[name].starts and (note := require_signal(run.config, name)):
      run.say(note)
  _write_split(run)
  for name in names:
    if whole(run, name):
      run.say(f"{name}: done already")
      run.journal.drop(name)  # the run may have ended between the two
      continue
    require_none_of_another(run, name)
    _ = run.trackers  # one that cannot be had ends the run here, not after hours of demonstrations
    run.say(f"{name}: starts")
    with run.timed(name):
      finish(run, name, _do(run, name))
    run.say(f"{name}: done in {run.seconds[name]:.0f} s")


def _do(run: Run, name: str) -> dict[str, Any]:
  """What a stage finds."""
  stage = STAGES[name]
  if stage.lessons:
    return imitate(run, name, LESSONS[stage.lessons](run, name))
  if stage.starts:
    return explore(run, name, STARTS[stage.starts](run, name))
  return mps(run)


def imitate(run: Run, name: str, lesson: Lesson) -> dict[str, Any]:
  """Fine-tunes the weights that the stage starts from on trajectories; the new ones are in its checkpoints."""
  stage = STAGES[name]
  settings = configured(run.config, name)[stage.group]
  loss = settings.loss if stage.group == "sft" else "every_step"
  if loss not in CHOOSERS:
    raise UserError(f"{stage.group}.loss = {loss!r}; choose from {', '.join(CHOOSERS)}")
  samples = [sample(t, carries_loss=CHOOSERS[loss]) for t in lesson.material]
  learnt = [one for one in samples if one.learnt.any()]
  if len(learnt) < len(samples):
    run.say(f"{name}: {len(samples) - len(learnt)} of {len(samples)} trajectories have no step that carries loss")
  run.free_teacher()
  trained = fine_tune(
    name,
    [learnt],
    config=run.student.config,
    graph=run.student.graph,
    begin=lambda: adapters.parts(weights_of(run, stage.begin))[0],
    frozen=adapters.parts(run.student.weights)[1],
    mesh=run.meshes.train,
    settings=run.settings(settings),
    passes=passes(run.config, 1.0),
    seed=run.config.seed,
    workdir=run.workdir,
    metrics=run.metrics(name),
    say=run.say,
    validate=lambda weights: validate(run, weights),
  )
  left_out = {"without_loss": len(samples) - len(learnt), **trained.left_out}
  found = {"updates": trained.updates, **lesson.findings, "left_out": left_out}
  return {"ledger": encoded(lesson.cost + trained.cost), **found}


def explore(run: Run, name: str, lesson: Lesson) -> dict[str, Any]:
  """Policy gradient on the weights that the stage starts from; for as many student tokens as what it goes by took."""
  stage = STAGES[name]
  if not lesson.material:
    raise UserError(f"{name}: mentoring left nothing to start from; give it more questions (tasks.train)")
  run.free_teacher()
  tokens = budget(run, name, "student") if stage.goes_by else None
  trained = reinforce(run, name, lesson.material, stage.begin, token_budget=tokens)
  found = {"updates": trained.updates, "starts": len(lesson.material), **lesson.findings}
  return {"ledger": encoded(trained.cost)} | found | ({} if tokens is None else {"token_budget": tokens})


# The questions and their parts


def _write_split(run: Run) -> None:
  warm, mentored = warm_questions(run), mentored_questions(run)
  parts = {"warm_start": warm, "mps": mentored, "validation": run.tasks.validation, "test": run.tasks.test}
  ids = {name: [q.id for q in part] for name, part in parts.items()}
  if (run.workdir.read_json("split.json") or ids) != ids:
    raise UserError(
      f"split.json of {run.workdir.root} has other questions than tasks gives now: the file of questions, or the rule "
      "by which this version splits them, is another one; give another --workdir, or what the run began with"
    )
  run.workdir.write_json("split.json", ids)
  _write_overlap(run)


def _write_overlap(run: Run) -> None:
  """Lists the questions that are not used, and says how many they are."""
  dropped = [dataclasses.asdict(d) for d in run.tasks.dropped]
  run.workdir.write_json("overlap.json", {"schema": 1, "words": run.tasks.words, "dropped": dropped})
  told = reasons(run.tasks.dropped)
  run.say(f"tasks: questions dropped for overlap with the test questions or within their own: {told} (overlap.json)")
  for note in run.tasks.notes:
    run.say(f"tasks: {note}")


# What the stages of the method learn from


def few_demonstrations(run: Run, name: str) -> Lesson:
  """Warm start: only trajectories that submit an answer and are graded right."""
  return right_of(run, name, open_teacher(run, run.student.weights).demonstrate(warm_questions(run), name=name))


def mps(run: Run) -> dict[str, Any]:
  """Mentored problem solving with the warm-started student."""
  c, weights = run.config, weights_of(run, "warm_start")
  teacher = open_teacher(run, weights)
  cases = mentor(
    mentored_questions(run),
    student=run.student_agent,
    weights=weights,
    teacher=teacher,
    acts=c.agent.acts,
    corrections=c.mps.corrections,
    tries=c.mps.tries,
    draws=c.mps.draws,
    report=lambda line: run.say(f"mps: {line}"),
  )
  ledger, measured = total(case.ledger for case in cases), total(case.measured for case in cases)
  run.workdir.write_part("mps", 0, (case.trajectory for case in cases))
  run.workdir.write_part("mps/attempts", 0, (case.attempt for case in cases if case.attempt))
  run.workdir.write_json("trajectories/mps/cases.json", [_case(case) for case in cases])
  summary = _summary(cases) | _told(teacher)
  if isinstance(teacher, CounterfactualTeacher):
    right = [(case.question, case.trajectory) for case in cases if case.outcome == "unaided"]
    table, cost = success_by_depth(teacher, right[: c.mps.depth_probe])
    summary["teacher_success_by_depth"], measured = table, measured + cost
  run.workdir.write_json("trajectories/mps/summary.json", summary)
  return {"ledger": encoded(ledger), "measured": encoded(measured), "summary": summary}


def _told(teacher: Teacher) -> dict[str, Any]:
  """What a teacher that is asked, or that looks up, has to say of how that went."""
  return teacher.counts() if isinstance(teacher, PromptedTeacher | RecordedTeacher) else {}


def _case(case: Mentored) -> dict[str, Any]:
  rounds = [_round(one) for one in case.rounds]
  return {
    "question": case.question.id,
    "outcome": case.outcome,
    "first_error": case.first_error,
    "rounds": rounds,
  }


def _round(one: Round) -> dict[str, Any]:
  """What a round found, by what counts: `drawn` has (steps kept, right, tries) of each prefix gone on from."""
  found = one.finding
  return {
    "verdict": found.verdict,
    "step": found.step,
    "located": found.located,
    "drawn": found.drawn,
    "replacements": len(found.tried),
    "lifts": one.lifts,
  }


def _counts(values: Iterable[Any]) -> dict[str, int]:
  found = list(values)
  return {str(v): found.count(v) for v in sorted(set(found))}


def _summary(cases: Sequence[Mentored]) -> dict[str, Any]:
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


def corrected(run: Run, name: str) -> Lesson:
  """SFT: the corrected trajectories, and some of those that needed no correction."""
  cases, _ = halves(run)
  return with_unaided(run, name, cases, solved(cases), Ledger())


def prefixes(run: Run, name: str) -> Lesson:
  """RL: the verified prefixes before the last surviving corrections."""
  lesson = verified_starts(run, name)
  corrected = sum(s.correction is not None for s in lesson.material)
  run.say(f"{name}: {len(lesson.material)} starts, {corrected} of them before a corrected step")
  return lesson


LESSONS: Mapping[arms.Lessons, Callable[[Run, str], Lesson]] = {
  "few_demonstrations": few_demonstrations,
  "bought_demonstrations": bought_demonstrations,
  "planned_demonstrations": planned_demonstrations,
  "all_demonstrations": all_demonstrations,
  "corrected": corrected,
  "own_successes": own_successes,
  "redrawn": redrawn,
  "random_corrections": random_corrections,
  "teacher_endings": teacher_endings,
}
STARTS: Mapping[arms.Starts, Callable[[Run, str], Lesson]] = {
  "prefixes": prefixes,
  "questions_of_prefixes": questions_of_prefixes,
  "questions_for_rl": questions_for_rl,
  "mentored_questions": all_mentored_questions,
}
