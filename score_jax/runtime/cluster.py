"""Which processes make up a run, detected from the environment of one of them.

The start methods are tried in this order. The first that names several processes decides:

    by hand     JAX_COORDINATOR_ADDRESS=HOST:PORT of process 0, JAX_NUM_PROCESSES, JAX_PROCESS_ID; an indexed job of
                Kubernetes may give JOB_COMPLETION_INDEX for the last. JAX_NUM_PROCESSES=1 ends the search.
    SLURM       the tasks of one `srun`; the batch script itself is one process
    Open MPI    the ranks of one `mpirun`; JAX_COORDINATOR_ADDRESS has to be given
    GKE         TPU pods: TPU_WORKER_HOSTNAMES and TPU_WORKER_ID, which GKE sets; MEGASCALE_* with several slices
    TPU VM      the metadata server of a TPU slice; not asked where TPU_SKIP_MDS_QUERY is set

Anything else, such as a laptop, is one process. JAX's own detection is not used: it takes what `salloc` was asked for
as the number of tasks, gives a lone task of a SLURM node one GPU only, and fails where it finds nothing.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from score_jax.errors import UserError

ADDRESS_VARIABLE, COUNT_VARIABLE, INDEX_VARIABLE = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
SLURM_VARIABLES = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
TPU_COORDINATOR_PORT = 8482  # the port that JAX uses
METADATA_URL = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"

MetadataLookup = Callable[[str], str]  # key -> value; "" where there is none


@dataclasses.dataclass(frozen=True)
class ProcessInfo:
  """The index of a process among all processes of its run, and how to reach process 0."""

  address: str  # HOST:PORT of process 0; PORT is for JAX, PORT + 1 for runtime/peers.py
  count: int
  index: int
  devices: tuple[int, ...] | None = None  # GPUs of this host that the process uses; None: all visible ones


def detect_cluster(environ: Mapping[str, str], metadata: MetadataLookup | None) -> ProcessInfo | None:
  """The process that has this environment, among those of its run; None where it is alone.

  Args:
    metadata: looks up a key at the metadata server; None where this is not a TPU VM.
  """
  if COUNT_VARIABLE in environ or INDEX_VARIABLE in environ:
    process = _from_jax_variables(environ)
  elif all(name in environ for name in SLURM_VARIABLES):
    process = _from_slurm(environ)
  elif "OMPI_COMM_WORLD_SIZE" in environ:
    process = _from_open_mpi(environ)
  elif "tpu" not in environ.get("JAX_PLATFORMS", "tpu"):
    process = None
  elif names := environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES"):
    process = _from_tpu_names(environ, names.split(","), "TPU_WORKER_ID", environ.get("TPU_WORKER_ID", ""))
  elif metadata is not None and "TPU_SKIP_MDS_QUERY" not in environ:
    process = _from_tpu_metadata(environ, metadata)
  else:
    process = None
  if process is None or process.count == 1:
    if ADDRESS_VARIABLE in environ and environ.get(COUNT_VARIABLE) != "1":
      raise UserError(
        f"{ADDRESS_VARIABLE} is set, but nothing says how many processes there are; set {COUNT_VARIABLE} and "
        f"{INDEX_VARIABLE} too"
      )
    return None
  if not 0 <= process.index < process.count:
    raise UserError(
      f"this is process {process.index} of {process.count}; they are numbered from 0, see {INDEX_VARIABLE}"
    )
  if not re.fullmatch(r".+:\d+", process.address):
    raise UserError(f"{ADDRESS_VARIABLE}={process.address!r} is no HOST:PORT, such as 10.0.0.1:8476")
  return process


def _from_jax_variables(environ: Mapping[str, str]) -> ProcessInfo | None:
  if environ.get(COUNT_VARIABLE) == "1":
    return None
  given = {**environ, INDEX_VARIABLE: environ.get(INDEX_VARIABLE, environ.get("JOB_COMPLETION_INDEX", ""))}
  for name in (ADDRESS_VARIABLE, COUNT_VARIABLE, INDEX_VARIABLE):
    if not given.get(name):
      raise UserError(
        f"{name} is not set; several processes need {ADDRESS_VARIABLE}=HOST:PORT, {COUNT_VARIABLE} and {INDEX_VARIABLE}"
      )
  return ProcessInfo(given[ADDRESS_VARIABLE], _number(given, COUNT_VARIABLE), _number(given, INDEX_VARIABLE))


def _from_slurm(environ: Mapping[str, str]) -> ProcessInfo:
  """A task of `srun`. The port follows from the job id, as in JAX, so that two jobs on one node have two ports."""
  count = _number(environ, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS")
  prefix, first = re.match(r"([^,\[]+)(?:\[(\d+))?", environ["SLURM_STEP_NODELIST"] or "?").groups("")  # pyright: ignore[reportOptionalMemberAccess]
  address = environ.get(ADDRESS_VARIABLE, f"{prefix}{first}:{61440 + _number(environ, 'SLURM_JOB_ID') % 4096}")
  runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
  tasks = [int(size) for size, times in runs for _ in range(int(times or 1))]
  node = int(environ.get("SLURM_NODEID", 0))
  local_count = tasks[node] if node < len(tasks) else 1
  return ProcessInfo(
    address, count, _number(environ, "SLURM_PROCID"), _gpu_share(environ, "SLURM_LOCALID", local_count)
  )


def _from_open_mpi(environ: Mapping[str, str]) -> ProcessInfo:
  count, local_count = (_number(environ, f"OMPI_COMM_WORLD_{name}") for name in ("SIZE", "LOCAL_SIZE"))
  if count > 1 and ADDRESS_VARIABLE not in environ:
    raise UserError(
      f"mpirun started {count} processes; say where the first of them is: mpirun -x {ADDRESS_VARIABLE}=HOST:PORT"
    )
  gpus = _gpu_share(environ, "OMPI_COMM_WORLD_LOCAL_RANK", local_count)
  return ProcessInfo(environ.get(ADDRESS_VARIABLE, ""), count, _number(environ, "OMPI_COMM_WORLD_RANK"), gpus)


def _gpu_share(environ: Mapping[str, str], rank: str, local_count: int) -> tuple[int, ...] | None:
  """The GPUs of one of `local_count` processes on a host: an equal share of the visible ones.

  None, which is all that the process sees, where it is alone or where the launcher has shared the GPUs out already.
  """
  visible = [name for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
  if local_count == 1 or 0 < len(visible) < local_count:
    return None
  share = max(len(visible) // local_count, 1)
  first = _number(environ, rank) * share
  return tuple(range(first, first + share))


def _from_tpu_names(environ: Mapping[str, str], names: list[str], name: str, index: str) -> ProcessInfo:
  """A host of a TPU slice; with MEGASCALE_* of one of several slices."""
  slices, mine = (
    int(environ.get(f"MEGASCALE_{key}") or default) for key, default in (("NUM_SLICES", 1), ("SLICE_ID", 0))
  )
  host = (environ.get("MEGASCALE_COORDINATOR_ADDRESS") or names[0]).split(":")[0]
  address = environ.get(ADDRESS_VARIABLE, f"{host}:{environ.get('JAX_COORDINATOR_PORT', TPU_COORDINATOR_PORT)}")
  count = len(names) * slices
  return ProcessInfo(address, count, mine * len(names) + _number({name: index}, name) if count > 1 else 0)


def _from_tpu_metadata(environ: Mapping[str, str], metadata: MetadataLookup) -> ProcessInfo | None:
  """A host of a TPU slice, from the metadata server.

  The server lists workers as NAME:ID:IP or as NAME, and settings of slices as lines of KEY: 'VALUE'.
  """
  workers = [worker.split(":")[-1] for worker in metadata("worker-network-endpoints").split(",") if worker]
  if not workers:
    return None
  settings = dict(re.findall(r"^(MEGASCALE_\w+): *'?([^'\n]*)'?$", metadata("tpu-env"), re.MULTILINE))
  return _from_tpu_names({**settings, **environ}, workers, "agent-worker-number", metadata("agent-worker-number"))


def virtual_device_count(environ: Mapping[str, str]) -> int:
  """Number of CPU devices that XLA_FLAGS asks for (--xla_force_host_platform_device_count); 0 without it."""
  found = re.search(r"--xla_force_host_platform_device_count=(\d+)", environ.get("XLA_FLAGS", ""))
  return int(found[1]) if found and environ.get("JAX_PLATFORMS", "cpu") == "cpu" else 0


def _number(environ: Mapping[str, str], name: str) -> int:
  try:
    return int(environ[name])
  except (KeyError, ValueError) as error:
    raise UserError(f"{name}={environ.get(name, '')!r} is no number") from error


def tpu_metadata_lookup() -> MetadataLookup | None:
  """The lookup at the metadata server; None where this is not a TPU VM: no TPU, or no libtpu."""
  chips = [*pathlib.Path("/dev").glob("accel[0-9]*"), *pathlib.Path("/dev/vfio").glob("[0-9]*")]
  return _query_metadata if chips and importlib.util.find_spec("libtpu") else None


def _query_metadata(key: str) -> str:
  """The value of a key at the metadata server; "" where it has none."""
  request = urllib.request.Request(METADATA_URL + key, headers={"Metadata-Flavor": "Google"})
  try:
    with urllib.request.urlopen(request, timeout=10.0) as reply:
      return reply.read().decode().strip()
  except urllib.error.HTTPError as error:
    if error.code == 404:
      return ""
    raise UserError(
      f"the metadata server of this TPU VM said {error.code} to {key}; try again, or {_REMEDY}"
    ) from error
  except OSError as error:
    raise UserError(f"the metadata server of this TPU VM does not answer ({error}); {_REMEDY}") from error


_REMEDY = f"set {COUNT_VARIABLE}=1 for one process, or {ADDRESS_VARIABLE}, {COUNT_VARIABLE} and {INDEX_VARIABLE}"
