"""When JAX may leave out its try of a TPU."""

from __future__ import annotations

import pathlib

import pytest

from score_jax.runtime.backend import can_skip_tpu


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({}, True),
    ({"TPU_SKIP_MDS_QUERY": "1", "TPU_LIBRARY_PATH": "x", "XLA_FLAGS": "y"}, True),  # JAX itself sets the first two
    ({"JAX_PLATFORMS": "tpu"}, False),
    ({"JAX_PLATFORMS": ""}, False),
    ({"JAX_FORCE_TPU_INIT": "1"}, False),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
  ],
)
def test_what_the_environment_names_is_tried(
  tmp_path: pathlib.Path, environment: dict[str, str], expected: bool
) -> None:
  assert can_skip_tpu(environment, tmp_path) is expected


@pytest.mark.parametrize("device", ["dev/accel0", "dev/vfio/0"])
def test_a_chip_is_tried(tmp_path: pathlib.Path, device: str) -> None:
  (tmp_path / device).parent.mkdir(parents=True)
  (tmp_path / device).write_text("")
  assert not can_skip_tpu({}, tmp_path)


@pytest.mark.parametrize(
  ("vendor", "kind", "expected"),
  [
    ("0x1ae0", "0x0b4000", False),
    ("0x1ae0", "0x020000", True),  # the network card of Google's machines
    ("0x1ae0", "0x010802", True),  # their disk
    ("0x10de", "0x030200", True),  # NVIDIA's: whether JAX can use it is asked of its plugins
  ],
)
def test_a_device_of_the_vendor_is_tried(tmp_path: pathlib.Path, vendor: str, kind: str, expected: bool) -> None:
  device = tmp_path / "sys/bus/pci/devices/0000:00:05.0"
  device.mkdir(parents=True)
  (device / "vendor").write_text(f"{vendor}\n")
  (device / "class").write_text(f"{kind}\n")
  assert can_skip_tpu({}, tmp_path) is expected
