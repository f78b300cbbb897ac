"""One tool for several processes: it runs beside process 0, and all of them get its answers."""

from __future__ import annotations

import dataclasses

from score_jax.mesh.hosts import agree
from score_jax.tools.outcome import Outcome, Ran
from score_jax.tools.python import PythonTool


class SharedTool:
  """A tool whose every process calls the same methods in the same order; process 0 has the tool, the others None."""

  def __init__(self, tool: PythonTool | None):
    self._tool = tool

  def submit(self, session: str, code: str, state: tuple[Ran, ...]) -> None:
    if self._tool is not None:
      self._tool.submit(session, code, state)

  def wait(self, timeout_s: float) -> list[tuple[str, Outcome]]:
    found = self._tool.wait(timeout_s) if self._tool is not None else []
    told = agree([(session, dataclasses.asdict(outcome)) for session, outcome in found])
    return [(session, Outcome(**outcome)) for session, outcome in told]

  def close(self, session: str) -> None:
    if self._tool is not None:
      self._tool.close(session)
