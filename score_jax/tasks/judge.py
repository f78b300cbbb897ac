"""A model as the judge of an answer: it may abstain, and what it replies counts only if it is the one JSON object that
was asked for, behind any thinking (one_object.py), and nothing else.

Its prompt must hold the answer under judgement as one JSON string, so that no text in it can close the data and go on
as instruction.
"""

from __future__ import annotations

from collections.abc import Callable

from score_jax.tasks.one_object import one_object
from score_jax.trajectory import Question

ASKS = 3  # times in all
LONGEST_REASON = 300  # characters
VERDICTS = {"right": 1.0, "wrong": 0.0, "abstain": None}

#: JSON schema of a reply
SCHEMA = {
  "type": "object",
  "properties": {"verdict": {"enum": [*VERDICTS]}, "reason": {"type": "string"}},
  "required": ["verdict", "reason"],
  "additionalProperties": False,
}


class Judge:
  """Grades with a model."""

  def __init__(self, ask: Callable[[str, int], str], prompt: Callable[[Question, str], str]):
    """
    Args:
      ask: gives the model's reply to a prompt, the same prompt's first, second or third (0, 1, 2); an OSError of it (no
        connection, a time-out) fails the grading.
      prompt: what the model is asked about an answer.
    """
    self._ask, self._prompt = ask, prompt

  def __call__(self, question: Question, answer: str) -> tuple[float | None, str]:
    """The verdict as a grade; None where the judge abstains, cannot be reached, or thrice replies something else."""
    asked = self._prompt(question, answer)
    for attempt in range(ASKS):
      try:
        found = verdict(self._ask(asked, attempt))
      except OSError as error:
        return None, f"the judge cannot be reached ({' '.join(str(error).split())[:LONGEST_REASON]})"
      if found is not None:
        word, reason = found
        return VERDICTS[word], f"the judge says {word}: {reason}"
    return None, f"the judge did not reply in the form that was asked for, {ASKS} times"


def verdict(reply: str) -> tuple[str, str] | None:
  """The verdict and the reason in a reply; None: it is not exactly the object asked for."""
  try:
    data = one_object(reply)
  except ValueError:
    return None
  if not isinstance(data, dict) or data.keys() != {"verdict", "reason"}:
    return None
  word, reason = data["verdict"], data["reason"]
  if not isinstance(word, str) or word not in VERDICTS or not isinstance(reason, str):
    return None
  return word, " ".join(reason.split())[:LONGEST_REASON]
