"""The final table: each model's accuracy on each benchmark, and what it cost to make the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from score_jax.arms import STAGES

LABELS = {
  "teacher": "teacher",
  "untrained": "untrained student",
  **{name: stage.label for name, stage in STAGES.items() if stage.begin},
}
HEADERS = (
  ("", "model"),
  ("", "from"),
  ("", "benchmark"),
  ("accuracy", "%"),
  ("95 %", "interval"),
  ("", "n"),
  ("student", "tokens"),
  ("teacher", "tokens"),
  ("tool", "calls"),
  ("grader", "calls"),
  ("", "PFLOP"),
)
TEXT_COLUMNS = 3  # set to the left; numbers to the right
NOTE = (
  "From: whose weights it starts from. Costs are of making the model, all that it is made from included;\n"
  "student tokens: generated; teacher tokens: generated, scored and read."
)


def label(model: str) -> str:
  """A model's name in words."""
  return LABELS.get(model, model)


def model_order(model: str) -> tuple[int, str]:
  """Sorts models as the method builds them, others after them by name."""
  return (list(LABELS).index(model) if model in LABELS else len(LABELS), model)


def ordered(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
  """Rows by benchmark, as these first appear, then by model."""
  benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
  return sorted(rows, key=lambda row: (benchmarks.index(row["benchmark"]), model_order(row["model"])))


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
  """The text of a row's cells, in the order of HEADERS."""
  ledger = row["ledger"]
  student, teacher = (ledger["models"].get(name, {}) for name in ("student", "teacher"))
  return (
    label(row["model"]),
    row.get("from", ""),
    row["benchmark"],
    f"{100 * row['accuracy']:.1f}",
    f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
    f"{row['n']:,}",
    count(student.get("generated", 0)),
    count(sum(teacher.get(kind, 0) for kind in ("generated", "scored", "read"))),
    count(ledger["tool_calls"]),
    count(ledger["grader_calls"]),
    f"{sum(usage['flops'] for usage in ledger['models'].values()) / 1e15:,.3g}",
  )


def count(number: int) -> str:
  """A number in at most five digits: 9,999, then 10.0k, 3.21M."""
  if number < 10_000:
    return f"{number:,}"
  for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
    if number < 999.5 * size:
      return f"{number / size:#.3g}".rstrip(".") + unit
  return f"{number / 1e12:,.4g}T"


def render(rows: Sequence[Mapping[str, Any]]) -> str:
  """The table as plain text, aligned for a terminal.

  Args:
    rows: the rows of results.json.
  """
  body = [cells(row) for row in ordered(rows)]
  head = [tuple(header[line] for header in HEADERS) for line in range(2)]
  widths = [max(map(len, column)) for column in zip(*head, *body, strict=True)]
  rule = tuple("-" * width for width in widths)
  lines = [_line(line, widths) for line in (*head, rule, *body)]
  return "\n".join([*lines, "", NOTE])


def _line(line: Sequence[str], widths: Sequence[int]) -> str:
  left = [text.ljust(width) for text, width in zip(line[:TEXT_COLUMNS], widths[:TEXT_COLUMNS], strict=True)]
  right = [text.rjust(width) for text, width in zip(line[TEXT_COLUMNS:], widths[TEXT_COLUMNS:], strict=True)]
  return "  ".join([*left, *right]).rstrip()
