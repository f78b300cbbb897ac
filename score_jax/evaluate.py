"""Every model of a run on the test questions, and the rows of results.json (paper, evaluation)."""

from __future__ import annotations

from typing import Any

from score_jax.agent.rollout import Request, at_question
from score_jax.arms import STAGES
from score_jax.examine import Candidate, by_rollout, examine, fingerprint, row
from score_jax.model.decoder import Weights
from score_jax.run import Run
from score_jax.stages import cost_until, measured_until, result, weights_of
from score_jax.tasks.exam import Exam
from score_jax.tasks.scores import scores


def evaluate(run: Run) -> list[dict[str, Any]]:
  """Every model that the workdir holds on the test questions; the rows of results.json, in the order of arms.STAGES."""
  models = ["untrained", *(name for name in STAGES if "updates" in (result(run, name) or {}))]
  if run.config.teacher.kind == "model":
    models.insert(0, "teacher")
  exam = Exam(run.tasks.benchmark, run.tasks.test, run.config.eval.tries, run.tasks.metric)
  rows: list[dict[str, Any]] = []
  for model in models:
    candidate = _candidate(run, model)
    with run.at(f"eval_{model}"):
      groups = examine(run.workdir, candidate, exam, part=run.config.eval.part, say=run.say)
    costs = {"ledger": cost_until(run, model), "measured": measured_until(run, model)}
    found = row(candidate, exam.benchmark, scores(exam, groups), **costs, tries=groups)
    rows.append(found | {"from": STAGES[model].begin if model in STAGES else ""})
    run.free_teacher()
  run.workdir.write_json("results.json", {"schema": 1, "rows": rows})
  return rows


def _candidate(run: Run, model: str) -> Candidate:
  weights = weights_of(run, model)
  agent = run.teacher_agent if model == "teacher" else run.student_agent
  return Candidate(model, by_rollout(agent, weights, acts=run.config.agent.acts), fingerprint(weights))


def validate(run: Run, weights: Weights) -> dict[str, float]:
  """`val_accuracy`, the share of the validation questions answered right, one try each.

  What a host or the grader failed is left out; where nothing is left there is no such number.
  """
  requests = [Request(f"validation/{q.id}", q, at_question(q), run.config.agent.acts) for q in run.tasks.validation]
  groups = run.student_agent.rollout(weights, requests)
  right = [t.right for (t,) in groups if t.judged]
  return {"val_accuracy": sum(right) / len(right)} if right else {}
