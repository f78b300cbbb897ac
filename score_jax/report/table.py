"""The table of results: each model's accuracy on each benchmark, and what making the model cost.

Columns in which no row has a value are left out (several tries, the paper's figures, costs). `PAPER_FIGURES` holds the
paper's own averages (arXiv 2509.14257, second and third version); figures of single benchmarks are not at hand, and no
cell is filled by guess. The paper allowed up to five retries and had a model as the judge, so a difference of a few
points says little.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from score_jax.experiment.stages import STAGES

PAPER_SOURCE = "arXiv 2509.14257, by version; measured with retries and a judge (score_jax/report/table.py)"

#: average -> student, or teacher -> stage that made the model -> version (empty where that is not known) -> %
PAPER_FIGURES: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]] = {
  "math_qa_average": {
    "Qwen2.5-7B-Instruct": {
      "warm_start": {"v2": 41.7},
      "bc": {"v2": 42.5, "v3": 43.0},
      "sft": {"v2": 45.8},
      "rl": {"v2": 50.8, "v3": 52.3},
      "rl_no_key": {"v2": 49.7},
      "rl_from_question": {"v2": 48.4},
      "grpo": {"v2": 48.4, "v3": 48.2},
    },
    "Qwen2.5-3B-Instruct": {"bc": {"v2": 38.3}, "rl": {"v2": 46.7}},
    "Llama-3.1-8B-Instruct": {"bc": {"v2": 37.3}, "sft": {"v2": 40.2}, "rl": {"v2": 47.5}},
    "Qwen2.5-72B-Instruct": {"untrained": {"v2": 51.7, "v3": 51.1}},
  },
  "deep_search_average": {"Qwen3-8B": {"bc": {"": 22.8}, "grpo": {"": 22.2}, "rl": {"": 30.5}}},
}


def find_paper_figure(base: str, stage: str, benchmark: str) -> str:
  """What the paper gives for a model, such as "50.8 (v2), 52.3 (v3)"; empty where it gives nothing.

  Args:
    base: the student's name, path or hub id, by the last part of which it is known.
    stage: which made the model; `untrained` of the student as it came, and of the teacher.
    benchmark: or average.
  """
  found = PAPER_FIGURES.get(benchmark, {}).get(base.rstrip("/").rpartition("/")[2], {}).get(stage, {})
  return ", ".join(f"{value:.1f}" + (f" ({version})" if version else "") for version, value in found.items())


ResultRow = Mapping[str, Any]

MODEL_LABELS = {
  "teacher": "teacher",
  "untrained": "untrained student",
  **{name: stage.label for name, stage in STAGES.items() if stage.init_from},
}
COST_NOTE = (
  "From: whose weights it starts from. Costs are of making the model, all that it is made from included;\n"
  "student tokens: generated; teacher tokens: generated, scored and read."
)
MEASURE_NOTE = (
  "pass@k: the chance that one of k tries is right, unbiased. exact: beside the mean F1, the share that is right.\n"
  "Ungraded tries (their grading or tool failed) are left out of the score; its interval allows for either outcome."
)


def format_model_label(model: str) -> str:
  """A model's name in words."""
  return MODEL_LABELS.get(model, model)


def model_sort_key(model: str) -> tuple[int, str]:
  """Sorts models as the method builds them, others after them by name."""
  return (list(MODEL_LABELS).index(model) if model in MODEL_LABELS else len(MODEL_LABELS), model)


def sort_rows(rows: Sequence[ResultRow]) -> list[ResultRow]:
  """Rows by benchmark, as these first appear, then by model."""
  benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
  return sorted(rows, key=lambda row: (benchmarks.index(row["benchmark"]), model_sort_key(row["model"])))


def format_percent(share: float | None) -> str:
  return "–" if share is None else f"{100 * share:.1f}"


def format_count(number: int) -> str:
  """A number in at most five digits: 9,999, then 10.0k, 3.21M."""
  if number < 10_000:
    return f"{number:,}"
  for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
    if number < 999.5 * size:
      return f"{number / size:#.3g}".rstrip(".") + unit
  return f"{number / 1e12:,.4g}T"


# Cells of rows that older versions wrote, or that are averages, lack what a row of a benchmark has.


def _benchmark(row: ResultRow) -> str:
  return row["benchmark"] + (" (F1)" if row.get("metric") == "f1" else "")


def _exact(row: ResultRow) -> str:
  return format_percent(row["exact"]) if row.get("metric") == "f1" else ""


def _tries(row: ResultRow) -> str:
  return format_count(row["tries"]) if row.get("tries", 1) > 1 else ""


def _pass_at(row: ResultRow) -> str:
  """For the greatest k."""
  k, share = max(((int(k), share) for k, share in row.get("pass_at", {}).items()), default=(1, None))
  return f"{format_percent(share)} (k={k})" if k > 1 else ""


def _ungraded(row: ResultRow) -> str:
  return format_count(row["ungraded"]) if row.get("ungraded") else ""


def _published(row: ResultRow) -> str:
  return find_paper_figure(row.get("base", ""), row.get("stage", ""), row["benchmark"])


def _generated(row: ResultRow) -> str:
  return format_count(row["ledger"]["models"].get("student", {}).get("generated", 0))


def _teacher(row: ResultRow) -> str:
  usage = row["ledger"]["models"].get("teacher", {})
  return format_count(sum(usage.get(kind, 0) for kind in ("generated", "scored", "read")))


def _petaflop(row: ResultRow) -> str:
  return f"{sum(usage['flops'] for usage in row['ledger']['models'].values()) / 1e15:,.3g}"


def _always(_: ResultRow) -> bool:
  return True


def _costed(row: ResultRow) -> bool:
  return bool(row["ledger"]["models"])


@dataclasses.dataclass(frozen=True)
class Column:
  """One column: its header in two lines, its cell in a row, and the rows for whose sake it is shown.

  Texts are set to the left, numbers to the right.
  """

  header: tuple[str, str]
  cell: Callable[[ResultRow], str]
  is_needed_for: Callable[[ResultRow], bool]
  is_text: bool = False


def _measure(first: str, second: str, cell: Callable[[ResultRow], str], *, text: bool = False) -> Column:
  return Column((first, second), cell, lambda row: cell(row) != "", text)


TEXT_COLUMNS = (
  Column(("", "model"), lambda row: format_model_label(row["model"]), _always, is_text=True),
  _measure("", "from", lambda row: row.get("from", ""), text=True),
  Column(("", "benchmark"), _benchmark, _always, is_text=True),
)
SCORE_COLUMNS = (
  Column(("accuracy", "%"), lambda row: format_percent(row["accuracy"]), _always),
  Column(("95 %", "interval"), lambda row: f"{format_percent(row['low'])} to {format_percent(row['high'])}", _always),
  Column(("", "n"), lambda row: f"{row['n']:,}", _always),
)
MEASURE_COLUMNS = (
  _measure("", "tries", _tries),
  _measure("exact", "%", _exact),
  _measure("pass@k", "%", _pass_at),
  _measure("", "ungraded", _ungraded),
)
PAPER_COLUMN = _measure("paper", "%", _published)
COST_COLUMNS = (
  Column(("student", "tokens"), _generated, _costed),
  Column(("teacher", "tokens"), _teacher, _costed),
  Column(("tool", "calls"), lambda row: format_count(row["ledger"]["tool_calls"]), _costed),
  Column(("grader", "calls"), lambda row: format_count(row["ledger"]["grader_calls"]), _costed),
  Column(("", "PFLOP"), _petaflop, _costed),
)


def _measuring(rows: Sequence[ResultRow]) -> str:
  """What was spent to measure, which stands in no column; "" where rows say nothing of it."""

  def drawn(row: ResultRow, name: str) -> int:
    return sum(usage["generated"] for usage in row.get(name, {}).get("models", {}).values())

  on_the_way = max((drawn(row, "measured") for row in rows), default=0)
  evaluating = sum(drawn(row, "evaluated") for row in rows)
  if not on_the_way and not evaluating:
    return ""
  return (
    f"Measuring is in no cost above and in no budget: lift and probes drew {format_count(on_the_way)} tokens "
    f"on the way to a\nmodel, at most; evaluating all rows drew {format_count(evaluating)}."
  )


def select_columns(rows: Sequence[ResultRow]) -> list[Column]:
  """The columns of a table of these rows."""
  return [
    c
    for c in (*TEXT_COLUMNS, *SCORE_COLUMNS, *MEASURE_COLUMNS, PAPER_COLUMN, *COST_COLUMNS)
    if any(map(c.is_needed_for, rows))
  ]


def list_notes(rows: Sequence[ResultRow]) -> list[str]:
  """What a reader has to know of the columns."""
  shown = select_columns(rows)
  said = {MEASURE_NOTE: MEASURE_COLUMNS, f"paper: {PAPER_SOURCE}": (PAPER_COLUMN,), COST_NOTE: COST_COLUMNS}
  found = [note for note, of in said.items() if any(column in shown for column in of)]
  return [*found, *filter(None, [_measuring(rows)])]


def format_table(rows: Sequence[ResultRow]) -> str:
  """The table as plain text, aligned for a terminal.

  Args:
    rows: the rows of results.json.
  """
  shown = select_columns(rows)
  body = [tuple(column.cell(row) for column in shown) for row in sort_rows(rows)]
  head = [tuple(column.header[line] for column in shown) for line in range(2)]
  widths = [max(map(len, column)) for column in zip(*head, *body, strict=True)]
  rule = tuple("-" * width for width in widths)
  lines = [_line(line, widths, shown) for line in (*head, rule, *body)]
  return "\n".join([*lines, "", *list_notes(rows)])


def _line(line: Sequence[str], widths: Sequence[int], shown: Sequence[Column]) -> str:
  cells = (
    text.ljust(width) if column.is_text else text.rjust(width)
    for text, width, column in zip(line, widths, shown, strict=True)
  )
  return "  ".join(cells).rstrip()
