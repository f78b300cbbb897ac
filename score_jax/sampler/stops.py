"""Where a turn ends: stop tokens, and stop sequences of text found on the device while tokens are drawn.

A sequence can be split over tokens in any way, so it is sought in their bytes: an
automaton of the sequences (Aho and Corasick 1975) whose step from a state by a
whole token is a table, worked out once on the host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Stops:
  """Stop tokens and stop sequences of a sampler, for one vocabulary.

  Attributes:
    tokens: ids that end a turn; the turn keeps them.
    move: int32 [states, V], the state after a token; state 0 has seen no beginning of a sequence.
    ends: int32 [states, V], how many bytes of a token stand before the end of the first sequence that ends in it;
      0 where none does.
  """

  tokens: tuple[int, ...]
  move: np.ndarray | None = None
  ends: np.ndarray | None = None

  @classmethod
  def of(cls, tokens: Sequence[int], sequences: Sequence[bytes] = (), pieces: Sequence[bytes] = ()) -> Stops:
    """The stops of a vocabulary whose tokens stand for the bytes `pieces` (special tokens for none).

    Raises:
      ValueError: a sequence is empty, or there are sequences and no pieces.
    """
    if not sequences:
      return cls(tuple(tokens))
    if not all(sequences) or not pieces:
      raise ValueError("stop sequences need at least one byte each, and the bytes of the vocabulary's tokens")
    step, final = automaton(sequences)
    return cls(tuple(tokens), *by_token(step, final, pieces))


def automaton(sequences: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
  """int32 [states, 256], the state after a byte, and bool [states], whether a sequence has just ended."""
  prefixes = [b"", *sorted({s[: i + 1] for s in sequences for i in range(len(s))})]
  number = {prefix: i for i, prefix in enumerate(prefixes)}

  def after(read: bytes) -> int:
    """The longest end of what was read that begins a sequence."""
    return next(number[read[i:]] for i in range(len(read) + 1) if read[i:] in number)

  step = np.array([[after(prefix + bytes([byte])) for byte in range(256)] for prefix in prefixes], np.int32)
  return step, np.array([prefix.endswith(tuple(sequences)) for prefix in prefixes])


def by_token(step: np.ndarray, final: np.ndarray, pieces: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
  """`Stops.move` and `Stops.ends`: the automaton's steps by whole tokens."""
  sizes = np.array([len(piece) for piece in pieces])
  spelled = np.zeros((len(pieces), max(int(sizes.max()), 1)), np.uint8)
  for token, piece in enumerate(pieces):
    spelled[token, : len(piece)] = np.frombuffer(piece, np.uint8)
  state = np.broadcast_to(np.arange(len(step))[:, None], (len(step), len(pieces))).copy()
  ends = np.zeros_like(state)
  for place in range(spelled.shape[1]):
    going = (place < sizes)[None]
    state = np.where(going, step[state, spelled[None, :, place]], state)
    ends = np.where(going & final[state] & (ends == 0), place + 1, ends)
  return state.astype(np.int32), ends.astype(np.int32)
