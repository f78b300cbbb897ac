"""Drawn tokens as text while they come: which part of a turn they belong to, and as much text as they spell so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from score_jax.agent.protocol import AgentProtocol


class SectionDecoder:
  """The text of one trajectory's turns, piece by piece."""

  def __init__(self, protocol: AgentProtocol):
    self._protocol = protocol
    self._section, self._tokens, self._told = "", [], ""

  def feed(self, tokens: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Pieces of text with their sections: first_thought, thought, code, or "" outside of all (a malformed turn).

    A character that its tokens do not spell whole yet waits for the next ones.
    """
    for token in tokens:
      tag = self._protocol.tag_by_id.get(token)
      if tag is None and token != self._protocol.stop_token:
        self._tokens.append(token)
        continue
      yield from self._piece(whole=True)
      self._section, self._tokens, self._told = (tag or "</>").strip("<>"), [], ""
      if self._section.startswith("/"):
        self._section = ""
    yield from self._piece(whole=False)

  def _piece(self, *, whole: bool) -> Iterator[tuple[str, str]]:
    text = self._protocol.decode(self._tokens)
    if not whole:
      text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    if len(text) > len(self._told):
      yield self._section, text[len(self._told) :]
      self._told = text
