"""The fixtures of tests/agent."""

from __future__ import annotations

from tests.agent.scripted import protocol, stage, tokenizer, tool

__all__ = ["protocol", "stage", "tokenizer", "tool"]
