"""Stop sequences are found in the bytes of tokens, however the text is cut into them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from score_jax.sampler.stops import Stops

STOP = b"\nObs:"
TEXT = b"a\nOb\nObs: b"


def cuts(text: bytes) -> Iterator[list[bytes]]:
  """Every way to cut a text into pieces."""
  for places in itertools.product((False, True), repeat=len(text) - 1):
    ends = [i + 1 for i, cut in enumerate(places) if cut] + [len(text)]
    yield [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def end(stops: Stops, vocabulary: Sequence[bytes], pieces: Sequence[bytes]) -> int:
  """How many bytes stand before the end of the first sequence, walking as the device does; 0 without one."""
  assert stops.move is not None and stops.ends is not None
  state, read = 0, 0
  for piece in pieces:
    token = vocabulary.index(piece)
    if stops.ends[state, token]:
      return read + int(stops.ends[state, token])
    state, read = stops.move[state, token], read + len(piece)
  return 0


def test_a_sequence_split_in_every_way_ends_at_the_same_character() -> None:
  vocabulary = sorted({TEXT[a:b] for a, b in itertools.combinations(range(len(TEXT) + 1), 2)})
  stops = Stops.of((), [STOP], [b"", *vocabulary])
  expected = TEXT.index(STOP) + len(STOP)
  ways = list(cuts(TEXT))
  assert len(ways) == 2 ** (len(TEXT) - 1)
  assert {end(stops, [b"", *vocabulary], way) for way in ways} == {expected}


@pytest.mark.parametrize("seed", range(20))
def test_several_sequences_are_those_of_a_plain_search(seed: int) -> None:
  """Overlapping beginnings, one inside another; random texts of two letters in random pieces."""
  draw = np.random.default_rng(seed)
  sequences = [b"abab", b"bba", b"aab", b"babb"][: 1 + seed % 4]
  vocabulary = [bytes(p) for size in (1, 2, 3) for p in itertools.product(b"ab", repeat=size)]
  stops = Stops.of((), sequences, vocabulary)
  for _ in range(50):
    pieces = [vocabulary[i] for i in draw.integers(0, len(vocabulary), 8)]
    text = b"".join(pieces)
    ends = [text.find(s) + len(s) for s in sequences if s in text]
    assert end(stops, vocabulary, pieces) == min(ends, default=0)


def test_nothing_to_seek_has_no_tables() -> None:
  assert Stops.of((7,)) == Stops((7,))
  with pytest.raises(ValueError, match="at least one byte each"):
    Stops.of((7,), [b""], [b"a"])
  with pytest.raises(ValueError, match="bytes of the vocabulary"):
    Stops.of((7,), [b"a"])
