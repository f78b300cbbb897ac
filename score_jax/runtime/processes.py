"""Several processes as one run. All of them execute the recipe; process 0 decides what could differ between them.

    with distributed(timeout_s=900):
      is_primary()                                                  whether this is process 0, which writes the files
      run_on_primary("read results.json", lambda: read(path))       process 0 calls it, all get the result
      broadcast(time.monotonic() > end)                             process 0's value
      all_gather("tool", outcomes)                                  the values of all processes, on all processes
      any_process(flag)                                             whether it is true on some process

Whatever depends on a clock, a file, the network or another process must go through here. All processes make the same
calls in the same order. With one process, or outside of `distributed`, the calls return the process's own value.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from score_jax.errors import UserError
from score_jax.runtime import cluster
from score_jax.runtime.peers import PeerConnections

PEER_FAULT_WAIT_S = 5.0  # how long to wait for the news that another process failed first and caused this failure

_peers: PeerConnections | None = None
_alone = False  # inside run_on_primary, where the other processes make no calls


@contextlib.contextmanager
def distributed(*, timeout_s: float) -> Iterator[None]:
  """Joins the processes that were started with this one, if there are any, and leaves together with them.

  Enter it before anything is computed. An error inside ends the run on all processes; each prints the reason. Standard
  output of all processes but process 0 is dropped.

  Args:
    timeout_s: seconds without progress of a process until the run is ended.
  """
  global _peers
  place = cluster.detect_cluster(os.environ, cluster.tpu_metadata_lookup())
  if place is None:
    _use_gloo_sums()
    yield
    return
  peers = PeerConnections(place, timeout_s=timeout_s)
  status: SystemExit | None = None
  try:
    _initialize(place)
    _peers = peers
    with _drop_stdout() if place.index else contextlib.nullcontext():
      yield
  except SystemExit as error:  # all processes end early, such as at a signal
    status = error
  except UserError as error:
    peers.fail(str(error), patience_s=0.0)
  except BaseException as error:
    traceback.print_exc()
    reason = str(error).strip().splitlines() or [type(error).__name__]
    peers.fail(reason[0], patience_s=PEER_FAULT_WAIT_S)
  finally:
    _peers = None
  peers.close()
  _shutdown()
  if status is not None:
    raise status


@contextlib.contextmanager
def _drop_stdout() -> Iterator[None]:
  with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
    yield


def _initialize(place: cluster.ProcessInfo) -> None:
  """Starts JAX's own cluster, which knows the devices of each process. JAX's handler of SIGTERM stays off."""
  import jax

  if virtual := cluster.virtual_device_count(os.environ):
    # XLA takes its number of threads from NPROC, and the bits of a matrix product depend on that number.
    os.environ.setdefault("NPROC", str(max(virtual * place.count, len(os.sched_getaffinity(0)))))
    jax.monitoring.register_event_duration_secs_listener(_wait_after_compiling)
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(
    place.address,
    place.count,
    place.index,
    local_device_ids=place.devices,
    cluster_detection_method="deactivate",
  )


def _wait_after_compiling(event: str, duration_secs: float, **_: object) -> None:
  """Waits until all processes have compiled a program: at its first sum, gloo waits only 30 s for the others."""
  del duration_secs
  if event == "/jax/core/compile/backend_compile_duration" and threading.current_thread() is threading.main_thread():
    all_gather("compile", None)


def _use_gloo_sums() -> None:
  """Gives one process with several CPU devices the sums of several processes, bit for bit.

  Inside a process XLA adds in another order than gloo does between processes, so that sums over more than two devices
  differ in their bits. A cluster of one process uses gloo too.
  """
  if cluster.virtual_device_count(os.environ) < 2:
    return
  from jax._src import xla_bridge

  if not xla_bridge.backends_are_initialized():  # they are in notebooks and tests, which compare no bits
    with socket.create_server(("127.0.0.1", 0)) as probe:
      port = probe.getsockname()[1]
    _initialize(cluster.ProcessInfo(f"127.0.0.1:{port}", 1, 0))


def _shutdown() -> None:
  import jax

  jax.distributed.shutdown()


def process_count() -> int:
  return 1 if _peers is None else _peers.count


def process_index() -> int:
  return 0 if _peers is None else _peers.index


def is_primary() -> bool:
  """Whether this is process 0, which writes the files and prints."""
  return process_index() == 0


def run_on_primary(what: str, make: Callable[[], Any]) -> Any:
  """The result of `make`, which is called on process 0 only. JSON carries it, so a tuple comes back as a list.

  Args:
    what: a label, the same on all processes; the error names it when processes are at different calls.
  """
  global _alone
  if _peers is None or _alone:
    return make()
  if _peers.index:
    return _peers.agree(what, None)
  _alone = True
  try:
    value = make()
  finally:
    _alone = False
  return _peers.agree(what, value)


def broadcast(value: Any) -> Any:
  """Process 0's value, on all processes. JSON carries it."""
  return run_on_primary("decision", lambda: value)


def any_process(value: bool) -> bool:
  """Whether `value` is true on some process, such as the one that received a signal."""
  return any(all_gather("decision", value))


def all_gather(what: str, value: Any) -> list[Any]:
  """The values of all processes, by process index. JSON carries them."""
  return [value] if _peers is None or _alone else _peers.gather(what, value)


def require_same_on_all(what: str, value: Any) -> None:
  """Refuses a value that differs between processes; compares the SHA-256 of its repr."""
  if _peers is None:
    return
  digest = hashlib.sha256(repr(value).encode(errors="surrogatepass")).hexdigest()
  found = all_gather(what, digest)
  other = [i for i, theirs in enumerate(found) if theirs != found[0]]
  if other:
    raise UserError(f"process {other[0]} has other {what} than process 0; give all processes the same")


def report_progress(stage: str | None = None) -> None:
  """Counts one step of progress, which all processes make, and names the stage when it begins.

  The watchdog of runtime/peers.py reads it. Exchanges count by themselves.
  """
  if _peers is not None:
    _peers.mark(stage)


def report_local_progress() -> None:
  """Notes progress of this process only, in a long task for which the others wait."""
  if _peers is not None:
    _peers.at_work()


def heartbeat_metrics() -> dict[str, float]:
  """Metrics: the age of the oldest last heartbeat, in seconds, and the process that sent it."""
  if _peers is None:
    return {}
  age, oldest = _peers.oldest_heartbeat()
  return {"hosts/oldest_beat_s": age, "hosts/oldest_beat_process": oldest}
