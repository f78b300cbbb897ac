"""The command: estimates for GPUs, programs compiled for TPUs, verdicts, remedies and exit statuses."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


def plan(*args: str) -> subprocess.CompletedProcess[str]:
  environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
  command = [sys.executable, "-m", "score_jax.plan", *args]
  return subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, check=False)


def planned(*args: str) -> tuple[int, dict[str, Any]]:
  done = plan(*args, "--json")
  assert done.returncode in (0, 1), done.stderr
  return done.returncode, json.loads(done.stdout)


def test_a_gpu_is_estimated_from_shapes() -> None:
  status, found = planned("--config=configs/score_qwen2_5_0_5b.py", "--topology=h100:1")
  assert (status, found["fits"], found["compiled"]) == (0, True, False)
  names = [(p["model"], p["name"]) for p in found["programs"]]
  steps = ("sft_step", "policy_gradient_step", "extend", "decode", "fork")
  assert names == [("student", name) for name in steps]
  weights = 494_032_768  # of Qwen2.5-0.5B: its published size
  sft = found["resident"]["sft"]
  assert sft["student weights"] == 2 * weights
  assert sft["trained weights"] == 4 * weights
  assert sft["moments"] == pytest.approx(8 * weights, rel=1e-6)
  assert all(p["bytes"]["total"] == sum(v for k, v in p["bytes"].items() if k != "total") for p in found["programs"])


def test_what_scores_in_rl_is_planned() -> None:
  """The passes of trainer and reference, and of a teacher that is distilled, which stays beside the student."""
  knobs = ("--config.rl.kl=0.1", "--config.rl.distill=1.0")
  _, found = planned("--config=configs/quickstart.py", "--topology=h100:1", *knobs)
  scored = {p["model"]: p for p in found["programs"] if p["name"] == "score"}
  assert list(scored) == ["student", "teacher"]
  arrays = {stage: found["resident"][stage] for stage in ("mps", "sft", "rl")}
  teacher = arrays["mps"]["teacher weights"]
  assert arrays["rl"]["distilling teacher"] == teacher and "distilling teacher" not in arrays["sft"]
  resident = arrays["sft"]["student weights"] + 2 * arrays["sft"]["trained weights"] + teacher
  assert scored["student"]["bytes"]["weights"] == resident, "the reference is brought beside what is trained"


def test_what_does_not_fit_is_said_with_a_remedy() -> None:
  done = plan("--config=configs/score_qwen2_5_0_5b.py", "--topology=t4:1")
  assert done.returncode == 1, done.stderr
  assert "DOES NOT FIT" in done.stdout
  assert "lower train.micro_rows or train.length" in done.stdout
  assert "estimated from shapes, not compiled" in done.stdout


@pytest.mark.parametrize(
  ("topology", "message"),
  [
    ([], "--topology=KIND:SHAPE is missing"),
    (["--topology=v9:4"], "--topology=v9:4: give KIND:SHAPE"),
    (["--topology=h100:ax2"], "--topology=h100:ax2: give KIND:SHAPE"),
    (["--topology=h100:8"], "mesh.train = (1, 1, 3) does not fit 8 devices"),
  ],
)
def test_bad_input_is_answered_in_one_line(topology: list[str], message: str) -> None:
  done = plan("--config=configs/score_qwen2_5_0_5b.py", "--config.mesh.train=(1, 1, 3)", *topology)
  assert done.returncode == 1
  assert done.stderr.strip().splitlines()[-1].startswith("error: ")
  assert message in done.stderr


@needs_libtpu
def test_a_tpu_is_compiled_for() -> None:
  args = ("--config=configs/quickstart.py:smoke", "--config.mesh.train=(1,2,2)", "--config.mesh.sample=(2,1,2)")
  status, found = planned(*args, "--topology=v5e:2x2", "--config.mesh.teacher=(4,1,1)")
  assert (status, found["fits"], found["compiled"], found["chips"]) == (0, True, True, 4)
  assert all(p["compiled"] and p["compile_s"] > 0 for p in found["programs"])
  step = found["programs"][0]
  assert {c["kind"] for c in step["collectives"]} & {"all-reduce", "reduce-scatter"}, "gradients of rows are not summed"
