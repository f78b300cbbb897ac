"""The decision table: environment in, the place of the process out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from score_jax.errors import UserError
from score_jax.runtime.cluster import ProcessInfo, detect_cluster, virtual_device_count

HAND = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
#: what `srun` sets for task 5 of 8 on 4 nodes, the second of its node
SRUN = {
  "SLURM_JOB_ID": "1234567",
  "SLURM_STEP_NODELIST": "gpu[007-009,012]",
  "SLURM_NTASKS": "8",
  "SLURM_STEP_NUM_TASKS": "8",
  "SLURM_PROCID": "5",
  "SLURM_LOCALID": "1",
  "SLURM_NODEID": "2",
  "SLURM_STEP_TASKS_PER_NODE": "2(x4)",
}
#: one task a node, as launch/slurm.sbatch asks for
LONE = SRUN | {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "1(x4)"}
LONE |= {"SLURM_PROCID": "2", "SLURM_LOCALID": "0"}
MPI = {"SIZE": "4", "RANK": "3", "LOCAL_SIZE": "2", "LOCAL_RANK": "1"}
MPIRUN = {f"OMPI_COMM_WORLD_{name}": value for name, value in MPI.items()}
GKE = {"TPU_WORKER_HOSTNAMES": "job-0.svc,job-1.svc", "TPU_WORKER_ID": "1"}
SLICES = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "job-0-0.svc:8080"}
SLURM_PORT = 61440 + 1234567 % 4096

PLACES: list[tuple[str, Mapping[str, str], ProcessInfo | None]] = [
  ("a laptop", {"HOME": "/h"}, None),
  ("by hand", HAND, ProcessInfo("10.0.0.1:8476", 4, 2)),
  ("one by hand", SRUN | {"JAX_NUM_PROCESSES": "1"}, None),
  ("by hand comes first", SRUN | HAND, ProcessInfo("10.0.0.1:8476", 4, 2)),
  (
    "an indexed job's own variable",
    {k: v for k, v in HAND.items() if k != "JAX_PROCESS_ID"} | {"JOB_COMPLETION_INDEX": "3"},
    ProcessInfo("10.0.0.1:8476", 4, 3),
  ),
  ("one task a node has all its GPUs", LONE, ProcessInfo(f"gpu007:{SLURM_PORT}", 4, 2)),
  ("two tasks a node", SRUN, ProcessInfo(f"gpu007:{SLURM_PORT}", 8, 5, (1,))),
  (
    "they share what all see",
    SRUN | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"},
    ProcessInfo(f"gpu007:{SLURM_PORT}", 8, 5, (2, 3)),
  ),
  ("SLURM gave each its own", SRUN | {"CUDA_VISIBLE_DEVICES": "1"}, ProcessInfo(f"gpu007:{SLURM_PORT}", 8, 5)),
  ("one name", SRUN | {"SLURM_STEP_NODELIST": "a,b"}, ProcessInfo(f"a:{SLURM_PORT}", 8, 5, (1,))),
  ("unequal nodes", SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,2,1,2"}, ProcessInfo(f"gpu007:{SLURM_PORT}", 8, 5)),
  ("srun with an address", LONE | {"JAX_COORDINATOR_ADDRESS": "ib7:99"}, ProcessInfo("ib7:99", 4, 2)),
  ("the shell of salloc -n 8", SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
  ("a batch script", {k: v for k, v in SRUN.items() if not k.startswith("SLURM_STEP")}, None),
  ("mpirun", MPIRUN | {"JAX_COORDINATOR_ADDRESS": "a:99"}, ProcessInfo("a:99", 4, 3, (1,))),
  ("mpirun -n 1", MPIRUN | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
  ("GKE", GKE, ProcessInfo("job-0.svc:8482", 2, 1)),
  ("GKE with slices", GKE | SLICES, ProcessInfo("job-0-0.svc:8482", 4, 3)),
  ("one TPU host", {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
  ("one TPU host, as Colab has it", {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
  ("on a TPU host's CPU", GKE | {"JAX_PLATFORMS": "cpu"}, None),
]


@pytest.mark.parametrize(("environ", "place"), [p[1:] for p in PLACES], ids=[p[0] for p in PLACES])
def test_the_environment_says_where_a_process_stands(environ: Mapping[str, str], place: ProcessInfo | None) -> None:
  assert detect_cluster(environ, None) == place


TPU_VM = {"worker-network-endpoints": "a:1:10.0.0.5,b:2:10.0.0.6", "agent-worker-number": "1", "tpu-env": "ZONE: 'x'\n"}


def test_a_tpu_vm_asks_its_metadata_server() -> None:
  assert detect_cluster({}, lambda key: TPU_VM[key]) == ProcessInfo("10.0.0.5:8482", 2, 1)
  names = TPU_VM | {"worker-network-endpoints": "host-0,host-1"}
  assert detect_cluster({}, lambda key: names[key]) == ProcessInfo("host-0:8482", 2, 1)
  slices = "".join(f"{name}: '{value}'\n" for name, value in SLICES.items())
  sliced = TPU_VM | {"tpu-env": f"ZONE: 'x'\n{slices}"}
  assert detect_cluster({}, lambda key: sliced[key]) == ProcessInfo("job-0-0.svc:8482", 4, 3)


def test_a_lone_tpu_vm_is_one_process() -> None:
  one = TPU_VM | {"worker-network-endpoints": "a:1:10.0.0.5", "agent-worker-number": "0"}
  assert detect_cluster({}, lambda key: one[key]) is None
  assert detect_cluster({}, lambda _: "") is None, "it is in no slice"


def test_the_metadata_server_is_asked_only_where_it_can_know() -> None:
  def asked(key: str) -> str:
    raise AssertionError(key)

  for environ in ({"TPU_SKIP_MDS_QUERY": "1"}, {"JAX_PLATFORMS": "cpu"}, {"JAX_NUM_PROCESSES": "1"}, LONE):
    detect_cluster(environ, asked)


@pytest.mark.parametrize(
  ("environ", "said"),
  [
    ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS is not set"),
    ({k: v for k, v in HAND.items() if k != "JAX_PROCESS_ID"}, "JAX_PROCESS_ID is not set"),
    ({"JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS is not set"),
    ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "nothing says how many processes"),
    (HAND | {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two' is no number"),
    (HAND | {"JAX_PROCESS_ID": "4"}, "process 4 of 4; they are numbered from 0"),
    (HAND | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "'10.0.0.1' is no HOST:PORT"),
    (MPIRUN, r"mpirun -x JAX_COORDINATOR_ADDRESS=HOST:PORT"),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_ID='' is no number"),
  ],
)
def test_half_of_what_is_needed_is_refused(environ: Mapping[str, str], said: str) -> None:
  with pytest.raises(UserError, match=said):
    detect_cluster(environ, None)


def test_virtual_devices_are_counted_on_cpu_alone() -> None:
  flags = {"XLA_FLAGS": "--xla_dump_to=x --xla_force_host_platform_device_count=4"}
  assert virtual_device_count(flags) == virtual_device_count(flags | {"JAX_PLATFORMS": "cpu"}) == 4
  assert virtual_device_count(flags | {"JAX_PLATFORMS": "tpu"}) == virtual_device_count({}) == 0
