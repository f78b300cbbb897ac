"""Which processes make up one run, told from the environment of one of them.

How they are started is found in this order; the first that names several processes decides:

    by hand     JAX_COORDINATOR_ADDRESS=HOST:PORT of process 0, JAX_NUM_PROCESSES, JAX_PROCESS_ID; in an indexed job of
                Kubernetes JOB_COMPLETION_INDEX serves for the last. JAX_NUM_PROCESSES=1 stops the search.
    SLURM       the tasks of one `srun`; what runs in a batch script itself is one process
    Open MPI    the ranks of one `mpirun`; JAX_COORDINATOR_ADDRESS has to be given
    GKE         TPU pods: TPU_WORKER_HOSTNAMES and TPU_WORKER_ID, which GKE sets, MEGASCALE_* with several slices
    TPU VM      the metadata server of a TPU slice; not asked where TPU_SKIP_MDS_QUERY is set

Anything else, a laptop say, is one process. JAX looks for much the same by itself, but it takes what `salloc` was
asked for as the number of tasks, gives a lone task of a SLURM node one of its GPUs, and fails where it finds nothing.
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
TPU_COORDINATOR_PORT = 8482  # the one that JAX uses
METADATA_URL = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"

MetadataLookup = Callable[[str], str]  # key -> value; "" where there is none


@dataclasses.dataclass(frozen=True)
class ProcessInfo:
  """One process among the others of its run."""

  address: str  # host:port of process 0; the port after it is used too
  count: int
  index: int
  devices: tuple[int, ...] | None = None  # those of this host's GPUs that are its own; None: all that it sees


def detect_cluster(environ: Mapping[str, str], metadata: MetadataLookup | None) -> ProcessInfo | None:
  """The place of the process that has this environment; None where it is alone.

  Args:
    metadata: asks the metadata server; None where this is no TPU VM.

  Raises:
    UserError: what the environment says is not whole, or is no number.
  """
  if COUNT_VARIABLE in environ or INDEX_VARIABLE in environ:
    found = _by_hand(environ)
  elif all(name in environ for name in SLURM_VARIABLES):
    found = _slurm(environ)
  elif "OMPI_COMM_WORLD_SIZE" in environ:
    found = _open_mpi(environ)
  elif "tpu" not in environ.get("JAX_PLATFORMS", "tpu"):
    found = None
  elif names := environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES"):
    found = _tpu(environ, names.split(","), "TPU_WORKER_ID", environ.get("TPU_WORKER_ID", ""))
  elif metadata is not None and "TPU_SKIP_MDS_QUERY" not in environ:
    found = _tpu_vm(environ, metadata)
  else:
    found = None
  if found is None or found.count == 1:
    if ADDRESS_VARIABLE in environ and environ.get(COUNT_VARIABLE) != "1":
      raise UserError(
        f"{ADDRESS_VARIABLE} is set, but nothing says how many processes there are; set {COUNT_VARIABLE} and {INDEX_VARIABLE} too"
      )
    return None
  if not 0 <= found.index < found.count:
    raise UserError(f"this is process {found.index} of {found.count}; they are numbered from 0, see {INDEX_VARIABLE}")
  if not re.fullmatch(r".+:\d+", found.address):
    raise UserError(f"{ADDRESS_VARIABLE}={found.address!r} is no HOST:PORT, such as 10.0.0.1:8476")
  return found


def _by_hand(environ: Mapping[str, str]) -> ProcessInfo | None:
  if environ.get(COUNT_VARIABLE) == "1":
    return None
  given = {**environ, INDEX_VARIABLE: environ.get(INDEX_VARIABLE, environ.get("JOB_COMPLETION_INDEX", ""))}
  for name in (ADDRESS_VARIABLE, COUNT_VARIABLE, INDEX_VARIABLE):
    if not given.get(name):
      raise UserError(
        f"{name} is not set; several processes need {ADDRESS_VARIABLE}=HOST:PORT, {COUNT_VARIABLE} and {INDEX_VARIABLE}"
      )
  return ProcessInfo(given[ADDRESS_VARIABLE], _number(given, COUNT_VARIABLE), _number(given, INDEX_VARIABLE))


def _slurm(environ: Mapping[str, str]) -> ProcessInfo:
  """A task of `srun`. The port is made from the job's number, as JAX does, so that jobs on one node differ."""
  count = _number(environ, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS")
  prefix, first = re.match(r"([^,\[]+)(?:\[(\d+))?", environ["SLURM_STEP_NODELIST"] or "?").groups("")  # pyright: ignore[reportOptionalMemberAccess]
  address = environ.get(ADDRESS_VARIABLE, f"{prefix}{first}:{61440 + _number(environ, 'SLURM_JOB_ID') % 4096}")
  runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
  tasks = [int(size) for size, times in runs for _ in range(int(times or 1))]
  node = int(environ.get("SLURM_NODEID", 0))
  beside = tasks[node] if node < len(tasks) else 1
  return ProcessInfo(address, count, _number(environ, "SLURM_PROCID"), _gpus(environ, "SLURM_LOCALID", beside))


def _open_mpi(environ: Mapping[str, str]) -> ProcessInfo:
  count, beside = (_number(environ, f"OMPI_COMM_WORLD_{name}") for name in ("SIZE", "LOCAL_SIZE"))
  if count > 1 and ADDRESS_VARIABLE not in environ:
    raise UserError(
      f"mpirun started {count} processes; say where the first of them is: mpirun -x {ADDRESS_VARIABLE}=HOST:PORT"
    )
  gpus = _gpus(environ, "OMPI_COMM_WORLD_LOCAL_RANK", beside)
  return ProcessInfo(environ.get(ADDRESS_VARIABLE, ""), count, _number(environ, "OMPI_COMM_WORLD_RANK"), gpus)


def _gpus(environ: Mapping[str, str], rank: str, beside: int) -> tuple[int, ...] | None:
  """The GPUs of one of `beside` processes of a host: an equal share of those that all see, or else what it sees."""
  visible = [name for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
  if beside == 1 or 0 < len(visible) < beside:
    return None
  share = max(len(visible) // beside, 1)
  first = _number(environ, rank) * share
  return tuple(range(first, first + share))


def _tpu(environ: Mapping[str, str], names: list[str], name: str, index: str) -> ProcessInfo:
  """A host of a TPU slice, or of one of several slices."""
  slices, mine = (
    int(environ.get(f"MEGASCALE_{key}") or default) for key, default in (("NUM_SLICES", 1), ("SLICE_ID", 0))
  )
  host = (environ.get("MEGASCALE_COORDINATOR_ADDRESS") or names[0]).split(":")[0]
  address = environ.get(ADDRESS_VARIABLE, f"{host}:{environ.get('JAX_COORDINATOR_PORT', TPU_COORDINATOR_PORT)}")
  count = len(names) * slices
  return ProcessInfo(address, count, mine * len(names) + _number({name: index}, name) if count > 1 else 0)


def _tpu_vm(environ: Mapping[str, str], metadata: MetadataLookup) -> ProcessInfo | None:
  """As the metadata server has it: workers as NAME:ID:IP or as NAME, settings of slices as lines of KEY: 'VALUE'."""
  workers = [worker.split(":")[-1] for worker in metadata("worker-network-endpoints").split(",") if worker]
  if not workers:
    return None
  settings = dict(re.findall(r"^(MEGASCALE_\w+): *'?([^'\n]*)'?$", metadata("tpu-env"), re.MULTILINE))
  return _tpu({**settings, **environ}, workers, "agent-worker-number", metadata("agent-worker-number"))


def virtual_device_count(environ: Mapping[str, str]) -> int:
  """How many CPU devices a process was told to play; 0 where it was not."""
  found = re.search(r"--xla_force_host_platform_device_count=(\d+)", environ.get("XLA_FLAGS", ""))
  return int(found[1]) if found and environ.get("JAX_PLATFORMS", "cpu") == "cpu" else 0


def _number(environ: Mapping[str, str], name: str) -> int:
  try:
    return int(environ[name])
  except (KeyError, ValueError) as error:
    raise UserError(f"{name}={environ.get(name, '')!r} is no number") from error


def tpu_metadata_lookup() -> MetadataLookup | None:
  """Asks the metadata server of a TPU VM; None where this is none: it has no TPU, or no libtpu is installed."""
  chips = [*pathlib.Path("/dev").glob("accel[0-9]*"), *pathlib.Path("/dev/vfio").glob("[0-9]*")]
  return _ask if chips and importlib.util.find_spec("libtpu") else None


def _ask(key: str) -> str:
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
