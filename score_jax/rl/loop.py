"""Short-horizon policy gradient: groups of rollouts from verified prefixes, rewarded by tier (paper, RL).

What happens in one step: `prompts` starts are taken in a seeded order, each rolled
out `group_size` times by the current weights; rewards become advantages within
each group; what other weights say of the rollouts is asked where the config wants
it; then one update for each minibatch of `minibatch` starts. A rollout that its
host or its grader failed leaves the group. Groups without signal have advantage 0:
they cost no training, unless something else is learnt from them, but count in the mean.
A rollout that reaches rl.length ends there, so that none is too long for a row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_jax.agent.rollout import RolloutRequest
from score_jax.errors import UserError
from score_jax.evaluate import measure_validation_accuracy
from score_jax.experiment.experiment import Experiment, make_forward_config
from score_jax.experiment.results import load_stage_weights, make_stage_config
from score_jax.experiment.stages import STAGES
from score_jax.experiment.teachers import open_distillation_teacher, open_step_judge
from score_jax.model import lora
from score_jax.model.decoder import Decoder, Weights
from score_jax.rl.diagnostics import RLMonitor
from score_jax.rl.reward import ScoredRollout, StepComparisons, TierRewards, measure_groups, score_groups
from score_jax.runtime import profiler
from score_jax.runtime.metrics import Progress
from score_jax.teaching.mentoring import RolloutStart
from score_jax.train.batch import Batch, Example, make_update, pack_examples
from score_jax.train.checkpoints import Checkpoints
from score_jax.train.optimizer import make_optimizer, make_schedule
from score_jax.train.policy_gradient import (
  PolicyGradientConfig,
  add_distillation,
  make_loss_weight_fn,
  summarize_updates,
)
from score_jax.train.sft import TrainResult, check_finite, training_cost
from score_jax.train.step import (
  Scorer,
  Trainer,
  TrainState,
  make_policy_gradient_loss,
  offload_to_host,
  restore_to_devices,
  scoring_cost,
)
from score_jax.trajectory import Ledger, Trajectory, sum_ledgers


def order_starts(count: int, *, prompts: int, steps: int, seed: int) -> Iterator[list[int]]:
  """Which starts each step takes: every one once in each pass, in an order that the seed alone decides."""
  passes = -(-prompts * steps // count)
  sequence = np.concatenate([np.random.default_rng((seed, p)).permutation(count) for p in range(passes)])
  return (sequence[i * prompts : (i + 1) * prompts].tolist() for i in range(steps))


def train_policy_gradient(
  run: Experiment, stage: str, starts: Sequence[RolloutStart], begin: str, *, token_budget: int | None
) -> TrainResult:
  """Trains from the weights of stage `begin`, or goes on from its own newest checkpoint, where the new ones will be.

  Args:
    token_budget: stops after the step in which the student has generated this many tokens; None: after all steps.
  """
  return _Reinforce(run, stage, starts, begin, token_budget).train()


def make_trainer(config: ConfigDict, graph: nnx.GraphDef[Decoder], mesh: Mesh, frozen: Weights) -> Trainer:
  """The train step of the policy gradient that a config asks for."""
  c = config.rl
  rate = make_schedule(peak=c.learning_rate, steps=1, warmup=0.0, kind="constant")
  rule = make_optimizer("adamw", rate, weight_decay=c.weight_decay, max_norm=config.train.max_norm)
  loss = make_policy_gradient_loss(PolicyGradientConfig.from_config(c))
  return Trainer(graph, rule, loss, mesh, make_forward_config(config, c.temperature), frozen)


def make_scorer(
  config: ConfigDict, role: str, graph: nnx.GraphDef[Decoder], mesh: Mesh, frozen: Weights, *, temperature: float
) -> Scorer:
  """What says how likely weights of the student or the teacher find the student's tokens."""
  c = config.rl
  how = dataclasses.replace(make_forward_config(config, temperature), dtype=config[role].dtype)
  return Scorer(graph, mesh, how, length=c.length, micro=c.micro_rows, frozen=frozen)


def require_signal(config: ConfigDict, stage: str) -> str:
  """What to say of a stage in which rewards teach nothing and the pull to its first weights alone is left; else "".

  Raises:
    UserError: its settings leave nothing to learn from.
  """
  rl = make_stage_config(config, stage).rl
  knobs = PolicyGradientConfig.from_config(rl)
  pays = (rl.final, rl.key, rl.avoid) if STAGES[stage].rl_starts == "prefixes" else (rl.final,)
  why = ""
  if rl.group_size < 2:
    why = f"rl.group_size = {rl.group_size}: a rollout alone has advantage 0; give 2 or more"
  elif not any(pays):
    why = "rl.final, rl.key and rl.avoid = 0: no reward that this stage can earn differs from another; pay one of them"
  if not why or knobs.distill:
    return ""
  if not knobs.kl:
    raise UserError(f"{stage} would learn nothing. {why}, or set rl.distill over 0")
  return f"{stage}: {why}. As it is, rl.kl only holds the weights where they are"


class _Reinforce:
  """One stage of policy gradient."""

  def __init__(self, run: Experiment, stage: str, starts: Sequence[RolloutStart], begin: str, token_budget: int | None):
    self.run, self.stage, self.starts, self.begin, self.token_budget = run, stage, starts, begin, token_budget
    settings = make_stage_config(run.config, stage)
    self.config = c = settings.rl
    self.agent = run.make_rl_agent(c.temperature)
    self.tiers, self.knobs = TierRewards(c.final, c.key, c.avoid, c.reward), PolicyGradientConfig.from_config(c)
    self.judge = open_step_judge(run) if c.judge else None
    self.updates = -(-c.prompts // c.minibatch)  # of one step
    frozen = lora.split_trainable(run.student.weights)[1]
    self.trainer = make_trainer(settings, run.student.graph, run.meshes.train, frozen)
    self.student_scorer = functools.partial(
      make_scorer, settings, "student", run.student.graph, run.meshes.train, frozen
    )
    self.scorer = self.student_scorer(temperature=c.temperature)
    self.reference = offload_to_host(self._first_weights()) if self.knobs.kl else None
    self.teacher = open_distillation_teacher(run) if self.knobs.distill else None
    if self.teacher:
      graph, mesh = self.teacher.graph, run.meshes.teacher
      self.teacher_scorer = make_scorer(settings, "teacher", graph, mesh, lora.NO_PARAMS, temperature=c.temperature)

  def train(self) -> TrainResult:
    run, c = self.run, self.config
    metrics = run.open_metrics(self.stage)
    checkpoints = Checkpoints(
      run.workdir.checkpoint_folder(self.stage),
      keep=run.config.train.keep_checkpoints,
      minutes=run.config.train.checkpoint_minutes,
      before=metrics.flush,
    )
    state = checkpoints.restore_newest(self.trainer.abstract_state(run.student.config)) or self.trainer.init_state(
      self._first_weights()
    )
    done = int(state.step) // self.updates
    ledger = sum_ledgers(t.ledger for t in run.workdir.read_parts(self.stage, below=done))
    steps = c.steps if self.token_budget is None else MAX_BUDGETED_STEPS
    taken = order_starts(len(self.starts), prompts=c.prompts, steps=steps, seed=run.config.seed)
    with contextlib.closing(metrics), checkpoints, Progress(self.stage, c.steps, "steps") as progress:
      progress(done)
      watch = self._watch(metrics.lines_before(done))
      for number, indices in enumerate(taken):
        if self._spent(ledger):
          break
        if number < done:
          continue
        start = time.perf_counter()
        self.agent.meter.pop_metrics()
        with checkpoints.save_on_interrupt(state):
          begin = [self.starts[i] for i in indices]
          scored, groups = self._roll_out(number, state, begin)
        seconds = time.perf_counter() - start
        sampling = self.agent.meter.pop_metrics()
        run.workdir.write_part(self.stage, number, (t for group in groups for t in group))
        ledger = ledger + sum_ledgers(t.ledger for group in groups for t in group)
        gap = self._gap(number, state, scored)
        state, found = self._update(number, state, scored, gap)
        found |= measure_groups(groups, scored) | self.comparisons.metrics() | {"learning_rate": c.learning_rate}
        found["tokens_per_s"] = found["generated_tokens"] / seconds
        found |= sampling
        last = number + 1 == steps or self._spent(ledger)
        keep = (number + 1) % c.checkpoint_every == 0 or last
        if keep:
          found |= measure_validation_accuracy(run, self.trainer.full_weights(state))
        pairs = list(zip(begin, scored, strict=True))
        found |= watch.update(number, found, pairs, self.trainer.full_weights(state), closely=keep or number == 0)
        metrics.write(number, found)
        if checkpoints.maybe_save(state, keep=keep or watch.fatal is not None, accuracy=found.get("val_accuracy")):
          run.journal.prune_checkpointed()
        watch.raise_if_fatal()
        speed, occupied = sampling["sampler/decode_tokens_per_s"], sampling["sampler/occupancy"]
        progress(
          1, f"reward {found.get('reward_mean', float('nan')):.3f}, decoding {speed:.0f} tokens/s, slots {occupied:.0%}"
        )
    return TrainResult(self.trainer.full_weights(state), int(state.step), ledger + self._cost())

  def _watch(self, earlier: Sequence[Mapping[str, float]]) -> RLMonitor:
    run, c = self.run, self.config
    scorers = self.scorer, self.student_scorer(temperature=run.config.student.temperature)
    return RLMonitor(run, self.stage, c, agent=self.agent, scorers=scorers, begin=self._first_weights, earlier=earlier)

  def _first_weights(self) -> Weights:
    return lora.split_trainable(load_stage_weights(self.run, self.begin))[0]

  def _spent(self, ledger: Ledger) -> bool:
    return self.token_budget is not None and ledger.of("student").generated >= self.token_budget

  def _roll_out(
    self, number: int, state: TrainState, starts: Sequence[RolloutStart]
  ) -> tuple[list[list[ScoredRollout]], list[list[Trajectory]]]:
    size = self.config.group_size
    requests = [
      RolloutRequest(f"{self.stage}/{number}/{i}/{s.question.id}", s.question, s.prefix, s.horizon, size)
      for i, s in enumerate(starts)
    ]
    self.comparisons = StepComparisons(self.agent.grader, self.judge)
    drawn = self.agent.rollout(self.trainer.full_weights(state), requests)
    groups = self.comparisons.judge_undecided(starts, drawn, self.tiers.rule)
    return score_groups(starts, groups, self.tiers, self.comparisons.comparator_for, scale=self.knobs.scale), groups

  def _gap(self, number: int, state: TrainState, groups: Sequence[Sequence[ScoredRollout]]) -> float | None:
    """Greatest difference of what trainer and sampler give a drawn token, in nats, by the weights that drew it.

    Over a rollout of each group, whether it has a signal or not; None where no token was drawn. Each step takes others:
    the first of a group was prefilled, the rest are copies of its slot.
    """
    drawn = [[s for s in group if s.tokens] for group in groups]
    chosen = [group[(number + i) % len(group)].to_example() for i, group in enumerate(drawn) if group]
    differences = (
      s.sampling_logprobs - logp for s, logp in zip(chosen, self.scorer(state.weights, chosen), strict=True)
    )
    return max((float(np.abs(d).max()) for d in differences), default=None)

  def _update(
    self, number: int, state: TrainState, groups: Sequence[Sequence[ScoredRollout]], gap: float | None
  ) -> tuple[TrainState, dict[str, float]]:
    """One update a minibatch."""
    lessons = self._lessons(state, groups)
    parts: list[tuple[bool, dict[str, float]]] = []
    for i in range(self.updates):
      part = slice(i * self.config.minibatch, (i + 1) * self.config.minibatch)
      samples = [one for group in lessons[part] for one in group]
      batch = self.batch([s for group in groups[part] for s in group], samples)
      with profiler.profile_step("updates"):
        state, found = self.trainer(state, batch)
        values = check_finite(jax.device_get(found), self.stage, number, batch, self.run.workdir)
      parts.append((bool(samples), values))
    learnt = [one for group in lessons for one in group]
    counts = {"learnt_rollouts": len(learnt), "learnt_tokens": sum(int(one.loss_mask.sum()) for one in learnt)}
    return state, summarize_updates(parts, gap) | counts

  def _lessons(self, state: TrainState, groups: Sequence[Sequence[ScoredRollout]]) -> list[list[Example]]:
    """The rollouts of each group that are learnt from, with what other weights say of them."""
    chosen = [[s.to_example() for s in group if self.knobs.trains_on_all or s.advantage != 0.0] for group in groups]
    told = iter(self._told(state, [one for group in chosen for one in group]))
    return [[next(told) for _ in group] for group in chosen]

  def _told(self, state: TrainState, samples: list[Example]) -> list[Example]:
    """Samples with the log-probabilities that the knobs ask for: of the weights as they are, as they were when the
    stage began, and the teacher's, which go into the advantage."""
    if self.knobs.truncate:
      old = self.scorer(state.weights, samples)
      samples = [dataclasses.replace(s, old_logprobs=logp) for s, logp in zip(samples, old, strict=True)]
    if self.reference is not None:
      reference = self.scorer(restore_to_devices(self.reference), samples)
      samples = [dataclasses.replace(s, reference_logprobs=logp) for s, logp in zip(samples, reference, strict=True)]
    if self.teacher:
      teacher, by = self.teacher_scorer(self.teacher.weights, samples), self.knobs.distill
      values = (
        add_distillation(s.advantage, sampled=s.sampling_logprobs, teacher=t, coefficient=by)
        for s, t in zip(samples, teacher, strict=True)
      )
      samples = [dataclasses.replace(s, advantage=a) for s, a in zip(samples, values, strict=True)]
    return samples

  def batch(self, scored: Sequence[ScoredRollout], samples: Sequence[Example]) -> Batch:
    """One update on what is learnt from some rollouts; the others only count in the mean."""
    c = self.config
    rows = pack_examples(sorted(samples, key=lambda s: -len(s.tokens)), length=c.length)
    share = make_loss_weight_fn(self.knobs.normaliser, [s.tokens for s in scored], length=c.length)
    return make_update(rows, length=c.length, micro=c.micro_rows, most=c.minibatch * c.group_size, share=share)

  def _cost(self) -> Ledger:
    """Training on every rollout of the stage, forward and backward, and scoring it as often as the knobs ask."""
    drawn = self.run.workdir.read_parts(self.stage)
    samples, student = (
      [ScoredRollout(self.starts[0], t, "none", 0.0).to_example() for t in drawn],
      self.run.student.config,
    )
    cost = training_cost(student, samples, 1.0)
    if self.knobs.student_scoring_passes:
      cost = cost + scoring_cost("student", student, samples, self.knobs.student_scoring_passes)
    if self.teacher:
      cost = cost + scoring_cost("teacher", self.teacher.config, samples, 1)
    return cost


#: bound on the steps of a stage that a token budget ends
MAX_BUDGETED_STEPS = 100_000
