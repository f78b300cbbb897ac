"""Reads what a run has left in its workdir, however much of it is there yet."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from score_jax import trajectory
from score_jax.runtime.metrics import parse_metric_lines

RESULTS_SCHEMA = 1
WORKDIR_CONTENTS = ("config.json", "results.json", "metrics", "trajectories", "eval")
RESULT_ROW_KEYS = ("model", "benchmark", "accuracy", "n", "low", "high", "ledger")


class MissingData(Exception):
  """What a part of the report needs is not there (yet); the message is the line shown in its place."""


class EvaluatedTry(NamedTuple):
  """One try at a question of a benchmark."""

  benchmark: str
  question_steps: int  # 0: not known
  reference: str  # empty: not recorded
  trajectory: trajectory.Trajectory


def is_workdir_empty(workdir: epath.Path) -> bool:
  """Whether nothing that a run writes is there."""
  return not any((workdir / name).exists() for name in WORKDIR_CONTENTS)


def read_config(workdir: epath.Path) -> dict[str, Any]:
  """config.json: the resolved config, versions and commit."""
  return _object(workdir, "config.json")


def read_result_rows(workdir: epath.Path) -> list[dict[str, Any]]:
  """The rows of results.json, each with all of ROW_KEYS."""
  results = _object(workdir, "results.json")
  if results.get("schema") != RESULTS_SCHEMA:
    raise MissingData(f"results.json is of schema {results.get('schema')!r}; this version reads {RESULTS_SCHEMA}.")
  found = require_key(results, "rows", "results.json")
  if not found:
    raise MissingData("results.json has no rows yet.")
  for row in found:
    for key in RESULT_ROW_KEYS:
      require_key(row, key, "a row of results.json")
  return found


def read_mentoring_summary(workdir: epath.Path) -> dict[str, Any]:
  """The summary of mentored problem solving."""
  return _object(workdir, "trajectories/mps/summary.json")


def read_metrics(workdir: epath.Path, stage: str) -> list[dict[str, Any]]:
  """The metric lines of a stage by rising step; of a step done twice (a restart) the last line, cut lines left out."""
  path = workdir / "metrics" / f"{stage}.jsonl"
  if not path.exists():
    return []
  return parse_metric_lines(path.read_text(encoding="utf-8"))


def extract_series(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
  """Steps and finite values of one metric, where lines have it."""
  pairs = [(line["step"], line[name]) for line in lines if is_finite_number(line.get(name))]
  return [step for step, _ in pairs], [float(value) for _, value in pairs]


def is_finite_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and math.isfinite(value)


def require_key(data: Mapping[str, Any], key: str, where: str) -> Any:
  """The value of a key, or Missing."""
  if key not in data:
    raise MissingData(f"There is no {key!r} in {where} yet.")
  return data[key]


def list_parts(folder: epath.Path) -> list[epath.Path]:
  """The JSONL files of a folder by name; none where there is no such folder."""
  return sorted(folder.glob("*.jsonl")) if folder.exists() else []


def read_trajectories(part: epath.Path) -> Iterator[trajectory.Trajectory]:
  """The trajectories of a part file that this version can read."""
  for line in _lines(part):
    try:
      yield trajectory.trajectory_from_json(line)
    except ValueError:
      continue  # of another version: the report shows the others


def list_evaluated_models(workdir: epath.Path) -> list[str]:
  folder = workdir / "eval"
  return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.exists() else []


def read_evaluations(part: epath.Path, *, least_steps: int) -> Iterator[EvaluatedTry]:
  """The tries of a part file BENCHMARK-NNNNN.jsonl that this version can read, at questions of so many steps."""
  benchmark = part.name.rsplit("-", 1)[0]
  for line in _lines(part):
    record = _parsed(line)
    if record.get("question_steps", 0) < least_steps:
      continue
    try:
      tried = trajectory.trajectory_from_json(json.dumps(record.get("trajectory", {})))
    except ValueError:
      continue  # of another version: the report shows the others
    yield EvaluatedTry(benchmark, record.get("question_steps", 0), record.get("reference", ""), tried)


def pick_evenly(items: Sequence[Any], count: int) -> list[Any]:
  """At most `count` of the items, evenly over all of them."""
  kept = min(count, len(items))
  return [items[i * len(items) // kept] for i in range(kept)]


def _lines(part: epath.Path) -> Iterator[str]:
  with part.open("r", encoding="utf-8") as file:
    yield from itertools.filterfalse(str.isspace, file)


def _parsed(line: str) -> dict[str, Any]:
  """The object of a line; empty for a line that a killed run left half written."""
  try:
    data = json.loads(line)
  except ValueError:
    return {}
  return data if isinstance(data, dict) else {}


def _object(workdir: epath.Path, name: str) -> dict[str, Any]:
  path = workdir / name
  if not path.exists():
    raise MissingData(f"There is no {name} yet.")
  data = _parsed(path.read_text(encoding="utf-8"))
  if not data:
    raise MissingData(f"{name} cannot be read: it holds no JSON object.")
  return data
