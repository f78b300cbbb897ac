"""What the processes of one run agree on: process 0 decides, the others are told.

All that is random in a schedule (which tool answered first) has to come through here;
the rest follows from arrays that every process sees alike.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def agree(value: Any) -> Any:
  """Process 0's value, on every process: something that JSON can carry. All processes have to call it."""
  if jax.process_count() == 1:
    return value
  data = json.dumps(value).encode() if jax.process_index() == 0 else b""
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  buffer = np.zeros(1 << size.bit_length(), np.uint8)  # few sizes: each is a program
  buffer[: len(data)] = np.frombuffer(data, np.uint8)
  return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer))[:size]))
