"""Qwen2.5-0.5B-Instruct on GSM8K, taught by its worked solutions: one 80 GB GPU, or eight v5e chips.

    python -m score_jax.plan --config=configs/score_qwen2_5_0_5b.py --topology=v5e:2x4
    python -m score_jax.main --config=configs/score_qwen2_5_0_5b.py --config.tasks.path=DIR

For h100:1 the plan's figures are estimates. Everything is trained, with float32 weights in the optimiser.
"""

from ml_collections import ConfigDict

from score_jax.config import load_sibling_config, reject_argument


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: none."""
  reject_argument(__file__, arg)
  c = load_sibling_config(__file__, "paper")
  c.teacher.kind = "reference"
  c.student.path = "Qwen/Qwen2.5-0.5B-Instruct"
  c.sampler.slots, c.sampler.length, c.sampler.block = 64, 4096, 1024
  c.agent.turn_tokens = 1024
  c.train.length = c.rl.length = 4096
  c.train.rows, c.train.micro_rows, c.rl.micro_rows = 32, 8, 8
  c.warm_start.learning_rate = c.sft.learning_rate = c.bc.learning_rate = 1e-5
  c.rl.prompts, c.rl.group_size, c.rl.minibatch, c.rl.learning_rate = 64, 8, 16, 1e-6
  return c
