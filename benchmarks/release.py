"""Runs the Python of the reference release's mathematics again, in the sandbox, and tells what differs.

python benchmarks/release.py --records=DIR/math_mps_trajectories.jsonl
"""

from __future__ import annotations

import argparse
import collections
import time

from score_jax.sandbox.bubblewrap import ISOLATIONS
from score_jax.sandbox.sandbox import Sandbox
from score_jax.teaching.release import describe_difference, read_release, rerun_acts


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--records", required=True, help="a file of the release's mentored trajectories")
  parser.add_argument("--isolation", default="bubblewrap", choices=ISOLATIONS)
  args = parser.parse_args()
  trajectories = [trajectory for _, trajectory in read_release(args.records)]
  limits = {"timeout_s": 20.0, "memory_mb": 1024, "files_mb": 16, "output_chars": 20_000}
  kinds: collections.Counter[str] = collections.Counter()
  start = time.monotonic()
  with Sandbox(isolation=args.isolation, workers=2, sessions=64, search=None, **limits) as tool:
    for index, place, outcome in rerun_acts(trajectories, tool):
      step = trajectories[index].steps[place]
      kind = describe_difference(step, outcome) or "the same"
      kinds[kind] += 1
      if kind != "the same":
        there, here = step.answer or step.observation, outcome.answer or outcome.observation
        print(f"{trajectories[index].question_id} step {place}: {kind}: there {there[:70]!r}, here {here[:70]!r}")
  total = sum(kinds.values())
  print(f"{kinds['the same']} of {total} steps are the same, {time.monotonic() - start:.0f} s; {dict(kinds)}")


if __name__ == "__main__":
  main()
