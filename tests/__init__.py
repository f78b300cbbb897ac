"""Tests, in the folders of what they test; `tests.agent.scripted` is a double that several of them use."""
