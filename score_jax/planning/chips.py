"""Accelerators by name: memory, speed, and how a topology's devices are had without any."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

from score_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One accelerator. The figures are the makers' published ones."""

  platform: str  # tpu, gpu
  memory: float  # GiB that programs can have
  flops: float  # bfloat16 (T4: float16), a second
  bandwidth: float  # of the memory, bytes a second


CHIPS = {
  "v5e": Chip("tpu", 15.75, 197e12, 819e9),
  "v5p": Chip("tpu", 95.0, 459e12, 2765e9),
  "v6e": Chip("tpu", 31.25, 918e12, 1640e9),
  "v4": Chip("tpu", 31.75, 275e12, 1228e9),
  "h100": Chip("gpu", 78.0, 989e12, 3350e9),
  "h200": Chip("gpu", 139.0, 989e12, 4800e9),
  "a100": Chip("gpu", 78.0, 312e12, 2039e9),
  "t4": Chip("gpu", 14.5, 65e12, 320e9),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Some chips of one kind: `v5e:8x8`, `v5p:2x4x4`, `h100:8`; `v5e:1` is one chip out of the least host of four."""

  name: str
  chip: Chip
  count: int
  devices: Sequence[Any]  # of jax, for compiling; none where that cannot be done without the hardware

  @property
  def compiles(self) -> bool:
    """Whether its programs can be compiled here; where not, figures are estimates from shapes."""
    return bool(self.devices)


def topology(name: str) -> Topology:
  """The chips of that name.

  Raises:
    UserError: the kind or the shape is unknown, or libtpu is not installed.
  """
  kind, _, shape = name.partition(":")
  sizes = shape.split("x")
  if kind not in CHIPS or not all(s.isdigit() and int(s) for s in sizes):
    raise UserError(f"--topology={name}: give KIND:SHAPE such as v5e:8x8 or h100:8, with a kind of {', '.join(CHIPS)}")
  chip, count = CHIPS[kind], math.prod(map(int, sizes))
  return Topology(name, chip, count, _tpus(name, count) if chip.platform == "tpu" else ())


def _tpus(name: str, count: int) -> Sequence[Any]:
  """Devices of a TPU topology, which libtpu describes without any."""
  from jax.experimental import topologies

  os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
  kind = name.partition(":")[0]
  asked = f"{kind}:2x2" if count == 1 else name  # hosts are of four chips; a program can be compiled for one of them
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=asked).devices[:count]
  except Exception as error:  # of the plugin, whose kinds are many
    reason = str(error).strip().splitlines()[0][:200]
    raise UserError(f"--topology={name} cannot be described ({reason}); pip install score_jax[tpu]") from error
