"""Jitted extend, decode and fork over slots with a live cache."""
