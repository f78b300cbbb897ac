"""Qwen2.5-1.5B-Instruct on GSM8K with adapters (LoRA), on one chip of 16 GB: Colab's v5e-1 or a T4.

    python -m score_jax.plan --config=configs/colab_qwen2_5_1_5b.py --topology=v5e:1
    python -m score_jax.main --config=configs/colab_qwen2_5_1_5b.py --config.tasks.path=DIR

The 0.5B config with a student three times the size, whose weights stay as they are beside adapters of rank 32.
"""

from ml_collections import ConfigDict

from score_jax.config import load_sibling_config, reject_argument


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: none."""
  reject_argument(__file__, arg)
  c = load_sibling_config(__file__, "colab_qwen2_5_0_5b")
  c.student.path = "Qwen/Qwen2.5-1.5B-Instruct"
  c.student.lora_rank = 32
  c.warm_start.learning_rate = c.sft.learning_rate = c.bc.learning_rate = 1e-4
  c.rl.learning_rate = 1e-5
  return c
