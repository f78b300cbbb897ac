"""Runs code from standard input in the sandbox, one JSON object a line.

    echo '{"session": "a", "code": "print(6 * 7)"}' | python -m score_jax.sandbox --isolation=bubblewrap
    {"session": "a", "reason": "ok", "observation": "42", "answer": null}

Exit status: 0 when standard input ends, 1 failed (one line says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import sys
import threading
from collections.abc import Iterable, Iterator

from score_jax.errors import UserError
from score_jax.limits import POSITIVE, POSITIVE_INT, make_argparse_type
from score_jax.sandbox import bubblewrap
from score_jax.sandbox.interface import ExecutedStep, Tool, load_functions
from score_jax.sandbox.sandbox import Sandbox

_GLANCE_S = 0.005  # between two looks for lines while code runs


def run_json_lines(tool: Tool, lines: Iterable[str]) -> Iterator[dict[str, str | None]]:
  """What the code of each {"session", "code"} comes to, as it ends: {"session", "reason", "observation", "answer"}.

  What a session is sent runs in that order; sessions run beside one another.

  Raises:
    UserError: a line is not of this form.
  """
  incoming: queue.SimpleQueue[str | None] = queue.SimpleQueue()
  threading.Thread(target=_read, args=(lines, incoming), daemon=True).start()
  waiting: dict[str, collections.deque[str]] = collections.defaultdict(collections.deque)
  states: dict[str, tuple[ExecutedStep, ...]] = collections.defaultdict(tuple)
  running: dict[str, str] = {}
  more = True
  while more or waiting or running:
    while more and not (running and incoming.empty()):
      line = incoming.get()
      more = line is not None
      if line is not None and line.strip():
        session, code = _asked(line)
        waiting[session].append(code)
        break
    for session in [name for name in waiting if name not in running]:
      running[session] = waiting[session].popleft()
      if not waiting[session]:
        del waiting[session]
      tool.submit(session, running[session], states[session])
    for session, outcome in tool.wait(_GLANCE_S if more else 60.0):
      states[session] += (ExecutedStep(running.pop(session), outcome.observation, outcome.reason),)
      yield {
        "session": session,
        "reason": outcome.reason,
        "observation": outcome.observation,
        "answer": outcome.answer,
      }


def _read(lines: Iterable[str], incoming: queue.SimpleQueue[str | None]) -> None:
  for line in lines:
    incoming.put(line)
  incoming.put(None)


def _asked(line: str) -> tuple[str, str]:
  try:
    asked = json.loads(line)
    session, code = asked["session"], asked["code"]
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{line[:80]!r} is not {{"session": text, "code": text}} ({error!r})') from error
  if not isinstance(session, str) or not isinstance(code, str):
    raise UserError(f"{line[:80]!r}: session and code have to be text")
  return session, code


def main() -> None:
  parser = argparse.ArgumentParser(
    prog="python -m score_jax.sandbox", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  count, positive = make_argparse_type(POSITIVE_INT), make_argparse_type(POSITIVE)
  parser.add_argument("--isolation", default="bubblewrap", choices=bubblewrap.ISOLATIONS)
  parser.add_argument("--workers", type=count, default=os.cpu_count() or 1, help="pieces of code that run at once")
  parser.add_argument("--sessions", type=count, default=64, help="sessions whose processes are kept")
  parser.add_argument("--timeout_s", type=positive, default=10.0, help="of one piece of code")
  parser.add_argument("--memory_mb", type=count, default=512, help="of a session, MiB")
  parser.add_argument("--files_mb", type=count, default=64, help="of a session's files, MiB")
  parser.add_argument("--output_chars", type=count, default=4096, help="of an observation")
  parser.add_argument("--functions", default="", metavar="FILE", help="what else code can call: functions.py")
  options = vars(parser.parse_args())
  file = options.pop("functions")
  try:
    with Sandbox(**options, search=None, functions=load_functions(file)) as tool:
      print(tool.describe(), file=sys.stderr)
      for answer in run_json_lines(tool, sys.stdin):
        print(json.dumps(answer), flush=True)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  main()
