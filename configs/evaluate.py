"""Models from anywhere on the method's benchmarks, with the paper's decoding.

    python -m score_jax.main --config=configs/evaluate.py --config.model=DIR --workdir=runs/eval
    python -m score_jax.main --config=configs/evaluate.py --config.model=runs/gsm8k:sft,runs/gsm8k:rl \\
      --config.benchmarks=hotpotqa,math500 --config.paths.math500=math_500.json --config.limit=100
    python -m score_jax.main --config=configs/evaluate.py:smoke --config.model=runs/quickstart:rl   the shipped models

Every try is drawn once and never again, whatever becomes of it. A killed evaluation goes on after its last part. All
12 benchmarks at avg@4 (AIME avg@32) ask a model some 11,000 times. Benchmarks come from the Hugging Face hub, or from
files. For multi-hop questions and deep search name a corpus or a retriever (`tools.search`).
"""

from ml_collections import ConfigDict

from score_jax.config import load_sibling_config

BENCHMARKS = "aime24 aime25 math500 olymmath hotpotqa 2wiki musique bamboogle gaia webwalkerqa hle xbench".split()


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: "" for the paper's settings, "smoke" for the shipped models on their own word problems, on two CPU cores."""
  if arg not in ("", "smoke"):
    raise ValueError(f"configs/evaluate.py:{arg} is none; choose evaluate.py or evaluate.py:smoke")
  c = load_sibling_config(__file__, "paper")
  word_problems = {name: c.tasks[name] for name in ("acts", "operations", "distractors")}
  for group in ("stages", "tasks", "train", "warm_start", "mps", "sft", "rl", "bc", "alarms", "trackers"):  # of recipes
    del c[group]
  c.job = "evaluate"
  # DIR, ORG/NAME, FILE.gguf, RUN:STAGE, endpoint (groups teacher and chat); commas: several
  c.model = "shipped:student"
  c.benchmarks = ",".join(BENCHMARKS[:8])  # the paper's average; there are gsm8k, gsm_hard, word_problems too
  c.tries = 0  # of a question; 0: AIME 32, others 4
  c.limit = 0  # questions of a benchmark, at most, chosen by a seeded hash; 0: as many as the paper evaluates
  c.paths = ConfigDict(dict.fromkeys((*BENCHMARKS, "gsm8k", "gsm_hard"), ""))  # files in the hub's place; "": the hub
  c.word_problems = ConfigDict(word_problems)  # as in group tasks of configs/defaults.py
  del c.eval.tries
  c.eval.part = 64
  c.tools.search.kind = "none"  # or bm25, http; tasks: the passages of word_problems
  c.tools.search.top_k = 10
  c.tools.search.passage_chars = 400  # ten of them fit into one observation
  c.teacher.kind = "prompted"
  c.student.path = "shipped:student"  # endpoint: the model whose tokenizer counts and records its replies
  del c.student.lora_rank
  c.sampler.slots = 64

  if arg == "smoke":
    c.benchmarks, c.limit, c.tries = "word_problems", 32, 2
    c.tools.search.kind, c.tools.search.top_k = "tasks", 2
    c.student.dtype, c.student.layer_scan = "float32", False
    c.student.temperature, c.student.top_k, c.student.top_p, c.student.repetition_penalty = 0.7, 0, 1.0, 1.0
    c.agent.turn_tokens = 64
    c.sampler.length = c.sampler.block = 512  # few programs to compile
    c.sampler.piece, c.sampler.rows, c.sampler.decode = 32, (8,), 16
  return c
