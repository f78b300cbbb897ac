"""Draws the report's charts as inline SVG: the same data, the same bytes.

Colours are Okabe and Ito's, which colour-blind readers tell apart; lines differ
in marker too. Text stays text, in the reader's own font.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib import axes, figure, ticker

from score_jax.report import table
from score_jax.report.reader import MissingData, extract_series, require_key
from score_jax.tasks import statistics

FIGURE_SIZE = (4.8, 2.9)  # inches; the page scales it to its column
INK, GREY, PALE = "#222222", "#767676", "#dcdcdc"
BLUE, ORANGE, GREEN, AMBER = "#0072b2", "#d55e00", "#009e73", "#e69f00"
STAGE_STYLES = {  # of a model or a training stage: colour, marker
  "teacher": (INK, "*"),
  "untrained": (GREY, "x"),
  "warm_start": ("#56b4e9", "o"),
  "bc": (AMBER, "s"),
  "bc_first_thought": ("#b37a00", "p"),
  "bc_all": ("#f0c35e", "h"),
  "bc_grpo": ("#7a5300", "8"),
  "grpo": ("#8a4f7d", "X"),
  "sft": (GREEN, "^"),
  "sft_corrected_only": ("#00664a", "<"),
  "sft_rejection": ("#66c5a8", ">"),
  "sft_redraw": ("#4d8f3a", "1"),
  "sft_random_k": ("#a3c940", "2"),
  "sft_teacher_finishes": ("#2f6f8f", "3"),
  "rl": (ORANGE, "D"),
  "rl_no_key": ("#f28e52", "d"),
  "rl_from_question": ("#cc79a7", "v"),
  "rl_from_all_questions": ("#a3648a", "4"),
  "distill": ("#5b4fc4", "H"),
}
OTHER_STYLE = (BLUE, "P")
REWARD_TIERS = (
  ("tier_final", "final: a right answer", GREEN),
  ("tier_key", "key: the teacher's step", BLUE),
  ("tier_avoid", "avoid: no known mistake", AMBER),
  ("tier_none", "none", PALE),
)
HEALTH_METRICS = (
  ("entropy", "entropy (nat)"),
  ("logprob_gap", "log-probability gap"),
  ("kl_sampler", "KL from the sampler (nat)"),
  ("ess", "effective share of samples"),
  ("clip_share_low", "clipped low"),
  ("clip_share_high", "clipped high"),
  ("no_signal_groups", "groups without signal"),
  ("grad_norm", "gradient norm"),
)
MATPLOTLIB_RC: dict[Any, Any] = {
  "axes.axisbelow": True,
  "axes.edgecolor": GREY,
  "axes.grid": True,
  "axes.labelcolor": INK,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "font.family": "sans-serif",
  "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
  "font.size": 9.5,
  "grid.color": "#e8e8e8",
  "legend.fontsize": 8.5,
  "legend.frameon": False,
  "lines.linewidth": 1.6,
  "lines.markersize": 4.5,
  "svg.fonttype": "none",
  "svg.hashsalt": "score_jax",
  "text.color": INK,
  "text.parse_math": False,
  "xtick.color": GREY,
  "xtick.labelcolor": INK,
  "ytick.color": GREY,
  "ytick.labelcolor": INK,
}

MetricsByStage = Mapping[str, Sequence[Mapping[str, Any]]]
ScoresByModel = Mapping[str, Mapping[int, Sequence[Sequence[float]]]]


@matplotlib.rc_context(MATPLOTLIB_RC)
def draw_curves(metrics: MetricsByStage, name: str, *, title: str, share: bool = False, smooth: bool = False) -> str:
  """One line a stage of one metric over its steps.

  Args:
    metrics: the metric lines of each stage.
    name: the metric; stages without it are left out.
    title: what a screen reader says of the chart.
    share: the metric is a share, shown as a percentage.
    smooth: adds the running mean, and draws the metric itself pale.

  Raises:
    Missing: no stage has it.
  """
  found = {stage: extract_series(lines, name) for stage, lines in metrics.items() if extract_series(lines, name)[0]}
  if not found:
    raise MissingData(f"No {name!r} in the metrics of {', '.join(metrics)} yet.")
  fig, ax = _axes()
  for stage, (steps, values) in found.items():
    colour, marker = _style(stage)
    values = [100 * value for value in values] if share else values
    if smooth:
      ax.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
      values = running_mean(values)
    few = len(steps) <= 12
    ax.plot(
      steps, values, color=colour, marker=marker if few else "", label=table.format_model_label(stage), clip_on=False
    )
  ax.set_xlabel("step")
  if share:
    _percent(ax)
  _legend(ax, columns=3)
  return _svg(fig, title)


def running_mean(values: Sequence[float]) -> list[float]:
  """Centred means over about a twentieth of the values, over fewer at the ends."""
  reach = len(values) // 40
  windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
  return [sum(window) / len(window) for window in windows]


@matplotlib.rc_context(MATPLOTLIB_RC)
def draw_reward_tiers(lines: Sequence[Mapping[str, Any]]) -> str:
  """The share of rollouts in each reward tier over the steps, stacked to 100 %."""
  whole = [line for line in lines if all(name in line for name, _, _ in REWARD_TIERS)]
  if not whole:
    raise MissingData("No reward tiers in the metrics of rl yet.")
  steps = [line["step"] for line in whole]
  shares = [[100 * line[name] for line in whole] for name, _, _ in REWARD_TIERS]
  if len(steps) == 1:  # an area needs two edges
    steps, shares = [steps[0] - 0.5, steps[0] + 0.5], [[share[0]] * 2 for share in shares]
  fig, ax = _axes()
  labels, colours = [label for _, label, _ in REWARD_TIERS], [colour for _, _, colour in REWARD_TIERS]
  ax.stackplot(steps, *shares, labels=labels, colors=colours, linewidth=0.6, edgecolor="white")
  ax.margins(x=0)
  ax.set_xlabel("step")
  _percent(ax)
  _legend(ax, columns=2)
  return _svg(fig, "Shares of the reward tiers over reinforcement learning steps")


@matplotlib.rc_context(MATPLOTLIB_RC)
def draw_health(metrics: MetricsByStage) -> str:
  """Small charts of what tells first that policy-gradient training goes wrong."""
  fig = figure.Figure(figsize=(FIGURE_SIZE[0], 2 * FIGURE_SIZE[1]), layout="constrained")
  drawn = 0
  for ax, (name, label) in zip(fig.subplots(4, 2).flat, HEALTH_METRICS, strict=True):
    for stage, lines in metrics.items():
      steps, values = extract_series(lines, name)
      if not lines:
        continue
      drawn += len(steps)
      marker = "." if len(steps) == 1 else ""
      ax.plot(
        steps, values, color=_style(stage)[0], linewidth=1.2, marker=marker, label=table.format_model_label(stage)
      )
    ax.set_title(label, fontsize=9, loc="left")
    ax.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(ticker.MaxNLocator(3))
    ax.tick_params(labelsize=8)
  if not drawn:
    raise MissingData(f"No metrics of {' or '.join(metrics)} yet.")
  fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, handlelength=1.6)
  return _svg(fig, "Health of policy-gradient training over its steps")


@matplotlib.rc_context(MATPLOTLIB_RC)
def draw_accuracy_by_steps(tries: ScoresByModel, *, benchmark: str) -> str:
  """Accuracy against the steps that a question's worked solution takes, a line a model, with 95 % intervals.

  Args:
    tries: for every model and number of steps, the scores of the tries at each question.
  """
  fig, ax = _axes()
  for i, model in enumerate(sorted(tries, key=table.model_sort_key)):
    colour, marker = _style(model)
    steps = sorted(tries[model])
    shift = 0.05 * (i - (len(tries) - 1) / 2)  # so that the intervals do not cover each other
    found = [statistics.accuracy_interval(tries[model][step]) for step in steps]
    xs = [step + shift for step in steps]
    ax.vlines(xs, [100 * x.low for x in found], [100 * x.high for x in found], color=colour, linewidth=0.9, alpha=0.6)
    means = [100 * x.mean for x in found]
    ax.plot(xs, means, color=colour, marker=marker, linewidth=1.2, clip_on=False, label=table.format_model_label(model))
  ax.set_xlabel("steps of the worked solution")
  _percent(ax)
  _legend(ax, columns=3)
  return _svg(fig, f"Accuracy on {benchmark} by the number of steps that a question takes")


@matplotlib.rc_context(MATPLOTLIB_RC)
def draw_first_errors(summary: Mapping[str, Any]) -> str:
  """Where the student's earliest errors lie."""
  counts = _by_number(require_key(summary, "first_error_step", "the summary"))
  labels = ["plan" if step == 0 else str(step) for step in counts]
  return _bars(labels, list(counts.values()), xlabel="step of the earliest error", title="Earliest errors by step")


@matplotlib.rc_context(MATPLOTLIB_RC)
def draw_corrections_needed(summary: Mapping[str, Any]) -> str:
  """How many corrections it took until a question was solved."""
  solved = _by_number(require_key(summary, "solved", "the summary"))
  counts = {"none": require_key(summary, "solved_unaided", "the summary")}
  counts |= {str(corrections): n for corrections, n in solved.items() if corrections > 0}
  require_key(summary, "hard", "the summary")
  counts["not solved"] = sum(summary.get(name, 0) for name in ("hard", "undecided", "unlocated", "not_kept"))
  return _bars(
    list(counts), list(counts.values()), xlabel="corrections until solved", title="Questions by corrections needed"
  )


@matplotlib.rc_context(MATPLOTLIB_RC)
def draw_teacher_success(summary: Mapping[str, Any]) -> str:
  """How often the teacher succeeds, by how deep into the student's path it takes over, with 95 % intervals."""
  by_depth = require_key(summary, "teacher_success_by_depth", "the summary")
  tried = {int(depth): counts for depth, counts in by_depth.items() if counts["tries"]}
  if not tried:
    raise MissingData("The teacher's success by depth has not been measured yet.")
  depths = sorted(tried)
  means = [tried[d]["successes"] / tried[d]["tries"] for d in depths]
  ends = [statistics.wilson_interval(mean=mean, n=tried[d]["tries"]) for mean, d in zip(means, depths, strict=True)]
  fig, ax = _axes()
  ax.vlines(depths, [100 * low for low, _ in ends], [100 * high for _, high in ends], color=BLUE, linewidth=1.2)
  ax.plot(depths, [100 * mean for mean in means], color=BLUE, marker="o", clip_on=False)
  ax.set_xticks(depths, [f"{d}\nn={tried[d]['tries']:,}" for d in depths])
  ax.margins(x=0.08)
  ax.set_xlabel("depth")
  _percent(ax)
  return _svg(fig, "Success of the teacher by depth")


def _by_number(counts: Mapping[str, int]) -> dict[int, int]:
  """JSON's text keys as numbers, rising, the gaps filled with 0."""
  if not counts:
    raise MissingData("Nothing has been counted yet.")
  numbered = {int(key): count for key, count in counts.items()}
  return {number: numbered.get(number, 0) for number in range(min(numbered), max(numbered) + 1)}


def _bars(labels: Sequence[str], counts: Sequence[int], *, xlabel: str, title: str) -> str:
  fig, ax = _axes()
  places = range(len(labels))
  ax.bar(places, counts, color=BLUE, width=0.7)
  total = sum(counts) or 1
  for place, count in zip(places, counts, strict=True):
    text = f"{count:,}\n{100 * count / total:.0f} %"
    ax.annotate(text, (place, count), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=8)
  ax.set_xticks(places, labels)
  ax.margins(y=0.22)
  ax.grid(visible=False, axis="x")
  ax.set_xlabel(xlabel)
  ax.yaxis.set_major_locator(ticker.MaxNLocator(5, integer=True, min_n_ticks=1))
  return _svg(fig, title)


def _axes() -> tuple[figure.Figure, axes.Axes]:
  fig = figure.Figure(figsize=FIGURE_SIZE, layout="constrained")
  ax = fig.subplots()
  ax.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True, min_n_ticks=1))
  return fig, ax


def _style(name: str) -> tuple[str, str]:
  return STAGE_STYLES.get(name, OTHER_STYLE)


def _percent(ax: axes.Axes) -> None:
  ax.set_ylim(0, 100)
  ax.yaxis.set_major_formatter(ticker.PercentFormatter(symbol=" %", decimals=0))


def _legend(ax: axes.Axes, *, columns: int) -> None:
  """A legend above the axes, where it covers nothing."""
  ax.figure.legend(loc="outside upper left", ncols=columns, handlelength=1.6, columnspacing=1.2)


def _svg(fig: figure.Figure, title: str) -> str:
  """The figure as an <svg> element whose ids no other chart of the page has."""
  text = io.StringIO()
  unset = dict.fromkeys(("Creator", "Date", "Format", "Type"))
  fig.savefig(text, format="svg", metadata=unset, transparent=True)
  element = text.getvalue()[text.getvalue().index("<svg") :]
  name = re.sub(r"\W+", "-", title.lower())
  element = re.sub(r'( id="|="#|url\(#)', rf"\g<1>{name}-", element)
  return element.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
