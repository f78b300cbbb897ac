"""Drawn tokens as text while they come."""

from __future__ import annotations

import pytest

from score_jax.agent.protocol import AgentProtocol, Turn, train_tokenizer
from score_jax.agent.sections import SectionDecoder
from tests.agent.scripted import SHAPE, TEXT


@pytest.fixture(scope="module")
def protocol() -> AgentProtocol:
  return AgentProtocol(train_tokenizer(TEXT * 3, vocab=SHAPE.vocab))


def test_an_act_comes_in_its_sections(protocol: AgentProtocol) -> None:
  found = list(SectionDecoder(protocol).feed(protocol.encode_turn(Turn("act", "add", "print(1)"))))
  assert "".join(text for section, text in found if section == "thought") == "add"
  assert "".join(text for section, text in found if section == "code") == "print(1)"
  assert {section for section, _ in found} == {"thought", "code"}


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_character_waits_for_all_of_its_tokens(protocol: AgentProtocol, size: int) -> None:
  """The tokenizer spells these by bytes, so pieces end within characters."""
  text = "7 € für 𝒳"
  tokens = protocol.encode_turn(Turn("first_thought", text))
  sections = SectionDecoder(protocol)
  found = [piece for i in range(0, len(tokens), size) for piece in sections.feed(tokens[i : i + size])]
  assert len(protocol.encode("€")) > 1 or len(protocol.encode("𝒳")) > 1, "nothing is split"
  assert {section for section, _ in found} == {"first_thought"}
  assert "".join(piece for _, piece in found) == text
  assert not any("\N{REPLACEMENT CHARACTER}" in piece for _, piece in found)


def test_what_a_malformed_turn_spells_outside_of_all_sections(protocol: AgentProtocol) -> None:
  tokens = (*protocol.encode("add"), protocol.stop_token)
  assert [*SectionDecoder(protocol).feed(tokens)] == [("", "add")]


def test_a_broken_character_is_told_when_its_section_ends(protocol: AgentProtocol) -> None:
  whole = protocol.encode_turn(Turn("first_thought", "€"))
  broken = (whole[0], whole[1], *whole[-2:])
  assert "".join(text for _, text in SectionDecoder(protocol).feed(broken)) == "\N{REPLACEMENT CHARACTER}"
