"""Settings of the process that have to be made before JAX starts.

`skip_absent_tpu`: with libtpu installed, JAX tries a TPU first on every machine, and libtpu then writes errors that no
setting silences. Where there is no TPU and nobody has chosen a backend, JAX is set to the CPU.

`keep_freed_memory`: on CPU, XLA takes the buffers of a step from malloc and frees them at its end. glibc gives such
large blocks back to the kernel, which clears every page when they are taken again: a quarter of a small model's train
step (benchmarks/LOG.md). The setting keeps freed memory in the process. The heap stays small as long as large programs
are few and take their memory in one piece, as a train step does.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pathlib
import sys
from collections.abc import Mapping
from importlib import metadata

_GOOGLE = "0x1ae0"  # PCI vendor id; the disks and network cards of Google's cloud have it too
_DISK, _NETWORK = "0x01", "0x02"  # first digits of their PCI class ids
#: set by JAX and libtpu themselves, with or without a chip, and inherited by child processes
_SET_BY_JAX = ("TPU_SKIP_MDS_QUERY", "TPU_LIBRARY_PATH")
#: variables whose presence means that a backend was chosen, or that there is a TPU
_CHOICES = (
  "JAX_PLATFORMS",
  "JAX_PLATFORM_NAME",
  "JAX_FORCE_TPU_INIT",
  "PJRT_NAMES_AND_LIBRARY_PATHS",
  "COLAB_TPU_ADDR",
)


def skip_absent_tpu() -> None:
  """Sets JAX to the CPU where it would otherwise try an absent TPU first, fail, and take the CPU."""
  if importlib.util.find_spec("libtpu") and can_skip_tpu(os.environ) and not _has_other_plugins():
    os.environ["JAX_PLATFORMS"] = "cpu"
    if (jax := sys.modules.get("jax")) is not None:  # an imported JAX has read the environment already
      jax.config.update("jax_platforms", "cpu")


def can_skip_tpu(environ: Mapping[str, str], root: pathlib.Path = pathlib.Path("/")) -> bool:
  """Whether the machine has no TPU, and the environment names neither a TPU nor a backend."""
  named = [n for n in environ if n in _CHOICES or (n.startswith("TPU_") and n not in _SET_BY_JAX)]
  chips = [*root.glob("dev/accel[0-9]*"), *root.glob("dev/vfio/[0-9]*")]
  return not (named or chips or any(map(_may_be_tpu, root.glob("sys/bus/pci/devices/*"))))


def _may_be_tpu(device: pathlib.Path) -> bool:
  vendor, kind = ((device / name).read_text(encoding="utf-8").strip() for name in ("vendor", "class"))
  return vendor == _GOOGLE and not kind.startswith((_DISK, _NETWORK))


def _has_other_plugins() -> bool:
  """Whether plugins with other backends, such as CUDA, are installed."""
  return importlib.util.find_spec("jax_plugins") is not None or bool(metadata.entry_points(group="jax_plugins"))


#: mallopt parameter -> value: one arena (M_ARENA_MAX), no mmapped blocks (M_MMAP_MAX), nothing given back
#: (M_TRIM_THRESHOLD), growth by 256 MiB (M_TOP_PAD)
MALLOPT_SETTINGS = {-8: 1, -4: 0, -1: -1, -2: 256 << 20}


def keep_freed_memory() -> bool:
  """Sets glibc's allocator to keep freed memory; False where there is no glibc. Call it before threads start."""
  if not sys.platform.startswith("linux"):
    return False
  try:
    mallopt = ctypes.CDLL("libc.so.6").mallopt
  except (OSError, AttributeError):
    return False
  return all(mallopt(name, value) for name, value in MALLOPT_SETTINGS.items())
