"""Watches a stage of policy gradient: measures, tells of what goes off, and ends the run where the config wants that.

Nothing here changes what is trained, and like the validation questions its measurements are in no ledger. What takes a
model is done in the first step and when a checkpoint is kept: the probe is rolled out, and two passes score tokens.
They take no more of a device than an update does, in which a gradient is where the first weights are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from score_jax.agent.rollout import Agent, Request, at_question
from score_jax.alarms.measures import change, divergence, measured, probed
from score_jax.alarms.signs import Alarm, check, derived, gone_off, seen
from score_jax.errors import UserError
from score_jax.mentor.groups import Scored
from score_jax.mentor.starts import Start
from score_jax.model import adapters
from score_jax.model.decoder import Weights
from score_jax.run import Run
from score_jax.train.batch import Sample, sample
from score_jax.train.scores import Scorer
from score_jax.trajectory import Step


class Watch:
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
    run: Run,
    stage: str,
    rl: ConfigDict,
    *,
    agent: Agent,
    scorers: tuple[Scorer, Scorer],
    begin: Callable[[], Weights],
    earlier: Sequence[Mapping[str, float]],
  ):
    self.settings: dict[str, Any] = run.config.alarms.to_dict()
    check(self.settings)
    if rl.distill:
      self.settings["no_signal"] = 0.0  # there is something to learn in any group
    self.run, self.stage, self.rl, self.agent, self.begin = run, stage, rl, agent, begin
    self.lines = list(earlier)
    self.told = {alarm.sign.name: alarm for alarm in gone_off(self.lines, self.settings)}
    self.scorer, self.past_scorer = scorers
    self.heed()

  def look(
    self,
    number: int,
    numbers: Mapping[str, float],
    groups: Sequence[tuple[Start, Sequence[Scored]]],
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
    tags, turn_tokens = self.agent.protocol.tags, self.agent.turn_tokens
    found = measured(rollouts, tags, turn_tokens=turn_tokens) | derived(numbers)
    if closely:
      found |= self._probe(weights) | self._drift(groups) | self._staleness([start for start, _ in groups], weights)
    self.lines.append({**numbers, **found})
    alarms = seen(self.lines, number, self.settings)
    for name, alarm in alarms.items():
      if alarm is not None and name not in self.told:
        self.told[name] = alarm
        self.run.say(f"{self.stage}: {alarm}")
    return found | {f"alarm/{name}": float(alarm is not None) for name, alarm in alarms.items()}

  @property
  def fatal(self) -> Alarm | None:
    """An alarm that has gone off and that is to end the run."""
    return next((self.told[name] for name in self.settings["stop"] if name in self.told), None)

  def heed(self) -> None:
    """
    Raises:
      UserError: an alarm that is to end the run has gone off.
    """
    if alarm := self.fatal:
      raise UserError(
        f"{self.stage}: {alarm}. Everything up to here is kept; to go on nevertheless take {alarm.sign.name} out of "
        "alarms.stop"
      )

  def _probe(self, weights: Weights) -> dict[str, float]:
    """The first validation questions, tried as RL tries."""
    questions = self.run.tasks.validation[: self.settings["probe"]]
    acts, size = self.run.config.agent.acts, self.rl.group_size
    requests = [Request(f"probe/{q.id}", q, at_question(q), acts, size) for q in questions]
    return probed(self.agent.rollout(weights, requests)) if requests else {}

  def _drift(self, groups: Sequence[tuple[Start, Sequence[Scored]]]) -> dict[str, float]:
    """How far the policy that drew the step's rollouts is from the weights that the stage began with.

    `kl_reference`, which stands in the metrics where rl.kl is on, is of the weights in the midst of the step.
    """
    if not self.settings["kl"]:
      return {}
    samples = _scored(one.sample() for _, group in groups for one in group)
    found = divergence(samples, self.scorer(self.begin(), samples)) if samples else None
    return {} if found is None else {"kl_from_start": found}

  def _staleness(self, starts: Sequence[Start], weights: Weights) -> dict[str, float]:
    """Log-probability of the student's own tokens in the step's prefixes, now minus when they were drawn, their mean.

    They carry that of the distribution that they were drawn from, so it is scored at the temperature of that. Where
    student.top_k, top_p or repetition_penalty cut it, what they carry is greater by what that left out of it: a
    difference that no training explains (of top_p alone at most -log top_p a token).
    """
    if not self.settings["stale_prefix"]:
      return {}
    prefixes = {id(start.trajectory): start.trajectory for start in starts}.values()
    samples = _scored(sample(t, carries_loss=_drawn) for t in prefixes)
    found = change(samples, self.past_scorer(adapters.parts(weights)[0], samples)) if samples else None
    return {} if found is None else {"prefix_logprob_change": found}


def _scored(samples: Iterable[Sample]) -> list[Sample]:
  """Those with something to score. All fit a row: no context of RL is longer than rl.length."""
  return [one for one in samples if one.learnt.any()]


def _drawn(_: int, step: Step) -> bool:
  return step.author == "student" and len(step.logprobs) == len(step.tokens) > 0
