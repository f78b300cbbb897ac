"""A request draws the same bits wherever and beside whatever it is drawn, and the trainer agrees with its numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from score_jax.errors import UserError
from score_jax.model.decoder import Weights
from score_jax.model.sharding import weight_shardings
from score_jax.sampler.programs import SamplerPrograms
from score_jax.sampler.slots import ProgramShapes, SamplingParams, Slots, request_key
from score_jax.sampler.stops import Stops
from score_jax.train.batch import Example, fill_batch, pack_examples
from score_jax.train.losses import token_logprobs
from tests.conftest import Tiny

STOP = 7
SHAPES = ProgramShapes(piece=8, rows=(1, 3), decode=8)
PLAIN = SamplingParams(0.8, 0, 1.0, 1.0)
CUT = SamplingParams(0.7, 20, 0.9, 1.3)
GREEDY = SamplingParams(0.0, 0, 1.0, 1.0)


def some(length: int, *, seed: int) -> list[int]:
  """Tokens, none of which is the stop token."""
  return np.random.default_rng(seed).integers(8, 64, length).tolist()


PROMPT, OBSERVATION = some(19, seed=1), some(5, seed=2)

Written = tuple[list[int], list[float]]


@pytest.fixture(scope="module")
def programs(tiny: Tiny, one_device: Mesh) -> SamplerPrograms:
  return SamplerPrograms(tiny.graph, tiny.config, one_device, slots=4, length=64, block=32, stops=Stops((STOP,)))


@pytest.fixture
def slots(programs: SamplerPrograms, tiny: Tiny) -> Slots:
  return Slots(programs, tiny.weights, SHAPES)


def begin(slots: Slots, slot: int, name: str, decoding: SamplingParams) -> None:
  slots.clear(slot)
  slots.assign(slot, request_key(0, name), decoding)


def write(slots: Slots, slot: int, count: int, others: Mapping[int, int] | None = None) -> Written:
  """Draws `count` tokens in a slot, fewer if it stops; `others` draw beside it for as long as they have to."""
  left = {slot: count} | dict(others or {})
  tokens: list[int] = []
  logprobs: list[float] = []
  while slot in left:
    for at, written in slots.decode(left).items():
      left[at] -= len(written.tokens)
      if at == slot:
        tokens += written.tokens
        logprobs += written.logprobs
      if written.stopped:
        del left[at]
  return tokens, logprobs


# The same bits


def alone(slots: Slots) -> tuple[int, dict[int, int]]:
  slots.extend({0: PROMPT})
  return 0, {}


def in_another_slot(slots: Slots) -> tuple[int, dict[int, int]]:
  slots.extend({3: PROMPT})
  return 3, {}


def beside_others(slots: Slots) -> tuple[int, dict[int, int]]:
  for slot, decoding in ((0, CUT), (1, GREEDY), (3, PLAIN)):
    begin(slots, slot, f"mate {slot}", decoding)
  slots.extend({0: some(7, seed=3), 1: some(19, seed=4), 2: PROMPT, 3: some(2, seed=5)})
  return 2, {0: 3, 1: 20, 3: 9}


def beside_a_long_one(slots: Slots) -> tuple[int, dict[int, int]]:
  """Its context has both look at the whole of the cache."""
  begin(slots, 0, "long", CUT)
  slots.extend({0: some(50, seed=6)})
  slots.extend({1: PROMPT})
  return 1, {0: 12}


def after_a_fork(slots: Slots) -> tuple[int, dict[int, int]]:
  begin(slots, 1, "source", CUT)
  slots.extend({1: PROMPT})
  slots.fork([(1, 0), (1, 2), (1, 3)])
  return 3, {1: 6}


def where_another_was(slots: Slots) -> tuple[int, dict[int, int]]:
  begin(slots, 2, "former", CUT)
  slots.extend({2: some(40, seed=8)})
  write(slots, 2, 10)
  slots.clear(2)
  slots.extend({2: PROMPT})
  return 2, {}


PLACES = [in_another_slot, beside_others, beside_a_long_one, after_a_fork, where_another_was]


def request(
  slots: Slots, place: Callable[[Slots], tuple[int, dict[int, int]]], decoding: SamplingParams
) -> list[Written]:
  """What a request writes, an observation coming in between."""
  slot, others = place(slots)
  slots.assign(slot, request_key(0, "request"), decoding)
  first = write(slots, slot, 11, others)
  slots.extend({slot: OBSERVATION})
  return [first, write(slots, slot, 6)]


@pytest.mark.parametrize("decoding", [PLAIN, CUT], ids=["plain", "cut"])
def test_a_request_draws_the_same_bits_anywhere(
  programs: SamplerPrograms, tiny: Tiny, decoding: SamplingParams
) -> None:
  expected = request(Slots(programs, tiny.weights, SHAPES), alone, decoding)
  assert [len(tokens) for tokens, _ in expected] == [11, 6], "it stopped early; give it another name"
  for place in PLACES:
    assert request(Slots(programs, tiny.weights, SHAPES), place, decoding) == expected, place.__name__


def test_names_and_seeds_give_other_draws(slots: Slots) -> None:
  slots.extend({0: PROMPT})
  slots.fork([(0, slot) for slot in (1, 2, 3)])
  for slot, key in enumerate((request_key(0, "a"), request_key(0, "a"), request_key(0, "b"), request_key(1, "a"))):
    slots.assign(slot, key, PLAIN)
  a, again, b, other_seed = slots.decode(dict.fromkeys(range(4), 8)).values()
  assert a == again
  assert len({tuple(written.tokens) for written in (a, b, other_seed)}) == 3


def test_the_key_of_a_request_stays_what_it_is() -> None:
  """Runs made before must be drawn the same again."""
  expected = np.frombuffer(hashlib.sha256(b"3/rl/0/0/q7/1").digest()[:8], "<u4")
  np.testing.assert_array_equal(request_key(3, "rl/0/0/q7/1"), expected)


# The trainer's numbers


@pytest.mark.parametrize("decoding", [PLAIN, SamplingParams(1.0, 0, 1.0, 1.0)], ids=["0.8", "1.0"])
def test_the_trainer_gives_the_log_probabilities_of_the_draws(
  slots: Slots, tiny: Tiny, decoding: SamplingParams
) -> None:
  """For contexts longer than a chunk, written in two turns."""
  prompts = [some(40, seed=11), some(21, seed=12), some(9, seed=13)]
  for slot in range(3):
    begin(slots, slot, f"trainer {slot}", decoding)
  slots.extend(dict(enumerate(prompts)))
  samples = []
  for slot, prompt in enumerate(prompts):
    turns = [write(slots, slot, 6)]
    slots.extend({slot: OBSERVATION})
    turns.append(write(slots, slot, 5))
    tokens, logprobs = [*prompt], [0.0] * len(prompt)
    for (drawn, logp), after in zip(turns, (OBSERVATION, []), strict=True):
      tokens += drawn + after
      logprobs += logp + [0.0] * len(after)
    assert slots.context(slot) == len(tokens)
    sampled = np.array(logprobs, np.float32)
    samples.append(Example(np.array(tokens, np.int32), (sampled != 0).astype(np.float32), sampled))
  batch = fill_batch(pack_examples(samples, length=64), length=64, count=3, denominator=1.0)
  assert 26 <= batch.loss_mask.sum() <= 33
  scored = jax.jit(token_logprobs, static_argnums=0, static_argnames=("temperature", "chunk"))
  found, _ = scored(tiny.graph, tiny.weights, batch, temperature=decoding.temperature, chunk=64)
  np.testing.assert_allclose(found * batch.loss_mask, batch.sampling_logprobs, rtol=0, atol=1e-5)


# What a slot holds


def test_the_last_token_of_a_context_is_pending(slots: Slots) -> None:
  slots.extend({1: PROMPT})
  assert (slots.length[1], slots.context(1), slots.meter.read) == (18, 19, 18)
  tokens, _ = write(slots, 1, 3)
  assert (slots.length[1], slots.context(1), slots.meter.drawn, slots.meter.steps) == (21, 22, 3, 3)
  slots.extend({1: OBSERVATION})  # the drawn token that was pending is read with it
  assert (slots.length[1], slots.context(1), slots.meter.read) == (26, 27, 18 + 5)
  assert len(tokens) == 3
  assert slots.length[0] == slots.length[2] == 0


def test_each_slot_has_its_own_budget(slots: Slots) -> None:
  slots.extend({slot: PROMPT for slot in range(3)})
  for slot in range(3):
    slots.assign(slot, request_key(0, "budget"), PLAIN)
  drawn = slots.decode({0: 2, 1: 5, 2: 100})
  assert [len(drawn[slot].tokens) for slot in range(3)] == [2, 5, SHAPES.decode]
  assert [drawn[slot].stopped for slot in range(3)] == [True, True, False]
  assert drawn[0].tokens == drawn[2].tokens[:2]
  assert (slots.meter.drawn, slots.meter.steps) == (15, 8)


def test_a_slot_keeps_its_stop_token_and_stops(slots: Slots) -> None:
  stopped = 0
  for number in range(12):
    for slot in range(4):
      begin(slots, slot, f"stop {number} {slot}", SamplingParams(2.0, 0, 1.0, 1.0))
    slots.extend(dict.fromkeys(range(4), PROMPT))
    for slot, (tokens, logprobs, plain, ended, _) in slots.decode(dict.fromkeys(range(4), 8)).items():
      assert STOP not in tokens[:-1]
      assert ended and len(plain) == len(tokens)
      assert len(tokens) == len(logprobs)
      assert len(tokens) == 8 or tokens[-1] == STOP
      assert slots.context(slot) == len(PROMPT) + len(tokens)
      stopped += len(tokens) < 8
  assert stopped > 0


def test_a_slot_stops_when_its_context_is_full(slots: Slots) -> None:
  slots.extend({0: some(60, seed=9), 1: PROMPT})
  for slot in (0, 1):
    slots.assign(slot, request_key(1, f"full {slot}"), PLAIN)
  drawn = slots.decode({0: 8, 1: 8})
  assert [len(drawn[slot].tokens) for slot in (0, 1)] == [4, 8]
  assert drawn[0].stopped
  assert slots.context(0) == slots.capacity == 64
  with pytest.raises(ValueError, match="1 more tokens do not fit a context of 64"):
    slots.extend({0: [9]})


@pytest.mark.parametrize(
  ("tokens", "message"),
  [([], "no tokens to append"), ([9] * 65, "65 more tokens do not fit")],
)
def test_what_cannot_be_appended_changes_nothing(slots: Slots, tokens: Sequence[int], message: str) -> None:
  slots.extend({1: PROMPT})
  with pytest.raises(ValueError, match=f"slot 2: {message}"):
    slots.extend({1: OBSERVATION, 2: tokens})
  assert (slots.context(1), slots.context(2), slots.meter.read) == (19, 0, 18)
  with pytest.raises(ValueError, match="slot 1: no tokens to append"):
    slots.extend({1: []})


# Programs


def test_every_program_is_compiled_once_a_bucket(programs: SamplerPrograms, tiny: Tiny) -> None:
  def work(weights: Weights, length: int) -> None:
    slots = Slots(programs, weights, SHAPES)
    for slot in range(2):
      begin(slots, slot, f"work {slot}", PLAIN if slot else CUT)
    slots.extend({0: some(length, seed=20), 1: some(3, seed=21)})
    slots.fork([(0, 2), (1, 3)])
    write(slots, 0, 10, {1: 4})
    slots.extend({0: OBSERVATION, 3: OBSERVATION})

  sizes = []
  for weights in (tiny.weights, jax.tree.map(lambda x: x * 0.5, tiny.weights)):
    for length in (5, 18, 30, 41):
      work(weights, length)
    sizes.append([f.count for f in (programs.extend, programs.decode, programs.fork)])
  assert sizes[0] == sizes[1]
  assert np.all(np.array(sizes[0]) <= [2 * 2, 2, 2]), sizes  # rows x blocks, blocks, blocks


def test_the_mesh_changes_draws_by_rounding_only(programs: SamplerPrograms, tiny: Tiny, eight_devices: Mesh) -> None:
  spread = SamplerPrograms(tiny.graph, tiny.config, eight_devices, slots=4, length=64, block=32, stops=Stops((STOP,)))
  placed = jax.device_put(tiny.weights, weight_shardings(eight_devices, tiny.weights))
  results = []
  for slots in (Slots(programs, tiny.weights, SHAPES), Slots(spread, placed, SHAPES)):
    for slot, decoding in enumerate((GREEDY, PLAIN, GREEDY, PLAIN)):
      begin(slots, slot, f"mesh {slot}", decoding)
    slots.extend({slot: some(12 + slot, seed=30 + slot) for slot in range(4)})
    results.append(slots.decode(dict.fromkeys(range(4), 8)))
  for slot in range(4):
    expected, found = (result[slot] for result in results)
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=0, atol=1e-5)


def test_slots_that_cannot_be_split_are_refused(tiny: Tiny, eight_devices: Mesh) -> None:
  programs = SamplerPrograms(tiny.graph, tiny.config, eight_devices, slots=6, length=64, block=32, stops=Stops((STOP,)))
  with pytest.raises(UserError, match=r"sampler\.slots = 6 cannot be split .* \(2 x 2\); choose a multiple"):
    Slots(programs, tiny.weights, SHAPES)


@pytest.mark.parametrize("wrong", [-1, 64, 2**31 - 1])
def test_a_token_that_the_model_does_not_have_is_refused(slots: Slots, wrong: int) -> None:
  """XLA would clamp it, and a negative one would count from the end."""
  begin(slots, 0, "a", PLAIN)
  with pytest.raises(UserError, match=rf"token {wrong} is to be read, and the model's tokens are 0 to 63"):
    slots.extend({0: [*PROMPT, wrong, 9]})
  assert slots.context(0) == 0
