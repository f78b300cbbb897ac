"""Lets one watch a student work on a question: thought, code and observation as they come.

    python -m score_jax.ask --workdir=runs/quickstart --stage=rl "Ann has 3 boxes of 4 pens. How many pens has she?"
    python -m score_jax.ask --model=exported --config=configs/quickstart.py "…"
    python -m score_jax.ask --workdir=runs/quickstart --stage=sft --json "…"      an event a line

A run's stage works as the run had it work (its config.json); a model by name as the config file says, whose knobs
`--config` names. `--json` prints {"section", "text"} objects, the last of them {"status", "answer"}. Exit status: 0
an answer was submitted, 1 none was or the command failed (one line says why), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from score_jax.command import set_jax_environment
from score_jax.errors import UserError
from score_jax.text import escape_unencodable_output, replace_surrogates

#: section -> how it looks on a terminal
ANSI_STYLES = {"first_thought": "36", "thought": "0", "code": "32", "observation": "33", "": "31"}


class EventPrinter:
  """Prints what comes: sections under their names, coloured on a terminal; or a JSON object a line."""

  def __init__(self, sections: Any, *, as_json: bool):
    self._sections, self._json = sections, as_json
    self._colours = not as_json and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    self._last: str | None = None

  def on_tokens(self, name: str, tokens: Sequence[int]) -> None:
    del name
    for section, text in self._sections.feed(tokens):
      self._print(section, text)

  def on_step(self, name: str, step: Any) -> None:
    del name
    if step.kind == "act":
      self._print("observation", step.observation if step.reason == "ok" else f"[{step.reason}] {step.observation}")

  def print_outcome(self, status: str, answer: str | None) -> None:
    if self._json:
      print(json.dumps({"status": status, "answer": answer}), flush=True)
    else:
      print(f"\n\n{self._looking('1', 'answer: ' + answer) if answer is not None else 'no answer: ' + status}")

  def _print(self, section: str, text: str) -> None:
    if self._json:
      print(json.dumps({"section": section, "text": text}, ensure_ascii=False), flush=True)
      return
    if section != self._last:
      print(f"{'' if self._last is None else chr(10) * 2}{self._looking('2', (section or 'malformed') + ':')}")
      self._last = section
    print(self._looking(ANSI_STYLES[section], text), end="", flush=True)

  def _looking(self, look: str, text: str) -> str:
    return f"\x1b[{look}m{text}\x1b[0m" if self._colours else text


def ask_question(config: Any, root: str, stage: str, question: str, *, seed: int, as_json: bool) -> bool:
  """Works on the question with the weights of a stage; whether an answer was submitted.

  Raises:
    UserError: the model cannot be read.
  """
  from score_jax.agent.rollout import RolloutRequest, empty_trajectory
  from score_jax.agent.sections import SectionDecoder
  from score_jax.experiment.experiment import Experiment
  from score_jax.experiment.results import load_stage_weights
  from score_jax.runtime.workdir import Workdir
  from score_jax.trajectory import Question

  with Experiment(config, Workdir(root)) as run:
    with contextlib.redirect_stdout(sys.stderr):  # what it says of itself is no part of the answer
      agent, weights = run.make_single_agent(), load_stage_weights(run, stage)
    printer = EventPrinter(SectionDecoder(agent.protocol), as_json=as_json)
    agent = dataclasses.replace(agent, seed=seed, watcher=printer)
    asked = Question("ask", question, "")
    ((found,),) = agent.rollout(weights, [RolloutRequest("ask", asked, empty_trajectory(asked), config.agent.acts)])
    printer.print_outcome(found.status, found.answer)
  return found.status == "answered"


def main() -> int:
  parser = argparse.ArgumentParser(
    prog="python -m score_jax.ask", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  origin = parser.add_mutually_exclusive_group(required=True)
  origin.add_argument("--workdir", metavar="DIR", help="the folder of a run; --stage says which of its models")
  origin.add_argument("--model", metavar="NAME", help="a model folder, .gguf file, Hugging Face id, or shipped:student")
  parser.add_argument("--stage", help="such as sft or rl; untrained: the student as it came, teacher: the teacher")
  parser.add_argument("--config", default="configs/quickstart.py", help="with --model (default: %(default)s)")
  parser.add_argument("--seed", default=0, type=int, help="of the draws (default: %(default)s)")
  parser.add_argument("--json", action="store_true", help="print an event a line")
  parser.add_argument("question")
  args = parser.parse_args()
  escape_unencodable_output()
  if bool(args.workdir) != bool(args.stage):
    parser.error("--stage goes with --workdir")
  set_jax_environment()
  try:
    with tempfile.TemporaryDirectory() as scratch:
      config, root = _asked(args, scratch)
      return (
        0
        if ask_question(
          config, root, args.stage or "untrained", replace_surrogates(args.question), seed=args.seed, as_json=args.json
        )
        else 1
      )
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print("\ninterrupted", file=sys.stderr)
    return 130


def _asked(args: argparse.Namespace, scratch: str) -> tuple[Any, str]:
  """The config, and the folder to work in."""
  from score_jax.config import load_config
  from score_jax.runtime.workdir import read_run_config

  if args.workdir:
    return read_run_config(args.workdir), args.workdir
  config = load_config(args.config)
  config.student.path = args.model
  return config, scratch


if __name__ == "__main__":
  sys.exit(main())
