"""The final table: each model's accuracy on each benchmark, and what it cost to make the model.

Columns in which no row has anything to say (several tries, the paper's figure, costs, …) are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from score_jax.arms import STAGES
from score_jax.report import published

Row = Mapping[str, Any]

LABELS = {
  "teacher": "teacher",
  "untrained": "untrained student",
  **{name: stage.label for name, stage in STAGES.items() if stage.begin},
}
COSTS = (
  "From: whose weights it starts from. Costs are of making the model, all that it is made from included;\n"
  "student tokens: generated; teacher tokens: generated, scored and read."
)
MEASURES = (
  "pass@k: the chance that one of k tries is right, unbiased. exact: beside the mean F1, the share that is right.\n"
  "Ungraded tries (their grading or tool failed) are left out of the score; its interval allows for either outcome."
)


def label(model: str) -> str:
  """A model's name in words."""
  return LABELS.get(model, model)


def model_order(model: str) -> tuple[int, str]:
  """Sorts models as the method builds them, others after them by name."""
  return (list(LABELS).index(model) if model in LABELS else len(LABELS), model)


def ordered(rows: Sequence[Row]) -> list[Row]:
  """Rows by benchmark, as these first appear, then by model."""
  benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
  return sorted(rows, key=lambda row: (benchmarks.index(row["benchmark"]), model_order(row["model"])))


def percent(share: float | None) -> str:
  return "–" if share is None else f"{100 * share:.1f}"


def count(number: int) -> str:
  """A number in at most five digits: 9,999, then 10.0k, 3.21M."""
  if number < 10_000:
    return f"{number:,}"
  for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
    if number < 999.5 * size:
      return f"{number / size:#.3g}".rstrip(".") + unit
  return f"{number / 1e12:,.4g}T"


# Cells of rows that older versions wrote, or that are averages, lack what a row of a benchmark has.


def _benchmark(row: Row) -> str:
  return row["benchmark"] + (" (F1)" if row.get("metric") == "f1" else "")


def _exact(row: Row) -> str:
  return percent(row["exact"]) if row.get("metric") == "f1" else ""


def _tries(row: Row) -> str:
  return count(row["tries"]) if row.get("tries", 1) > 1 else ""


def _pass_at(row: Row) -> str:
  """For the greatest k."""
  k, share = max(((int(k), share) for k, share in row.get("pass_at", {}).items()), default=(1, None))
  return f"{percent(share)} (k={k})" if k > 1 else ""


def _ungraded(row: Row) -> str:
  return count(row["ungraded"]) if row.get("ungraded") else ""


def _published(row: Row) -> str:
  return published.figure(row.get("base", ""), row.get("stage", ""), row["benchmark"])


def _generated(row: Row) -> str:
  return count(row["ledger"]["models"].get("student", {}).get("generated", 0))


def _teacher(row: Row) -> str:
  usage = row["ledger"]["models"].get("teacher", {})
  return count(sum(usage.get(kind, 0) for kind in ("generated", "scored", "read")))


def _petaflop(row: Row) -> str:
  return f"{sum(usage['flops'] for usage in row['ledger']['models'].values()) / 1e15:,.3g}"


def _always(_: Row) -> bool:
  return True


def _costed(row: Row) -> bool:
  return bool(row["ledger"]["models"])


@dataclasses.dataclass(frozen=True)
class Column:
  """One column: its header in two lines, its cell in a row, and the rows for whose sake it is shown.

  Texts are set to the left, numbers to the right.
  """

  header: tuple[str, str]
  cell: Callable[[Row], str]
  wanted: Callable[[Row], bool]
  text: bool = False


def _measure(first: str, second: str, cell: Callable[[Row], str], *, text: bool = False) -> Column:
  return Column((first, second), cell, lambda row: cell(row) != "", text)


TEXTS = (
  Column(("", "model"), lambda row: label(row["model"]), _always, text=True),
  _measure("", "from", lambda row: row.get("from", ""), text=True),
  Column(("", "benchmark"), _benchmark, _always, text=True),
)
SCORES = (
  Column(("accuracy", "%"), lambda row: percent(row["accuracy"]), _always),
  Column(("95 %", "interval"), lambda row: f"{percent(row['low'])} to {percent(row['high'])}", _always),
  Column(("", "n"), lambda row: f"{row['n']:,}", _always),
)
MEASURED = (
  _measure("", "tries", _tries),
  _measure("exact", "%", _exact),
  _measure("pass@k", "%", _pass_at),
  _measure("", "ungraded", _ungraded),
)
PUBLISHED = _measure("paper", "%", _published)
COST = (
  Column(("student", "tokens"), _generated, _costed),
  Column(("teacher", "tokens"), _teacher, _costed),
  Column(("tool", "calls"), lambda row: count(row["ledger"]["tool_calls"]), _costed),
  Column(("grader", "calls"), lambda row: count(row["ledger"]["grader_calls"]), _costed),
  Column(("", "PFLOP"), _petaflop, _costed),
)


def _measuring(rows: Sequence[Row]) -> str:
  """What was spent to measure, which stands in no column; "" where rows say nothing of it."""

  def drawn(row: Row, name: str) -> int:
    return sum(usage["generated"] for usage in row.get(name, {}).get("models", {}).values())

  on_the_way = max((drawn(row, "measured") for row in rows), default=0)
  evaluating = sum(drawn(row, "evaluated") for row in rows)
  if not on_the_way and not evaluating:
    return ""
  return (
    f"Measuring is in no cost above and in no budget: lift and probes drew {count(on_the_way)} tokens on the way to a\n"
    f"model, at most; evaluating all rows drew {count(evaluating)}."
  )


def columns(rows: Sequence[Row]) -> list[Column]:
  """The columns of a table of these rows."""
  return [c for c in (*TEXTS, *SCORES, *MEASURED, PUBLISHED, *COST) if any(map(c.wanted, rows))]


def notes(rows: Sequence[Row]) -> list[str]:
  """What a reader has to know of the columns."""
  shown = columns(rows)
  said = {MEASURES: MEASURED, f"paper: {published.SOURCE}": (PUBLISHED,), COSTS: COST}
  found = [note for note, of in said.items() if any(column in shown for column in of)]
  return [*found, *filter(None, [_measuring(rows)])]


def render(rows: Sequence[Row]) -> str:
  """The table as plain text, aligned for a terminal.

  Args:
    rows: the rows of results.json.
  """
  shown = columns(rows)
  body = [tuple(column.cell(row) for column in shown) for row in ordered(rows)]
  head = [tuple(column.header[line] for column in shown) for line in range(2)]
  widths = [max(map(len, column)) for column in zip(*head, *body, strict=True)]
  rule = tuple("-" * width for width in widths)
  lines = [_line(line, widths, shown) for line in (*head, rule, *body)]
  return "\n".join([*lines, "", *notes(rows)])


def _line(line: Sequence[str], widths: Sequence[int], shown: Sequence[Column]) -> str:
  cells = (
    text.ljust(width) if column.text else text.rjust(width)
    for text, width, column in zip(line, widths, shown, strict=True)
  )
  return "  ".join(cells).rstrip()
