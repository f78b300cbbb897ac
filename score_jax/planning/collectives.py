"""The collectives that a compiled program contains."""

from __future__ import annotations

import dataclasses
import re

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}

#: result type and name of an instruction that is a collective or begins one
INSTRUCTION = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\(")
ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
  """All collectives of one kind in a program."""

  kind: str
  count: int
  bytes: int  # of what one device has afterwards, summed


def collectives(text: str) -> list[Collective]:
  """What stands in a program's optimised HLO, each instruction once: one in a loop runs as often as that goes round."""
  found: dict[str, tuple[int, int]] = {}
  for result, kind, start in INSTRUCTION.findall(text):
    sizes = [_size(*array) for array in ARRAY.findall(result)]
    size = max(sizes, default=0) if start else sum(sizes)  # what is started carries its operand along
    count, total = found.get(kind, (0, 0))
    found[kind] = count + 1, total + size
  return [Collective(kind, *found[kind]) for kind in KINDS if kind in found]


def _size(dtype: str, shape: str) -> int:
  elements = 1
  for size in shape.split(","):
    elements *= int(size) if size else 1
  return BYTES.get(dtype, 0) * elements
