"""Contexts in slots against a reference that computes everything again from the whole text, and draws in numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import hypothesis
import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as some
from jax.sharding import Mesh

from score_jax.errors import UserError
from score_jax.model.sharding import make_mesh, weight_shardings
from score_jax.sampler.programs import SamplerPrograms
from score_jax.sampler.sampling import keyed_uniform
from score_jax.sampler.scheduler import DrawnTurn, Sampler
from score_jax.sampler.slots import ProgramShapes, SamplingParams, Slots, request_key
from score_jax.sampler.stops import Stops
from tests.conftest import Tiny

STOP, VOCAB, LENGTH = 7, 64, 64
SHAPES = ProgramShapes(piece=8, rows=(1, 3), decode=8)
PLAIN = SamplingParams(1.0, 0, 1.0, 1.0)
HOW = (PLAIN, SamplingParams(0.7, 5, 0.9, 1.3), SamplingParams(1.5, 0, 0.8, 1.0), SamplingParams(0.0, 0, 1.0, 1.0))
BOUNDARY = 1e-5  # how far a draw may lie from where its token's share begins or ends


def programs_of(tiny: Tiny, mesh: Mesh, *, slots: int = 4, stops: Stops | None = None) -> SamplerPrograms:
  return SamplerPrograms(
    tiny.graph, tiny.config, mesh, slots=slots, length=LENGTH, block=16, stops=stops or Stops((STOP,))
  )


@pytest.fixture(scope="module")
def programs(tiny: Tiny, one_device: Mesh) -> SamplerPrograms:
  return programs_of(tiny, one_device)


@pytest.fixture
def sampler(programs: SamplerPrograms, tiny: Tiny) -> Sampler:
  return Sampler(Slots(programs, tiny.weights, SHAPES))


def tokens_of(draw: np.random.Generator, low: int, high: int) -> list[int]:
  return draw.integers(8, VOCAB, draw.integers(low, high + 1)).tolist()


# What a request draws


@dataclasses.dataclass(frozen=True)
class Script:
  """What is asked for a group: how often it goes on, and after how many calls it is given up, if ever."""

  seed: int
  copies: int
  prompt: int
  limits: tuple[int, ...]
  how: int
  given_up: int | None

  @property
  def name(self) -> str:
    return f"{self.seed}/{self.copies}/{self.prompt}/{self.limits}"


SCRIPTS = some.builds(
  Script,
  seed=some.integers(0, 10**6),
  copies=some.integers(1, 3),
  prompt=some.integers(1, 30),
  limits=some.lists(some.integers(1, 12), min_size=1, max_size=3).map(tuple),
  how=some.integers(0, len(HOW) - 1),
  given_up=some.one_of(some.none(), some.integers(1, 6)),
)


@dataclasses.dataclass
class Context:
  """All tokens of a context, and which of them were drawn with what log-probabilities."""

  script: Script
  key: np.ndarray
  tokens: list[int]
  drawn: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)  # place -> (logprob, plain)
  turns: int = 0

  def take(self, turn: DrawnTurn) -> None:
    for token, *logprobs in zip(turn.tokens, turn.logprobs, turn.model_logprobs, strict=True):
      self.drawn[len(self.tokens)] = (logprobs[0], logprobs[1])
      self.tokens.append(token)
    self.turns += 1


def play(sampler: Sampler, scripts: list[Script]) -> list[Context]:
  """Does what the scripts say, all at once; the contexts that came to an end of their own."""
  live: dict[Hashable, Context] = {}
  ended: list[Context] = []
  for number, script in enumerate(scripts):
    prompt = tokens_of(np.random.default_rng(script.seed), script.prompt, script.prompt)
    names = [(number, copy) for copy in range(script.copies)]
    keys = {name: request_key(1, f"{script.name}/{name[1]}") for name in names}
    live |= {name: Context(script, keys[name], [*prompt]) for name in names}
    sampler.submit(dict(keys), prompt, HOW[script.how], script.limits[0])
  calls = 0
  begun: dict[Hashable, int] = {}
  while live:
    sampler.launch()
    calls += 1
    for name in [n for n in live if n in sampler.names]:
      begun.setdefault(name, calls)
    turns = sampler.collect()
    for name, context in list(live.items()):
      if name in turns:
        context.take(turns[name])
      given_up = context.script.given_up
      if given_up is not None and calls - begun.get(name, calls) >= given_up:
        del live[name]
        sampler.release(name)
      elif name in turns:
        draw = np.random.default_rng((context.script.seed, context.turns))
        more = tokens_of(draw, 1, 9)
        if context.turns == len(context.script.limits) or len(more) >= sampler.room(name):
          ended.append(live.pop(name))
          sampler.release(name)
        else:
          context.tokens += more
          sampler.append(name, more, context.script.limits[context.turns])
  return ended


@pytest.fixture(scope="module")
def logits(tiny: Tiny) -> Callable[[list[int]], np.ndarray]:
  """Logits [T, V] after each token of a context, from one pass over all of it."""

  @jax.jit
  def run(weights: Any, row: jax.Array, segments: jax.Array) -> jax.Array:
    model = nnx.merge(tiny.graph, weights)
    return model.unembed(model(row, np.arange(LENGTH)[None], segments))[0]

  def logits(tokens: list[int]) -> np.ndarray:
    row, segments = np.zeros((1, LENGTH), np.int32), np.zeros((1, LENGTH), np.int32)
    row[0, : len(tokens)], segments[0, : len(tokens)] = tokens, 1
    return np.asarray(run(tiny.weights, row, segments), np.float64)[: len(tokens)]

  return logits


def shares(z: np.ndarray, seen: set[int], how: SamplingParams) -> np.ndarray:
  """Probabilities [V] by sorting, in float64."""
  z = z.copy()
  for token in seen:
    z[token] = z[token] / how.repetition_penalty if z[token] > 0 else z[token] * how.repetition_penalty
  z /= how.temperature
  order = np.argsort(-z, kind="stable")[: how.top_k or None]
  p = np.exp(z[order] - z[order[0]])
  kept = order[: int(np.sum(np.cumsum(p) / p.sum() < how.top_p)) + 1]
  result = np.zeros(len(z))
  result[kept] = np.exp(z[kept] - z[order[0]])
  return result / result.sum()


def agrees(context: Context, z_TxV: np.ndarray) -> None:
  """Every drawn token is the one in whose share the request's number for that place lies."""
  how = HOW[context.script.how]
  places = sorted(context.drawn)
  numbers = np.asarray(keyed_uniform(np.tile(context.key, (len(places), 1)), np.array(places)))
  for place, number in zip(places, numbers, strict=True):
    token, (logp, plain) = context.tokens[place], context.drawn[place]
    z = z_TxV[place - 1]
    normalised = z - np.log(np.sum(np.exp(z - z.max()))) - z.max()
    assert plain == pytest.approx(normalised[token], abs=1e-4)
    if how.temperature == 0.0:
      assert z[token] >= z.max() - BOUNDARY
      continue
    p = shares(z, set(context.tokens[:place]), how)
    before = p[:token].sum()
    assert before - BOUNDARY <= number <= before + p[token] + BOUNDARY, (context.script, place)
    assert logp == pytest.approx(np.log(p[token]), abs=1e-3)


def test_random_requests_draw_what_a_plain_recomputation_draws(
  programs: SamplerPrograms, tiny: Tiny, logits: Callable[[list[int]], np.ndarray]
) -> None:
  """Lengths, limits, stops, forks, further turns, cancellations and refills at random, in four slots."""
  played = {"requests": 0, "drawn": 0, "stopped": 0}

  @hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)
  @hypothesis.given(some.lists(SCRIPTS, min_size=20, max_size=24))
  def check(scripts: list[Script]) -> None:
    sampler = Sampler(Slots(programs, tiny.weights, SHAPES))
    for context in play(sampler, scripts):
      agrees(context, logits(context.tokens))
      played["drawn"] += len(context.drawn)
      played["stopped"] += STOP in [context.tokens[i] for i in context.drawn]
    played["requests"] += sum(script.copies for script in scripts)

  check()
  assert played["requests"] >= 500 and played["drawn"] > 2000 and played["stopped"] > 20, played


def test_groups_beside_others_draw_what_they_draw_alone(programs: SamplerPrograms, tiny: Tiny) -> None:
  """Bit for bit, whoever else is there and whatever calls they are cut into."""
  scripts = [Script(i, 1 + i % 3, 1 + 4 * i, (5, 1 + i), i % len(HOW), None) for i in range(7)]

  def drawn(some: list[Script]) -> dict[bytes, Context]:
    return {c.key.tobytes(): c for c in play(Sampler(Slots(programs, tiny.weights, SHAPES)), some)}

  together = drawn(scripts)
  assert len(together) == sum(s.copies for s in scripts)
  for script in scripts:
    for key, context in drawn([script]).items():
      assert context.tokens == together[key].tokens
      assert context.drawn == together[key].drawn


def test_a_group_from_one_prefill_draws_what_its_members_draw_from_their_own(
  programs: SamplerPrograms, tiny: Tiny
) -> None:
  keys = {i: request_key(0, str(i)) for i in range(4)}
  prompt = tokens_of(np.random.default_rng(5), 21, 21)
  turns: list[dict[Hashable, DrawnTurn]] = []
  for groups in ([keys], [{i: key} for i, key in keys.items()]):
    sampler = Sampler(Slots(programs, tiny.weights, SHAPES))
    for group in groups:
      sampler.submit(dict(group), prompt, PLAIN, 8)
    sampler.launch()
    turns.append(sampler.collect())
    assert sampler.slots.meter.read == 20 * len(groups)
  assert turns[0] == turns[1] and len(turns[0]) == 4


# Bounds


@pytest.mark.parametrize("length", [1, 2, LENGTH - 1])
def test_prompts_from_one_token_to_all_but_one(sampler: Sampler, length: int) -> None:
  sampler.submit({"r": request_key(0, "r")}, [9] * length, PLAIN, 3)
  sampler.launch()
  assert 1 <= len(sampler.collect()["r"].tokens) <= min(3, LENGTH - length)


@pytest.mark.parametrize("length", [0, LENGTH, LENGTH + 1])
def test_empty_and_over_long_prompts_are_refused(sampler: Sampler, length: int) -> None:
  with pytest.raises(ValueError, match=f"a prompt of {length} tokens; contexts have 1 to 64, one of them drawn"):
    sampler.submit({"r": request_key(0, "r")}, [9] * length, PLAIN, 3)
  assert not sampler.waiting


def test_what_cannot_be_appended_or_grouped_is_refused(sampler: Sampler) -> None:
  with pytest.raises(UserError, match=r"a group of 5 rollouts needs as many slots; sampler\.slots is 4"):
    sampler.submit({i: request_key(0, str(i)) for i in range(5)}, [9, 9], PLAIN, 3)
  sampler.submit({"r": request_key(0, "r")}, [9] * 50, PLAIN, 3)
  sampler.launch()
  sampler.collect()
  for tokens in ([], [9] * 20):
    with pytest.raises(ValueError, match=f"r: {len(tokens)} tokens where 1 to"):
      sampler.append("r", tokens, 3)


def test_a_full_context_loses_nothing(sampler: Sampler) -> None:
  greedy = HOW[3]
  sampler.submit({"r": request_key(0, "r")}, [9] * 50, greedy, 100)
  turns: dict[Hashable, DrawnTurn] = {}
  while not turns:
    sampler.launch()
    turns = sampler.collect()
  assert len(turns["r"].tokens) == LENGTH - 50 or turns["r"].tokens[-1] == STOP
  assert sampler.room("r") == LENGTH - 50 - len(turns["r"].tokens)


def test_a_slot_is_given_to_the_next_while_others_draw(sampler: Sampler) -> None:
  """And a call ends early for it: four slots, twelve requests of very different lengths."""
  limits = [3, 30, 30, 30] + [3] * 8
  for i, limit in enumerate(limits):
    sampler.submit({i: request_key(0, str(i))}, [9, 10, 11], SamplingParams(1.0, 0, 1.0, 1.0), limit)
  order: list[Hashable] = []
  while len(order) < len(limits):
    sampler.launch()
    for name in sampler.collect():
      order.append(name)
      sampler.release(name)
  assert sampler.slots.meter.metrics()["sampler/occupancy"] >= 0.95
  assert sampler.slots.meter.places > 0


def test_a_request_taken_back_before_it_has_a_slot_keeps_nobody_waiting(sampler: Sampler) -> None:
  """Of a group of two that waits, both are taken back; the one behind them is let in."""
  sampler.submit({i: request_key(0, str(i)) for i in range(4)}, [9, 10], PLAIN, 1)
  sampler.launch()
  sampler.submit({"a": request_key(0, "a"), "b": request_key(0, "b")}, [9, 10], PLAIN, 1)
  sampler.submit({"c": request_key(0, "c")}, [9, 10], PLAIN, 1)
  sampler.release("a")
  assert sampler.waiting
  for name in ("b", *sampler.collect()):
    sampler.release(name)
  sampler.launch()
  assert set(sampler.collect()) == {"c"} and not sampler.waiting


def test_a_turn_has_one_budget_over_all_its_calls(sampler: Sampler) -> None:
  """Twelve tokens where a call draws eight: two calls, and not eight more in the second."""
  for name in range(4):
    sampler.submit({name: request_key(0, f"budget/{name}")}, [9, 10, 11], PLAIN, 12)
  turns: dict[Hashable, DrawnTurn] = {}
  while len(turns) < 4:
    sampler.launch()
    turns |= sampler.collect()
  whole = [turn for turn in turns.values() if STOP not in turn.tokens]
  assert whole and all(len(turn.tokens) == 12 for turn in whole)


def test_a_context_that_waits_for_its_tool_is_no_idle_slot(sampler: Sampler) -> None:
  """Four slots: one draws, one is held, two are empty since the next request needs three. Half of them are at work.

  In the first call, of one step, both draw.
  """
  sampler.submit({"held": request_key(0, "held")}, [9, 10], PLAIN, 1)
  sampler.submit({"drawing": request_key(0, "drawing")}, [9, 10], PLAIN, 40)
  sampler.submit({i: request_key(0, str(i)) for i in range(3)}, [9, 10], PLAIN, 1)
  sampler.launch()
  assert set(sampler.collect()) == {"held"}
  sampler.launch()
  sampler.collect()
  meter = sampler.slots.meter
  assert meter.steps > 1
  assert (meter.busy, meter.places) == (2 * meter.steps, 4 * meter.steps)


# Stop sequences


def test_a_stop_sequence_ends_a_turn_on_the_device(tiny: Tiny, one_device: Mesh) -> None:
  """At the byte where a search of the text finds it first, over calls and tokens; without one, at the limit."""
  draw = np.random.default_rng(0)
  pieces = [b"", *(bytes(draw.choice(list(b"ab"), draw.integers(1, 4)).tolist()) for _ in range(VOCAB - 1))]
  sequences = [b"abba", b"bbbbab"]
  programs = programs_of(tiny, one_device, stops=Stops.of((), sequences, pieces))
  sampler = Sampler(Slots(programs, tiny.weights, SHAPES))
  for i in range(24):
    sampler.submit({i: request_key(0, f"stop {i}")}, [9, 10 + i], PLAIN, 20)
  found: dict[Hashable, DrawnTurn] = {}
  while len(found) < 24:
    sampler.launch()
    for name, turn in sampler.collect().items():
      found[name] = turn
      sampler.release(name)
  ended = 0
  for turn in found.values():
    text = b"".join(pieces[t] for t in turn.tokens)
    ends = [text.find(s) + len(s) for s in sequences if s in text]
    if turn.ends:
      before = sum(len(pieces[t]) for t in turn.tokens[:-1])
      assert before < min(ends) == before + turn.ends
      ended += len(turn.tokens) > SHAPES.decode
    else:
      assert not ends and len(turn.tokens) == 20
  assert ended > 0, "none went over calls"


# Meshes


@pytest.mark.parametrize("shape", [(2, 1, 4), (8, 1, 1)])
def test_other_meshes_draw_the_same_but_for_rounding(
  tiny: Tiny, eight_devices: Mesh, shape: tuple[int, int, int], logits: Callable[[list[int]], np.ndarray]
) -> None:
  """Slots over data, heads over tensor; the reference is that of one device."""
  mesh = make_mesh(shape, devices=list(eight_devices.devices.flat))
  weights = jax.device_put(tiny.weights, weight_shardings(mesh, tiny.weights))
  scripts = [Script(i, 1 + i % 3, 1 + 4 * i, (5, 4), i % len(HOW), None) for i in range(7)]
  contexts = play(Sampler(Slots(programs_of(tiny, mesh, slots=8), weights, SHAPES)), scripts)
  assert len(contexts) == sum(s.copies for s in scripts)
  for context in contexts:
    agrees(context, logits(context.tokens))
