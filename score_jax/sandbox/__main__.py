"""Code from lines of JSON, as `python -m score_jax.sandbox.sandbox` reads them."""

from __future__ import annotations

import collections
import json
import queue
import threading
from collections.abc import Iterable, Iterator

from score_jax.errors import UserError
from score_jax.sandbox.interface import ExecutedStep, Tool

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
