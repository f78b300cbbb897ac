"""Qwen3-8B taught by Qwen2.5-72B-Instruct to search, with the paper's settings, on v5e:8x8.

    python -m score_jax.plan --config=configs/score_qwen3_8b_search.py --topology=v5e:8x8
    python -m score_jax.main --config=configs/score_qwen3_8b_search.py --config.tasks.path=DIR

The paper's deep-search student (30.5 on average over four benchmarks). Student and teacher have different tokens: the
teacher has to be one that teaches by text.
"""

from ml_collections import ConfigDict

from score_jax.config import load_sibling_config, reject_argument


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: none."""
  reject_argument(__file__, arg)
  c = load_sibling_config(__file__, "score_qwen2_5_7b")
  c.student.path = "Qwen/Qwen3-8B"
  c.mesh.sample = (8, 1, 8)  # eight key/value heads
  c.sampler.slots = 128  # with 256 the fork of the cache takes 16.05 GiB of 15.75
  c.tools.search.top_k = 10
  c.tools.search.passage_chars = 400  # ten of them fit into one observation
  return c
