"""What passes between the rooms: questions, steps, trajectories, corrections.

All are frozen, versioned, and go to JSON and back without loss. A trajectory
holds text *and* tokens: its context is exactly

    prompt_tokens + sum(step.tokens + step.observation_tokens for step in steps)

and nothing is ever tokenised a second time, so what was sampled is what is
trained on. Only `step.tokens` is written by a policy; everything else comes
from the question or the environment and never carries loss.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from score_jax import text

SCHEMA = 2

Author = Literal["student", "teacher"]
Kind = Literal[
  "first_thought",
  "act",
  "malformed",  # drawn, but no turn of the protocol, or cut off: its text stands in `thought`, nothing follows
]
Status = Literal[
  "running",  # a prefix: it has not ended
  "answered",  # the code submitted an answer
  "step_limit",  # the budget of acts is spent
  "context_full",  # no room for the next turn
  "bad_format",  # the last step is malformed
  "tool_failure",  # the tool's host failed, not the agent's code
  "replay_mismatch",  # rebuilding the state of a prefix gave other observations: quarantined
]


@dataclasses.dataclass(frozen=True)
class Question:
  """A question with what is needed to grade an answer to it."""

  id: str
  text: str
  answer: str
  steps: int = 0  # how many acts the worked solution takes; 0: not known
  solution: tuple[tuple[str, str], ...] = ()  # worked (thought, code) pairs, the first thought's code empty
  aliases: tuple[str, ...] = ()  # other texts that are the answer too


@dataclasses.dataclass(frozen=True)
class Step:
  """One turn of the agent and what the environment answered to it.

  `logprobs[i]` is the log-probability of `tokens[i]` under the distribution that
  it was drawn from, as float32; empty for steps that were not sampled here.
  """

  kind: Kind
  thought: str
  code: str = ""
  observation: str = ""
  reason: str = ""  # the tool's reason code; empty where no code ran
  answer: str | None = None  # what the code submitted
  author: Author = "student"
  tokens: tuple[int, ...] = ()  # the turn as drawn, its end-of-turn token included
  logprobs: tuple[float, ...] = ()
  observation_tokens: tuple[int, ...] = ()  # all that follows the turn up to where the next one begins


@dataclasses.dataclass(frozen=True)
class Usage:
  """Tokens that one model generated, scored or read (prefilled), and their FLOPs."""

  generated: int = 0
  scored: int = 0
  read: int = 0
  flops: float = 0.0

  def __add__(self, other: Usage) -> Usage:
    return Usage(
      self.generated + other.generated, self.scored + other.scored, self.read + other.read, self.flops + other.flops
    )


@dataclasses.dataclass(frozen=True)
class Ledger:
  """What something cost, apart from time: usage by model, grader calls, tool calls.

  Teaching and measuring have ledgers of their own: budgets read what teaching cost, and what is drawn only to measure
  (lift, probes, evaluation) never enters them.
  """

  models: Mapping[str, Usage] = dataclasses.field(default_factory=dict)
  grader_calls: int = 0
  tool_calls: int = 0

  def __add__(self, other: Ledger) -> Ledger:
    names = [*self.models, *(n for n in other.models if n not in self.models)]
    models = {n: self.models.get(n, Usage()) + other.models.get(n, Usage()) for n in names}
    return Ledger(models, self.grader_calls + other.grader_calls, self.tool_calls + other.tool_calls)

  def of(self, model: str) -> Usage:
    return self.models.get(model, Usage())


def sum_ledgers(ledgers: Iterable[Ledger]) -> Ledger:
  """The sum of some ledgers."""
  result = Ledger()
  for ledger in ledgers:
    result = result + ledger
  return result


@dataclasses.dataclass(frozen=True)
class Correction:
  """A step that the teacher put in the place of the student's earliest error.

  `values` are measurements of how it was located and verified, each a share in
  [0, 1] (or a difference of two): `before` and `after` the mistake, the success
  of the student `corrected` and when `redrawn`, `lift` = corrected - redrawn.
  """

  step: int  # index into Trajectory.steps of what was replaced
  mistakes: tuple[Step, ...]  # every student step seen at this place, oldest first
  replacement: Step
  diagnosis: str = ""
  verified: str = ""  # how: "student_success", "recorded", "" while unverified
  values: Mapping[str, float] = dataclasses.field(default_factory=dict)
  located: str = ""  # by what: "prompted", "counterfactual", "both" (prompted, and confirmed), "reference", "recorded"


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """A question and the steps taken on it, finished or not."""

  question_id: str
  question: str
  prompt_tokens: tuple[int, ...]
  steps: tuple[Step, ...] = ()
  status: Status = "running"
  answer: str | None = None
  grade: float | None = None  # in [0, 1]; None: not graded, or the grader failed
  grade_reason: str = ""
  name: str = ""  # of the request that drew it; with the run's seed, the key of its draws
  prefix_steps: int = 0  # how many of `steps` it was given rather than drew
  corrections: tuple[Correction, ...] = ()
  ledger: Ledger = Ledger()
  schema: int = SCHEMA

  @property
  def right(self) -> bool:
    return self.status == "answered" and self.grade == 1.0

  @property
  def judged(self) -> bool:
    """Whether it is known to be right or wrong: neither the tool's host nor the grader failed.

    A trajectory that is not judged counts in no share: it is no wrong one.
    """
    return self.grade is not None and self.status not in ("tool_failure", "replay_mismatch")

  @property
  def acts(self) -> int:
    """Acts taken after the given prefix (a first thought is free)."""
    return sum(s.kind == "act" for s in self.steps[self.prefix_steps :])

  def context(self, steps: int | None = None) -> tuple[int, ...]:
    """Token ids of the prompt and the first `steps` steps (all by default)."""
    kept = self.steps if steps is None else self.steps[:steps]
    return sum((s.tokens + s.observation_tokens for s in kept), self.prompt_tokens)

  def prefix(self, steps: int) -> Trajectory:
    """The unfinished trajectory of the first `steps` steps, with the corrections made among them."""
    return Trajectory(
      question_id=self.question_id,
      question=self.question,
      prompt_tokens=self.prompt_tokens,
      steps=self.steps[:steps],
      prefix_steps=steps,
      corrections=tuple(c for c in self.corrections if c.step < steps),
    )


def _encode(value: Any) -> Any:
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, Mapping):
    return {k: _encode(v) for k, v in value.items()}
  if isinstance(value, (tuple, list)):
    return [_encode(v) for v in value]
  return value


def _short(logprobs: Iterable[float]) -> list[float]:
  """The shortest decimals that give the same float32 again."""
  return [float(str(np.float32(x))) for x in logprobs]


def _made(kind: type[Any], data: Mapping[str, Any], **parts: Any) -> Any:
  """A dataclass from exactly its fields, those in `parts` as given there."""
  odd = {f.name for f in dataclasses.fields(kind)} ^ data.keys()
  if odd:
    raise ValueError(f"{kind.__name__} with missing or unknown fields: {', '.join(sorted(odd))}")
  return kind(**{**data, **parts})


def _step(data: Mapping[str, Any]) -> Step:
  return _made(
    Step,
    data,
    tokens=tuple(data["tokens"]),
    logprobs=tuple(np.array(data["logprobs"], np.float32).tolist()),
    observation_tokens=tuple(data["observation_tokens"]),
  )


def _correction(data: Mapping[str, Any]) -> Correction:
  mistakes = tuple(map(_step, data["mistakes"]))
  return _made(Correction, data, mistakes=mistakes, replacement=_step(data["replacement"]))


def _ledger(data: Mapping[str, Any]) -> Ledger:
  return _made(Ledger, data, models={k: _made(Usage, v) for k, v in data["models"].items()})


def trajectory_to_json(trajectory: Trajectory) -> str:
  """One line of JSON; `from_json` gives an equal trajectory back."""

  def shorten(step: Step) -> Step:
    return dataclasses.replace(step, logprobs=tuple(_short(step.logprobs)))

  corrections = tuple(
    dataclasses.replace(c, mistakes=tuple(map(shorten, c.mistakes)), replacement=shorten(c.replacement))
    for c in trajectory.corrections
  )
  short = dataclasses.replace(trajectory, steps=tuple(map(shorten, trajectory.steps)), corrections=corrections)
  return json.dumps(_encode(short), ensure_ascii=False, separators=(",", ":"))


def trajectory_from_json(line: str) -> Trajectory:
  """Reads what `to_json` wrote.

  Raises:
    ValueError: the line is no JSON, of another schema, or has missing or unknown fields.
  """
  data = text.parse_json(line)
  schema = data.get("schema") if isinstance(data, dict) else None
  if schema not in (1, SCHEMA) or isinstance(schema, bool):
    raise ValueError(f"trajectory of schema {schema!r}; this version reads schemas 1 and {SCHEMA}")
  try:
    if schema == 1:  # which did not say how a correction was located
      data |= {"schema": SCHEMA, "corrections": [{**c, "located": ""} for c in data["corrections"]]}
    return _made(
      Trajectory,
      data,
      prompt_tokens=tuple(data["prompt_tokens"]),
      steps=tuple(map(_step, data["steps"])),
      corrections=tuple(map(_correction, data["corrections"])),
      ledger=_ledger(data["ledger"]),
    )
  except (KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"trajectory with missing or odd fields: {error}") from error


def count_generated_tokens(steps: Iterable[Step]) -> int:
  """How many tokens the given steps' author wrote."""
  return sum(len(s.tokens) for s in steps)


def parse_trajectories(lines: Iterable[str]) -> Iterator[Trajectory]:
  """Trajectories from the lines of a part file."""
  return (trajectory_from_json(line) for line in lines if line.strip())
