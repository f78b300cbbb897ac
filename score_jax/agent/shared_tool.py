"""The tool of a run of several processes: each runs the code of some sessions, and all of them get all answers."""

from __future__ import annotations

import dataclasses
import time
import zlib

from score_jax.runtime import processes
from score_jax.sandbox.interface import ExecutedStep, FunctionDoc, Outcome, Tool

POLL_S = 0.05  # the most that a process waits for its own code while another's may have ended


class ReplicatedTool:
  """A tool whose every process calls the same methods in the same order.

  A session is run by the process that its name falls on, from its first step to its last.
  """

  def __init__(self, tool: Tool):
    self._tool = tool
    self._in_flight: set[str] = set()

  @property
  def can_search(self) -> bool:
    return self._tool.can_search

  @property
  def functions(self) -> tuple[FunctionDoc, ...]:
    return self._tool.functions

  def submit(self, session: str, code: str, state: tuple[ExecutedStep, ...]) -> None:
    self._in_flight.add(session)
    if self._mine(session):
      self._tool.submit(session, code, state)

  def wait(self, timeout_s: float) -> list[tuple[str, Outcome]]:
    """What has finished, on any process; when the time is over process 0 says."""
    end = time.monotonic() + timeout_s
    while self._in_flight:
      left = max(0.0, end - time.monotonic())
      mine = self._tool.wait(min(left, POLL_S))
      told = [(session, dataclasses.asdict(outcome)) for session, outcome in mine]
      by_process = processes.all_gather("tool", [told, left <= POLL_S])
      found = [(session, Outcome(**outcome)) for answers, _ in by_process for session, outcome in answers]
      self._in_flight.difference_update(session for session, _ in found)
      if found or by_process[0][1]:
        return found
    return []

  def close(self, session: str) -> None:
    self._in_flight.discard(session)
    if self._mine(session):
      self._tool.close(session)

  @staticmethod
  def _mine(session: str) -> bool:
    return zlib.crc32(session.encode()) % processes.process_count() == processes.process_index()
