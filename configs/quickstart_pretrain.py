"""Makes the teacher and the student of the quickstart, which ship in score_jax/shipped.

    python -m score_jax.pretrain --config=configs/quickstart_pretrain.py --workdir=runs/pretrain

The teacher learns from right demonstrations, with harmless detours in them so that it is at
home on a student's paths. The student is smaller and learns from easy ones, then from fewer
careless ones, four in ten of whose computing steps have a wrong operator or lack a factor.
So it can do every step right, and does it wrong too often: what is taught to it can be learnt
from few trajectories. What it could not do at all (an operation that it has hardly seen) it did
not learn from a hundred (benchmarks/LOG.md).

The shipped ones were made with seed 7, each by a command of its own on one core of two
(--config.roles="('student',)" and "('teacher',)"): student 6,052 updates in 15 minutes,
teacher 5,753 updates in 23 minutes. Of the quickstart's test questions (500 of each of the seeds
0 to 2) the student answers 34.2 % (31.8 to 36.6), the teacher 98.3 % (97.6 to 98.9); from the
prefixes of right student trajectories the teacher succeeds on 99.3 to 100 %, whatever their depth.
"""

from ml_collections import ConfigDict

ASKED = ("add", "sub", "mul", "box", "shop")  # by the quickstart; the teacher knows one more
OPERATIONS = ("add", "sub", "mul", "odd", "box", "shop")
SHORT = {"acts": (3, 4), "operations": OPERATIONS, "distractors": 1}
FULL = {"acts": (3, 6), "operations": OPERATIONS, "distractors": 1}
EASY = {"acts": (3, 6), "operations": ASKED, "distractors": 0}
HARDER = {"acts": (3, 6), "operations": ASKED, "distractors": 1}


def lesson(worlds: int, difficulty: dict, *, detours: float = 0.0, slips: float = 0.0) -> ConfigDict:
  """Worked solutions of 1000 questions in each of `worlds` worlds; a detour before a step, a slip are so probable."""
  return ConfigDict({"worlds": worlds, "questions": 1000, "detours": detours, "slips": slips, **difficulty})


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: "" for the models that ship, "smoke" for a few steps of each."""
  if arg not in ("", "smoke"):
    raise ValueError(f"configs/quickstart_pretrain.py:{arg} is none; choose nothing or smoke")
  c = ConfigDict()
  c.seed = 7
  c.mesh = ConfigDict({"train": (-1, 1, 1)})
  c.roles = ("student", "teacher")  # which to make; the tokenizer comes out the same
  c.vocab = 576  # tokens of the tokenizer that both share
  c.texts = ("teacher/short", "teacher/full")  # lessons that it is trained on
  c.search_results = 2

  c.train = ConfigDict()
  c.train.optimizer = "muon"
  c.train.warmup = 0.02
  c.train.weight_decay = 0.01
  c.train.max_norm = 1.0
  c.train.rows = 2
  c.train.micro_rows = 2
  c.train.length = 512
  c.train.logit_chunk = 512
  c.train.attention = "auto"
  c.train.remat = "none"
  c.train.checkpoint_every = 500
  c.train.checkpoint_minutes = 5.0
  c.train.keep_checkpoints = 2
  c.train.epochs = 1
  c.train.learning_rate = 2e-3
  c.survival = ConfigDict({"grace_s": 25.0})  # seconds from SIGTERM or Ctrl-C to a hard end

  shape = {"kv_heads": 2, "heads": 4, "context": 1024}
  c.teacher = ConfigDict({**shape, "layers": 4, "width": 96, "head_width": 24, "mlp": 256})
  c.teacher.lessons = {"short": lesson(9, SHORT), "full": lesson(18, FULL, detours=0.15)}
  c.teacher.order = (("short",), ("full",))  # lessons in one tuple are shuffled together
  c.student = ConfigDict({**shape, "layers": 3, "width": 64, "head_width": 16, "mlp": 192})
  c.student.lessons = {"easy": lesson(20, EASY), "careless": lesson(9, HARDER, slips=0.4)}
  c.student.order = (("easy",), ("careless",))
  if arg == "smoke":
    for model in (c.teacher, c.student):
      for one in model.lessons.values():
        one.worlds, one.questions = 1, 40
  return c
