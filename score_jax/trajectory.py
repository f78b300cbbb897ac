"""Questions, steps, trajectories, corrections and ledgers: the data that every part of the package shares.

All are frozen dataclasses with a schema version, and go to JSON and back without loss. A trajectory holds text *and*
tokens: its context is exactly

    prompt_tokens + sum(step.tokens + step.observation_tokens for step in steps)

and nothing is tokenised a second time, so that training sees exactly the tokens that were sampled. Only `step.tokens`
is written by a policy; everything else comes from the question or the environment and never carries loss.
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
  "malformed",  # sampled, but not a valid turn, or cut off: its text is in `thought`, no observation follows
]
Status = Literal[
  "running",  # not finished, such as a prefix
  "answered",  # the code submitted an answer
  "step_limit",  # the limit of acts is reached
  "context_full",  # no room for the next turn
  "bad_format",  # the last step is malformed
  "tool_failure",  # the sandbox itself failed, not the agent's code
  "replay_mismatch",  # replaying a prefix gave other observations: quarantined
]


@dataclasses.dataclass(frozen=True)
class Question:
  """A question with its reference answer."""

  id: str
  text: str
  answer: str
  steps: int = 0  # number of acts of the worked solution; 0: not known
  solution: tuple[tuple[str, str], ...] = ()  # worked solution as (thought, code) pairs; the first thought has no code
  aliases: tuple[str, ...] = ()  # other correct answers


@dataclasses.dataclass(frozen=True)
class Step:
  """One turn of the agent, and the observation that followed.

  `logprobs[i]` is the log-probability of `tokens[i]` under the distribution that it was sampled from, as float32; empty
  for steps that were not sampled by this package.
  """

  kind: Kind
  thought: str
  code: str = ""
  observation: str = ""
  reason: str = ""  # the tool's reason code; empty where no code ran
  answer: str | None = None  # what the code submitted
  author: Author = "student"
  tokens: tuple[int, ...] = ()  # the turn as sampled, with its end-of-turn token
  logprobs: tuple[float, ...] = ()
  observation_tokens: tuple[int, ...] = ()  # everything between this turn and the next one


@dataclasses.dataclass(frozen=True)
class Usage:
  """Tokens that one model generated, scored, or read (prefilled), and their FLOPs."""

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
  """A cost without time: usage by model, grader calls, tool calls.

  Teaching and measurement have separate ledgers. Budgets use the cost of teaching; samples that only measure (lift,
  probes, evaluation) are not part of it.
  """

  models: Mapping[str, Usage] = dataclasses.field(default_factory=dict)
  grader_calls: int = 0
  tool_calls: int = 0

  def __add__(self, other: Ledger) -> Ledger:
    names = [*self.models, *(n for n in other.models if n not in self.models)]
    models = {n: self.models.get(n, Usage()) + other.models.get(n, Usage()) for n in names}
    return Ledger(models, self.grader_calls + other.grader_calls, self.tool_calls + other.tool_calls)

  def of(self, model: str) -> Usage:
    """The usage of one model."""
    return self.models.get(model, Usage())


def sum_ledgers(ledgers: Iterable[Ledger]) -> Ledger:
  """The sum of the ledgers."""
  result = Ledger()
  for ledger in ledgers:
    result = result + ledger
  return result


@dataclasses.dataclass(frozen=True)
class Correction:
  """A step of the teacher that replaces the student's earliest error.

  `values` are measurements from locating and verifying it. Each is a success rate of the student in [0, 1], or a
  difference of two: `before` and `after` the mistake, after the correction (`corrected`), after sampling the step again
  (`redrawn`), `lift` = corrected - redrawn.
  """

  step: int  # index into Trajectory.steps of the replaced step
  mistakes: tuple[Step, ...]  # all student steps at this index, oldest first
  replacement: Step
  diagnosis: str = ""
  verified: str = ""  # how: "student_success", "recorded", "" while unverified
  values: Mapping[str, float] = dataclasses.field(default_factory=dict)
  located: str = ""  # by "prompted", "counterfactual", "both" (prompted, then confirmed), "reference", "recorded"


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
  name: str = ""  # of the rollout request; with the run's seed, the key of its random draws
  prefix_steps: int = 0  # number of `steps` that it started from
  corrections: tuple[Correction, ...] = ()
  ledger: Ledger = Ledger()
  schema: int = SCHEMA

  @property
  def right(self) -> bool:
    """Whether it ended with a correct answer."""
    return self.status == "answered" and self.grade == 1.0

  @property
  def judged(self) -> bool:
    """Whether it is known to be right or wrong: neither the sandbox nor the grader failed.

    A trajectory that is not judged is left out of every rate; it does not count as wrong.
    """
    return self.grade is not None and self.status not in ("tool_failure", "replay_mismatch")

  @property
  def acts(self) -> int:
    """Number of acts after the given prefix; a first thought does not count."""
    return sum(s.kind == "act" for s in self.steps[self.prefix_steps :])

  def context(self, steps: int | None = None) -> tuple[int, ...]:
    """Token ids of the prompt and of the first `steps` steps (default: all)."""
    kept = self.steps if steps is None else self.steps[:steps]
    return sum((s.tokens + s.observation_tokens for s in kept), self.prompt_tokens)

  def prefix(self, steps: int) -> Trajectory:
    """The unfinished trajectory of the first `steps` steps, with the corrections at those steps."""
    return Trajectory(
      question_id=self.question_id,
      question=self.question,
      prompt_tokens=self.prompt_tokens,
      steps=self.steps[:steps],
      prefix_steps=steps,
      corrections=tuple(c for c in self.corrections if c.step < steps),
    )


def _to_plain(value: Any) -> Any:
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {f.name: _to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, Mapping):
    return {k: _to_plain(v) for k, v in value.items()}
  if isinstance(value, (tuple, list)):
    return [_to_plain(v) for v in value]
  return value


def _shorten_logprobs(logprobs: Iterable[float]) -> list[float]:
  """The shortest decimals that give the same float32 values again."""
  return [float(str(np.float32(x))) for x in logprobs]


def _from_fields(kind: type[Any], data: Mapping[str, Any], **parts: Any) -> Any:
  """A dataclass from exactly its fields; `parts` replace the values in `data`. ValueError names other fields."""
  mismatched = {f.name for f in dataclasses.fields(kind)} ^ data.keys()
  if mismatched:
    raise ValueError(f"{kind.__name__} with missing or unknown fields: {', '.join(sorted(mismatched))}")
  return kind(**{**data, **parts})


def _step_from_json(data: Mapping[str, Any]) -> Step:
  return _from_fields(
    Step,
    data,
    tokens=tuple(data["tokens"]),
    logprobs=tuple(np.array(data["logprobs"], np.float32).tolist()),
    observation_tokens=tuple(data["observation_tokens"]),
  )


def _correction_from_json(data: Mapping[str, Any]) -> Correction:
  mistakes = tuple(map(_step_from_json, data["mistakes"]))
  return _from_fields(Correction, data, mistakes=mistakes, replacement=_step_from_json(data["replacement"]))


def _ledger_from_json(data: Mapping[str, Any]) -> Ledger:
  return _from_fields(Ledger, data, models={k: _from_fields(Usage, v) for k, v in data["models"].items()})


def trajectory_to_json(trajectory: Trajectory) -> str:
  """One line of JSON; `trajectory_from_json` gives an equal trajectory back."""

  def shorten(step: Step) -> Step:
    return dataclasses.replace(step, logprobs=tuple(_shorten_logprobs(step.logprobs)))

  corrections = tuple(
    dataclasses.replace(c, mistakes=tuple(map(shorten, c.mistakes)), replacement=shorten(c.replacement))
    for c in trajectory.corrections
  )
  short = dataclasses.replace(trajectory, steps=tuple(map(shorten, trajectory.steps)), corrections=corrections)
  return json.dumps(_to_plain(short), ensure_ascii=False, separators=(",", ":"))


def trajectory_from_json(line: str) -> Trajectory:
  """The trajectory in a line of `trajectory_to_json`.

  Raises:
    ValueError: the line is no JSON, of another schema, or has missing or unknown fields.
  """
  data = text.parse_json(line)
  schema = data.get("schema") if isinstance(data, dict) else None
  if schema not in (1, SCHEMA) or isinstance(schema, bool):
    raise ValueError(f"trajectory of schema {schema!r}; this version reads schemas 1 and {SCHEMA}")
  try:
    if schema == 1:  # schema 1 had no `located`
      data |= {"schema": SCHEMA, "corrections": [{**c, "located": ""} for c in data["corrections"]]}
    return _from_fields(
      Trajectory,
      data,
      prompt_tokens=tuple(data["prompt_tokens"]),
      steps=tuple(map(_step_from_json, data["steps"])),
      corrections=tuple(map(_correction_from_json, data["corrections"])),
      ledger=_ledger_from_json(data["ledger"]),
    )
  except (KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"trajectory with missing or odd fields: {error}") from error


def count_generated_tokens(steps: Iterable[Step]) -> int:
  """Number of tokens that were generated in the steps; observations do not count."""
  return sum(len(s.tokens) for s in steps)


def parse_trajectories(lines: Iterable[str]) -> Iterator[Trajectory]:
  """Trajectories from the lines of a part file."""
  return (trajectory_from_json(line) for line in lines if line.strip())
