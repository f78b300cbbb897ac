"""Every model of a run on the test questions, and the rows of results.json (paper, evaluation)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import numpy as np

from score_jax.agent.rollout import Request, at_question
from score_jax.model.decoder import Weights
from score_jax.progress import Progress
from score_jax.run import Run
from score_jax.stages import BUILDS_ON, cost_until, encoded, needed, weights_of
from score_jax.tasks.intervals import accuracy_interval
from score_jax.trajectory import Ledger, to_json


def evaluate(run: Run) -> list[dict[str, Any]]:
  """Every model on the test questions; the rows of results.json."""
  models = ["untrained", *(s for s in run.config.stages if "updates" in needed(run, s))]
  if run.config.teacher.kind == "model":
    models.insert(0, "teacher")
  rows: list[dict[str, Any]] = []
  for model in models:
    rows.append(_evaluated(run, model))
    run.free_teacher()
  run.workdir.write_json("results.json", {"schema": 1, "rows": rows})
  return rows


def _evaluated(run: Run, model: str) -> dict[str, Any]:
  """The row of one model, from its file or by rolling out."""
  name = f"eval/{model}/{run.tasks.benchmark}-00000.jsonl"
  weights = weights_of(run, model)
  digest = fingerprint(weights)
  key = hashlib.sha256(
    json.dumps([digest, [q.id for q in run.tasks.test], json.loads(run.config.eval.to_json_best_effort())]).encode()
  ).hexdigest()[:16]
  row = run.workdir.read_json(f"eval/{model}/row.json")
  if row is None or row.pop("identity") != key:
    run.say(f"eval: {model}")
    with run.journal.stage(f"eval_{model}"):
      row = _roll_out(run, model, weights, name) | {"weights_sha256": digest}
      row["ledger"] = encoded(cost_until(run, model) if model in BUILDS_ON else Ledger())
      run.workdir.write_json(f"eval/{model}/row.json", row | {"identity": key})
  return row


def _roll_out(run: Run, model: str, weights: Weights, name: str) -> dict[str, Any]:
  questions, tries, acts = run.tasks.test, run.config.eval.tries, run.config.agent.acts
  agent = run.teacher_agent if model == "teacher" else run.student_agent
  requests = [Request(f"eval/{q.id}", q, at_question(q), acts, tries) for q in questions]
  with Progress(f"eval {model}", len(questions) * tries, "rollouts") as progress:
    groups = agent.rollout(weights, requests, progress=progress)
  records = [
    {"question_steps": q.steps, "reference": q.answer, "trajectory": json.loads(to_json(t))}
    for q, group in zip(questions, groups, strict=True)
    for t in group
  ]
  run.workdir.write(name, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
  interval = accuracy_interval([[float(t.right) for t in group] for group in groups])
  return {
    "model": model,
    "benchmark": run.tasks.benchmark,
    "accuracy": interval.mean,
    "n": interval.n,
    "low": interval.low,
    "high": interval.high,
  }


def validate(run: Run, weights: Weights) -> float:
  """Share of the validation questions answered right, one try each."""
  requests = [Request(f"validation/{q.id}", q, at_question(q), run.config.agent.acts) for q in run.tasks.validation]
  groups = run.student_agent.rollout(weights, requests)
  return sum(t.right for (t,) in groups) / max(len(groups), 1)


def fingerprint(weights: Weights) -> str:
  """SHA-256 over the weights' bytes, in the order of their names."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()
