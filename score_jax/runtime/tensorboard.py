"""Numbers as TensorBoard reads them: a file of records, each an event with a checksum.

tensorboardX has a writer of its own, whose thread dies when the disk is full and then has everybody wait for it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c


def encode_file_header(time: float) -> bytes:
  """What a file begins with; `time` in seconds since 1970."""
  return _record(Event(wall_time=time, file_version="brain.Event:2"))


def encode_scalars(step: int, time: float, numbers: Mapping[str, float]) -> bytes:
  """The numbers of one step."""
  values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
  return _record(Event(wall_time=time, step=step, summary=Summary(value=values)))


def _record(event: Event) -> bytes:
  data = event.SerializeToString()
  header = struct.pack("<Q", len(data))
  return header + struct.pack("<I", masked_crc32c(header)) + data + struct.pack("<I", masked_crc32c(data))
