"""What the rollouts of a step show of the policy that drew them: pure functions over trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from score_jax.mentor.leak import supported
from score_jax.mentor.literals import statements
from score_jax.train.batch import Sample
from score_jax.trajectory import Question, Step, Trajectory, generated_tokens

Tags = Mapping[int, str]  # the protocol's tags by their ids
Group = tuple[Question, Sequence[Trajectory]]


def drawn(trajectory: Trajectory) -> tuple[Step, ...]:
  """The steps that a rollout drew itself."""
  return trajectory.steps[trajectory.prefix_steps :]


def measured(groups: Sequence[Group], tags: Tags, *, turn_tokens: int) -> dict[str, float]:
  """All that can be told of a step's rollouts; what nothing was found for is missing.

  Args:
    groups: rollouts from one start each, without those that something else than the policy failed.
    turn_tokens: the limit of one turn.
  """
  rollouts = [t for _, group in groups for t in group]
  if not rollouts:
    return {}
  return {
    **lengths(rollouts),
    "cut_off": _share(rollouts, lambda t: cut_off(t, turn_tokens)),
    "bad_format": _share(rollouts, lambda t: t.status == "bad_format"),
    **_told("code_free", [float(not statements(s.code)) for t in rollouts for s in drawn(t) if s.kind == "act"]),
    **entropies(rollouts, tags),
    **_told("distinct_first_steps", [d for _, group in groups if (d := distinct(group)) is not None]),
    **_told("unsupported_right", [float(not s) for q, g in groups for t in g if (s := support(q, t)) is not None]),
  }


def lengths(rollouts: Iterable[Trajectory]) -> dict[str, float]:
  """Mean drawn tokens of right and of wrong rollouts, and wrong / right."""
  by: dict[bool, list[float]] = {True: [], False: []}
  for one in rollouts:
    by[one.right].append(generated_tokens(drawn(one)))
  found = _told("length_right", by[True]) | _told("length_wrong", by[False])
  if len(found) == 2 and found["length_right"] > 0:
    found["length_ratio"] = found["length_wrong"] / found["length_right"]
  return found


def cut_off(trajectory: Trajectory, turn_tokens: int) -> bool:
  """Whether a limit ended it: of acts, of the context, or of the tokens of its last turn."""
  if trajectory.status == "bad_format":
    return len(trajectory.steps[-1].tokens) >= turn_tokens
  return trajectory.status in ("step_limit", "context_full")


def entropies(rollouts: Iterable[Trajectory], tags: Tags) -> dict[str, float]:
  """Mean -log p of what was drawn within thoughts and within code, nats a token, the tags left out.

  That estimates the entropy of the distribution that they were drawn from, which is RL's, without a pass of a model.
  """
  found: dict[str, list[float]] = {"thought": [], "code": []}
  for one in rollouts:
    for part, logprob in (pair for step in drawn(one) for pair in _sections(step, tags)):
      found[part].append(-logprob)
  return _told("entropy_thought", found["thought"]) | _told("entropy_code", found["code"])


def _sections(step: Step, tags: Tags) -> Iterator[tuple[str, float]]:
  """(thought or code, log-probability) of each drawn token between a tag and the one that closes it."""
  part = ""
  for token, logprob in zip(step.tokens, step.logprobs, strict=False):  # steps that were not drawn have no logprobs
    if token in tags:
      part = {"<first_thought>": "thought", "<thought>": "thought", "<code>": "code"}.get(tags[token], "")
    elif part:
      yield part, logprob


def distinct(group: Sequence[Trajectory]) -> float | None:
  """How many first steps of a group differ: 0 where all are the same, 1 where no two are; None: there are not two."""
  first = [steps[0] for t in group if (steps := drawn(t))]
  if len(first) < 2:
    return None
  return (len({(s.thought, s.code) for s in first}) - 1) / (len(first) - 1)


def support(question: Question, trajectory: Trajectory) -> bool | None:
  """Whether something supports a right answer; None: it is not right, or says too little to be told."""
  return supported(question, trajectory.steps) if trajectory.right else None


def probed(groups: Sequence[Sequence[Trajectory]]) -> dict[str, float]:
  """Of the probe's questions, the share that is right in any of the tries (pass@G), and that of right tries.

  Tries that a host or the grader failed are left out, and so is a question from pass@G that has fewer than G then.
  """
  whole = [group for group in groups if all(t.judged for t in group)]
  tried = [float(t.right) for group in groups for t in group if t.judged]
  return _told("probe_pass", [float(any(t.right for t in g)) for g in whole]) | _told("probe_mean", tried)


def divergence(samples: Sequence[Sample], reference: Sequence[np.ndarray]) -> float | None:
  """Mean over learnt tokens of r - 1 - log r, r = p reference / p drawn: the divergence from the reference (k3).

  Args:
    reference: log-probabilities of each sample's tokens by it, [n].
  """
  away = _change(samples, reference)
  return float(np.mean(np.exp(away) - 1.0 - away)) if len(away) else None


def change(samples: Sequence[Sample], now: Sequence[np.ndarray]) -> float | None:
  """Mean over learnt tokens of log p now - log p when drawn, nats."""
  found = _change(samples, now)
  return float(np.mean(found)) if len(found) else None


def _change(samples: Sequence[Sample], other: Sequence[np.ndarray]) -> np.ndarray:
  """log p other - log p drawn of all learnt tokens, float64."""
  pairs = zip(samples, other, strict=True)
  return np.concatenate([np.zeros(0), *((x - s.sampled)[s.learnt > 0].astype(np.float64) for s, x in pairs)])


def _share(rollouts: Sequence[Trajectory], holds: Callable[[Trajectory], bool]) -> float:
  return sum(map(holds, rollouts)) / len(rollouts)


def _told(name: str, values: Sequence[float]) -> dict[str, float]:
  """The mean under that name, where there is one."""
  return {name: float(np.mean(values))} if values else {}
