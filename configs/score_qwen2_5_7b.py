"""Qwen2.5-7B-Instruct taught by Qwen2.5-72B-Instruct, with the paper's settings, on TPUs or four nodes of GPUs.

    python -m score_jax.plan --config=configs/score_qwen2_5_7b.py --topology=v5e:8x8
    python -m score_jax.main --config=configs/score_qwen2_5_7b.py --config.tasks.path=DIR

Arguments: v5e (64 chips, 8x8; the default), v5p (32 chips, 2x4x4, sold as v5p-64), v6e (64 chips, 8x8) and h100 (4
nodes of 8; an estimate of the plan says that it fits). What stages take at the roofline the plan prints. The paper
reached 50.8 on average over its eight benchmarks.
"""

from ml_collections import ConfigDict

from score_jax.config import load_sibling_config

#: argument -> meshes (data, fsdp, tensor) for training, sampling and teaching, slots of student and teacher, rows
SLICES = {
  "v5e": ((1, 32, 2), (16, 1, 4), (1, 8, 8), 256, 64, 32),
  "v5p": ((1, 32, 1), (8, 1, 4), (4, 1, 8), 256, 128, 32),
  "v6e": ((1, 32, 2), (16, 1, 4), (1, 8, 8), 256, 64, 32),
  "h100": ((1, 32, 1), (8, 1, 4), (4, 1, 8), 256, 128, 32),
}


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: the kind of chips, a key of SLICES."""
  if arg and arg not in SLICES:
    raise ValueError(f"configs/score_qwen2_5_7b.py:{arg} is none; choose from {', '.join(SLICES)}")
  c = load_sibling_config(__file__, "paper")
  c.teacher.path = "Qwen/Qwen2.5-72B-Instruct"
  c.student.path = "Qwen/Qwen2.5-7B-Instruct"
  c.mesh.train, c.mesh.sample, c.mesh.teacher, c.sampler.slots, c.sampler.teacher_slots, rows = SLICES[arg or "v5e"]
  c.train.rows = c.train.micro_rows = c.rl.micro_rows = rows  # of 8,192 tokens: some 128 trajectories
  return c
