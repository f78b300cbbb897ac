"""Policy gradient from verified prefixes: GRPO on short rollouts with a tiered reward (paper, RL).

One step takes `rl.prompts` starts in a seeded order and draws `rl.group_size` rollouts from each. Rewards become
advantages within each group. Then there is one update for each minibatch of `rl.minibatch` starts.
A rollout whose host or grader failed leaves its group. A group without signal has advantage 0: it costs no training,
unless something else is learnt from it, but it counts in the mean of the loss.
A rollout ends when it reaches `rl.length`, so each rollout fits one row of a batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_jax.agent.rollout import Agent, RolloutRequest
from score_jax.errors import UserError
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, Weights
from score_jax.rl.diagnostics import RLMonitor
from score_jax.rl.reward import ScoredRollout, StepComparisons, TierRewards, measure_groups, score_groups
from score_jax.runtime import profiler
from score_jax.runtime.metrics import MetricsWriter, Progress
from score_jax.runtime.workdir import Workdir
from score_jax.teaching.judges import StepJudge
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
  make_forward_config,
  make_policy_gradient_loss,
  offload_to_host,
  restore_to_devices,
  scoring_cost,
)
from score_jax.trajectory import Ledger, Question, Trajectory, sum_ledgers

#: bound on the steps of a stage that a token budget ends
MAX_BUDGETED_STEPS = 100_000


@dataclasses.dataclass(frozen=True)
class DistillationTeacher:
  """A model whose log-probabilities of the student's tokens enter the advantages (rl.distill)."""

  config: DecoderConfig
  weights: Weights
  scorer: Scorer  # on the teacher's mesh


def train_policy_gradient(
  stage: str,
  starts: Sequence[RolloutStart],
  *,
  agent: Agent,
  config: DecoderConfig,
  graph: nnx.GraphDef[Decoder],
  begin: Callable[[], Weights],
  frozen: Weights,
  mesh: Mesh,
  settings: ConfigDict,
  workdir: Workdir,
  metrics: MetricsWriter,
  log: Callable[[str], None],
  validate: Callable[[Weights], dict[str, float]] | None = None,
  probe: Sequence[Question] = (),
  judge: StepJudge | None = None,
  teacher: DistillationTeacher | None = None,
  token_budget: int | None = None,
) -> TrainResult:
  """Trains the student by policy gradient, from the stage's newest checkpoint if there is one.

  Args:
    stage: names the rollouts, which seeds their draws, and the files in the workdir.
    starts: the states from which groups of rollouts begin.
    agent: the student as it samples in training; its rollouts end at rl.length.
    config: the shape of the student.
    begin: gives the trained weights to start from. It is called again when they are needed again, so that no copy
      of them is kept on the devices.
    frozen: all other weights of the student.
    settings: config groups; read are `rl`, `train`, `student`, `agent`, `alarms` and `seed`.
    workdir: gets the rollouts, one part a step, and the checkpoints.
    metrics: of the stage; they are closed.
    validate: gives `val_accuracy` of all weights, for each checkpoint that is kept.
    probe: questions of which the first `alarms.probe` are tried at such checkpoints, for pass@G.
    judge: compares steps where execution does not decide (rl.judge).
    teacher: needed where rl.distill is over 0.
    token_budget: ends training after the step in which the student has generated this many tokens; None: `rl.steps`.

  Raises:
    RunInterrupted: the run was asked to end.
  """
  rl, knobs = settings.rl, PolicyGradientConfig.from_config(settings.rl)
  if bool(knobs.distill) != (teacher is not None):
    raise ValueError(f"rl.distill = {knobs.distill} and teacher = {teacher!r}; give both or neither")
  tiers = TierRewards(rl.final, rl.key, rl.avoid, rl.reward)
  trainer = make_trainer(settings, graph, mesh, frozen)
  scorer, exploration_scorer = (
    make_scorer(settings, "student", graph, mesh, frozen, temperature=temperature)
    for temperature in (rl.temperature, settings.student.temperature)
  )
  reference = offload_to_host(begin()) if knobs.kl else None
  updates_per_step = -(-rl.prompts // rl.minibatch)
  steps = rl.steps if token_budget is None else MAX_BUDGETED_STEPS
  checkpoints = Checkpoints(
    workdir.checkpoint_folder(stage),
    keep=settings.train.keep_checkpoints,
    minutes=settings.train.checkpoint_minutes,
    before=metrics.flush,
  )
  state = checkpoints.restore_newest(trainer.abstract_state(config)) or trainer.init_state(begin())
  done = int(state.step) // updates_per_step
  # Rollouts drawn after the checkpoint are drawn again, so they must not be booked twice.
  ledger = sum_ledgers(t.ledger for t in workdir.read_parts(stage, below=done))

  def is_spent() -> bool:
    return token_budget is not None and ledger.of("student").generated >= token_budget

  with contextlib.closing(metrics), checkpoints, Progress(stage, rl.steps, "steps") as progress:
    progress(done)
    monitor = RLMonitor(
      stage,
      rl,
      settings.alarms.to_dict(),
      agent=agent,
      scorers=(scorer, exploration_scorer),
      begin=begin,
      earlier=metrics.lines_before(done),
      probe=probe,
      acts=settings.agent.acts,
      log=log,
    )
    for number, indices in enumerate(order_starts(len(starts), prompts=rl.prompts, steps=steps, seed=settings.seed)):
      if is_spent():
        break
      if number < done:
        continue
      taken = [starts[i] for i in indices]

      # 1. Rollouts from the starts, and their rewards. A run that is asked to end here saves `state` first.
      clock = time.perf_counter()
      agent.meter.pop_metrics()  # drops what validation and probe have counted
      comparisons = StepComparisons(agent.grader, judge)
      with checkpoints.save_on_interrupt(state):
        groups = roll_out_groups(agent, trainer.full_weights(state), taken, f"{stage}/{number}", rl.group_size)
        groups = comparisons.judge_undecided(taken, groups, tiers.rule)
        scored = score_groups(taken, groups, tiers, comparisons.comparator_for, scale=knobs.scale)
      seconds, sampling = time.perf_counter() - clock, agent.meter.pop_metrics()
      workdir.write_part(stage, number, (t for group in groups for t in group))
      ledger = ledger + sum_ledgers(t.ledger for group in groups for t in group)

      # 2. All that needs the weights that drew the rollouts. It comes before the updates, which donate them.
      gap = measure_logprob_gap(number, scorer, state.weights, scored)
      examples = [[s.to_example() for s in g if knobs.trains_on_all or s.advantage != 0.0] for g in scored]
      examples = add_scores(examples, knobs, scorer, state.weights, reference=reference, teacher=teacher)

      # 3. One update for each minibatch of groups.
      parts: list[tuple[bool, dict[str, float]]] = []
      for i in range(updates_per_step):
        part = slice(i * rl.minibatch, (i + 1) * rl.minibatch)
        learnt = [example for group in examples[part] for example in group]
        batch = make_batch([s for group in scored[part] for s in group], learnt, rl)
        with profiler.profile_step("updates"):
          state, numbers = trainer(state, batch)
          parts.append((bool(learnt), check_finite(jax.device_get(numbers), stage, number, batch, workdir)))

      # 4. Metrics, and a checkpoint now and then.
      found = summarize_updates(parts, gap) | count_learnt(examples)
      found |= measure_groups(groups, scored) | comparisons.metrics() | {"learning_rate": rl.learning_rate}
      found["tokens_per_s"] = found["generated_tokens"] / seconds
      found |= sampling
      weights = trainer.full_weights(state)
      keep = (number + 1) % rl.checkpoint_every == 0 or number + 1 == steps or is_spent()
      if keep and validate is not None:
        found |= validate(weights)
      pairs = list(zip(taken, scored, strict=True))
      found |= monitor.update(number, found, pairs, weights, closely=keep or number == 0)
      metrics.write(number, found)
      saved = checkpoints.maybe_save(state, keep=keep or monitor.fatal is not None, accuracy=found.get("val_accuracy"))
      if saved and agent.journal is not None:
        agent.journal.prune_checkpointed()
      monitor.raise_if_fatal()
      speed, occupied = sampling["sampler/decode_tokens_per_s"], sampling["sampler/occupancy"]
      progress(
        1, f"reward {found.get('reward_mean', float('nan')):.3f}, decoding {speed:.0f} tokens/s, slots {occupied:.0%}"
      )
  cost = count_training_cost(config, workdir.read_parts(stage), starts[0], knobs, teacher)
  return TrainResult(trainer.full_weights(state), int(state.step), ledger + cost)


def order_starts(count: int, *, prompts: int, steps: int, seed: int) -> Iterator[list[int]]:
  """Indices of the starts that each step takes: each start once in each pass, in an order that the seed decides."""
  passes = -(-prompts * steps // count)
  sequence = np.concatenate([np.random.default_rng((seed, p)).permutation(count) for p in range(passes)])
  return (sequence[i * prompts : (i + 1) * prompts].tolist() for i in range(steps))


def make_trainer(config: ConfigDict, graph: nnx.GraphDef[Decoder], mesh: Mesh, frozen: Weights) -> Trainer:
  """The train step of policy gradient; `config` has the groups rl, train and student."""
  c = config.rl
  rate = make_schedule(peak=c.learning_rate, steps=1, warmup=0.0, kind="constant")
  rule = make_optimizer("adamw", rate, weight_decay=c.weight_decay, max_norm=config.train.max_norm)
  loss = make_policy_gradient_loss(PolicyGradientConfig.from_config(c))
  return Trainer(graph, rule, loss, mesh, make_forward_config(config, c.temperature), frozen)


def make_scorer(
  config: ConfigDict, role: str, graph: nnx.GraphDef[Decoder], mesh: Mesh, frozen: Weights, *, temperature: float
) -> Scorer:
  """A scorer of the student's tokens by weights of `role` (student or teacher), in micro-batches of rl."""
  c = config.rl
  how = dataclasses.replace(make_forward_config(config, temperature), dtype=config[role].dtype)
  return Scorer(graph, mesh, how, length=c.length, micro=c.micro_rows, frozen=frozen)


def require_signal(rl: ConfigDict, stage: str, *, rewards_steps: bool) -> str:
  """A warning if rewards teach nothing and only rl.kl acts on the weights; else "".

  Args:
    rl: the settings of the stage.
    rewards_steps: whether the stage has starts before corrections, so that rl.key and rl.avoid can be earned.

  Raises:
    UserError: the settings leave nothing to learn from.
  """
  knobs = PolicyGradientConfig.from_config(rl)
  pays = (rl.final, rl.key, rl.avoid) if rewards_steps else (rl.final,)
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


def roll_out_groups(
  agent: Agent, weights: Weights, starts: Sequence[RolloutStart], name: str, group_size: int
) -> list[list[Trajectory]]:
  """A group of rollouts from each start. Names of requests seed the draws, so no two steps may share them."""
  requests = [
    RolloutRequest(f"{name}/{i}/{s.question.id}", s.question, s.prefix, s.horizon, group_size)
    for i, s in enumerate(starts)
  ]
  return agent.rollout(weights, requests)


def measure_logprob_gap(
  number: int, scorer: Scorer, weights: Weights, groups: Sequence[Sequence[ScoredRollout]]
) -> float | None:
  """Greatest difference between the log-probabilities of trainer and sampler, in nats; None if no token was drawn.

  One rollout of each group is scored by the weights that drew it, whether the group has a signal or not. Each step
  takes others: the first of a group was prefilled, the rest are copies of its slot.
  """
  drawn = [[s for s in group if s.tokens] for group in groups]
  chosen = [group[(number + i) % len(group)].to_example() for i, group in enumerate(drawn) if group]
  differences = (s.sampling_logprobs - logp for s, logp in zip(chosen, scorer(weights, chosen), strict=True))
  return max((float(np.abs(d).max()) for d in differences), default=None)


def add_scores(
  groups: Sequence[Sequence[Example]],
  knobs: PolicyGradientConfig,
  scorer: Scorer,
  weights: Weights,
  *,
  reference: Weights | None,
  teacher: DistillationTeacher | None,
) -> list[list[Example]]:
  """Groups of examples with the log-probabilities that the knobs ask for.

  These are of the weights before the step's updates (truncate), of the weights that the stage began with (kl), and of
  the teacher, which go into the advantages (distill).
  """
  examples = [example for group in groups for example in group]  # at once, which fills the micro-batches
  if knobs.truncate:
    old = scorer(weights, examples)
    examples = [dataclasses.replace(e, old_logprobs=logp) for e, logp in zip(examples, old, strict=True)]
  if reference is not None:
    first = scorer(restore_to_devices(reference), examples)
    examples = [dataclasses.replace(e, reference_logprobs=logp) for e, logp in zip(examples, first, strict=True)]
  if teacher is not None:
    taught = teacher.scorer(teacher.weights, examples)
    advantages = (
      add_distillation(e.advantage, sampled=e.sampling_logprobs, teacher=logp, coefficient=knobs.distill)
      for e, logp in zip(examples, taught, strict=True)
    )
    examples = [dataclasses.replace(e, advantage=a) for e, a in zip(examples, advantages, strict=True)]
  scored = iter(examples)
  return [[next(scored) for _ in group] for group in groups]


def make_batch(scored: Sequence[ScoredRollout], examples: Sequence[Example], rl: ConfigDict) -> Batch:
  """The batch of one update: its rows hold `examples`; all of `scored` count in the mean of the loss."""
  rows = pack_examples(sorted(examples, key=lambda e: -len(e.tokens)), length=rl.length)
  normaliser = PolicyGradientConfig.from_config(rl).normaliser
  share = make_loss_weight_fn(normaliser, [s.tokens for s in scored], length=rl.length)
  return make_update(rows, length=rl.length, micro=rl.micro_rows, most=rl.minibatch * rl.group_size, share=share)


def count_learnt(groups: Sequence[Sequence[Example]]) -> dict[str, float]:
  """How many rollouts and tokens of a step carry loss."""
  learnt = [example for group in groups for example in group]
  return {"learnt_rollouts": len(learnt), "learnt_tokens": sum(int(e.loss_mask.sum()) for e in learnt)}


def count_training_cost(
  config: DecoderConfig,
  rollouts: Iterable[Trajectory],
  start: RolloutStart,
  knobs: PolicyGradientConfig,
  teacher: DistillationTeacher | None,
) -> Ledger:
  """Cost of training once on all rollouts of a stage, forward and backward, and of all scoring passes.

  Args:
    start: any one; an example needs it, but its length does not depend on it.
  """
  examples = [ScoredRollout(start, t, "none", 0.0).to_example() for t in rollouts]
  cost = training_cost(config, examples, 1.0)
  if knobs.student_scoring_passes:
    cost = cost + scoring_cost("student", config, examples, knobs.student_scoring_passes)
  if teacher is not None:
    cost = cost + scoring_cost("teacher", teacher.config, examples, 1)
  return cost
