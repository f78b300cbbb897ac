"""Processes, files, locks, signals and metrics of a run."""
