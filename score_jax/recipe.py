"""The method, top to bottom: each stage reads the workdir, adds to it, and is skipped when it is done.

    warm_start        the teacher demonstrates on a few questions; the student learns to run the loop
    mps               the student acts, the teacher corrects its earliest error, the student goes on
    sft               the student learns from the corrected trajectories
    rl                short-horizon policy gradient from the verified prefixes
    bc                baseline: as many teacher trajectories as the whole of SCoRe's teaching cost
    rl_from_question  baseline: from the sft weights, whole rollouts, outcome reward, equal student tokens

Then every model is evaluated (evaluate.py). A stage that is done is skipped (stages.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from score_jax.agent.rollout import at_question
from score_jax.errors import UserError
from score_jax.evaluate import validate
from score_jax.mentor import starts as rl_starts
from score_jax.mentor.counterfactual import CounterfactualTeacher, success_by_depth
from score_jax.mentor.mentoring import Mentored, mentor
from score_jax.mentor.starts import Start
from score_jax.model import adapters
from score_jax.reinforce import reinforce
from score_jax.run import Run, passes
from score_jax.stages import decoded, encoded, finish, needed, weights_of, whole
from score_jax.tasks.split import share, split
from score_jax.train.batch import every_step, sample, teacher_steps
from score_jax.train.supervised import Trained, fine_tune
from score_jax.trajectory import Ledger, Question, Trajectory, total

CHOOSERS = {"every_step": every_step, "teacher_steps": teacher_steps}


def walk(run: Run) -> None:
  """Runs the stages that the config lists, in order; those that are done are skipped.

  Raises:
    UserError: a stage does not exist, or cannot be done with what there is.
  """
  known: dict[str, Callable[[Run], dict[str, Any]]] = {
    "warm_start": warm_start,
    "mps": mps,
    "sft": sft,
    "rl": rl,
    "bc": bc,
    "rl_from_question": rl_from_question,
  }
  for name in run.config.stages:
    if name not in known:
      raise UserError(f"stages: {name!r} is none; choose from {', '.join(known)}")
  _write_split(run)
  for name in run.config.stages:
    if whole(run, name):
      run.say(f"{name}: done already")
      run.journal.drop(name)  # the run may have ended between the two
      continue
    run.say(f"{name}: starts")
    with run.timed(name), run.journal.stage(name):
      finish(run, name, known[name](run))
    run.say(f"{name}: done in {run.seconds[name]:.0f} s")


# What the stages have in common


def _write_split(run: Run) -> None:
  warm, mentored = warm_questions(run), mentored_questions(run)
  parts = {"warm_start": warm, "mps": mentored, "validation": run.tasks.validation, "test": run.tasks.test}
  run.workdir.write_json("split.json", {name: [q.id for q in part] for name, part in parts.items()})
  _write_overlap(run)


def _write_overlap(run: Run) -> None:
  """Lists the questions that are not used, and says how many they are."""
  dropped = [dataclasses.asdict(d) for d in run.tasks.dropped]
  run.workdir.write_json("overlap.json", {"schema": 1, "words": run.tasks.words, "dropped": dropped})
  reasons = _counts(d.why for d in run.tasks.dropped)
  told = ", ".join(f"{n} {why}" for why, n in reasons.items()) or "none"
  run.say(f"tasks: questions dropped for overlap with the test questions or within their own: {told} (overlap.json)")
  for note in run.tasks.notes:
    run.say(f"tasks: {note}")


def warm_questions(run: Run) -> list[Question]:
  """The part of the training questions that the teacher demonstrates on."""
  return split(run.tasks.train, salt=f"{run.config.seed}/warm_start", first=run.config.warm_start.share)[0]


def mentored_questions(run: Run) -> list[Question]:
  return split(run.tasks.train, salt=f"{run.config.seed}/warm_start", first=run.config.warm_start.share)[1]


def _train(run: Run, stage: str, start: str, trajectories: Sequence[Trajectory], loss: str) -> Trained:
  """Fine-tunes the weights of stage `start` on trajectories; the new ones are in the stage's checkpoints."""
  if loss not in CHOOSERS:
    raise UserError(f"{stage}.loss = {loss!r}; choose from {', '.join(CHOOSERS)}")
  run.free_teacher()
  return fine_tune(
    stage,
    [[sample(t, carries_loss=CHOOSERS[loss]) for t in trajectories]],
    config=run.student.config,
    graph=run.student.graph,
    begin=lambda: adapters.parts(weights_of(run, start))[0],
    frozen=adapters.parts(run.student.weights)[1],
    mesh=run.meshes.train,
    settings=run.settings(run.config[stage]),
    passes=passes(run.config, 1.0),
    seed=run.config.seed,
    workdir=run.workdir,
    say=run.say,
    validate=lambda weights: validate(run, weights),
  )


# The stages


def warm_start(run: Run) -> dict[str, Any]:
  """BC on the few: only trajectories that submit an answer and are graded right."""
  questions = warm_questions(run)
  shown = run.teacher(run.student.weights).demonstrate(questions, name="warm_start")
  right = [t for t in shown if t.right]
  run.say(f"warm_start: {len(right)} of {len(shown)} demonstrations are right")
  run.workdir.write_part("warm_start", 0, right)
  trained = _train(run, "warm_start", "untrained", right, "every_step")
  ledger = total(t.ledger for t in shown) + trained.cost
  return {"ledger": encoded(ledger), "updates": trained.updates, "demonstrations": len(shown), "right": len(right)}


def mps(run: Run) -> dict[str, Any]:
  """Mentored problem solving with the warm-started student."""
  c, weights = run.config, weights_of(run, "warm_start")
  teacher = run.teacher(weights)
  cases = mentor(
    mentored_questions(run),
    student=run.student_agent,
    weights=weights,
    teacher=teacher,
    acts=c.agent.acts,
    corrections=c.mps.corrections,
    tries=c.mps.tries,
    report=lambda line: run.say(f"mps: {line}"),
  )
  ledger = total(case.ledger for case in cases)
  run.workdir.write_part("mps", 0, (case.trajectory for case in cases))
  run.workdir.write_json("trajectories/mps/cases.json", [_case(case) for case in cases])
  summary = _summary(cases)
  if isinstance(teacher, CounterfactualTeacher):
    right = [(case.question, case.trajectory) for case in cases if case.outcome == "unaided"]
    table, cost = success_by_depth(teacher, right[: c.mps.depth_probe])
    summary["teacher_success_by_depth"], ledger = table, ledger + cost
  run.workdir.write_json("trajectories/mps/summary.json", summary)
  return {"ledger": encoded(ledger), "summary": summary}


def _case(case: Mentored) -> dict[str, Any]:
  return {"question": case.question.id, "outcome": case.outcome, "first_error": case.first_error}


def mentored_cases(run: Run) -> list[Mentored]:
  """What the mps stage left in the workdir."""
  questions = {q.id: q for q in run.tasks.train}
  cases = run.workdir.read_json("trajectories/mps/cases.json") or []
  return [
    Mentored(questions[case["question"]], trajectory, case["outcome"], case["first_error"], Ledger())
    for case, trajectory in zip(cases, run.workdir.read_parts("mps"), strict=True)
  ]


def _counts(values: Iterable[Any]) -> dict[str, int]:
  found = list(values)
  return {str(v): found.count(v) for v in sorted(set(found))}


def _summary(cases: Sequence[Mentored]) -> dict[str, Any]:
  """The counts that the report shows."""
  outcomes = [case.outcome for case in cases]
  solved = [case for case in cases if case.outcome == "solved"]
  lifts = [c.values["lift"] for case in solved for c in case.trajectory.corrections if "lift" in c.values]
  return {
    "questions": len(cases),
    "solved_unaided": outcomes.count("unaided"),
    "solved": _counts(len(case.trajectory.corrections) for case in solved),
    **{name: outcomes.count(name) for name in ("hard", "unlocated", "not_kept", "quarantined")},
    "first_error_step": _counts(case.first_error for case in cases if case.first_error is not None),
    "lift_mean": float(np.mean(lifts)) if lifts else None,
  }


def _halves(run: Run) -> tuple[list[Mentored], list[Mentored]]:
  """What mentoring yielded, for SFT and for RL."""
  cases = mentored_cases(run)
  salt = f"{run.config.seed}/half"
  return [c for c in cases if share(c.question, salt) < 0.5], [c for c in cases if share(c.question, salt) >= 0.5]


def sft(run: Run) -> dict[str, Any]:
  """Fine-tuning on the corrected trajectories, from the warm start."""
  c, salt = run.config.sft, f"{run.config.seed}/keep_unaided"
  cases, _ = _halves(run)
  kept = [
    case.trajectory
    for case in cases
    if case.outcome == "solved" or (case.outcome == "unaided" and share(case.question, salt) < c.keep_unaided)
  ]
  run.say(f"sft: {len(kept)} trajectories, {sum(bool(t.corrections) for t in kept)} of them corrected")
  trained = _train(run, "sft", "warm_start", kept, c.loss)
  return {"ledger": encoded(trained.cost), "updates": trained.updates, "trajectories": len(kept)}


def rl(run: Run) -> dict[str, Any]:
  """Short-horizon policy gradient, from the SFT weights."""
  c = run.config
  _, cases = _halves(run)
  begin, beyond = rl_starts.starts(
    cases,
    acts=c.agent.acts,
    fresh_horizon=c.rl.fresh_horizon,
    keep_unaided=c.rl.keep_unaided,
    keep_hard=c.rl.keep_hard,
    salt=f"{c.seed}/rl",
  )
  run.say(f"rl: {len(begin)} starts, {sum(s.correction is not None for s in begin)} of them before a corrected step")
  trained = reinforce(run, "rl", begin, "sft", token_budget=None)
  return {
    "ledger": encoded(trained.cost),
    "updates": trained.updates,
    "starts": len(begin),
    "beyond_horizon": beyond,
  }


def rl_from_question(run: Run) -> dict[str, Any]:
  """The same without short horizon and without key-step reward, for as many student tokens."""
  _, cases = _halves(run)
  begin = [Start(case.question, at_question(case.question), None, run.config.agent.acts) for case in cases]
  budget = decoded(needed(run, "rl")["ledger"]).of("student").generated
  trained = reinforce(run, "rl_from_question", begin, "sft", token_budget=budget)
  return {
    "ledger": encoded(trained.cost),
    "updates": trained.updates,
    "starts": len(begin),
    "token_budget": budget,
  }


def bc(run: Run) -> dict[str, Any]:
  """Cloning teacher trajectories, as many as the teacher tokens of warm start and mentoring buy."""
  budget = sum(decoded(needed(run, name)["ledger"]).of("teacher").generated for name in ("warm_start", "mps"))
  bought = _bought(_shown(run, budget), budget)
  right = [t for t in bought if t.right]
  run.say(f"bc: {len(right)} of {len(bought)} demonstrations are right")
  run.workdir.write_part("bc", 0, right)
  trained = _train(run, "bc", "untrained", right, "every_step")
  return {
    "ledger": encoded(total(t.ledger for t in bought) + trained.cost),
    "updates": trained.updates,
    "demonstrations": len(bought),
    "right": len(right),
    "token_budget": budget,
  }


def _shown(run: Run, budget: int) -> list[Trajectory]:
  """Demonstrations on all training questions, again and again until they have cost the budget."""
  teacher = run.teacher(run.student.weights)
  shown: list[Trajectory] = []
  rounds = 0
  while rounds == 0 or sum(t.ledger.of("teacher").generated for t in shown) < budget:
    shown += teacher.demonstrate(run.tasks.train, name=f"bc/{rounds}")
    rounds += 1
  return shown


def _bought(shown: Sequence[Trajectory], budget: int) -> list[Trajectory]:
  """The first trajectories that the budget of teacher tokens pays for; all, where teaching costs no tokens."""
  result: list[Trajectory] = []
  spent = 0
  for trajectory in shown:
    spent += trajectory.ledger.of("teacher").generated
    if budget and spent > budget:
      break
    result.append(trajectory)
  return result
