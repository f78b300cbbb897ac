"""Several processes as one run: all walk the recipe, and what could differ between them is decided by process 0.

    with together(timeout_s=900):
      first()                                                  whether this is process 0, which writes the files
      from_first("read results.json", lambda: read(path))      process 0 does it, all have the result
      agree(time.monotonic() > end)                            process 0's clock counts
      gather("tool", outcomes)                                 all have what each has

All that depends on a clock, a file, a network or another process has to come through here; the rest follows from
arrays and results that every process sees alike. With one process, or outside of `together`, the same calls
give the process's own values, and nothing is started.
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

PEER_FAULT_WAIT_S = 5.0  # for the connections to tell that another process is why this one failed

_peers: PeerConnections | None = None
_alone = False  # within from_first: nobody else is there to exchange with


@contextlib.contextmanager
def distributed(*, timeout_s: float) -> Iterator[None]:
  """Joins the processes that were started with this one, if there are any, and leaves together with them.

  It comes before anything is computed. An error within ends the run on all processes, and each says why. What
  processes other than the first print is dropped.

  Args:
    timeout_s: without progress of a process, after which the run ends.

  Raises:
    UserError: the environment does not say who the others are, or they do not come.
  """
  global _peers
  place = cluster.detect_cluster(os.environ, cluster.tpu_metadata_lookup())
  if place is None:
    _add_up_alike()
    yield
    return
  peers = PeerConnections(place, timeout_s=timeout_s)
  status: SystemExit | None = None
  try:
    _initialize(place)
    _peers = peers
    with _quiet() if place.index else contextlib.nullcontext():
      yield
  except SystemExit as error:  # all of them end early
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
def _quiet() -> Iterator[None]:
  with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
    yield


def _initialize(place: cluster.ProcessInfo) -> None:
  """JAX's own part: who has which devices. SIGTERM stays with the program."""
  import jax

  if virtual := cluster.virtual_device_count(
    os.environ
  ):  # XLA's threads go by it, and the bits of a product by the threads
    os.environ.setdefault("NPROC", str(max(virtual * place.count, len(os.sched_getaffinity(0)))))
    jax.monitoring.register_event_duration_secs_listener(_after_compiling)
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(
    place.address,
    place.count,
    place.index,
    local_device_ids=place.devices,
    cluster_detection_method="deactivate",
  )


def _after_compiling(event: str, duration_secs: float, **_: object) -> None:
  """Holds a program until all have compiled it: gloo gives another process 30 s to come to its first sum."""
  del duration_secs
  if event == "/jax/core/compile/backend_compile_duration" and threading.current_thread() is threading.main_thread():
    all_gather("compile", None)


def _add_up_alike() -> None:
  """Has one process with several CPU devices add up as several processes do.

  Within a process XLA adds in another order than gloo does between processes, and the bits of sums over more than two
  devices differ.
  """
  if cluster.virtual_device_count(os.environ) < 2:
    return
  from jax._src import xla_bridge

  if not xla_bridge.backends_are_initialized():  # they are in a notebook or a test, where nobody compares bits
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
  """Whether this process writes files and speaks."""
  return process_index() == 0


def run_on_primary(what: str, make: Callable[[], Any]) -> Any:
  """What `make` gives on process 0, where alone it is called: something that JSON can carry.

  Args:
    what: the same on all processes; it is named where one of them is at something else.
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
  """Process 0's value, on every process."""
  return run_on_primary("decision", lambda: value)


def any_process(value: bool) -> bool:
  """Whether it is so on some process: of signals, which may come to one alone."""
  return any(all_gather("decision", value))


def all_gather(what: str, value: Any) -> list[Any]:
  """What each process gives, in their order: something that JSON can carry."""
  return [value] if _peers is None or _alone else _peers.gather(what, value)


def require_same_on_all(what: str, value: Any) -> None:
  """
  Raises:
    UserError: a process has another value than the first one.
  """
  if _peers is None:
    return
  digest = hashlib.sha256(repr(value).encode(errors="surrogatepass")).hexdigest()
  found = all_gather(what, digest)
  other = [i for i, theirs in enumerate(found) if theirs != found[0]]
  if other:
    raise UserError(f"process {other[0]} has other {what} than process 0; give all processes the same")


def report_progress(stage: str | None = None) -> None:
  """Something is done, or a stage begins. Exchanges say so by themselves."""
  if _peers is not None:
    _peers.mark(stage)


def report_local_progress() -> None:
  """This process, which the others wait for, is at something long and comes on with it."""
  if _peers is not None:
    _peers.at_work()


def heartbeat_metrics() -> dict[str, float]:
  """For the metrics: how old the last sign of life of a process is, at most, and of which one."""
  if _peers is None:
    return {}
  age, oldest = _peers.oldest_heartbeat()
  return {"hosts/oldest_beat_s": age, "hosts/oldest_beat_process": oldest}
