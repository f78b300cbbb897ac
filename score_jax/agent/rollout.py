"""The rollout loop: many agents in the slots of one sampler, each at its own turn.

One round: free slots take waiting requests (a group is prefilled once and
forked), observations are appended, one decode call draws for every slot that
has a turn to write, finished turns go to their tools. Tools work while others
decode, and where a finished turn has nothing to append yet the next call is
launched before it is looked at. What a request draws depends on its name and
the seed alone, never on the schedule (sampler/programs.py). So what a journal
holds already is taken from there (agent/journal.py).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Protocol as Interface

import numpy as np

from score_jax.agent.journal import Journal
from score_jax.agent.protocol import AgentProtocol, Turn
from score_jax.agent.scripted import executed_steps
from score_jax.grading.graders import Grader
from score_jax.model.decoder import Weights
from score_jax.model.fingerprint import checksum_weights
from score_jax.runtime import interrupt, profiler
from score_jax.sampler.programs import SamplerPrograms
from score_jax.sampler.scheduler import DrawnTurn, Sampler
from score_jax.sampler.slots import ProgramShapes, SamplerMeter, SamplingParams, Slots, request_key
from score_jax.sandbox.interface import Outcome, Tool
from score_jax.trajectory import Author, Ledger, Question, Status, Step, Trajectory, Usage, trajectory_to_json

#: how long a round waits for tools that are about to answer while other slots could decode, in seconds
TOOL_GRACE_S = 0.03


@dataclasses.dataclass(frozen=True)
class RolloutRequest:
  """A question to be worked on from some point, `copies` times.

  Attributes:
    name: names the draws; the same name, seed, start and weights give the same trajectories.
    start: the steps that are given; the agent goes on after them. One whose last step submits has ended already.
    max_acts: how many acts it may take, the given ones not counted.
  """

  name: str
  question: Question
  start: Trajectory
  max_acts: int
  copies: int = 1

  @property
  def copy_names(self) -> list[str]:
    """One for each copy."""
    return [f"{self.name}/{copy}" for copy in range(self.copies)]


class RolloutObserver(Interface):
  """Is told of trajectories while they come about."""

  def on_tokens(self, name: str, tokens: Sequence[int]) -> None:
    """The next tokens of a turn."""
    ...

  def on_step(self, name: str, step: Step) -> None:
    """A whole turn and what was observed after it."""
    ...


@dataclasses.dataclass
class Episode:
  """One trajectory at work."""

  request: RolloutRequest
  place: tuple[int, int]  # (request, copy)
  steps: list[Step]
  drawn: DrawnTurn | None = None  # finished, waiting for its tool
  parsed: Turn | None = None
  context: int = 0  # tokens of it
  read: int = 0
  generated: int = 0
  flops: float = 0.0
  tool_calls: int = 0

  @property
  def acts(self) -> int:
    return sum(s.kind == "act" for s in self.steps[len(self.request.start.steps) :])


@dataclasses.dataclass(frozen=True)
class Agent:
  """All that a rollout needs but weights and requests.

  Attributes:
    model: the name under which the ledger books its tokens.
    author: whose steps these are.
    turn_tokens: the most tokens of one turn.
    length: the most tokens of one context, the start's included; None: as many as a slot holds.
    seed: of all draws; a request's key is folded from it and the request's name.
    meter: books what sampling takes.
    watcher: is told of what is drawn and observed; None: nobody is.
    journal: keeps what is finished, for a run that goes on after this one; None: nothing does.
  """

  model: str
  author: Author
  programs: SamplerPrograms
  shapes: ProgramShapes
  protocol: AgentProtocol
  tool: Tool
  grader: Grader
  decoding: SamplingParams
  turn_tokens: int
  seed: int
  meter: SamplerMeter = dataclasses.field(default_factory=SamplerMeter)
  watcher: RolloutObserver | None = None
  journal: Journal | None = None
  length: int | None = None

  def rollout(
    self, weights: Weights, requests: Iterable[RolloutRequest], *, progress: Callable[[int, str], None] | None = None
  ) -> list[list[Trajectory]]:
    """Runs all requests to their ends; a list of trajectories for each, in order.

    Args:
      weights: of the model that the programs were made for.
      requests: with different names.
      progress: told of every trajectory that ended: called with 1, and with how sampling goes.

    Raises:
      UserError: a group has more copies than the sampler has slots.
      ValueError: two requests have one name.
      Stopped: the run was asked to end.
    """
    return _Rollout(self, weights, list(requests), progress).run()

  def journal_keys(self, journal: Journal, weights: str, request: RolloutRequest) -> list[str]:
    """Where a journal has what a request draws from the weights of that checksum; one key for each copy."""
    settings = [self.model, self.author, self.turn_tokens, self.seed, dataclasses.asdict(self.decoding)]
    settings += [] if self.length is None else [self.length]
    asked = [request.question.id, request.max_acts, trajectory_to_json(request.start)]
    return [journal.key(weights, settings, asked, name) for name in request.copy_names]


class _Rollout:
  """The state of one call of `Agent.rollout`."""

  def __init__(
    self,
    agent: Agent,
    weights: Weights,
    requests: Sequence[RolloutRequest],
    progress: Callable[[int, str], None] | None,
  ):
    self.agent, self.progress, self.journal = agent, progress, agent.journal
    self.keys: dict[str, str] = {}  # in the journal, by name
    self.episodes: dict[str, Episode] = {}
    self.done: list[list[Trajectory | None]] = [[None] * r.copies for r in requests]
    if twice := [name for name, count in Counter(r.name for r in requests).items() if count > 1]:
      raise ValueError(f"two requests are named {twice[0]!r}: their draws would be the same")
    if self.journal is not None:
      self._take_known(self.journal, checksum_weights(weights), requests)
    if any(None in group for group in self.done):
      self.sampler = Sampler(Slots(agent.programs, weights, agent.shapes, agent.meter))
    for index, request in enumerate(requests):
      self._submit(index, request)

  def _take_known(self, journal: Journal, weights: str, requests: Sequence[RolloutRequest]) -> None:
    """Takes what the journal holds."""
    for request, group in zip(requests, self.done, strict=True):
      keys = self.agent.journal_keys(journal, weights, request)
      self.keys |= zip(request.copy_names, keys, strict=True)
      group[:] = map(journal.find, keys)
    known = sum(t is not None for group in self.done for t in group)
    if known and self.progress is not None:
      self.progress(known, "from the journal")

  def run(self) -> list[list[Trajectory]]:
    try:
      while self.episodes:
        interrupt.raise_if_interrupted()
        with profiler.profile_step("rounds"):
          self._round()
        if self.journal is not None:
          self.journal.write_if_due()
    finally:  # where it was broken off, nothing of it answers in the next one
      for name in self.episodes:
        self.agent.tool.close(name)
    return [[t for t in group if t is not None] for group in self.done]

  def _round(self) -> None:
    self.sampler.launch()
    turns = self.sampler.collect()
    if self.agent.watcher is not None:
      for name, tokens in self.sampler.last_tokens.items():
        self.agent.watcher.on_tokens(str(name), tokens)
    if not self.sampler.waiting and all(self.episodes[str(name)].steps for name in turns):
      self.sampler.launch()  # acts alone: nothing is to be appended before their tools answer
    self._end_turns({str(name): turn for name, turn in turns.items()})
    self._observe()

  def _submit(self, index: int, request: RolloutRequest) -> None:
    """Asks for a context for each copy of a request; one that has ended already, or has no room, needs none."""
    context = request.start.context() or self.agent.protocol.encode_prompt(request.question.text)
    names = [name for name, known in zip(request.copy_names, self.done[index], strict=True) if known is None]
    if not names:
      return
    for name in names:
      self.episodes[name] = Episode(request, (index, request.copy_names.index(name)), list(request.start.steps))
    submitted = request.start.steps[-1].answer if request.start.steps else None
    room = self._longest() - len(context)
    if submitted is not None or room < 1:
      for name in names:
        self._finish(name, "context_full" if submitted is None else "answered", submitted)
      return
    keys: dict[Hashable, np.ndarray] = {name: request_key(self.agent.seed, name) for name in names}
    self.sampler.submit(keys, context, self.agent.decoding, min(self.agent.turn_tokens, room))
    for name in names:
      self.episodes[name].context = len(context)
    if names[0] == request.copy_names[0]:
      self._read(self.episodes[names[0]], 0, len(context))  # the others are its copies

  def _longest(self) -> int:
    """The most tokens of one context."""
    held = self.sampler.slots.capacity
    return held if self.agent.length is None else min(held, self.agent.length)

  def _read(self, episode: Episode, start: int, count: int) -> None:
    """Books tokens that were prefilled after `start` others."""
    episode.read += count
    episode.flops += count * self.agent.programs.config.flops_per_token(start + count // 2)

  def _end_turns(self, turns: Mapping[str, DrawnTurn]) -> None:
    """Books finished turns and sends them on."""
    planned: dict[str, Step] = {}
    flops = self.agent.programs.config.flops_per_token
    for name, turn in turns.items():
      episode, size = self.episodes[name], len(turn.tokens)
      first, last = episode.context + 1, episode.context + size
      episode.drawn, episode.context = turn, last
      episode.generated += size
      episode.flops += size * (flops(first) + flops(last)) / 2
      if turn.tokens[-1] == self.agent.protocol.stop_token:
        planned |= self._end_turn(name, episode)
      else:
        self._break_off(name, "bad_format" if size >= self.agent.turn_tokens else "context_full")
    self._go_on(planned)

  def _end_turn(self, name: str, episode: Episode) -> dict[str, Step]:
    """An act goes to the tool; a first thought, which needs none, is given back as the episode's step."""
    assert episode.drawn is not None
    kind = "act" if episode.steps else "first_thought"
    episode.parsed = self.agent.protocol.parse_turn(episode.drawn.tokens, kind)
    if episode.parsed is None:
      self._break_off(name, "bad_format")
      return {}
    if kind == "first_thought":
      return {name: self._append(name, episode, None)}
    episode.tool_calls += 1
    self.agent.tool.submit(name, episode.parsed.code, executed_steps(episode.steps))
    return {}

  def _break_off(self, name: str, status: Status) -> None:
    """Ends an episode in the turn at hand, which stays on record and in what the policy gradient sees."""
    episode = self.episodes[name]
    assert episode.drawn is not None
    text = self.agent.protocol.decode(episode.drawn.tokens)
    drawn = {"tokens": tuple(episode.drawn.tokens), "logprobs": tuple(episode.drawn.logprobs)}
    episode.steps.append(Step("malformed", text, author=self.agent.author, **drawn))
    self._finish(name, status)

  def _append(self, name: str, episode: Episode, outcome: Outcome | None) -> Step:
    """Makes the finished turn a step of the episode."""
    turn, drawn, protocol = episode.parsed, episode.drawn, self.agent.protocol
    assert turn is not None and drawn is not None
    step = Step(
      kind=turn.kind,
      thought=turn.thought,
      code=turn.code,
      observation=outcome.observation if outcome else "",
      reason=outcome.reason if outcome else "",
      answer=outcome.answer if outcome else None,
      author=self.agent.author,
      tokens=tuple(drawn.tokens),
      logprobs=tuple(drawn.logprobs),
      observation_tokens=protocol.encode_observation(outcome.observation if outcome else None),
    )
    episode.steps.append(step)
    episode.parsed = episode.drawn = None
    if self.agent.watcher is not None:
      self.agent.watcher.on_step(name, step)
    return step

  def _observe(self) -> None:
    """Takes what the tools have answered; waits for them when nothing else can be done."""
    steps: dict[str, Step] = {}
    out = sum(e.parsed is not None for e in self.episodes.values())
    while out:
      idle = not self.sampler.drawing and not steps
      with self.agent.meter.timed("tool_wait_s"):
        results = self.agent.tool.wait(60.0 if idle else 0.0 if self.sampler.slots.in_flight else TOOL_GRACE_S)
      out -= len(results)
      for name, outcome in results:
        self._take(name, outcome, steps)
      if not results and not idle:
        break
    self._go_on(steps)

  def _take(self, name: str, outcome: Outcome, steps: dict[str, Step]) -> None:
    """Ends an episode that a tool's answer ends; otherwise adds its step to `steps`."""
    if outcome.reason in ("host_failure", "replay_mismatch"):
      self._finish(name, "tool_failure" if outcome.reason == "host_failure" else "replay_mismatch")
      return
    episode = self.episodes[name]
    step = self._append(name, episode, outcome)
    if outcome.answer is not None:
      self._finish(name, "answered", outcome.answer)
    elif episode.acts >= episode.request.max_acts:
      self._finish(name, "step_limit")
    else:
      steps[name] = step

  def _go_on(self, steps: Mapping[str, Step]) -> None:
    """Appends what follows the last turn and lets the contexts write their next."""
    for name, step in steps.items():
      tokens, episode = step.observation_tokens, self.episodes[name]
      room = self._longest() - episode.context - len(tokens)
      if room < 1:
        self._finish(name, "context_full")
        continue
      self._read(episode, episode.context, len(tokens))
      episode.context += len(tokens)
      self.sampler.append(name, tokens, min(self.agent.turn_tokens, room))

  def _finish(self, name: str, status: Status, answer: str | None = None) -> None:
    """Grades the episode, files its trajectory, frees its slot."""
    episode = self.episodes.pop(name)
    request, (index, copy) = episode.request, episode.place
    self.agent.tool.close(name)
    if episode.generated:
      self.sampler.release(name)
    grade, reason, calls = None, "", 0
    if status == "answered":
      grade, reason = self.agent.grader(request.question, answer or "")
      calls = 1
    elif status not in ("tool_failure", "replay_mismatch"):
      grade, reason = 0.0, status
    start = request.start
    usage = Usage(generated=episode.generated, read=episode.read, flops=episode.flops)
    self.done[index][copy] = finished = dataclasses.replace(
      start,
      prompt_tokens=start.prompt_tokens or self.agent.protocol.encode_prompt(request.question.text),
      steps=tuple(episode.steps),
      status=status,
      answer=answer,
      grade=grade,
      grade_reason=reason,
      name=name,
      prefix_steps=len(start.steps),
      ledger=Ledger({self.agent.model: usage}, calls, episode.tool_calls),
    )
    if self.journal is not None:
      self.journal.add(self.keys[name], finished)
    if self.progress is not None:
      self.progress(1, str(self.agent.meter))


def empty_trajectory(question: Question) -> Trajectory:
  """The empty start: nothing but the question."""
  return Trajectory(question.id, question.text, ())
