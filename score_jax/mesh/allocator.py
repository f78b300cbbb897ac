"""Memory of the host that XLA frees stays with the process.

On CPU, XLA takes a step's buffers from malloc and frees them at its end. glibc
hands such large blocks back to the kernel, which clears every page when they are
taken again: a quarter of a small model's train step (benchmarks/LOG.md). A heap
that keeps everything stays small as long as large programs are few and take their
memory in one piece, as a train step does.
"""

from __future__ import annotations

import ctypes
import sys

#: mallopt's parameters and values: one arena, no blocks of their own, nothing given back, growth in large steps
GLIBC = {-8: 1, -4: 0, -1: -1, -2: 256 << 20}


def keep_freed_memory() -> bool:
  """Sets glibc's allocator so; call it before threads start. False where there is no glibc."""
  if not sys.platform.startswith("linux"):
    return False
  try:
    mallopt = ctypes.CDLL("libc.so.6").mallopt
  except (OSError, AttributeError):
    return False
  return all(mallopt(name, value) for name, value in GLIBC.items())
