"""Short-horizon policy gradient: groups of rollouts from verified prefixes, rewarded by tier (paper, RL).

What happens in one step: `prompts` starts are taken in a seeded order, each rolled
out `group_size` times by the current weights; rewards become advantages within
each group; then one update for each minibatch of `minibatch` starts. A rollout
that its host failed leaves the group. Groups without signal have advantage 0:
they cost no training, but their tokens count in the mean.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_jax.agent.rollout import Request
from score_jax.evaluate import validate
from score_jax.mentor.reward import Tier, Tiers, advantages, tier
from score_jax.mentor.starts import Start
from score_jax.model import adapters
from score_jax.model.decoder import Decoder, Weights
from score_jax.progress import Progress
from score_jax.run import Run, passes
from score_jax.stages import weights_of
from score_jax.train.batch import Batch, Sample, pack, sample, update_of
from score_jax.train.checkpoints import Checkpoints
from score_jax.train.optimizer import optimizer, schedule
from score_jax.train.steps import Trainer, TrainState, clipped_policy_gradient
from score_jax.train.supervised import Trained, check, training_cost
from score_jax.trajectory import Ledger, Trajectory, generated_tokens, total
from score_jax.workdir import Metrics


@dataclasses.dataclass(frozen=True)
class Scored:
  """A rollout with what it earned."""

  start: Start
  trajectory: Trajectory
  tier: Tier
  reward: float
  advantage: float

  @property
  def tokens(self) -> int:
    """Tokens that carry loss."""
    return generated_tokens(self.trajectory.steps[self.trajectory.prefix_steps :])

  def sample(self) -> Sample:
    """The rollout as a sequence in which what was drawn from the start on carries loss, a malformed turn too."""
    given = self.trajectory.prefix_steps
    return sample(self.trajectory, carries_loss=lambda index, _: index >= given, advantage=self.advantage)


def order(count: int, *, prompts: int, steps: int, seed: int) -> Iterator[list[int]]:
  """Which starts each step takes: every one once in each pass, in an order that the seed alone decides."""
  passes = -(-prompts * steps // count)
  sequence = np.concatenate([np.random.default_rng((seed, p)).permutation(count) for p in range(passes)])
  return (sequence[i * prompts : (i + 1) * prompts].tolist() for i in range(steps))


def score(start: Start, group: Sequence[Trajectory], tiers: Tiers, *, divide_by_deviation: bool) -> list[Scored]:
  """Rewards and advantages of one group."""
  sound = [t for t in group if t.status not in ("tool_failure", "replay_mismatch") and t.grade is not None]
  names: list[Tier] = [tier(t, start.correction) for t in sound]
  rewards = [tiers.pay(n) for n in names]
  values = advantages(rewards, divide_by_deviation=divide_by_deviation) if rewards else []
  return [Scored(start, t, n, r, float(a)) for t, n, r, a in zip(sound, names, rewards, values, strict=True)]


def reinforce(run: Run, stage: str, starts: Sequence[Start], begin: str, *, token_budget: int | None) -> Trained:
  """Trains from the weights of stage `begin`, or goes on from its own newest checkpoint, where the new ones will be.

  Args:
    token_budget: stops after the step in which the student has generated this many tokens; None: after all steps.
  """
  return _Reinforce(run, stage, starts, begin, token_budget).train()


def trainer(config: ConfigDict, graph: nnx.GraphDef[Decoder], mesh: Mesh, frozen: Weights) -> Trainer:
  """The train step of the policy gradient that a config asks for."""
  c = config.rl
  rate = schedule(peak=c.learning_rate, steps=1, warmup=0.0, kind="constant")
  rule = optimizer("adamw", rate, weight_decay=c.weight_decay, max_norm=config.train.max_norm)
  loss = clipped_policy_gradient(clip=c.clip, dual_clip=c.dual_clip)
  return Trainer(graph, rule, loss, mesh, passes(config, c.temperature), frozen)


class _Reinforce:
  """One stage of policy gradient."""

  def __init__(self, run: Run, stage: str, starts: Sequence[Start], begin: str, token_budget: int | None):
    self.run, self.stage, self.starts, self.begin, self.token_budget = run, stage, starts, begin, token_budget
    self.config = c = run.config.rl
    self.agent = run.rl_agent(c.temperature)
    self.tiers = Tiers(c.final, c.key, c.avoid)
    self.updates = -(-c.prompts // c.minibatch)  # of one step
    frozen = adapters.parts(run.student.weights)[1]
    self.trainer = trainer(run.config, run.student.graph, run.meshes.train, frozen)

  def train(self) -> Trained:
    run, c = self.run, self.config
    metrics = Metrics(run.workdir, self.stage)
    checkpoints = Checkpoints(
      run.workdir.checkpoints(self.stage),
      keep=run.config.train.keep_checkpoints,
      minutes=run.config.train.checkpoint_minutes,
      before=metrics.flush,
    )
    state = checkpoints.newest(self.trainer.abstract(run.student.config)) or self.trainer.start(self._first_weights())
    done = int(state.step) // self.updates
    ledger = total(t.ledger for t in run.workdir.read_parts(self.stage, below=done))
    steps = c.steps if self.token_budget is None else MOST_STEPS
    taken = order(len(self.starts), prompts=c.prompts, steps=steps, seed=run.config.seed)
    with contextlib.closing(metrics), checkpoints, Progress(self.stage, c.steps, "steps") as progress:
      progress(done)
      for number, indices in enumerate(taken):
        if self._spent(ledger):
          break
        if number < done:
          continue
        start = time.perf_counter()
        self.agent.meter.take()
        with checkpoints.kept(state):
          scored, groups = self._roll_out(number, state, [self.starts[i] for i in indices])
        seconds = time.perf_counter() - start
        sampling = self.agent.meter.take()
        run.workdir.write_part(self.stage, number, (t for group in groups for t in group))
        ledger = ledger + total(t.ledger for group in groups for t in group)
        state, numbers = self._update(number, state, scored)
        numbers |= self._numbers(scored)
        numbers["tokens_per_s"] = numbers["generated_tokens"] / seconds
        numbers |= sampling
        last = number + 1 == steps or self._spent(ledger)
        keep = (number + 1) % c.checkpoint_every == 0 or last
        if keep:
          numbers["val_accuracy"] = validate(run, self.trainer.whole(state))
        metrics.write(number, numbers)
        if checkpoints.offer(state, keep=keep, accuracy=numbers.get("val_accuracy")):
          run.journal.settle()
        speed, occupied = sampling["sampler/decode_tokens_per_s"], sampling["sampler/occupancy"]
        progress(1, f"reward {numbers['reward_mean']:.3f}, decoding {speed:.0f} tokens/s, slots {occupied:.0%}")
    return Trained(self.trainer.whole(state), int(state.step), ledger + self._training_cost())

  def _first_weights(self) -> Weights:
    return adapters.parts(weights_of(self.run, self.begin))[0]

  def _spent(self, ledger: Ledger) -> bool:
    return self.token_budget is not None and ledger.of("student").generated >= self.token_budget

  def _roll_out(
    self, number: int, state: TrainState, starts: Sequence[Start]
  ) -> tuple[list[list[Scored]], list[list[Trajectory]]]:
    size = self.config.group_size
    requests = [
      Request(f"{self.stage}/{number}/{i}/{s.question.id}", s.question, s.trajectory, s.acts, size)
      for i, s in enumerate(starts)
    ]
    groups = self.agent.rollout(self.trainer.whole(state), requests)
    divide = self.config.divide_by_deviation
    scored = [score(s, g, self.tiers, divide_by_deviation=divide) for s, g in zip(starts, groups, strict=True)]
    return scored, groups

  def _update(
    self, number: int, state: TrainState, groups: Sequence[Sequence[Scored]]
  ) -> tuple[TrainState, dict[str, float]]:
    """One update a minibatch; the numbers are means over them, greatest for names that end in `_max`."""
    parts: list[dict[str, float]] = []
    for i in range(self.updates):
      minibatch = groups[i * self.config.minibatch : (i + 1) * self.config.minibatch]
      batch = self.batch([s for group in minibatch for s in group])
      state, numbers = self.trainer(state, batch)
      parts.append(check(jax.device_get(numbers), self.stage, number, batch, self.run.workdir))
    by_name = {name: [part[name] for part in parts] for name in parts[0]}
    return state, {
      k.removesuffix("_max"): max(v) if k.endswith("_max") else float(np.mean(v)) for k, v in by_name.items()
    }

  def batch(self, scored: Sequence[Scored]) -> Batch:
    """One update; rollouts with advantage 0 only count in its denominator."""
    c = self.config
    samples = [s.sample() for s in scored if s.advantage != 0.0]
    rows = pack(sorted(samples, key=lambda s: -len(s.tokens)), length=c.length)
    tokens, most = float(sum(s.tokens for s in scored)), c.minibatch * c.group_size
    return update_of(rows, length=c.length, micro=c.micro_rows, most=most, denominator=tokens)

  def _numbers(self, groups: Sequence[Sequence[Scored]]) -> dict[str, float]:
    scored = [s for group in groups for s in group]
    count = max(len(scored), 1)
    tiers = Counter(s.tier for s in scored)
    return {
      "reward_mean": sum(s.reward for s in scored) / count,
      "accuracy": sum(s.trajectory.right for s in scored) / count,
      **{f"tier_{name}": tiers[name] / count for name in ("final", "key", "avoid", "none")},
      "no_signal_groups": sum(all(s.advantage == 0.0 for s in group) for group in groups) / max(len(groups), 1),
      "generated_tokens": sum(s.tokens for s in scored),
      "learning_rate": self.config.learning_rate,
    }

  def _training_cost(self) -> Ledger:
    """Forward and backward passes over every rollout of the stage."""
    samples = [Scored(self.starts[0], t, "none", 0.0, 0.0).sample() for t in self.run.workdir.read_parts(self.stage)]
    return training_cost(self.run.student.config, samples, 1.0)


#: bound on the steps of a stage that a token budget ends
MOST_STEPS = 100_000
