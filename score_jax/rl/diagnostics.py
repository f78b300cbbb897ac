"""What the rollouts of a step show of the policy that drew them: pure functions over trajectories.

MERGED Watches a stage of policy gradient: measures, tells of what goes off, and ends the run where the config wants that.

Nothing here changes what is trained, and like the validation questions its measurements are in no ledger. What takes a
model is done in the first step and when a checkpoint is kept: the probe is rolled out, and two passes score tokens.
They take no more of a device than an update does, in which a gradient is where the first weights are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
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

TagNames = Mapping[int, str]  # the protocol's tags by their ids
RolloutGroup = tuple[Question, Sequence[Trajectory]]


def generated_steps(trajectory: Trajectory) -> tuple[Step, ...]:
  """The steps that a rollout drew itself."""
  return trajectory.steps[trajectory.prefix_steps :]


def measure_rollouts(groups: Sequence[RolloutGroup], tags: TagNames, *, turn_tokens: int) -> dict[str, float]:
  """All that can be told of a step's rollouts; what nothing was found for is missing.

  Args:
    groups: rollouts from one start each, without those that something else than the policy failed.
    turn_tokens: the limit of one turn.
  """
  rollouts = [t for _, group in groups for t in group]
  if not rollouts:
    return {}
  return {
    **measure_lengths(rollouts),
    "cut_off": _share(rollouts, lambda t: is_truncated(t, turn_tokens)),
    "bad_format": _share(rollouts, lambda t: t.status == "bad_format"),
    **_told(
      "code_free", [float(not has_statements(s.code)) for t in rollouts for s in generated_steps(t) if s.kind == "act"]
    ),
    **measure_entropies(rollouts, tags),
    **_told(
      "distinct_first_steps", [d for _, group in groups if (d := measure_first_step_diversity(group)) is not None]
    ),
    **_told(
      "unsupported_right",
      [float(not s) for q, g in groups for t in g if (s := is_right_answer_supported(q, t)) is not None],
    ),
  }


def measure_lengths(rollouts: Iterable[Trajectory]) -> dict[str, float]:
  """Mean drawn tokens of right and of wrong rollouts, and wrong / right."""
  by: dict[bool, list[float]] = {True: [], False: []}
  for one in rollouts:
    by[one.right].append(count_generated_tokens(generated_steps(one)))
  found = _told("length_right", by[True]) | _told("length_wrong", by[False])
  if len(found) == 2 and found["length_right"] > 0:
    found["length_ratio"] = found["length_wrong"] / found["length_right"]
  return found


def is_truncated(trajectory: Trajectory, turn_tokens: int) -> bool:
  """Whether a limit ended it: of acts, of the context, or of the tokens of its last turn."""
  if trajectory.status == "bad_format":
    return len(trajectory.steps[-1].tokens) >= turn_tokens
  return trajectory.status in ("step_limit", "context_full")


def measure_entropies(rollouts: Iterable[Trajectory], tags: TagNames) -> dict[str, float]:
  """Mean -log p of what was drawn within thoughts and within code, nats a token, the tags left out.

  That estimates the entropy of the distribution that they were drawn from, which is RL's, without a pass of a model.
  """
  found: dict[str, list[float]] = {"thought": [], "code": []}
  for one in rollouts:
    for part, logprob in (pair for step in generated_steps(one) for pair in _sections(step, tags)):
      found[part].append(-logprob)
  return _told("entropy_thought", found["thought"]) | _told("entropy_code", found["code"])


def _sections(step: Step, tags: TagNames) -> Iterator[tuple[str, float]]:
  """(thought or code, log-probability) of each drawn token between a tag and the one that closes it."""
  part = ""
  for token, logprob in zip(step.tokens, step.logprobs, strict=False):  # steps that were not drawn have no logprobs
    if token in tags:
      part = {"<first_thought>": "thought", "<thought>": "thought", "<code>": "code"}.get(tags[token], "")
    elif part:
      yield part, logprob


def measure_first_step_diversity(group: Sequence[Trajectory]) -> float | None:
  """How many first steps of a group differ: 0 where all are the same, 1 where no two are; None: there are not two."""
  first = [steps[0] for t in group if (steps := generated_steps(t))]
  if len(first) < 2:
    return None
  return (len({(s.thought, s.code) for s in first}) - 1) / (len(first) - 1)


def is_right_answer_supported(question: Question, trajectory: Trajectory) -> bool | None:
  """Whether something supports a right answer; None: it is not right, or says too little to be told."""
  return is_answer_supported(question, trajectory.steps) if trajectory.right else None


def probe_pass_rate(groups: Sequence[Sequence[Trajectory]]) -> dict[str, float]:
  """Of the probe's questions, the share that is right in any of the tries (pass@G), and that of right tries.

  Tries that a host or the grader failed are left out, and so is a question from pass@G that has fewer than G then.
  """
  whole = [group for group in groups if all(t.judged for t in group)]
  tried = [float(t.right) for group in groups for t in group if t.judged]
  return _told("probe_pass", [float(any(t.right for t in g)) for g in whole]) | _told("probe_mean", tried)


def estimate_kl(samples: Sequence[Example], reference: Sequence[np.ndarray]) -> float | None:
  """Mean over learnt tokens of r - 1 - log r, r = p reference / p drawn: the divergence from the reference (k3).

  Args:
    reference: log-probabilities of each sample's tokens by it, [n].
  """
  away = _change(samples, reference)
  return float(np.mean(np.exp(away) - 1.0 - away)) if len(away) else None


def measure_logprob_change(samples: Sequence[Example], now: Sequence[np.ndarray]) -> float | None:
  """Mean over learnt tokens of log p now - log p when drawn, nats."""
  found = _change(samples, now)
  return float(np.mean(found)) if len(found) else None


def _change(samples: Sequence[Example], other: Sequence[np.ndarray]) -> np.ndarray:
  """log p other - log p drawn of all learnt tokens, float64."""
  pairs = zip(samples, other, strict=True)
  return np.concatenate(
    [np.zeros(0), *((x - s.sampling_logprobs)[s.loss_mask > 0].astype(np.float64) for s, x in pairs)]
  )


def _share(rollouts: Sequence[Trajectory], holds: Callable[[Trajectory], bool]) -> float:
  return sum(map(holds, rollouts)) / len(rollouts)


def _told(name: str, values: Sequence[float]) -> dict[str, float]:
  """The mean under that name, where there is one."""
  return {name: float(np.mean(values))} if values else {}


class RLMonitor:
  """The alarms of one stage.

  Args:
    rl: the settings of the stage.
    agent: the student as RL samples it.
    scorers: of the student's tokens, at RL's temperature and at that at which the student explores.
    begin: gives the trained ones of the weights that the stage began with.
    earlier: the metrics of the steps that are done already.

  Raises:
    UserError: the settings ask for what there is not, or one of `alarms.stop` has gone off before.
  """

  def __init__(
    self,
    run: Experiment,
    stage: str,
    rl: ConfigDict,
    *,
    agent: Agent,
    scorers: tuple[Scorer, Scorer],
    begin: Callable[[], Weights],
    earlier: Sequence[Mapping[str, float]],
  ):
    self.settings: dict[str, Any] = run.config.alarms.to_dict()
    check_alarm_config(self.settings)
    if rl.distill:
      self.settings["no_signal"] = 0.0  # there is something to learn in any group
    self.run, self.stage, self.rl, self.agent, self.begin = run, stage, rl, agent, begin
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
    """What step `number` shows, and `alarm/NAME`, 1 or 0, of each sign that can be told by now.

    Args:
      numbers: the other metrics of the step.
      groups: each start of the step with its rollouts, without those that something else than the policy failed.
      weights: all of them, after the step.
      closely: whether what takes a model is measured too.
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
        self.run.log(f"{self.stage}: {alarm}")
    return found | {f"alarm/{name}": float(alarm is not None) for name, alarm in alarms.items()}

  @property
  def fatal(self) -> Alarm | None:
    """An alarm that has gone off and that is to end the run."""
    return next((self.fired[name] for name in self.settings["stop"] if name in self.fired), None)

  def raise_if_fatal(self) -> None:
    """
    Raises:
      UserError: an alarm that is to end the run has gone off.
    """
    if alarm := self.fatal:
      raise UserError(
        f"{self.stage}: {alarm}. Everything up to here is kept; to go on nevertheless take {alarm.rule.name} out of "
        "alarms.stop"
      )

  def _probe(self, weights: Weights) -> dict[str, float]:
    """The first validation questions, tried as RL tries."""
    questions = self.run.tasks.validation[: self.settings["probe"]]
    acts, size = self.run.config.agent.acts, self.rl.group_size
    requests = [RolloutRequest(f"probe/{q.id}", q, empty_trajectory(q), acts, size) for q in questions]
    return probe_pass_rate(self.agent.rollout(weights, requests)) if requests else {}

  def _drift(self, groups: Sequence[tuple[RolloutStart, Sequence[ScoredRollout]]]) -> dict[str, float]:
    """How far the policy that drew the step's rollouts is from the weights that the stage began with.

    `kl_reference`, which stands in the metrics where rl.kl is on, is of the weights in the midst of the step.
    """
    if not self.settings["kl"]:
      return {}
    samples = _scored(one.to_example() for _, group in groups for one in group)
    found = estimate_kl(samples, self.scorer(self.begin(), samples)) if samples else None
    return {} if found is None else {"kl_from_start": found}

  def _staleness(self, starts: Sequence[RolloutStart], weights: Weights) -> dict[str, float]:
    """Log-probability of the student's own tokens in the step's prefixes, now minus when they were drawn, their mean.

    They carry that of the distribution that they were drawn from, so it is scored at the temperature of that. Where
    student.top_k, top_p or repetition_penalty cut it, what they carry is greater by what that left out of it: a
    difference that no training explains (of top_p alone at most -log top_p a token).
    """
    if not self.settings["stale_prefix"]:
      return {}
    prefixes = {id(start.prefix): start.prefix for start in starts}.values()
    samples = _scored(make_example(t, carries_loss=_drawn) for t in prefixes)
    found = (
      measure_logprob_change(samples, self.past_scorer(lora.split_trainable(weights)[0], samples)) if samples else None
    )
    return {} if found is None else {"prefix_logprob_change": found}


def _scored(samples: Iterable[Example]) -> list[Example]:
  """Those with something to score. All fit a row: no context of RL is longer than rl.length."""
  return [one for one in samples if one.loss_mask.any()]


def _drawn(_: int, step: Step) -> bool:
  return step.author == "student" and len(step.logprobs) == len(step.tokens) > 0
