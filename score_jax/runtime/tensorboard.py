"""TensorBoard event files: records with checksums, each a serialised event.

tensorboardX's own writer is not used: its thread dies when the disk is full, and every later call then waits for it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c


def encode_file_header(time: float) -> bytes:
  """First record of an event file; `time` in seconds since 1970."""
  return _record(Event(wall_time=time, file_version="brain.Event:2"))


def encode_scalars(step: int, time: float, numbers: Mapping[str, float]) -> bytes:
  """A record with the numbers of one step."""
  values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
  return _record(Event(wall_time=time, step=step, summary=Summary(value=values)))


def _record(event: Event) -> bytes:
  # length (uint64), its checksum, the event, its checksum
  data = event.SerializeToString()
  header = struct.pack("<Q", len(data))
  return header + struct.pack("<I", masked_crc32c(header)) + data + struct.pack("<I", masked_crc32c(data))
