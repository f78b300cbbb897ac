"""The paper's settings (docs/method.md), which the full-size configs vary; where the release differs the docs say so.

Not to be run by itself: it names no model and no mesh.
"""

from ml_collections import ConfigDict

from score_jax.config import load_sibling_config, reject_argument


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: none."""
  reject_argument(__file__, arg)
  c = load_sibling_config(__file__, "defaults")
  c.tasks.kind = "gsm8k"
  c.tasks.train, c.tasks.validation, c.tasks.test = 6200, 500, 1319  # of 6,757 whose worked solution plays

  for model in (c.student, c.teacher):
    model.dtype, model.layer_scan = "bfloat16", True
  c.student.temperature, c.student.top_k, c.student.top_p, c.student.repetition_penalty = 0.6, 20, 0.95, 1.1
  c.teacher.temperature = 0.7

  c.agent.acts = 8  # H
  c.agent.turn_tokens = 4096
  c.sampler.length = 8192
  c.sampler.block, c.sampler.piece, c.sampler.rows, c.sampler.decode = 1024, 256, (16, 64), 32

  c.train.weight_decay = 0.0
  c.train.remat = "full"
  c.train.logit_chunk = 256
  c.train.length = 8192  # of a packed row; the sampler's, beyond which no trajectory goes
  c.train.checkpoint_every = 50
  for stage in (c.warm_start, c.sft, c.bc):
    stage.learning_rate, stage.epochs = 7e-6, 3
  c.mps.corrections, c.mps.continuations, c.mps.tries = 5, 8, 1

  c.rl.prompts, c.rl.group_size, c.rl.minibatch = 128, 16, 16
  c.rl.learning_rate = 7e-7
  c.rl.clip_low, c.rl.clip_high, c.rl.dual_clip = 0.2, 0.2, 3.0
  c.rl.length = 6144  # prompt 2048 and response 4096
  c.rl.steps = 130  # 3 epochs of some 5,600 starts
  c.eval.tries = 4
  return c
