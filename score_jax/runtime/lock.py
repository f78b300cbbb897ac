"""One run at a time in a workdir: a run holds its lock, and the next one is told who does.

On a local disk the kernel keeps the lock, and gives it back whatever ends its holder. On gs:// and where a file system
knows no locks, the holder writes a file again and again; one that stands still for some beats was left by a run that
is gone. No clock is compared with another machine's.
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
STALE_BEATS = 3  # beats without a change after which nobody holds it

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def hold_lock(root: epath.Path, *, beat_s: float = HEARTBEAT_S) -> Iterator[None]:
  """Holds the lock of the workdir `root`.

  Args:
    beat_s: seconds between two heartbeats, where the kernel keeps no lock.

  Raises:
    UserError: another run holds it; says which.
  """
  if not processes.is_primary():  # of several processes of one run the first one holds it
    yield
    return
  since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
  ours = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "id": secrets.token_hex(8)}
  path = root / "lock"
  with contextlib.ExitStack() as stack:
    if "://" in os.fspath(root) or not stack.enter_context(_by_kernel(path, ours)):
      stack.enter_context(_by_heartbeat(path, ours, beat_s))
    yield


@contextlib.contextmanager
def _by_kernel(path: epath.Path, ours: dict[str, Any]) -> Iterator[bool]:
  """Gives False where the file system knows no locks."""
  with open(path, "a+", encoding="utf-8") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise _refusal(path, path.read_text(encoding="utf-8")) from error
    except OSError:
      known = False
    else:
      known = True
      file.truncate(0)
      file.write(json.dumps(ours))
      file.flush()
    try:
      yield known
    finally:
      if known:
        file.truncate(0)


@contextlib.contextmanager
def _by_heartbeat(path: epath.Path, ours: dict[str, Any], beat_s: float) -> Iterator[None]:
  found = _read(path)
  end = time.monotonic() + STALE_BEATS * beat_s
  while found and time.monotonic() < end:
    time.sleep(beat_s / 4)
    if (now := _read(path)) != found:
      raise _refusal(path, now or found)
  path.write_text(json.dumps(ours | {"beat": 0}), encoding="utf-8")
  time.sleep(beat_s / 4)  # who came at the same moment has written too: the last one has it
  if (now := _read(path)) != json.dumps(ours | {"beat": 0}):
    raise _refusal(path, now)
  ended = threading.Event()
  thread = threading.Thread(target=_beat, args=(path, ours, beat_s, ended), name="score_jax lock", daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()
    path.unlink(missing_ok=True)


def _beat(path: epath.Path, ours: dict[str, Any], beat_s: float, ended: threading.Event) -> None:
  beat = 0
  while not ended.wait(beat_s):
    beat += 1
    try:
      path.write_text(json.dumps(ours | {"beat": beat}), encoding="utf-8")
    except OSError as error:  # the store may be back by the next one
      logger.warning("%s cannot be written (%s)", path, error)


def _read(path: epath.Path) -> str:
  """What stands in the file; nothing where there is none."""
  try:
    return path.read_text(encoding="utf-8")
  except FileNotFoundError:
    return ""


def _refusal(path: epath.Path, text: str) -> UserError:
  try:
    holder: dict[str, Any] = json.loads(text)
  except ValueError:  # it is being written at this moment
    holder = {}
  host, pid, since = (holder.get(name, "unknown") for name in ("host", "pid", "since"))
  return UserError(
    f"workdir {path.parent} is in use by the run with process id {pid} on {host} since {since}; "
    "wait for it, end it, or give another --workdir"
  )
