"""The process that sessions are forked from: it has loaded what the method's code imports, and runs no code itself.

Its parent sends a number and a socket for each session; from then on that socket is between parent and session.
The parent gets the session's pidfd over it, by which it can end the session and sees that it has ended.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import site
import socket
import struct
import sys
import warnings
from typing import NoReturn

from score_jax.sandbox import clock, worker
from score_jax.sandbox.channel import pack_message
from score_jax.sandbox.jail import Jail, enter_jail, fork_into_namespaces

PRELOADED_MODULES = (  # the imports that the method allows; others work where they are found, they only take longer
  *("collections", "datetime", "itertools", "math", "numpy", "queue", "random", "re", "stat", "statistics", "sympy"),
  *("time", "unicodedata", "numpy.random", "numpy.linalg", "numpy.fft", "sympy.core.random"),
)
SESSION_NUMBER = struct.Struct(">I")
_KILL_WITH_PARENT, _ADOPT = 1, 36  # PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER


def main() -> NoReturn:
  settings = json.loads(sys.argv[1])
  if not settings["jail"]["namespaces"]:
    _end_with_parent()
  ctypes.CDLL(None).prctl(_ADOPT, 1)
  signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the dead
  channel = socket.socket(fileno=settings.pop("channel"))
  channel.set_inheritable(False)
  for name in PRELOADED_MODULES:
    importlib.import_module(name)
  warnings.simplefilter("ignore")
  clock.install_clock()
  site.setquit()  # exit and quit, which the interpreter leaves out with its packages
  gc.collect()
  gc.freeze()  # what is loaded by now stays: the collector need not look at it again
  jail = Jail(**settings.pop("jail"))
  channel.sendall(pack_message({"ready": True}))
  os.dup2(1, 2)  # up to here standard error was the parent's to read
  while True:
    data, fds, _, _ = socket.recv_fds(channel, SESSION_NUMBER.size, 1)
    if not data:
      os._exit(0)  # the parent is gone
    _spawn(jail, socket.socket(fileno=fds[0]), SESSION_NUMBER.unpack(data)[0], channel, settings)


def _spawn(jail: Jail, theirs: socket.socket, number: int, channel: socket.socket, settings: dict[str, object]) -> None:
  """Forks a session and tells the parent of it."""
  loaded = _address_space()
  try:
    pid = fork_into_namespaces(jail)
    if not pid:
      channel.close()
      _serve(jail, theirs, number, loaded, settings)
    with_pidfd = os.pidfd_open(pid)
    socket.send_fds(theirs, [pack_message({"forked": True})], [with_pidfd])
    os.close(with_pidfd)
  except OSError as error:
    theirs.sendall(pack_message({"failed": str(error)}))
  theirs.close()


def _serve(jail: Jail, channel: socket.socket, number: int, loaded: int, settings: dict[str, object]) -> NoReturn:
  """The session's process: shuts itself in, says so, and serves."""
  try:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A process group reaches across process namespaces: in the zygote's, kill(0, …) would end the other sessions.
    os.setsid()
    _detach_standard_streams()
    if not jail.namespaces:
      _end_with_parent()
      os.mkdir(str(number))
      os.chdir(str(number))
    enter_jail(jail, loaded=loaded)
    channel.sendall(pack_message({"locked": True}))
    worker.Worker(channel, **settings).serve()  # pyright: ignore[reportArgumentType]
  except OSError as error:
    channel.sendall(pack_message({"failed": str(error)}))
  finally:
    os._exit(1)


def _detach_standard_streams() -> None:
  """Opens the null device anew: flags and owner of an open file are common to all who inherited it."""
  null = os.open(os.devnull, os.O_RDWR)
  for stream in range(3):
    os.dup2(null, stream)
  os.close(null)


def _end_with_parent() -> None:
  """Has the kernel kill this process when its parent ends, as it does by itself in a process namespace."""
  ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)


def _address_space() -> int:
  """Bytes of it that are taken."""
  with open("/proc/self/statm", encoding="utf-8") as file:
    return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
  main()
