"""Fixtures: a trained tokenizer, its protocol, the real Python tool, and a stage on which turns are scripted."""

from __future__ import annotations

from tests.agent.scripted import protocol, stage, tokenizer, tool

__all__ = ["protocol", "stage", "tokenizer", "tool"]
