"""Confines the process of a session before it runs any code: namespaces, resource limits, no capabilities, seccomp.

    pid = fork_into_namespaces(jail)   in the zygote: the process of the session, first of its PID namespace
    enter_jail(jail, loaded=...)       in that process

Both raise OSError where the kernel refuses; the session is not served then. The seccomp filter denies system calls that
start processes or threads, reach the network or other processes, change the isolation, or hold memory that no limit
counts. A connected socket pair is allowed, which asyncio needs: it has no address and passes no files.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import itertools
import os
import platform
import resource
import signal
import struct

#: of each system call its number on x86_64 and on aarch64 (None: there is none)
_STARTS = {"clone": (56, 220), "fork": (57, None), "vfork": (58, None)}
_NEWER = {"clone3": (435, 435)}  # told that there is no such call, a C library falls back on clone
_REFUSED = {
  "execve": (59, 221),
  "execveat": (322, 281),
  "socket": (41, 198),
  "bind": (49, 200),
  "connect": (42, 203),
  "listen": (50, 201),
  "accept": (43, 202),
  "accept4": (288, 242),
  "sendmsg": (46, 211),
  "sendmmsg": (307, 269),
  "recvmsg": (47, 212),
  "recvmmsg": (299, 243),
  "setsockopt": (54, 208),
  "splice": (275, 76),
  "tee": (276, 77),
  "vmsplice": (278, 75),
  "flock": (73, 32),
  "inotify_init": (253, None),
  "inotify_init1": (294, 26),
  "unshare": (272, 97),
  "setns": (308, 268),
  "mount": (165, 40),
  "umount2": (166, 39),
  "pivot_root": (155, 41),
  "chroot": (161, 51),
  "open_tree": (428, 428),
  "move_mount": (429, 429),
  "fsopen": (430, 430),
  "fsconfig": (431, 431),
  "fsmount": (432, 432),
  "fspick": (433, 433),
  "mount_setattr": (442, 442),
  "ptrace": (101, 117),
  "process_vm_readv": (310, 270),
  "process_vm_writev": (311, 271),
  "process_madvise": (440, 440),
  "kcmp": (312, 272),
  "pidfd_open": (434, 434),
  "pidfd_getfd": (438, 438),
  "bpf": (321, 280),
  "perf_event_open": (298, 241),
  "userfaultfd": (323, 282),
  "io_uring_setup": (425, 425),
  "keyctl": (250, 219),
  "add_key": (248, 217),
  "request_key": (249, 218),
  "memfd_create": (319, 279),
  "memfd_secret": (447, 447),
  "shmget": (29, 194),
  "shmat": (30, 196),
  "msgget": (68, 186),
  "semget": (64, 190),
  "mq_open": (240, 180),
  "init_module": (175, 105),
  "finit_module": (313, 273),
  "delete_module": (176, 106),
  "kexec_load": (246, 104),
  "reboot": (169, 142),
  "swapon": (167, 224),
  "acct": (163, 89),
  "settimeofday": (164, 170),
  "clock_settime": (227, 112),
  "adjtimex": (159, 171),
  "clock_adjtime": (305, 266),
  "sethostname": (170, 161),
  "quotactl": (179, 60),
  "open_by_handle_at": (304, 265),
  "name_to_handle_at": (303, 264),
  "personality": (135, 92),
  "fanotify_init": (300, 262),
  "syslog": (103, 116),
  "ioperm": (173, None),
  "iopl": (172, None),
  "modify_ldt": (154, None),
}
_STREAM, _KIND = 1, 0xF  # SOCK_STREAM; the bits of a socket's type that are not flags
_SET_LEASE, _NOTIFY, _SET_PIPE_SIZE = 1024, 1026, 1031  # of fcntl
_SET_PARENT_DEATH_SIGNAL, _SET_DUMPABLE = 1, 4  # of prctl
#: system calls that are refused for some values of an argument: (numbers, which argument, its bits that count, values)
_REFUSED_FOR = {
  "socketpair": ((53, 199), 1, _KIND, tuple(kind for kind in range(_KIND + 1) if kind != _STREAM)),
  "fcntl": ((72, 25), 1, 0xFFFFFFFF, (_SET_LEASE, _NOTIFY, _SET_PIPE_SIZE)),
  "prctl": ((157, 167), 0, 0xFFFFFFFF, (_SET_PARENT_DEATH_SIGNAL, _SET_DUMPABLE)),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_…

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, ALU|AND|K, JMP|JEQ|K, …
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data, whose arguments have 8 bytes each
_X32 = 0x40000000  # from here on numbers mean x86_64's other binary interface

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2  # of prctl


class _Program(ctypes.Structure):
  _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def build_filter(machine: str) -> bytes:
  """The filter, instructions of classic BPF of 8 bytes each.

  Raises:
    OSError: no filter is known for this kind of machine.
  """
  if machine not in _MACHINES:
    raise OSError(errno.ENOTSUP, f"no system-call filter for {machine}: use one of {', '.join(_MACHINES)}")
  column, architecture = _MACHINES[machine]
  answers = ((_STARTS, errno.EAGAIN), (_NEWER, errno.ENOSYS), (_REFUSED, errno.EPERM))
  refused = {calls[column]: error for table, error in answers for calls in table.values()}
  code = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
  if machine == "x86_64":
    code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
  for number, error in refused.items():
    if number is not None:
      code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]
  for numbers, argument, bits, values in _REFUSED_FOR.values():
    code += [
      (_EQUAL, 0, len(values) + 4, numbers[column]),
      (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
      (_AND, 0, 0, bits),
    ]
    code += [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
  code.append((_RETURN, 0, 0, _ALLOW))
  return b"".join(struct.pack("=HBBI", *one) for one in code)


def install_filter() -> None:
  """Puts the filter on this process, for good.

  Raises:
    OSError: the kernel does not take it.
  """
  instructions = build_filter(platform.machine())
  prctl = ctypes.CDLL(None, use_errno=True).prctl
  wanted = _Program(len(instructions) // 8, instructions)
  for call in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, ctypes.byref(wanted), 0, 0)):
    if prctl(*call):
      number = ctypes.get_errno()
      raise OSError(number, f"the kernel takes no system-call filter ({os.strerror(number)})")


NOBODY_ID = 65534
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")  # all that there are
_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_PIDS = 0x00020000, 0x08000000, 0x10000000, 0x20000000  # CLONE_…
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC = 1, 2, 4, 8  # MS_…
_REMOUNT, _BIND, _RECURSIVE, _SLAVE = 1 << 5, 1 << 12, 1 << 14, 1 << 19
_PR_SET_DUMPABLE, _READ_BOUNDING, _DROP_BOUNDING, _CLEAR_AMBIENT, _AMBIENT = 4, 23, 24, 4, 47  # of prctl
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


def fork_into_namespaces(jail: Jail) -> int:
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


def enter_jail(jail: Jail, *, loaded: int) -> None:
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
  _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
  install_filter()


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
  return [f"{NOBODY_ID} {outside} 1" for outside in user]


def _drop_rights(jail: Jail) -> None:
  for capability in itertools.takewhile(_is_known, itertools.count()):
    _call("prctl", _DROP_BOUNDING, capability, 0, 0, 0)
  if not jail.user:
    os.setgroups([])
    os.setresgid(NOBODY_ID, NOBODY_ID, NOBODY_ID)
    os.setresuid(NOBODY_ID, NOBODY_ID, NOBODY_ID)
  _call("prctl", _AMBIENT, _CLEAR_AMBIENT, 0, 0, 0)
  _call("capset", (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)())


def _is_known(capability: int) -> bool:
  """Whether the kernel has so many."""
  return _libc.prctl(_READ_BOUNDING, capability, 0, 0, 0) >= 0


def limit_cpu_time(seconds: float) -> None:
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
