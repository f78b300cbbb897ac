"""Redraws the report of a run: `python -m score_jax.report --workdir=DIR`."""

from __future__ import annotations

import argparse
import sys

from etils import epath

from score_jax.errors import UserError
from score_jax.report import page


def main() -> int:
  parser = argparse.ArgumentParser(
    prog="python -m score_jax.report",
    description="Draws DIR/report.html from what a run has left in DIR so far, and prints its path.",
    epilog="example: python -m score_jax.report --workdir=runs/tiny. "
    "Exit status: 0 done, 1 failed (one line says why), 2 wrong usage.",
  )
  parser.add_argument("--workdir", required=True, metavar="DIR", help="the folder of the run, local or gs://")
  try:
    print(page.write_report(epath.Path(parser.parse_args().workdir)))
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
