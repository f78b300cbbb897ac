"""Qwen2.5-3B-Instruct taught by Qwen2.5-72B-Instruct, with the paper's settings, on v5e:8x8.

    python -m score_jax.plan --config=configs/score_qwen2_5_3b.py --topology=v5e:8x8
    python -m score_jax.main --config=configs/score_qwen2_5_3b.py --config.tasks.path=DIR

The 7B config with another student; the paper reached 46.7 on average over its eight benchmarks.
"""

from ml_collections import ConfigDict

from score_jax.config import load_sibling_config, reject_argument


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: none."""
  reject_argument(__file__, arg)
  c = load_sibling_config(__file__, "score_qwen2_5_7b")
  c.student.path = "Qwen/Qwen2.5-3B-Instruct"
  c.mesh.sample = (32, 1, 2)  # two key/value heads
  return c
