"""Llama-3.1-8B-Instruct taught by Qwen2.5-72B-Instruct, with the paper's settings, on v5e:8x8.

    python -m score_jax.plan --config=configs/score_llama3_1_8b.py --topology=v5e:8x8
    python -m score_jax.main --config=configs/score_llama3_1_8b.py --config.tasks.path=DIR

The 7B config with another student; the paper reached 47.5 on average over its eight benchmarks. Student and teacher
have different tokens: the teacher has to be one that teaches by text.
"""

from ml_collections import ConfigDict

from score_jax.config import load_sibling_config, reject_argument


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: none."""
  reject_argument(__file__, arg)
  c = load_sibling_config(__file__, "score_qwen2_5_7b")
  c.student.path = "meta-llama/Llama-3.1-8B-Instruct"
  c.mesh.sample = (8, 1, 8)  # eight key/value heads
  return c
