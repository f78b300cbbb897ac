"""The rollout loop: many agents in the slots of one sampler, each at its own turn.

One round: free slots take waiting requests (a group is prefilled once and
forked), observations are appended, one decode call draws for every slot that
has a turn to write, finished turns go to their tools. Tools work while others
decode, and where a finished turn has nothing to append yet the next call is
launched before it is looked at. What a request draws depends on its name and
the seed alone, never on the schedule (sampler/programs.py).
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from score_jax.agent.protocol import Protocol, Turn
from score_jax.agent.written import ran
from score_jax.errors import UserError
from score_jax.model.decoder import Weights
from score_jax.sampler.meter import Meter
from score_jax.sampler.programs import Programs
from score_jax.sampler.slots import Decoding, Shapes, Slots, request_key
from score_jax.tasks.grade import Grader
from score_jax.tools.outcome import Outcome
from score_jax.tools.python import PythonTool
from score_jax.trajectory import Author, Ledger, Question, Status, Step, Trajectory, Usage

#: how long a round waits for tools that are about to answer while other slots could decode, in seconds
PATIENCE_S = 0.03
#: a decode call ends early when one in so many slots stands idle while there is work for it
IDLE = 20


@dataclasses.dataclass(frozen=True)
class Request:
  """A question to be worked on from some point, `copies` times.

  Attributes:
    name: names the draws; the same name, seed, start and weights give the same trajectories.
    start: the steps that are given; the agent goes on after them. One whose last step submits has ended already.
    acts: how many acts it may take, the given ones not counted.
  """

  name: str
  question: Question
  start: Trajectory
  acts: int
  copies: int = 1


@dataclasses.dataclass
class Episode:
  """One trajectory at work in one slot."""

  request: Request
  name: str
  steps: list[Step]
  budget: int  # tokens left for the turn at hand
  tokens: list[int] = dataclasses.field(default_factory=list)
  logprobs: list[float] = dataclasses.field(default_factory=list)
  turn: Turn | None = None  # parsed, waiting for its tool
  writing: bool = True  # its turn is not finished
  read: int = 0
  drawn: int = 0
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
    seed: of all draws; a request's key is folded from it and the request's name.
    meter: books what sampling takes.
  """

  model: str
  author: Author
  programs: Programs
  shapes: Shapes
  protocol: Protocol
  tool: PythonTool
  grader: Grader
  decoding: Decoding
  turn_tokens: int
  seed: int
  meter: Meter = dataclasses.field(default_factory=Meter)

  def rollout(
    self, weights: Weights, requests: Iterable[Request], *, progress: Callable[[int], None] | None = None
  ) -> list[list[Trajectory]]:
    """Runs all requests to their ends; a list of trajectories for each, in order.

    Args:
      weights: of the model that the programs were made for.
      requests: with different names.
      progress: told of every trajectory that ended (called with 1).

    Raises:
      UserError: a group has more copies than the sampler has slots.
    """
    return _Rollout(self, weights, list(requests), progress).run()


class _Rollout:
  """The state of one call of `Agent.rollout`."""

  def __init__(
    self, agent: Agent, weights: Weights, requests: Sequence[Request], progress: Callable[[int], None] | None
  ):
    self.agent, self.requests, self.progress = agent, requests, progress
    self.slots = Slots(agent.programs, weights, agent.shapes, agent.meter)
    most = max((r.copies for r in requests), default=0)
    if most > self.slots.count:
      raise UserError(f"a group of {most} rollouts needs as many slots; sampler.slots is {self.slots.count}")
    self.waiting = deque(enumerate(requests))
    self.free = list(range(self.slots.count))[::-1]
    self.episodes: dict[int, Episode] = {}
    self.place: dict[int, tuple[int, int]] = {}  # slot -> (request, copy)
    self.done: list[list[Trajectory | None]] = [[None] * r.copies for r in requests]

  def run(self) -> list[list[Trajectory]]:
    while self.waiting or self.episodes:
      self._admit()
      self._launch()
      ended = self._collect()
      if not self.waiting and all(self.episodes[slot].steps for slot in ended):
        self._launch()  # acts alone: nothing is to be appended before their tools answer
      self._end_turns(ended)
      self._observe()
    return [[t for t in group if t is not None] for group in self.done]

  def _admit(self) -> None:
    """Fills free slots; a group's first copy is prefilled and the others are forked from it."""
    fresh: dict[int, tuple[int, ...]] = {}
    copies: list[tuple[int, int]] = []
    while self.waiting and self.waiting[0][1].copies <= len(self.free):
      index, request = self.waiting.popleft()
      context = request.start.context() or self.agent.protocol.prompt(request.question.text)
      taken = [self.free.pop() for _ in range(request.copies)]
      for copy, slot in enumerate(taken):
        name = f"{request.name}/{copy}"
        self.episodes[slot] = Episode(request, name, list(request.start.steps), budget=self.agent.turn_tokens)
        self.place[slot] = (index, copy)
        self.slots.clear(slot)
        self.slots.assign(slot, request_key(self.agent.seed, name), self.agent.decoding)
      submitted = request.start.steps[-1].answer if request.start.steps else None
      if submitted is not None or len(context) + 1 > self.slots.capacity:
        for slot in taken:
          self._finish(slot, "context_full" if submitted is None else "answered", submitted)
        continue
      fresh[taken[0]] = context
      self._read(self.episodes[taken[0]], 0, len(context))
      copies += [(taken[0], slot) for slot in taken[1:]]
    if fresh:
      self.slots.extend(fresh)
      self.slots.fork(copies)

  def _read(self, episode: Episode, start: int, count: int) -> None:
    """Books tokens that were prefilled after `start` others."""
    episode.read += count
    episode.flops += count * self.agent.programs.config.flops_per_token(start + count // 2)

  def _launch(self) -> None:
    """Has the device draw for every slot whose turn is not finished."""
    budgets = {slot: e.budget - len(e.tokens) for slot, e in self.episodes.items() if e.writing}
    if not budgets or self.slots.flying:
      return
    enough = max(1, self.slots.count // IDLE) if self.waiting else None
    held = len(self.episodes) - len(budgets) if self.waiting else None
    self.slots.launch(budgets, enough=enough, held=held)

  def _collect(self) -> list[int]:
    """Books what was drawn; gives the slots whose turns have ended."""
    ended: list[int] = []
    flops = self.agent.programs.config.flops_per_token
    for slot, written in (self.slots.collect() if self.slots.flying else {}).items():
      episode, size, last = self.episodes[slot], len(written.tokens), self.slots.context(slot)
      episode.tokens += written.tokens
      episode.logprobs += written.logprobs
      episode.drawn += size
      episode.flops += size * (flops(last - size + 1) + flops(last)) / 2  # exact, however a turn is cut into calls
      if written.stopped:
        episode.writing = False
        ended.append(slot)
    return ended

  def _end_turns(self, ended: Sequence[int]) -> None:
    """Sends finished turns on."""
    planned: dict[int, Step] = {}
    for slot in ended:
      episode = self.episodes[slot]
      if episode.tokens[-1] == self.agent.protocol.stop:
        planned |= self._end_turn(slot, episode)
      elif len(episode.tokens) >= episode.budget:
        self._break_off(slot, "bad_format")
      else:
        self._break_off(slot, "context_full")
    self._go_on(planned)

  def _end_turn(self, slot: int, episode: Episode) -> dict[int, Step]:
    """An act goes to the tool; a first thought, which needs none, is given back as the slot's step."""
    kind = "act" if episode.steps else "first_thought"
    episode.turn = self.agent.protocol.parse(episode.tokens, kind)
    if episode.turn is None:
      self._break_off(slot, "bad_format")
      return {}
    if kind == "first_thought":
      return {slot: self._append(episode, None)}
    episode.tool_calls += 1
    self.agent.tool.submit(str(slot), episode.turn.code, ran(episode.steps))
    return {}

  def _break_off(self, slot: int, status: Status) -> None:
    """Ends an episode in the turn at hand, which stays on record and in what the policy gradient sees."""
    episode = self.episodes[slot]
    text = self.agent.protocol.decode(episode.tokens)
    drawn = (tuple(episode.tokens), tuple(episode.logprobs))
    episode.steps.append(Step("malformed", text, author=self.agent.author, tokens=drawn[0], logprobs=drawn[1]))
    self._finish(slot, status)

  def _append(self, episode: Episode, outcome: Outcome | None) -> Step:
    """Makes the finished turn a step of the episode."""
    turn, protocol = episode.turn, self.agent.protocol
    assert turn is not None
    step = Step(
      kind=turn.kind,
      thought=turn.thought,
      code=turn.code,
      observation=outcome.observation if outcome else "",
      reason=outcome.reason if outcome else "",
      answer=outcome.answer if outcome else None,
      author=self.agent.author,
      tokens=tuple(episode.tokens),
      logprobs=tuple(episode.logprobs),
      observation_tokens=protocol.observation(outcome.observation if outcome else None),
    )
    episode.steps.append(step)
    episode.turn, episode.tokens, episode.logprobs = None, [], []
    return step

  def _observe(self) -> None:
    """Takes what the tools have answered; waits for them when nothing else can be done."""
    idle = not any(e.writing for e in self.episodes.values())
    steps: dict[int, Step] = {}
    while any(e.turn for e in self.episodes.values()):
      with self.slots.meter.timed("tool_wait_s"):
        results = self.agent.tool.wait(60.0 if idle and not steps else 0.0 if self.slots.flying else PATIENCE_S)
      for session, outcome in results:
        slot = int(session)
        episode = self.episodes[slot]
        if outcome.reason in ("host_failure", "replay_mismatch"):
          self._finish(slot, "tool_failure" if outcome.reason == "host_failure" else "replay_mismatch")
          continue
        step = self._append(episode, outcome)
        if outcome.answer is not None:
          self._finish(slot, "answered", outcome.answer)
        elif episode.acts >= episode.request.acts:
          self._finish(slot, "step_limit")
        else:
          steps[slot] = step
      if not results and (steps or not idle):
        break
    self._go_on(steps)

  def _go_on(self, steps: dict[int, Step]) -> None:
    """Appends what follows the last turn and lets the slots write their next."""
    fitting: dict[int, tuple[int, ...]] = {}
    for slot, step in steps.items():
      if self.slots.context(slot) + len(step.observation_tokens) + 1 > self.slots.capacity:
        self._finish(slot, "context_full")
        continue
      fitting[slot] = step.observation_tokens
      self.episodes[slot].writing = True
      self._read(self.episodes[slot], self.slots.context(slot), len(step.observation_tokens))
    if fitting:
      self.slots.extend(fitting)

  def _finish(self, slot: int, status: Status, answer: str | None = None) -> None:
    """Grades the episode, files its trajectory, frees its slot."""
    episode = self.episodes.pop(slot)
    index, copy = self.place.pop(slot)
    request = episode.request
    self.agent.tool.close(str(slot))
    grade, reason, calls = None, "", 0
    if status == "answered":
      grade, reason = self.agent.grader(request.question, answer or "")
      calls = 1
    elif status not in ("tool_failure", "replay_mismatch"):
      grade, reason = 0.0, status
    start = request.start
    usage = Usage(generated=episode.drawn, read=episode.read, flops=episode.flops)
    self.done[index][copy] = dataclasses.replace(
      start,
      prompt_tokens=start.prompt_tokens or self.agent.protocol.prompt(request.question.text),
      steps=tuple(episode.steps),
      status=status,
      answer=answer,
      grade=grade,
      grade_reason=reason,
      name=episode.name,
      prefix_steps=len(start.steps),
      ledger=Ledger({self.agent.model: usage}, calls, episode.tool_calls),
    )
    self.free.append(slot)
    if self.progress is not None:
      self.progress(1)


def at_question(question: Question) -> Trajectory:
  """The empty start: nothing but the question."""
  return Trajectory(question.id, question.text, ())
