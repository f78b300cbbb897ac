"""Fixtures: a trained tokenizer, its protocol, the real Python tool, scripted turns, an agent on a real sampler."""

from __future__ import annotations

from tests.agent.real import real
from tests.agent.scripted import protocol, stage, tokenizer, tool

__all__ = ["protocol", "real", "stage", "tokenizer", "tool"]
