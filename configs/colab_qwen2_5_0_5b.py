"""Qwen2.5-0.5B-Instruct on GSM8K, everything trained, on one chip of 16 GB: Colab's v5e-1 or a T4.

    python -m score_jax.plan --config=configs/colab_qwen2_5_0_5b.py --topology=v5e:1
    python -m score_jax.main --config=configs/colab_qwen2_5_0_5b.py --config.tasks.path=DIR

Small in every number, so that a session of a notebook sees all stages; taught by GSM8K's worked solutions.
"""

from ml_collections import ConfigDict

from score_jax.config import load_sibling_config, reject_argument


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: none."""
  reject_argument(__file__, arg)
  c = load_sibling_config(__file__, "score_qwen2_5_0_5b")
  c.tasks.train, c.tasks.validation, c.tasks.test = 500, 50, 200
  c.tools.isolation = "process"  # WEAK: a notebook's container allows no namespaces; elsewhere take bubblewrap
  c.agent.turn_tokens = 512
  c.sampler.slots, c.sampler.length, c.sampler.block, c.sampler.piece, c.sampler.rows = 32, 2048, 512, 128, (8,)
  c.train.length = c.rl.length = 2048
  c.train.rows, c.train.micro_rows, c.rl.micro_rows = 8, 2, 2
  c.rl.steps, c.rl.prompts, c.rl.group_size, c.rl.minibatch = 30, 8, 8, 4
  c.eval.tries = 1
  return c
