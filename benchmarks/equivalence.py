"""How often the equivalence of steps errs: on hand-labelled paraphrases, and on the reference release's real mistakes.

    PYTHONPATH=. python benchmarks/equivalence.py --release=DIR

Both are told by execution alone. DIR holds the release's {math,search}_mps_trajectories.jsonl, whose recorded
observations are compared; without it the paraphrases alone are tried, which really run.
"""

from __future__ import annotations

import argparse
import pathlib
from collections import Counter
from collections.abc import Iterator

from score_jax.grading.graders import open_grader
from score_jax.rl.step_equivalence import StepVerdict, compare_steps, make_answer_comparator
from score_jax.sandbox.bubblewrap import ISOLATIONS
from score_jax.teaching.release import read_release
from tests.rl.paraphrases import EXPECTED, compared

#: domain of the release -> the benchmark whose grader compares its answers
GRADERS = {"math": "math500", "search": "hotpotqa"}
#: mistakes that do what their correction does, to a reader of both: (question, step, which mistake)
SAME_ACT = {("285d4a66", 2, 0)}  # the code is the same to the letter
SAME_PLACE = {("e2fe73e1", 3, 0), ("bab330e9", 3, 0), ("bab330e9", 3, 1)}  # a city with and without its country


def mistakes(folder: pathlib.Path) -> Iterator[tuple[tuple[str, int, int], StepVerdict]]:
  """The verdict on each recorded mistake and its correction, where the prefixes of question ids name them."""
  for domain, benchmark in GRADERS.items():
    with open_grader(benchmark) as grader:
      for question, trajectory in read_release(str(folder / f"{domain}_mps_trajectories.jsonl")):
        for correction in trajectory.corrections:
          for number, mistake in enumerate(correction.mistakes):
            verdict = compare_steps(mistake, correction.replacement, make_answer_comparator(grader, question))
            yield (question.id[:8], correction.step, number), verdict


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--release", help="folder of the reference release's files")
  parser.add_argument("--isolation", default="bubblewrap", choices=ISOLATIONS)
  args = parser.parse_args()
  table = Counter()
  for paraphrase, verdict in compared(args.isolation):
    table[paraphrase.truth, verdict] += 1
    if verdict != EXPECTED[paraphrase.truth]:
      print(f"{paraphrase.id}: {paraphrase.truth}, verdict {verdict}")
  print(f"{sum(table.values())} paraphrases")
  for (truth, verdict), count in sorted(table.items()):
    print(f"  truth {truth:12} verdict {verdict:10} {count}")
  if args.release:
    found = dict(mistakes(pathlib.Path(args.release)))
    for place, verdict in found.items():
      known = "the same code" if place in SAME_ACT else "the same place" if place in SAME_PLACE else ""
      print(f"{place[0]} step {place[1]} mistake {place[2]}: {verdict} {known and f'({known})'}")
    print(f"{len(found)} mistakes against their corrections: {dict(Counter(found.values()))}")


if __name__ == "__main__":
  main()
