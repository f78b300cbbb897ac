"""Which backend JAX is left to try.

With libtpu installed JAX tries a TPU first, wherever it runs. Where there is none libtpu writes errors to standard
error that no setting silences, and JAX goes on with the CPU.

MERGED Memory of the host that XLA frees stays with the process.

On CPU, XLA takes a step's buffers from malloc and frees them at its end. glibc
hands such large blocks back to the kernel, which clears every page when they are
taken again: a quarter of a small model's train step (benchmarks/LOG.md). A heap
that keeps everything stays small as long as large programs are few and take their
memory in one piece, as a train step does.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pathlib
import sys
from collections.abc import Mapping
from importlib import metadata

_GOOGLE = "0x1ae0"  # PCI's number of the vendor, whose cloud has disks and network cards of that number too
_DISK, _NETWORK = "0x01", "0x02"  # how PCI's numbers of their classes begin
#: JAX and libtpu set these themselves, whether there is a chip or not, and child processes inherit them
_THEIRS = ("TPU_SKIP_MDS_QUERY", "TPU_LIBRARY_PATH")
#: who sets one of these has chosen a backend, or says that there is a TPU
_CHOICES = (
  "JAX_PLATFORMS",
  "JAX_PLATFORM_NAME",
  "JAX_FORCE_TPU_INIT",
  "PJRT_NAMES_AND_LIBRARY_PATHS",
  "COLAB_TPU_ADDR",
)


def skip_absent_tpu() -> None:
  """Has JAX take the CPU at once where it would do so after a failed try of a TPU."""
  if importlib.util.find_spec("libtpu") and can_skip_tpu(os.environ) and not _other_plugins():
    os.environ["JAX_PLATFORMS"] = "cpu"
    if (jax := sys.modules.get("jax")) is not None:  # it has read the environment already
      jax.config.update("jax_platforms", "cpu")


def can_skip_tpu(environ: Mapping[str, str], root: pathlib.Path = pathlib.Path("/")) -> bool:
  """Whether neither the machine nor the environment names a TPU, and no backend is chosen."""
  named = [n for n in environ if n in _CHOICES or (n.startswith("TPU_") and n not in _THEIRS)]
  chips = [*root.glob("dev/accel[0-9]*"), *root.glob("dev/vfio/[0-9]*")]
  return not (named or chips or any(map(_may_be_a_tpu, root.glob("sys/bus/pci/devices/*"))))


def _may_be_a_tpu(device: pathlib.Path) -> bool:
  vendor, kind = ((device / name).read_text(encoding="utf-8").strip() for name in ("vendor", "class"))
  return vendor == _GOOGLE and not kind.startswith((_DISK, _NETWORK))


def _other_plugins() -> bool:
  """Whether JAX has other backends to try, such as CUDA's."""
  return importlib.util.find_spec("jax_plugins") is not None or bool(metadata.entry_points(group="jax_plugins"))


#: mallopt's parameters and values: one arena, no blocks of their own, nothing given back, growth in large steps
MALLOPT_SETTINGS = {-8: 1, -4: 0, -1: -1, -2: 256 << 20}


def keep_freed_memory() -> bool:
  """Sets glibc's allocator so; call it before threads start. False where there is no glibc."""
  if not sys.platform.startswith("linux"):
    return False
  try:
    mallopt = ctypes.CDLL("libc.so.6").mallopt
  except (OSError, AttributeError):
    return False
  return all(mallopt(name, value) for name, value in MALLOPT_SETTINGS.items())
