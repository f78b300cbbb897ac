"""The whole method on one ordinary machine, with two small models that ship with the package.

    python -m score_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
    python -m score_jax.main --config=configs/quickstart.py:smoke --workdir=runs/smoke      every stage, tiny

A student of 0.19 million weights, which is careless, answers generated word problems with Python and look-ups. A
teacher of 0.46 million weights corrects it by counterfactual. The stages are warm start, mentoring, SFT and RL, with
BC and RL from the question beside them: eight minutes on two cores, which show how the method runs and not what it is
worth. configs/defaults.py explains each setting.
"""

from ml_collections import ConfigDict

from score_jax.config import load_sibling_config


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: "" for the quickstart, "smoke" for every stage in under 90 s."""
  if arg not in ("", "smoke"):
    raise ValueError(f"configs/quickstart.py:{arg} is none; choose quickstart.py or quickstart.py:smoke")
  c = load_sibling_config(__file__, "defaults")
  c.teacher.path, c.student.path = "shipped:teacher", "shipped:student"
  c.stages = ("warm_start", "mps", "sft", "rl", "bc", "rl_from_question")
  c.tasks.kind = "word_problems"
  c.tasks.train, c.tasks.validation, c.tasks.test = 280, 100, 300
  c.warm_start.learning_rate, c.sft.learning_rate, c.bc.learning_rate, c.rl.learning_rate = 2e-4, 1e-4, 2e-4, 5e-5
  c.warm_start.epochs, c.sft.epochs, c.bc.epochs, c.rl.steps = 2, 1, 1, 15
  if arg == "smoke":
    c.tasks.train, c.tasks.validation, c.tasks.test = 32, 8, 12
    c.sampler.slots = c.sampler.teacher_slots = 32
    c.sampler.length, c.sampler.rows = 384, (8,)
    c.sampler.block = 384  # few programs to compile
    c.mps.corrections, c.mps.tries, c.mps.depth_probe = 2, 2, 2
    for stage in (c.warm_start, c.sft, c.bc):
      stage.epochs = 1
    c.rl.steps, c.rl.prompts, c.rl.group_size, c.rl.minibatch, c.rl.micro_rows = 2, 4, 4, 2, 8
    c.train.rows = c.train.micro_rows = 8
    c.alarms.probe = 1
    c.train.checkpoint_every, c.rl.checkpoint_every, c.survival.journal_s = 2, 1, 1.0
  return c
