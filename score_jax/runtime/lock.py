"""One run at a time in a workdir: the run holds a lock, and a second run gets an error that names the holder.

On a local disk the kernel keeps the lock (flock) and frees it however the holder ends. On gs:// and on file systems
without locks, the holder rewrites the lock file at every heartbeat. A file that does not change for `STALE_BEATS`
heartbeats was left by a dead run. Clocks of two machines are never compared.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from score_jax.errors import UserError
from score_jax.runtime import processes

HEARTBEAT_S = 10.0
STALE_BEATS = 3  # heartbeats without a change after which a lock counts as left behind

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def hold_lock(root: epath.Path, *, beat_s: float = HEARTBEAT_S) -> Iterator[None]:
  """Holds the lock of the workdir `root`; a UserError names the run that holds it already.

  Args:
    beat_s: seconds between two heartbeats, where the file system has no locks.
  """
  if not processes.is_primary():  # of several processes of a run, process 0 holds the lock
    yield
    return
  since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
  ours = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "id": secrets.token_hex(8)}
  path = root / "lock"
  with contextlib.ExitStack() as stack:
    if "://" in os.fspath(root) or not stack.enter_context(_kernel_lock(path, ours)):
      stack.enter_context(_heartbeat_lock(path, ours, beat_s))
    yield


@contextlib.contextmanager
def _kernel_lock(path: epath.Path, ours: dict[str, Any]) -> Iterator[bool]:
  """Holds a kernel lock; yields False where the file system has no locks."""
  with open(path, "a+", encoding="utf-8") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise _in_use_error(path, path.read_text(encoding="utf-8")) from error
    except OSError:
      supported = False
    else:
      supported = True
      file.truncate(0)
      file.write(json.dumps(ours))
      file.flush()
    try:
      yield supported
    finally:
      if supported:
        file.truncate(0)


@contextlib.contextmanager
def _heartbeat_lock(path: epath.Path, ours: dict[str, Any], beat_s: float) -> Iterator[None]:
  """Holds a lock file whose content changes at every heartbeat."""
  found = _read(path)
  # A file that changes has a live holder; one that does not is taken over after STALE_BEATS heartbeats.
  end = time.monotonic() + STALE_BEATS * beat_s
  while found and time.monotonic() < end:
    time.sleep(beat_s / 4)
    if (now := _read(path)) != found:
      raise _in_use_error(path, now or found)
  path.write_text(json.dumps(ours | {"beat": 0}), encoding="utf-8")
  time.sleep(beat_s / 4)  # a run that came at the same moment has written too: the last writer wins
  if (now := _read(path)) != json.dumps(ours | {"beat": 0}):
    raise _in_use_error(path, now)
  ended = threading.Event()
  thread = threading.Thread(
    target=_write_heartbeats, args=(path, ours, beat_s, ended), name="score_jax lock", daemon=True
  )
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()
    path.unlink(missing_ok=True)


def _write_heartbeats(path: epath.Path, ours: dict[str, Any], beat_s: float, ended: threading.Event) -> None:
  beat = 0
  while not ended.wait(beat_s):
    beat += 1
    try:
      path.write_text(json.dumps(ours | {"beat": beat}), encoding="utf-8")
    except OSError as error:  # the store may be back at the next heartbeat
      logger.warning("%s cannot be written (%s)", path, error)


def _read(path: epath.Path) -> str:
  """Text of the file; "" where there is none."""
  try:
    return path.read_text(encoding="utf-8")
  except FileNotFoundError:
    return ""


def _in_use_error(path: epath.Path, text: str) -> UserError:
  try:
    holder: dict[str, Any] = json.loads(text)
  except ValueError:  # it is being written right now
    holder = {}
  host, pid, since = (holder.get(name, "unknown") for name in ("host", "pid", "since"))
  return UserError(
    f"workdir {path.parent} is in use by the run with process id {pid} on {host} since {since}; "
    "wait for it, end it, or give another --workdir"
  )
