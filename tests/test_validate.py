"""The validation accuracy of weights that do as they are told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from score_jax.agent.protocol import Turn
from score_jax.evaluate import measure_validation_accuracy
from tests.agent.scripted import Stage, act, plan, protocol, question, said, stage, submit, tokenizer, tool
from tests.configs import module

__all__ = ["protocol", "stage", "tokenizer", "tool"]


@pytest.mark.parametrize(
  ("names", "expected"),
  [
    (("right", "wrong", "broken", "right too"), {"val_accuracy": 2 / 3}),
    (("wrong",), {"val_accuracy": 0.0}),
    (("broken",), {}),
    ((), {}),
  ],
)
def test_what_a_host_failed_is_left_out(stage: Stage, names: tuple[str, ...], expected: dict[str, float]) -> None:
  def says(name: str, text: str) -> Turn:
    if "broken" in name:
      return [plan(), act("web_search('broken')")][said(text)]
    return [plan(), submit("12" if "right" in name else "13")][said(text)]

  run: Any = SimpleNamespace(
    config=module("quickstart").get_config("smoke"),
    tasks=SimpleNamespace(validation=[question(name=name) for name in names]),
    student_agent=stage.agent(),
  )
  assert measure_validation_accuracy(run, stage.weights(says)) == pytest.approx(expected)
