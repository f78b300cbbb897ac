"""Which processes a process has started, for benchmarks that count them."""

from __future__ import annotations

import collections
import pathlib


def descendants(pid: int) -> list[int]:
  """The processes that a process has started, and those that these have."""
  parents: dict[int, list[int]] = collections.defaultdict(list)
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      parents[int(path.read_text(encoding="utf-8").rpartition(")")[2].split()[1])].append(int(path.parent.name))
    except OSError:  # it has ended
      continue
  found, new = list[int](), [pid]
  while new:
    new = [child for parent in new for child in parents[parent]]
    found += new
  return found
