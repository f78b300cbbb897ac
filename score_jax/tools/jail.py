"""What shuts a session's process in before it runs any code: namespaces of its own, limits, no rights.

    pid = fork(jail)              in the zygote: the session's process, first of its process namespace
    lock(jail, loaded=…)          in that process

Both raise OSError where the kernel refuses; the session is not served then.
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import os
import platform
import resource
import signal

from score_jax.tools import seccomp

NOBODY = 65534
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")  # all that there are
_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_PIDS = 0x00020000, 0x08000000, 0x10000000, 0x20000000  # CLONE_…
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC = 1, 2, 4, 8  # MS_…
_REMOUNT, _BIND, _RECURSIVE, _SLAVE = 1 << 5, 1 << 12, 1 << 14, 1 << 19
_SET_DUMPABLE, _READ_BOUNDING, _DROP_BOUNDING, _CLEAR_AMBIENT, _AMBIENT = 4, 23, 24, 4, 47  # of prctl
_VERSION_3 = 0x20080522  # of capset's structures
_FILE_BYTES = 64 << 20
_OPEN_FILES = 128
_PENDING_SIGNALS = 64
_CPU_SLACK_S = 60  # the supervisor's wall clock is what ends a step; this ends a session that has lost it

_CLONE = {"x86_64": 56, "aarch64": 220}  # the system call

_libc = ctypes.CDLL(None, use_errno=True)
_python = ctypes.PyDLL(None, use_errno=True)  # the same, called with the interpreter's lock held


@dataclasses.dataclass(frozen=True)
class Jail:
  """How a session is shut in.

  Attributes:
    namespaces: whether it gets namespaces and a file system of its own; else it has the zygote's.
    user: the zygote's user and group, for whom a user namespace is made; None: it has root's rights and needs none.
    memory_mb: address space beyond what is loaded, MiB.
    files_mb: room for files in /tmp, MiB.
  """

  namespaces: bool
  user: tuple[int, int] | None
  memory_mb: int
  files_mb: int


def fork(jail: Jail) -> int:
  """os.fork() into new namespaces: the pid, or 0 in the new process.

  Python has no call for it. A process that forked and then made its namespaces would have to fork again to be in
  the new process namespace, and a fork of all that is loaded takes milliseconds.
  """
  flags = _NEW_MOUNTS | _NEW_IPC | _NEW_PIDS | (_NEW_USER if jail.user else 0) if jail.namespaces else 0
  ctypes.pythonapi.PyOS_BeforeFork()
  pid = _python.syscall(_CLONE[platform.machine()], flags | signal.SIGCHLD, 0, 0, 0, 0)
  if pid == 0:
    ctypes.pythonapi.PyOS_AfterFork_Child()
    return 0
  number = ctypes.get_errno()
  ctypes.pythonapi.PyOS_AfterFork_Parent()
  if pid < 0:
    raise OSError(number, f"clone: {os.strerror(number)}")
  return pid


def lock(jail: Jail, *, loaded: int) -> None:
  """Gives up all rights, sets the limits (`loaded`: bytes of address space that are taken) and filters system calls."""
  if jail.namespaces:
    _furnish(jail)
    _drop_rights(jail)
  _limit(resource.RLIMIT_AS, loaded + (jail.memory_mb << 20))
  _limit(resource.RLIMIT_FSIZE, _FILE_BYTES)
  _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
  for kind in (resource.RLIMIT_CORE, resource.RLIMIT_NPROC, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
    _limit(kind, 0)
  _limit(resource.RLIMIT_SIGPENDING, _PENDING_SIGNALS)
  os.umask(0o077)
  # A crash would start the host's own handler of core dumps, whatever RLIMIT_CORE says; the filter keeps it so.
  _call("prctl", _SET_DUMPABLE, 0, 0, 0, 0)
  seccomp.install()


def _furnish(jail: Jail) -> None:
  """Lays out the session's own file system: nothing but /tmp can be written, and /proc is empty."""
  if jail.user:
    for file, line in (("setgroups", "deny"), *zip(("uid_map", "gid_map"), _maps(jail.user), strict=True)):
      with open(f"/proc/self/{file}", "w", encoding="utf-8") as of:
        of.write(line)
  _call("mount", b"none", b"/", None, _RECURSIVE | _SLAVE, None)
  bare = _NO_SUID | _NO_DEVICES | _NO_EXEC
  room = f"size={jail.files_mb}m,nr_inodes=4096,mode=1777".encode()
  _call("mount", b"tmpfs", b"/tmp", b"tmpfs", bare, room)
  _call("mount", b"tmpfs", b"/proc", b"tmpfs", bare | _READ_ONLY, b"size=4k")
  for device in DEVICES:  # the host's own: their modes and times stay as they are, writing to them is no matter
    _call("mount", b"none", device.encode(), None, _REMOUNT | _BIND | _READ_ONLY | _NO_SUID | _NO_EXEC, None)
  os.chdir("/tmp")


def _maps(user: tuple[int, int]) -> list[str]:
  """The lines that make the user and group `user` outside nobody inside."""
  return [f"{NOBODY} {outside} 1" for outside in user]


def _drop_rights(jail: Jail) -> None:
  for capability in itertools.takewhile(_is_known, itertools.count()):
    _call("prctl", _DROP_BOUNDING, capability, 0, 0, 0)
  if not jail.user:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
  _call("prctl", _AMBIENT, _CLEAR_AMBIENT, 0, 0, 0)
  _call("capset", (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)())


def _is_known(capability: int) -> bool:
  """Whether the kernel has so many."""
  return _libc.prctl(_READ_BOUNDING, capability, 0, 0, 0) >= 0


def limit_cpu(seconds: float) -> None:
  """Lets the process compute for so long from now on, and some."""
  _limit(resource.RLIMIT_CPU, int(sum(os.times()[:2]) + seconds + _CPU_SLACK_S), hard=False)


def _limit(kind: int, value: int, *, hard: bool = True) -> None:
  """Sets a resource limit, or leaves the one in force where it is lower and binding."""
  highest = resource.getrlimit(kind)[1]
  if highest != resource.RLIM_INFINITY:
    value = min(value, highest)
  resource.setrlimit(kind, (value, value if hard else highest))


def _call(name: str, *args: object) -> None:
  if getattr(_libc, name)(*args):
    number = ctypes.get_errno()
    raise OSError(number, f"{name}: {os.strerror(number)}")
