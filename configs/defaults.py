"""Every setting, its default and its unit. The other configs vary this one; it names the quickstart's models.

Not to be run by itself: configs/quickstart.py is the experiment with these defaults.
"""

from ml_collections import ConfigDict

from score_jax.config import reject_argument


def get_config(arg: str = "") -> ConfigDict:
  """`arg`: none."""
  reject_argument(__file__, arg)
  c = ConfigDict()
  c.job = "recipe"  # or evaluate: configs/evaluate.py
  c.seed = 0
  c.stages = ("warm_start", "mps", "sft", "rl", "bc", "rl_from_question")
  # further baselines and controls (score_jax/experiment/stages.py), each with the stages that it needs; ("all",): all
  c.arms = ()

  c.mesh = ConfigDict()
  # (data, fsdp, tensor) of the same devices for each use; -1: the devices that are left
  c.mesh.train = (-1, 1, 1)  # the student, when it is trained
  c.mesh.sample = (-1, 1, 1)  # the student, when it samples
  c.mesh.teacher = (-1, 1, 1)

  c.hosts = ConfigDict()
  c.hosts.timeout_s = 900.0  # several processes: one without progress for so long ends the run on all

  c.teacher = ConfigDict()
  # model: a decoder on the mesh; reference: the tasks' worked solutions; prompted: the model of the group chat;
  # recorded: corrections from a file
  c.teacher.kind = "model"
  c.teacher.path = "shipped:teacher"  # model: as student.path; recorded: the file, or a folder of them
  c.teacher.dtype = "float32"
  c.teacher.layer_scan = False  # True: programs loop over stacked layers, which compiles sooner; on CPU it is slower
  c.teacher.temperature = 0.7
  c.teacher.top_k = 0  # 0: all
  c.teacher.top_p = 1.0
  c.teacher.repetition_penalty = 1.0
  c.teacher.locate = (
    "prompted"  # prompted: how the wrong step is found: prompted, counterfactual (by the student), both
  )
  c.teacher.prompts = ""  # prompted and judges: folder of *.jinja files; "": score_jax/teaching/prompts
  c.teacher.reply_tokens = 2048  # prompted and judges: of one reply, at most
  c.teacher.first_thought_temperature = 0.5  # prompted
  c.teacher.step_temperature = 0.7  # prompted
  c.teacher.locate_temperature = 0.9  # prompted
  c.teacher.correct_temperature = 0.5  # prompted
  c.teacher.judge_temperature = (
    0.3  # of the chat model as the judge of answers (some benchmarks) and of steps (rl.judge)
  )

  c.student = ConfigDict()
  c.student.path = "shipped:student"
  c.student.dtype = "float32"  # of activations, in training and in sampling
  c.student.layer_scan = False
  c.student.lora_rank = 0  # of adapters, trained instead of all weights; 0: all weights
  c.student.temperature = 0.7  # in mentoring and in evaluation; RL has rl.temperature
  c.student.top_k = 0
  c.student.top_p = 1.0
  c.student.repetition_penalty = 1.0

  c.chat = ConfigDict()  # a chat model that is asked with prompts
  c.chat.kind = ""  # mesh: a model on the mesh; endpoint: an OpenAI-compatible server; "": no chat model
  c.chat.top_p = 1.0
  c.chat.record = ""  # SQLite file of exchanges; "": chat.sqlite in the workdir
  c.chat.offline = False  # True: from the record alone
  c.chat.path = ""  # mesh: a model with a chat template, named as in teacher.path; it uses mesh.teacher
  c.chat.dtype = "float32"  # mesh
  c.chat.layer_scan = False  # mesh
  c.chat.template_kwargs = ""  # JSON object of the chat template's switches, such as {"enable_thinking": false}
  c.chat.slots = 16  # mesh: conversations at once
  c.chat.length = 4096  # mesh: tokens of a prompt and its reply
  c.chat.block = 1024  # mesh: as sampler.block
  c.chat.url = ""  # endpoint: such as http://127.0.0.1:8000/v1
  c.chat.model = ""  # endpoint: the name by which it knows the model
  c.chat.key_env = ""  # endpoint: NAME of the environment variable that holds the key; "": it wants none
  c.chat.tokens_field = "max_tokens"  # endpoint: or max_completion_tokens, which OpenAI's newer models want
  c.chat.schema = ""  # endpoint: how replies are held to a JSON schema: json_schema, json_object; "": not at all
  c.chat.extra = ""  # endpoint: JSON object of further fields of a request; null takes one out. No secrets: it is kept
  c.chat.concurrency = 8  # endpoint: requests at once
  c.chat.timeout_s = 120.0  # endpoint: of one try
  c.chat.patience_s = 300.0  # endpoint: a failed request is tried again for so long
  c.chat.budget_s = 0.0  # endpoint: seconds after a start of the run when no more is asked; 0: no limit
  c.chat.budget_usd = 0.0  # endpoint: limit on the cost of all recorded exchanges with the model; 0: no limit
  c.chat.usd_per_million = (0.0, 0.0)  # endpoint: price of a million tokens, (prompt, reply)

  c.tasks = ConfigDict()
  c.tasks.kind = "word_problems"  # or gsm8k, questions (your own), a benchmark: score_jax/tasks/questions.py
  # file, folder, ORG/NAME of the hub, tfds:NAME (score_jax/tasks/datasets.py); "": the kind's own place
  c.tasks.path = ""
  c.tasks.split = "train"  # of your own questions, where they have splits
  c.tasks.fields = ConfigDict({"question": "question", "answer": "answer", "id": "", "aliases": ""})  # of your own
  c.tasks.grader = ""  # the benchmark whose grader takes your own
  c.tasks.test_kind = ""  # of the test questions; "": a part of the others, or GSM8K's test questions
  c.tasks.test_path = ""
  c.tasks.test_split = "test"
  c.tasks.train = 280  # questions
  c.tasks.validation = 100
  c.tasks.test = 300
  c.tasks.acts = (3, 6)  # of the worked solution
  c.tasks.operations = ("add", "sub", "mul", "box", "shop")  # there is "odd" too
  c.tasks.distractors = 1  # sentences about somebody else, at most

  c.tools = ConfigDict()
  c.tools.isolation = "bubblewrap"  # bubblewrap: by the kernel; process: WEAK, see score_jax/sandbox/bubblewrap.py
  c.tools.workers = 2  # pieces of code that run at once, on each host
  c.tools.sessions = 128  # processes kept for their sessions' next steps
  c.tools.timeout_s = 10.0  # of one piece of code
  c.tools.memory_mb = 512  # of one session, MiB
  c.tools.files_mb = 64  # of one session's files, MiB
  c.tools.output_chars = 4096  # of one observation
  c.tools.functions = ""  # Python file whose functions the code can call: score_jax/sandbox/interface.py
  c.tools.search = ConfigDict()
  c.tools.search.kind = "tasks"  # tasks: passages that the tasks bring; bm25: a corpus; http: a retriever; none
  c.tools.search.top_k = 2  # passages of a result, at most
  c.tools.search.passage_chars = 1000  # of one passage, title included, at most
  c.tools.search.path = ""  # bm25: a JSONL file, one passage a line
  c.tools.search.sha256 = ""  # bm25: what that file must have; "": any
  c.tools.search.title = "title"  # bm25: the key of a passage's title; "": its text's first line
  c.tools.search.text = "text"  # bm25: the key of its text
  c.tools.search.index = ""  # bm25: folder of the indexes; "": ~/.cache/score_jax/search
  c.tools.search.url = ""  # http: such as http://127.0.0.1:8000/retrieve
  c.tools.search.timeout_s = 10.0  # http: of one try
  c.tools.search.retries = 5  # http: tries after the first, the waits before them 0.5 s, 1 s, 2 s, …
  c.tools.search.per_second = 0.0  # http: tries a second, at most; 0: no limit
  c.tools.search.cache = ""  # http: SQLite file of results; "": search.sqlite in the workdir
  c.tools.search.offline = False  # http: True: from the cache alone

  c.agent = ConfigDict()
  c.agent.acts = 8  # H
  c.agent.turn_tokens = 64  # of one turn, at most

  c.sampler = ConfigDict()
  c.sampler.slots = 128  # of the student
  c.sampler.teacher_slots = 128
  c.sampler.length = 512  # tokens of one context
  c.sampler.block = 128  # tokens of a block of the cache; programs look at as many blocks as are filled
  c.sampler.piece = 32  # tokens of a row of an extend call
  c.sampler.rows = (16,)  # rows of an extend call; a call takes the smallest of these that holds its pieces
  c.sampler.decode = 16  # tokens that a decode call draws in each slot, at most

  c.train = ConfigDict()  # what all training stages share
  c.train.optimizer = "adamw"  # or muon; of the supervised stages
  c.train.weight_decay = 0.01
  c.train.max_norm = 1.0  # of the gradient
  c.train.weights_dtype = "float32"  # of the optimiser's weights; its moments are float32
  c.train.attention = "auto"  # by platform; or blocks, xla, cudnn, splash
  # what the backward pass recomputes: none, dots (all but matrix products), full (whole layers)
  c.train.remat = "none"
  c.train.logit_chunk = 512  # positions of a row whose logits exist at a time
  c.train.length = 512  # tokens of a packed row
  c.train.rows = 4  # of one update
  c.train.micro_rows = 4  # of a micro-batch: rows whose activations exist at a time
  c.train.warmup = 0.1  # share of the updates
  c.train.checkpoint_every = 50  # updates
  c.train.checkpoint_minutes = 5.0  # a checkpoint is due after so long too, in rl as well
  c.train.keep_checkpoints = 2  # the last ones; the one with the best validation accuracy is kept too

  c.warm_start = ConfigDict()
  c.warm_start.share = 0.2  # of the training questions
  c.warm_start.learning_rate = 2e-4
  c.warm_start.epochs = 2

  c.mps = ConfigDict()
  c.mps.corrections = 5  # of one trajectory, at most
  c.mps.continuations = 4  # M
  c.mps.continue_by = (
    "teacher"  # who continues from a prefix to estimate V: teacher, or student (prompted teachers need this)
  )
  c.mps.delta = 0.5  # a fall of V by this much is an error, if it is significant
  c.mps.alpha = 0.05  # probability of naming a step where V does not fall, at most
  c.mps.search = "every"  # every prefix is judged; halving: some log2 of them, assuming that V never rises again
  c.mps.draws = 2  # replacements that are tried for one error, at most
  c.mps.tries = 2  # student rollouts after and before a correction, to measure its lift; 1: none
  c.mps.depth_probe = 20  # right student trajectories whose prefixes measure the teacher's success by depth

  c.sft = ConfigDict()
  c.sft.learning_rate = 1e-4
  c.sft.epochs = 1
  c.sft.keep_unaided = 0.5  # probability
  c.sft.loss = "every_step"  # or teacher_steps

  c.rl = ConfigDict()
  c.rl.steps = 15
  c.rl.prompts = 16  # groups of one step
  c.rl.group_size = 8  # G
  c.rl.minibatch = 8  # groups of one update
  c.rl.micro_rows = 16
  c.rl.length = 512
  c.rl.learning_rate = 5e-5
  c.rl.weight_decay = 0.0
  c.rl.temperature = 1.0
  # the policy gradient: docs/policy_gradient.md has the settings by their names in the literature
  c.rl.ratio = "token"  # of probabilities: token, or sequence, a rollout's length-normalised
  c.rl.scale = "group_std"  # what advantages are divided by: group_std, batch_std (of the step), none
  c.rl.normaliser = "token"  # of the loss: mean over token, over sequence, or constant: rollouts times rl.length
  c.rl.clip_low = 0.2  # a ratio counts from 1 - this
  c.rl.clip_high = 0.2  # to 1 + this
  c.rl.dual_clip = 3.0  # bound of the ratio where the advantage is negative; 0: none
  c.rl.truncate = 0.0  # bound of the importance weight trainer / sampler; 0: no weight
  c.rl.kl = 0.0  # coefficient of the divergence from the weights at the start of RL; 0: none
  c.rl.distill = 0.0  # coefficient of the divergence from the teacher on the mesh, in the advantage; 0: none
  c.rl.reward = "paper"  # rule for the tiers: paper or release (score_jax/rl/reward.py)
  c.rl.final = 1.0  # reward tiers
  c.rl.key = 0.5
  c.rl.avoid = 0.1
  c.rl.judge = False  # True: the chat model is asked about two steps that execution cannot tell apart
  c.rl.prefix = "last"  # rollouts start before the last or the first surviving correction, or before all, each once
  c.rl.fresh_horizon = False  # True: H acts from anywhere
  c.rl.keep_unaided = 0.1  # probability
  c.rl.keep_hard = 0.5
  c.rl.checkpoint_every = 10  # steps; the validation questions are tried as often

  c.bc = ConfigDict()
  c.bc.learning_rate = 2e-4
  c.bc.epochs = 1

  c.alarms = ConfigDict()  # of RL: thresholds, 0: never; docs/report.md and score_jax/rl/alarms.py explain them
  c.alarms.stop = ()  # names of alarms that end the run; the others are only reported
  c.alarms.window = 5  # steps whose mean counts
  c.alarms.probe = 4  # validation questions, rl.group_size tries each, at the start and at kept checkpoints; 0: none
  c.alarms.no_signal = 0.9  # over this share of the groups
  c.alarms.length_bias = 1.5  # tokens of wrong over right rollouts, over this many times what it was at first
  c.alarms.cut_off = 0.4  # over this share of the rollouts
  c.alarms.thought_entropy = 0.3  # under this part of what it was at first
  c.alarms.code_entropy = 0.3
  c.alarms.first_steps = 0.3
  c.alarms.pass_at_g = 0.5
  c.alarms.bad_format = 0.3  # over this share of the rollouts
  c.alarms.code_free = 0.2  # over this share of the acts
  c.alarms.kl = 0.5  # over so many nats a token
  c.alarms.ess = 0.5  # under this share of the samples, in the worst update of a step
  c.alarms.clipped = 0.3  # over this share of the tokens, in the worst update of a step
  c.alarms.stale_prefix = -1.0  # under so many nats a token, now minus when it was drawn
  c.alarms.unsupported = 0.5  # over this share of the right rollouts

  c.profile = ConfigDict()  # traces for xprof: score_jax/runtime/profiler.py
  c.profile.steps = 0  # rounds of rollouts, and updates, of a stage that are traced; 0: none
  c.profile.skip = 3  # those before them, which compile
  c.profile.stages = ()  # names, such as "rl" or "eval_rl"; (): all

  c.trackers = ConfigDict()  # services that get the metrics, besides the workdir: score_jax/runtime/metrics.py
  c.trackers.to = ()  # names of wandb, trackio
  c.trackers.project = "score_jax"

  c.survival = ConfigDict()
  c.survival.journal_s = 30.0  # seconds between two writes of what a stage at work has drawn
  c.survival.grace_s = 25.0  # seconds from SIGTERM or Ctrl-C to a hard end

  c.eval = ConfigDict()
  c.eval.tries = 1  # rollouts of a question
  c.eval.part = 512  # questions whose records are written together
  return c
