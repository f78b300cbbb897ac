"""Health metrics of rollouts, and the monitor that checks them against the alarm rules.

The functions `measure_*` take trajectories and return metrics by name: lengths, truncation, entropy, diversity of first
steps, unsupported right answers. A metric without data is left out.
`RLMonitor` adds the metrics that need a model: pass@G on probe questions, KL to the first weights, and how likely
the prefixes still are. It measures these in the first step and at each checkpoint, logs alarms, and ends the run at an
alarm of `alarms.stop`. Nothing here changes training, and no measurement is booked in a ledger.

The measurements need no more device memory than an update: the first weights take the place of its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.model import lora
from score_jax.model.decoder import Weights
from score_jax.rl.alarms import Alarm, check_alarm_config, evaluate_rules, find_fired_alarms, measure_worst_update
from score_jax.rl.reward import ScoredRollout
from score_jax.teaching.leak import is_answer_supported
from score_jax.teaching.literals import has_statements
from score_jax.teaching.mentoring import RolloutStart
from score_jax.train.batch import Example, make_example
from score_jax.train.step import Scorer
from score_jax.trajectory import Question, Step, Trajectory, count_generated_tokens

TagNames = Mapping[int, str]  # token id -> tag of the protocol
RolloutGroup = tuple[Question, Sequence[Trajectory]]


def generated_steps(trajectory: Trajectory) -> tuple[Step, ...]:
  """The steps that the policy generated: those after the prefix."""
  return trajectory.steps[trajectory.prefix_steps :]


def measure_rollouts(groups: Sequence[RolloutGroup], tags: TagNames, *, turn_tokens: int) -> dict[str, float]:
  """All metrics of one RL step's rollouts. A metric without data is left out.

  Args:
    groups: the rollouts of each start, without those that a host or a grader failed.
    tags: token id -> tag.
    turn_tokens: the token limit of one turn.
  """
  rollouts = [t for _, group in groups for t in group]
  if not rollouts:
    return {}
  return {
    **measure_lengths(rollouts),
    "cut_off": _share(rollouts, lambda t: is_truncated(t, turn_tokens)),
    "bad_format": _share(rollouts, lambda t: t.status == "bad_format"),
    **_mean_metric(
      "code_free", [float(not has_statements(s.code)) for t in rollouts for s in generated_steps(t) if s.kind == "act"]
    ),
    **measure_entropies(rollouts, tags),
    **_mean_metric(
      "distinct_first_steps", [d for _, group in groups if (d := measure_first_step_diversity(group)) is not None]
    ),
    **_mean_metric(
      "unsupported_right",
      [float(not s) for q, g in groups for t in g if (s := is_right_answer_supported(q, t)) is not None],
    ),
  }


def measure_lengths(rollouts: Iterable[Trajectory]) -> dict[str, float]:
  """Mean generated tokens of right and of wrong rollouts, and the ratio wrong / right."""
  by: dict[bool, list[float]] = {True: [], False: []}
  for one in rollouts:
    by[one.right].append(count_generated_tokens(generated_steps(one)))
  found = _mean_metric("length_right", by[True]) | _mean_metric("length_wrong", by[False])
  if len(found) == 2 and found["length_right"] > 0:
    found["length_ratio"] = found["length_wrong"] / found["length_right"]
  return found


def is_truncated(trajectory: Trajectory, turn_tokens: int) -> bool:
  """Whether a limit ended the rollout: of acts, of the context, or of the tokens of its last turn."""
  if trajectory.status == "bad_format":
    return len(trajectory.steps[-1].tokens) >= turn_tokens
  return trajectory.status in ("step_limit", "context_full")


def measure_entropies(rollouts: Iterable[Trajectory], tags: TagNames) -> dict[str, float]:
  """Mean -log p of the sampled tokens within thoughts and within code, in nats per token, without the tags.

  This estimates the entropy of the sampling distribution without a forward pass.
  """
  found: dict[str, list[float]] = {"thought": [], "code": []}
  for one in rollouts:
    for part, logprob in (pair for step in generated_steps(one) for pair in _sections(step, tags)):
      found[part].append(-logprob)
  return _mean_metric("entropy_thought", found["thought"]) | _mean_metric("entropy_code", found["code"])


def _sections(step: Step, tags: TagNames) -> Iterator[tuple[str, float]]:
  """("thought" or "code", log-probability) of each sampled token between an opening tag and its closing tag."""
  part = ""
  for token, logprob in zip(step.tokens, step.logprobs, strict=False):  # a step that was not sampled has no logprobs
    if token in tags:
      part = {"<first_thought>": "thought", "<thought>": "thought", "<code>": "code"}.get(tags[token], "")
    elif part:
      yield part, logprob


def measure_first_step_diversity(group: Sequence[Trajectory]) -> float | None:
  """Diversity of a group's first steps: 0 if all are the same, 1 if all differ; None: fewer than two first steps."""
  first = [steps[0] for t in group if (steps := generated_steps(t))]
  if len(first) < 2:
    return None
  return (len({(s.thought, s.code) for s in first}) - 1) / (len(first) - 1)


def is_right_answer_supported(question: Question, trajectory: Trajectory) -> bool | None:
  """Whether a right answer is supported (leak.py); None: the answer is wrong, or support cannot be decided."""
  return is_answer_supported(question, trajectory.steps) if trajectory.right else None


def probe_pass_rate(groups: Sequence[Sequence[Trajectory]]) -> dict[str, float]:
  """pass@G over the probe questions, and the share of right tries.

  Tries that a host or the grader failed are left out. A question with fewer than G judged tries is left out of pass@G.
  """
  whole = [group for group in groups if all(t.judged for t in group)]
  tried = [float(t.right) for group in groups for t in group if t.judged]
  return _mean_metric("probe_pass", [float(any(t.right for t in g)) for g in whole]) | _mean_metric("probe_mean", tried)


def estimate_kl(samples: Sequence[Example], reference: Sequence[np.ndarray]) -> float | None:
  """KL from the reference (k3): mean over learnt tokens of r - 1 - log r, with r = p(reference) / p(sampled).

  Args:
    reference: log-probabilities of each sample's tokens under the reference weights, [n].
  """
  away = _change(samples, reference)
  return float(np.mean(np.exp(away) - 1.0 - away)) if len(away) else None


def measure_logprob_change(samples: Sequence[Example], now: Sequence[np.ndarray]) -> float | None:
  """Mean over learnt tokens of log p now - log p when sampled, in nats."""
  found = _change(samples, now)
  return float(np.mean(found)) if len(found) else None


def _change(samples: Sequence[Example], other: Sequence[np.ndarray]) -> np.ndarray:
  """log p other - log p drawn of all learnt tokens, float64."""
  pairs = zip(samples, other, strict=True)
  return np.concatenate(
    [np.zeros(0), *((x - s.sampling_logprobs)[s.loss_mask > 0].astype(np.float64) for s, x in pairs)]
  )


def _share(rollouts: Sequence[Trajectory], holds: Callable[[Trajectory], bool]) -> float:
  """Share of the rollouts for which `holds` is true."""
  return sum(map(holds, rollouts)) / len(rollouts)


def _mean_metric(name: str, values: Sequence[float]) -> dict[str, float]:
  """{name: mean of the values}; empty without values."""
  return {name: float(np.mean(values))} if values else {}


class RLMonitor:
  """Measures an RL stage and raises its alarms.

  Args:
    rl: the settings of the stage.
    alarms: the settings of the group `alarms`.
    agent: the student with RL's sampling parameters.
    scorers: score the student's tokens, at RL's temperature and at the temperature of the student's exploration.
    begin: returns the trainable part of the weights that the stage began with.
    earlier: the metrics of the steps before a restart.
    probe: questions of which the first `alarms.probe` are tried.
    acts: budget of acts of each of these tries.
    log: gets a line for each alarm that goes off.

  Raises:
    UserError: the settings are invalid, or an alarm of `alarms.stop` fired before the restart.
  """

  def __init__(
    self,
    stage: str,
    rl: ConfigDict,
    alarms: Mapping[str, Any],
    *,
    agent: Agent,
    scorers: tuple[Scorer, Scorer],
    begin: Callable[[], Weights],
    earlier: Sequence[Mapping[str, float]],
    probe: Sequence[Question],
    acts: int,
    log: Callable[[str], None],
  ):
    self.settings: dict[str, Any] = dict(alarms)
    check_alarm_config(self.settings)
    if rl.distill:
      self.settings["no_signal"] = 0.0  # off in this copy only: distillation learns from any group
    self.stage, self.rl, self.agent, self.begin, self.log = stage, rl, agent, begin, log
    self.probe, self.acts = probe[: self.settings["probe"]], acts
    self.lines = list(earlier)
    self.fired = {alarm.rule.name: alarm for alarm in find_fired_alarms(self.lines, self.settings)}
    self.scorer, self.past_scorer = scorers
    self.raise_if_fatal()

  def update(
    self,
    number: int,
    numbers: Mapping[str, float],
    groups: Sequence[tuple[RolloutStart, Sequence[ScoredRollout]]],
    weights: Weights,
    *,
    closely: bool,
  ) -> dict[str, float]:
    """The metrics of step `number`, and `alarm/NAME` (1 or 0) of each rule that can be evaluated by now.

    Args:
      numbers: the other metrics of the step.
      groups: each start of the step with its rollouts, without those that a host or a grader failed.
      weights: all weights, after the step.
      closely: whether the metrics that need a model are measured too.
    """
    rollouts = [(start.question, [s.trajectory for s in group]) for start, group in groups]
    tags, turn_tokens = self.agent.protocol.tag_by_id, self.agent.turn_tokens
    found = measure_rollouts(rollouts, tags, turn_tokens=turn_tokens) | measure_worst_update(numbers)
    if closely:
      found |= self._probe(weights) | self._drift(groups) | self._staleness([start for start, _ in groups], weights)
    self.lines.append({**numbers, **found})
    alarms = evaluate_rules(self.lines, number, self.settings)
    for name, alarm in alarms.items():
      if alarm is not None and name not in self.fired:
        self.fired[name] = alarm
        self.log(f"{self.stage}: {alarm}")
    return found | {f"alarm/{name}": float(alarm is not None) for name, alarm in alarms.items()}

  @property
  def fatal(self) -> Alarm | None:
    """The first alarm of `alarms.stop` that has fired; None: none has."""
    return next((self.fired[name] for name in self.settings["stop"] if name in self.fired), None)

  def raise_if_fatal(self) -> None:
    """Ends the run if an alarm of `alarms.stop` has fired."""
    if alarm := self.fatal:
      raise UserError(
        f"{self.stage}: {alarm}. Everything up to here is kept; to go on nevertheless take {alarm.rule.name} out of "
        "alarms.stop"
      )

  def _probe(self, weights: Weights) -> dict[str, float]:
    """Pass rates on the first validation questions, with RL's group size and sampling."""
    size = self.rl.group_size
    requests = [RolloutRequest(f"probe/{q.id}", q, empty_trajectory(q), self.acts, size) for q in self.probe]
    return probe_pass_rate(self.agent.rollout(weights, requests)) if requests else {}

  def _drift(self, groups: Sequence[tuple[RolloutStart, Sequence[ScoredRollout]]]) -> dict[str, float]:
    """KL of the policy that sampled this step's rollouts from the weights that the stage began with.

    `kl_reference`, which is logged if rl.kl is on, is measured with the weights during the updates instead.
    """
    if not self.settings["kl"]:
      return {}
    samples = _with_loss(one.to_example() for _, group in groups for one in group)
    found = estimate_kl(samples, self.scorer(self.begin(), samples)) if samples else None
    return {} if found is None else {"kl_from_start": found}

  def _staleness(self, starts: Sequence[RolloutStart], weights: Weights) -> dict[str, float]:
    """Mean change of the log-probability of the student's own prefix tokens, now minus when sampled.

    The stored values come from the sampling distribution, so the tokens are scored at its temperature.
    If student.top_k, top_p or repetition_penalty truncated that distribution, the stored values are too high.
    This part of the difference is not caused by training (with top_p alone at most -log top_p per token).
    """
    if not self.settings["stale_prefix"]:
      return {}
    prefixes = {id(start.prefix): start.prefix for start in starts}.values()
    samples = _with_loss(make_example(t, carries_loss=_is_sampled_by_student) for t in prefixes)
    found = (
      measure_logprob_change(samples, self.past_scorer(lora.split_trainable(weights)[0], samples)) if samples else None
    )
    return {} if found is None else {"prefix_logprob_change": found}


def _with_loss(samples: Iterable[Example]) -> list[Example]:
  """The samples with tokens to score. Each fits one row: no context of RL is longer than rl.length."""
  return [one for one in samples if one.loss_mask.any()]


def _is_sampled_by_student(_: int, step: Step) -> bool:
  """Whether the student wrote the step and all its tokens have logprobs."""
  return step.author == "student" and len(step.logprobs) == len(step.tokens) > 0
