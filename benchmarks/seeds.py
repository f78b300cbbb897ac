"""The quickstart over several seeds: the table's claims, with paired 95 % intervals over all test questions.

    python benchmarks/seeds.py --seeds=0,1,2 --runs=runs/seeds

Runs configs/quickstart.py with 500 test questions in RUNS/<seed> for each seed (or goes on there), then pools the
test questions of all seeds and compares models question by question. Further arguments go to score_jax.main.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

from score_jax.tasks.intervals import accuracy_interval, paired_difference

PAIRS = (
  ("warm_start", "teacher"),
  ("warm_start", "sft"),
  ("sft", "rl"),
  ("bc", "rl"),
  ("rl_from_question", "rl"),
)


def scores(folder: pathlib.Path, model: str) -> list[list[float]]:
  """Whether each test question was answered right, by try."""
  by_question: dict[str, list[float]] = {}
  for path in sorted((folder / "eval" / model).glob("*.jsonl")):
    for line in path.open():
      trajectory = json.loads(line)["trajectory"]
      right = trajectory["status"] == "answered" and trajectory["grade"] == 1.0
      by_question.setdefault(trajectory["question_id"], []).append(float(right))
  return list(by_question.values())


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/seeds"))
  args, further = parser.parse_known_args()
  folders = [args.runs / seed for seed in args.seeds.split(",")]
  for folder in folders:
    command = [sys.executable, "-m", "score_jax.main", "--config=configs/quickstart.py", f"--workdir={folder}"]
    subprocess.run([*command, f"--config.seed={folder.name}", "--config.tasks.test=500", *further], check=True)

  models = [row["model"] for row in json.loads((folders[0] / "results.json").read_text())["rows"]]
  found = {model: [scores(folder, model) for folder in folders] for model in models}
  pooled = {model: [question for seed in by_seed for question in seed] for model, by_seed in found.items()}
  print(f"{'model':>18}  by seed, then all together (95 % interval)")
  for model, by_seed in found.items():
    parts = "  ".join(f"{100 * accuracy_interval(s).mean:5.1f}" for s in by_seed)
    whole = accuracy_interval(pooled[model])
    print(
      f"{model:>18}  {parts}   {100 * whole.mean:5.1f} ({100 * whole.low:.1f} to {100 * whole.high:.1f}), n {whole.n}"
    )
  print("\npaired differences over all seeds, in points (95 % interval)")
  for before, after in PAIRS:
    gap = paired_difference(pooled[before], pooled[after])
    print(f"{after:>18} - {before:<16} {100 * gap.mean:+6.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})")
  teacher, warm, rl = (accuracy_interval(pooled[model]).mean for model in ("teacher", "warm_start", "rl"))
  print(f"\nof the warm start's distance to the teacher RL leaves {100 * (teacher - rl) / (teacher - warm):.0f} %")


if __name__ == "__main__":
  main()
