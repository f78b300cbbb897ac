"""Writes report.html: one file that holds all of it and asks the network for nothing."""

from __future__ import annotations

import base64
import collections
import dataclasses
import functools
import hashlib
import importlib.resources
import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
import markupsafe
from etils import epath

from score_jax.errors import UserError
from score_jax.experiment.stages import STAGES
from score_jax.report import charts, reader, table, viewer
from score_jax.report.reader import MissingData
from score_jax.rl import alarms

REPORT_NAME = "report.html"
TRAINED_STAGES = tuple(name for name, stage in STAGES.items() if stage.init_from)
SFT_STAGES, RL_STAGES = (
  tuple(n for n in TRAINED_STAGES if bool(STAGES[n].rl_starts) == by_rollouts) for by_rollouts in (False, True)
)
MENTORING_ROWS = (  # of the summary: key, label, whether it is a share
  ("questions", "questions", False),
  ("solved_unaided", "solved unaided", False),
  ("hard", "the teacher fails too", False),
  ("undecided", "error undecided", False),
  ("unlocated", "error not located", False),
  ("not_kept", "not kept", False),
  ("quarantined", "quarantined", False),
  ("lift_mean", "mean lift of a correction", True),
  ("lift_n", "corrections whose lift was measured", False),
)


@dataclasses.dataclass(frozen=True)
class ReportPart:
  """A part of the page: what it shows, or the line that stands there while that is missing."""

  content: Any = None
  missing: str = ""


@dataclasses.dataclass(frozen=True)
class Chart:
  """A chart with the words above and below it."""

  title: str
  caption: str
  part: ReportPart


def write_report(root: epath.Path) -> epath.Path:
  """Draws the report of a workdir into its report.html, and gives that path.

  Raises:
    UserError: there is no such folder, or a run has written nothing to it.
  """
  if not root.exists():
    raise UserError(f"--workdir: there is no folder {root}; give the one that a run wrote to")
  if reader.is_workdir_empty(root):
    raise UserError(
      f"--workdir: {root} holds none of {', '.join(reader.WORKDIR_CONTENTS)}; give one that a run wrote to"
    )
  path = root / REPORT_NAME
  path.write_text(render_page(root), encoding="utf-8")
  return path


def render_page(root: epath.Path) -> str:
  """The page as text; the same workdir gives the same text."""
  files = importlib.resources.files("score_jax.report")
  script = (files / "viewer.js").read_text(encoding="utf-8")
  environment = jinja2.Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
  )
  template = environment.from_string((files / "page.html.jinja").read_text(encoding="utf-8"))
  return template.render(
    name=root.name or "run",
    style=markupsafe.Markup((files / "page.css").read_text(encoding="utf-8")),
    script=markupsafe.Markup(script),
    script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    config=_part(lambda: _config(root)),
    results=_part(lambda: _results(root)),
    alarms=_part(lambda: _alarms(root)),
    stages=_part(lambda: _stages(root)),
    training=list(_training(root)),
    by_steps=_part(lambda: _by_steps(root)),
    mentoring=_part(lambda: _mentoring(root)),
    mentoring_charts=list(_mentoring_charts(root)),
    viewer=_part(lambda: viewer.embed_json(viewer.collect_groups(root))),
    limit=viewer.MAX_TRAJECTORIES,
  )


def _part(draw: Callable[[], Any]) -> ReportPart:
  try:
    return ReportPart(content=draw())
  except MissingData as missing:
    return ReportPart(missing=str(missing))


def _chart(title: str, caption: str, draw: Callable[[], str]) -> Chart:
  return Chart(title, caption, _part(lambda: markupsafe.Markup(draw())))


def _config(root: epath.Path) -> dict[str, Any]:
  found = reader.read_config(root)
  return {
    "commit": found.get("commit", "not recorded"),
    "versions": found.get("versions", {}),
    "settings": list(_flat(found.get("config", {}))),
  }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
  """Nested settings as dotted names and values."""
  for name, value in settings.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", json.dumps(value, ensure_ascii=False)


def _results(root: epath.Path) -> dict[str, Any]:
  rows = table.sort_rows(reader.read_result_rows(root))
  shown = table.select_columns(rows)
  return {
    "headers": [" ".join(column.header).strip() for column in shown],
    "text_columns": sum(column.is_text for column in shown),
    "rows": [{"cells": [column.cell(row) for column in shown]} | _scale(row) for row in rows],
    "notes": table.list_notes(rows),
    "says": [
      (table.format_model_label(n), s.purpose) for n, s in STAGES.items() if n in {row["model"] for row in rows}
    ],
  }


def _scale(row: Mapping[str, Any]) -> dict[str, float]:
  """Where a row's mean (if something was graded) and interval lie on a scale of 100."""
  return {name: 100 * row[name] for name in ("accuracy", "low", "high") if row[name] is not None}


def _stages(root: epath.Path) -> list[tuple[str, ...]]:
  """A line for each training stage that has metrics: label, last step, last loss, best validation, tokens/s."""
  found = {stage: reader.read_metrics(root, stage) for stage in TRAINED_STAGES}
  lines = [_stage(stage, metrics) for stage, metrics in found.items() if metrics]
  if not lines:
    raise MissingData("There are no metrics of a training stage yet.")
  return lines


def _stage(stage: str, metrics: list[dict[str, Any]]) -> tuple[str, ...]:
  loss, validation, speed = (
    reader.extract_series(metrics, name)[1] for name in ("loss", "val_accuracy", "tokens_per_s")
  )
  return (
    table.format_model_label(stage),
    f"{metrics[-1]['step']:,}",
    f"{loss[-1]:.4f}" if loss else "–",
    f"{100 * max(validation):.1f} %" if validation else "–",
    table.format_count(round(statistics.median(speed))) if speed else "–",
  )


def _alarms(root: epath.Path) -> list[dict[str, str]]:
  """What went off in the stages of policy gradient, where it first did; none: nothing has."""
  by_stage = {stage: lines for stage in RL_STAGES if (lines := reader.read_metrics(root, stage))}
  if not by_stage:
    raise MissingData("There are no metrics of policy-gradient training yet.")
  settings = reader.require_key(
    reader.require_key(reader.read_config(root), "config", "config.json"), "alarms", "the config"
  )
  return [
    {
      "stage": table.format_model_label(stage),
      "name": alarm.rule.name,
      "step": f"{alarm.step:,}",
      "value": f"{alarm.value:.3g}",
      "threshold": f"{'over' if alarm.rule.above else 'under'} {alarm.threshold:g}",
      "reads": alarm.rule.quantity,
      "means": alarm.rule.meaning,
      "remedy": alarm.rule.remedy,
    }
    for stage, lines in by_stage.items()
    for alarm in alarms.find_fired_alarms(lines, settings)
  ]


def _training(root: epath.Path) -> Iterator[Chart]:
  fine_tuned = {stage: reader.read_metrics(root, stage) for stage in SFT_STAGES}
  rolled_out = {stage: reader.read_metrics(root, stage) for stage in RL_STAGES}
  yield _chart(
    "Loss of fine-tuning",
    "Mean negative log-likelihood of a token that carries loss. Pale: each step; full: the running mean.",
    lambda: charts.draw_curves(fine_tuned, "loss", title="Loss of fine-tuning over steps", smooth=True),
  )
  yield _chart(
    "Validation accuracy",
    "On questions that no stage trains on.",
    lambda: charts.draw_curves(
      fine_tuned | rolled_out, "val_accuracy", title="Validation accuracy over steps", share=True
    ),
  )
  yield _chart(
    "Rollouts that are right",
    "Pale: each step; full: the running mean. SCoRe RL starts from a verified prefix, so its rollouts are easier.",
    lambda: charts.draw_curves(rolled_out, "accuracy", title="Right rollouts over steps", share=True, smooth=True),
  )
  yield _chart(
    "Reward tiers of SCoRe RL",
    "What each rollout earned: the tiers exclude each other.",
    lambda: charts.draw_reward_tiers(rolled_out["rl"]),
  )
  yield _chart(
    "Policy-gradient loss",
    "It hovers around zero by construction; look for jumps.",
    lambda: charts.draw_curves(rolled_out, "loss", title="Policy-gradient loss over steps"),
  )
  yield _chart(
    "Health of policy-gradient training",
    "The log-probability gap is between sampler and trainer on the same weights; it should be rounding only.",
    lambda: charts.draw_health(rolled_out),
  )


def _by_steps(root: epath.Path) -> list[Chart]:
  """A chart for each benchmark whose questions are known to take several numbers of steps."""
  tries = _tries(root)
  if not tries:
    raise MissingData("No evaluated benchmark tells how many steps its questions take.")
  caption = "Bars are 95 % intervals clustered by question."
  return [
    _chart(benchmark, caption, functools.partial(charts.draw_accuracy_by_steps, by_model, benchmark=benchmark))
    for benchmark, by_model in tries.items()
  ]


def _tries(root: epath.Path) -> dict[str, dict[str, dict[int, list[list[float]]]]]:
  """benchmark -> model -> steps of the question -> for each question, whether each try is right."""
  scores: dict[str, Any] = {}
  for model in reader.list_evaluated_models(root):
    for part in reader.list_parts(root / "eval" / model):
      for tried in reader.read_evaluations(part, least_steps=1):
        if not tried.trajectory.judged:  # neither right nor wrong
          continue
        by_model = scores.setdefault(tried.benchmark, {}).setdefault(model, {})
        questions = by_model.setdefault(tried.question_steps, collections.defaultdict(list))
        questions[tried.trajectory.question_id].append(float(tried.trajectory.right))
  return {
    benchmark: {
      model: {steps: list(questions.values()) for steps, questions in by_steps.items()}
      for model, by_steps in by_model.items()
    }
    for benchmark, by_model in sorted(scores.items())
    if len({steps for by_steps in by_model.values() for steps in by_steps}) > 1
  }


def _mentoring(root: epath.Path) -> list[tuple[str, str]]:
  summary = reader.read_mentoring_summary(root)
  return [
    (label, f"{100 * summary[key]:.1f} %" if share else f"{summary[key]:,}")
    for key, label, share in MENTORING_ROWS
    if reader.is_finite_number(summary.get(key))
  ]


def _mentoring_charts(root: epath.Path) -> Iterator[Chart]:
  yield _chart(
    "Corrections needed",
    "Corrections that survive in the solved trajectory; shares are of the questions shown.",
    lambda: charts.draw_corrections_needed(reader.read_mentoring_summary(root)),
  )
  yield _chart(
    "Where earliest errors lie",
    "The step that the teacher named; the plan is step 0.",
    lambda: charts.draw_first_errors(reader.read_mentoring_summary(root)),
  )
  yield _chart(
    "Teacher's success by depth",
    "Share of tries that the teacher carries to a right answer, by the student's steps it goes on from.",
    lambda: charts.draw_teacher_success(reader.read_mentoring_summary(root)),
  )
