"""The method as a script: the stages of SCoRe in order, and the arms that it is compared with.

    stage             takes                                does                            leaves
    A  warm_start     demonstrations of a few questions    fine-tunes the untrained model  weights that run the loop
    B  mps            the other questions                  the student acts; the teacher   corrected trajectories, and
                                                           corrects its earliest error     the verified prefixes in them
    C  sft            one half of what B left              fine-tunes the weights of A     weights
    D  rl             prefixes of the other half of B      policy gradient from C          weights
    E  evaluate.py    the test questions                   tries every model on them       results.json

The arms (bc, grpo, ablations and controls) are stages like these. They differ in the weights that they start from, in
their training data and in their settings. The table of all stages and arms is experiment/stages.py; what the data names
in it mean is in training_data.py.

Each stage reads the workdir and adds to it: trajectories/<stage>/, checkpoints/<stage>/, metrics/<stage>.jsonl, and at
last stages/<stage>.json with its costs and counts. A stage whose file is there is skipped.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from score_jax.errors import UserError
from score_jax.evaluate import measure_validation_accuracy
from score_jax.experiment.experiment import Experiment
from score_jax.experiment.results import (
  is_stage_complete,
  ledger_to_dict,
  load_stage_weights,
  make_stage_config,
  require_same_identity,
  write_stage_result,
)
from score_jax.experiment.stages import STAGES, resolve_stages
from score_jax.experiment.teachers import open_distillation_teacher, open_step_judge, open_teacher
from score_jax.model import lora
from score_jax.rl.loop import DistillationTeacher, make_scorer, require_signal, train_policy_gradient
from score_jax.tasks.splits import describe_dropped
from score_jax.teaching.counterfactual import CounterfactualTeacher, count_success_by_depth
from score_jax.teaching.mentoring import cases_to_json, mentor_questions, summarize_cases
from score_jax.teaching.prompted import PromptedTeacher
from score_jax.teaching.recorded import RecordedTeacher
from score_jax.train.batch import every_step, make_example, teacher_steps
from score_jax.train.sft import fine_tune
from score_jax.train.step import make_forward_config
from score_jax.training_data import (
  RL_STARTS,
  SFT_DATA,
  TrainingData,
  compute_token_budget,
  select_mentored_questions,
  select_warm_start_questions,
)
from score_jax.trajectory import sum_ledgers

#: sft.loss -> which steps of a trajectory carry loss
STEP_FILTERS = {"every_step": every_step, "teacher_steps": teacher_steps}


def run_recipe(run: Experiment) -> None:
  """Runs the stages that the config lists, in order, then its arms with all that they need."""
  names = resolve_stages(run.config.stages, run.config.arms)
  _require_signals(run, names)  # before any stage: hours would be lost
  _write_split(run)
  for name in names:
    if is_stage_complete(run, name):
      run.log(f"{name}: done already")
      run.journal.remove_stage(name)  # a run may end after the stage's file is written and before this
      continue
    require_same_identity(run, name)
    _ = run.trackers  # opened now: a tracker that fails ends the run here, not after hours of demonstrations
    run.log(f"{name}: starts")
    with run.timed_stage_scope(name):
      write_stage_result(run, name, run_stage(run, name))
    run.log(f"{name}: done in {run.stage_seconds[name]:.0f} s")


def run_stage(run: Experiment, name: str) -> dict[str, Any]:
  """One stage or arm, by its entry in STAGES; returns what its file in stages/ shows."""
  stage = STAGES[name]
  if stage.sft_data:
    return sft_stage(run, name, SFT_DATA[stage.sft_data](run, name))
  if stage.rl_starts:
    return rl_stage(run, name, RL_STARTS[stage.rl_starts](run, name))
  return mentoring_stage(run)


# A. Warm start, C. SFT, and all arms that are fine-tuned


def sft_stage(run: Experiment, name: str, data: TrainingData) -> dict[str, Any]:
  """Fine-tunes the weights that the stage starts from.

  Takes trajectories. Leaves weights in checkpoints/<stage>/.
  """
  stage = STAGES[name]
  settings = make_stage_config(run.config, name)[stage.group]
  loss = settings.loss if stage.group == "sft" else "every_step"
  if loss not in STEP_FILTERS:
    raise UserError(f"{stage.group}.loss = {loss!r}; choose from {', '.join(STEP_FILTERS)}")
  examples = [make_example(t, carries_loss=STEP_FILTERS[loss]) for t in data.entries]
  with_loss = [e for e in examples if e.loss_mask.any()]
  without_loss = len(examples) - len(with_loss)
  if without_loss:
    run.log(f"{name}: {without_loss} of {len(examples)} trajectories have no step that carries loss")
  run.free_teacher()  # makes room on the devices
  trained = fine_tune(
    name,
    [with_loss],
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
  left_out = {"without_loss": without_loss, **trained.left_out}
  found = {"updates": trained.updates, **data.findings, "left_out": left_out}
  return {"ledger": ledger_to_dict(data.cost + trained.cost), **found}


# B. Mentored problem solving


def mentoring_stage(run: Experiment) -> dict[str, Any]:
  """The warm-started student solves the mentored questions, and the teacher corrects its earliest errors.

  Takes the questions that the warm start did not have. Leaves in trajectories/mps/ the last trajectory of each question
  with its corrections, in attempts/ the wrong first attempts, in cases.json the outcomes, in summary.json their counts.
  """
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
  run.workdir.write_json("trajectories/mps/cases.json", cases_to_json(cases))
  summary = summarize_cases(cases)
  if isinstance(teacher, PromptedTeacher | RecordedTeacher):
    summary |= teacher.counts()
  if isinstance(teacher, CounterfactualTeacher):
    right = [(case.question, case.trajectory) for case in cases if case.outcome == "unaided"]
    table, cost = count_success_by_depth(teacher, right[: c.mps.depth_probe])
    summary["teacher_success_by_depth"], measured = table, measured + cost
  run.workdir.write_json("trajectories/mps/summary.json", summary)
  return {"ledger": ledger_to_dict(ledger), "measured": ledger_to_dict(measured), "summary": summary}


# D. Short-horizon RL, and all arms of policy gradient


def rl_stage(run: Experiment, name: str, data: TrainingData) -> dict[str, Any]:
  """Policy gradient on the weights that the stage starts from.

  Takes rollout starts: verified prefixes, or for some arms bare questions. An arm with `budget_from` ends when the
  student has generated as many tokens as in those stages. Leaves rollouts in trajectories/<stage>/, weights in
  checkpoints/<stage>/.
  """
  stage, settings = STAGES[name], make_stage_config(run.config, name)
  if not data.entries:
    raise UserError(f"{name}: mentoring left nothing to start from; give it more questions (tasks.train)")
  run.free_teacher()  # makes room on the devices
  token_budget = compute_token_budget(run, name, "student") if stage.budget_from else None
  trained = train_policy_gradient(
    name,
    data.entries,
    agent=run.make_rl_agent(settings.rl.temperature),
    config=run.student.config,
    graph=run.student.graph,
    begin=lambda: lora.split_trainable(load_stage_weights(run, stage.init_from))[0],
    frozen=lora.split_trainable(run.student.weights)[1],
    mesh=run.meshes.train,
    settings=settings,
    workdir=run.workdir,
    metrics=run.open_metrics(name),
    log=run.log,
    validate=lambda weights: measure_validation_accuracy(run, weights),
    probe=run.tasks.validation,
    judge=open_step_judge(run) if settings.rl.judge else None,
    teacher=_distillation_teacher(run, settings) if settings.rl.distill else None,
    token_budget=token_budget,
  )
  found = {"updates": trained.updates, "starts": len(data.entries), **data.findings}
  if token_budget is not None:
    found["token_budget"] = token_budget
  return {"ledger": ledger_to_dict(trained.cost), **found}


def _distillation_teacher(run: Experiment, settings: ConfigDict) -> DistillationTeacher:
  """The teacher model on its own mesh, with the scorer of the student's tokens."""
  model, mesh = open_distillation_teacher(run), run.meshes.teacher
  scorer = make_scorer(settings, "teacher", model.graph, mesh, lora.NO_PARAMS, temperature=settings.rl.temperature)
  return DistillationTeacher(model.config, model.weights, scorer)


def _require_signals(run: Experiment, names: list[str]) -> None:
  """Raises or warns if the settings of a policy gradient stage leave it nothing to learn from."""
  for name in names:
    if rl_starts := STAGES[name].rl_starts:
      rl = make_stage_config(run.config, name).rl
      if note := require_signal(rl, name, rewards_steps=rl_starts == "prefixes"):
        run.log(note)


# The questions and their parts


def _write_split(run: Experiment) -> None:
  """Writes the ids of the questions of each part to split.json, or checks that they have not changed."""
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
  """Writes the dropped questions to overlap.json and logs how many they are."""
  dropped = [dataclasses.asdict(d) for d in run.tasks.dropped]
  run.workdir.write_json("overlap.json", {"schema": 1, "words": run.tasks.words, "dropped": dropped})
  counts = describe_dropped(run.tasks.dropped)
  run.log(f"tasks: questions dropped for overlap with the test questions or within their own: {counts} (overlap.json)")
  for note in run.tasks.notes:
    run.log(f"tasks: {note}")
