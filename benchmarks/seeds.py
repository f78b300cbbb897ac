"""The quickstart over several seeds: accuracies and differences of its models, with 95 % intervals over seeds.

    python benchmarks/seeds.py --seeds=0,1,2 --runs=runs/seeds

Runs configs/quickstart.py with 500 test questions in RUNS/seed-<seed> (or goes on there). Models of one run
are compared question by question. The interval of a mean over runs is Student's t over as many values as there are
seeds: a training run is one draw, however many questions it is asked. Further arguments go to score_jax.main.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from score_jax.tasks.statistics import Interval, accuracy_interval, paired_difference, seed_interval

PAIRS = (
  ("warm_start", "teacher"),
  ("warm_start", "sft"),
  ("sft", "rl"),
  ("rl", "bc"),
  ("rl", "rl_from_question"),
)

Scores = dict[str, list[float]]  # the scores of the graded tries, by question


def read_scores(folder: pathlib.Path, model: str) -> Scores:
  """Whether each graded try of the model was right, by question id. Ungraded tries are left out: they are no 0."""
  found: Scores = {}
  for path in sorted((folder / "eval" / model).glob("*.jsonl")):
    with path.open(encoding="utf-8") as lines:
      for line in lines:
        trajectory = json.loads(line)["trajectory"]
        if trajectory["grade"] is not None:
          right = trajectory["status"] == "answered" and trajectory["grade"] == 1.0
          found.setdefault(trajectory["question_id"], []).append(float(right))
  return found


def difference(before: Scores, after: Scores) -> Interval:
  """How much better `after` does on the questions that both have a graded try of."""
  both = [question for question in before if question in after]
  return paired_difference([before[q] for q in both], [after[q] for q in both])


def table(folders: Sequence[pathlib.Path]) -> str:
  """The accuracies by seed, their mean, and the paired differences by seed, in points."""
  models = [row["model"] for row in json.loads((folders[0] / "results.json").read_text(encoding="utf-8"))["rows"]]
  scores = {model: [read_scores(folder, model) for folder in folders] for model in models}
  means = {m: [accuracy_interval(list(s.values())).mean for s in by_seed] for m, by_seed in scores.items()}
  lines = [f"{'accuracy, %':>30}  by seed, then their mean (95 % interval over {len(folders)} seeds)"]
  lines += [_line(model, values, seed_interval(values, least=0.0), "5.1f") for model, values in means.items()]
  lines += ["", f"{'paired differences, points':>30}  by seed (95 % interval over its questions), then their mean"]
  for before, after in PAIRS:
    if before in scores and after in scores:
      gaps = [difference(b, a) for b, a in zip(scores[before], scores[after], strict=True)]
      values = [gap.mean for gap in gaps]
      lines.append(_line(f"{after} - {before}", values, seed_interval(values, least=-1.0), "+5.1f", within=gaps))
  return "\n".join(lines)


def _line(
  name: str, values: Sequence[float], mean: Interval, form: str, within: Sequence[Interval | None] | None = None
) -> str:
  """One row: a value a seed, then the mean with its interval. `within` are the intervals of the single values."""

  def points(value: float) -> str:
    return format(100 * value, form)

  def ends(interval: Interval) -> str:
    return f"({points(interval.low).strip()} to {points(interval.high).strip()})"

  by_seed = [
    points(value) + (f" {ends(own)}" if own else "")
    for value, own in zip(values, within or [None] * len(values), strict=True)
  ]
  return f"{name:>30}  {'  '.join(by_seed)}   {points(mean.mean)} {ends(mean)}"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/seeds"))
  args, further = parser.parse_known_args()
  folders = {seed: args.runs / f"seed-{seed}" for seed in args.seeds.split(",")}
  for seed, folder in folders.items():
    command = [sys.executable, "-m", "score_jax.main", "--config=configs/quickstart.py", f"--workdir={folder}"]
    subprocess.run([*command, f"--config.seed={seed}", "--config.tasks.test=500", *further], check=True)
  print(table(list(folders.values())))


if __name__ == "__main__":
  main()
