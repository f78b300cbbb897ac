"""A policy that says what a test tells it to, in the place of a sampler's slots: for the loop's logic alone.

The environment is the real one: the Python tool, the protocol on a trained tokenizer, the grader.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import pytest
from transformers import PreTrainedTokenizerFast

from score_jax.agent import rollout
from score_jax.agent.protocol import AgentProtocol, Turn, train_tokenizer
from score_jax.agent.rollout import Agent
from score_jax.grading.numbers import grade_number
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Weights
from score_jax.sampler.programs import SamplerPrograms
from score_jax.sampler.slots import ProgramShapes, SamplerMeter, SamplingParams, SlotOutput
from score_jax.sandbox.sandbox import Sandbox
from score_jax.trajectory import Author, Question

TEXT = (
  "plan: add, times 2\nadd 7\nx = 5 + 7\nprint(x)\nanswer\nfinal_answer_print(x)\n",
  "user\nassistant\nObservation: None\nObservation: 12\nNameError: name 'y' is not defined\n",
)
SHAPE = DecoderConfig(vocab=400, width=8, layers=1, heads=1, kv_heads=1, head_width=8, mlp=8, context=512)
LOGPROB = -0.5  # of every scripted token


def plan(text: str = "plan: add") -> Turn:
  return Turn("first_thought", text)


def act(code: str, thought: str = "add") -> Turn:
  return Turn("act", thought, code)


def submit(what: str = "x") -> Turn:
  return act(f"final_answer_print({what})", "answer")


def question(answer: str = "12", name: str = "q") -> Question:
  return Question(name, f"Tom has 5 figs. Tom finds 7 figs. How many figs does Tom have? ({name})", answer)


@dataclasses.dataclass(frozen=True)
class Scripted:
  """Stands for a model's weights: which turn, or which tokens, follow in the request of that name after that text."""

  protocol: AgentProtocol
  says: Callable[[str, str], Turn | Sequence[int]]

  def tokens(self, name: str, context: Sequence[int]) -> Sequence[int]:
    turn = self.says(name, self.protocol.decode(context))
    return self.protocol.encode_turn(turn) if isinstance(turn, Turn) else turn


@dataclasses.dataclass(frozen=True)
class ScriptedPrograms:
  """What the loop asks of a sampler's programs."""

  slots: int
  length: int
  config: DecoderConfig = SHAPE


class ScriptedSlots:
  """Has the methods of `score_jax.sampler.slots.Slots` and keeps to their contract; contexts are lists of tokens."""

  def __init__(self, programs: ScriptedPrograms, weights: Scripted, shapes: ProgramShapes, meter: SamplerMeter):
    self.count, self.capacity, self.meter = programs.slots, programs.length, meter
    self._flying: dict[int, SlotOutput] | None = None
    self._scripted, self._shapes = weights, shapes
    self._contexts: list[list[int]] = [[] for _ in range(self.count)]
    self._names = [""] * self.count
    self._left: list[list[int]] = [[] for _ in range(self.count)]  # of the turn at hand

  def context(self, slot: int) -> int:
    return len(self._contexts[slot])

  def assign(self, slot: int, key: str, decoding: SamplingParams) -> None:
    self._names[slot] = key

  def clear(self, slot: int) -> None:
    self._contexts[slot], self._left[slot] = [], []

  def extend(self, parts: Mapping[int, Sequence[int]]) -> None:
    for slot, tokens in parts.items():
      self._contexts[slot] += tokens
      if not tokens or len(self._contexts[slot]) > self.capacity:
        raise ValueError(f"slot {slot}: {len(tokens)} tokens do not fit a context of {self.capacity}")

  def fork(self, copies: Iterable[tuple[int, int]]) -> None:
    for source, target in copies:
      self._contexts[target] = [*self._contexts[source]]

  @property
  def in_flight(self) -> bool:
    return self._flying is not None

  def launch(self, budgets: Mapping[int, int], *, enough: int | None, held: int | None) -> None:
    """Some tokens of each slot's turn: up to the stop token, its budget, a full context, or what one call draws."""
    assert self._flying is None and (enough is None) == (held is None)
    result: dict[int, SlotOutput] = {}
    for slot, budget in budgets.items():
      context, left = self._contexts[slot], self._left[slot]
      most = min(budget, self.capacity - len(context), self._shapes.decode)
      if most < 1:
        raise ValueError(f"slot {slot} has no room for a token")
      if not left:
        left += self._scripted.tokens(self._names[slot], context)
      tokens = left[:most]
      del left[:most]
      context += tokens
      full = len(context) == self.capacity
      stopped = tokens[-1] == self._scripted.protocol.stop_token or len(tokens) == budget or full
      result[slot] = SlotOutput(tokens, [LOGPROB] * len(tokens), [LOGPROB] * len(tokens), stopped, 0)
    self._flying = result

  def collect(self) -> dict[int, SlotOutput]:
    assert self._flying is not None
    result, self._flying = self._flying, None
    return result


@dataclasses.dataclass(frozen=True)
class Stage:
  """Builds agents whose turns are scripted."""

  protocol: AgentProtocol
  tool: Sandbox

  def agent(
    self, author: Author = "student", *, slots: int = 8, length: int = 512, turn_tokens: int = 64, decode: int = 16
  ) -> Agent:
    return Agent(
      model=author,
      author=author,
      programs=cast(SamplerPrograms, ScriptedPrograms(slots, length)),
      shapes=ProgramShapes(piece=64, rows=(4,), decode=decode),
      protocol=self.protocol,
      tool=self.tool,
      grader=grade_number,
      decoding=SamplingParams(1.0, 0, 1.0, 1.0),
      turn_tokens=turn_tokens,
      seed=0,
    )

  def weights(self, says: Callable[[str, str], Turn | Sequence[int]]) -> Weights:
    """Weights that say what `says` makes of the request's name (with its copy's number) and the context's text."""
    return cast(Weights, Scripted(self.protocol, says))

  def in_turn(self, *turns: Turn | Sequence[int]) -> Weights:
    """Weights that say the given turns one after the other."""
    return self.weights(lambda name, text: turns[said(text)])


def said(text: str) -> int:
  """How many turns of the agent stand in the text of a context."""
  return text.count("<|im_start|>assistant") - 1


def search(query: str) -> str:
  if query == "broken":
    raise OSError("no route to the index")
  return "no results"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
  return train_tokenizer(TEXT * 3, vocab=SHAPE.vocab)


@pytest.fixture(scope="session")
def protocol(tokenizer: PreTrainedTokenizerFast) -> AgentProtocol:
  return AgentProtocol(tokenizer)


def python_tool(search: Callable[[str], str]) -> Sandbox:
  """The real tool, with room for what the tests' agents do."""
  return Sandbox(
    isolation="process",
    workers=2,
    sessions=64,
    timeout_s=20.0,
    memory_mb=512,
    files_mb=64,
    output_chars=400,
    search=search,
  )


@pytest.fixture(scope="session")
def tool() -> Iterator[Sandbox]:
  with python_tool(search) as tool:
    yield tool


@pytest.fixture
def stage(protocol: AgentProtocol, tool: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Stage:
  """Rollouts are scripted as long as the test runs."""

  def name_of(seed: int, name: str) -> Any:
    return name

  monkeypatch.setattr(rollout, "Slots", ScriptedSlots)
  monkeypatch.setattr(rollout, "request_key", name_of)
  return Stage(protocol, tool)
