"""Makes the two small models that ship with the package: a stand-in for downloading public ones.

    python -m score_jax.pretrain --config=configs/quickstart_pretrain.py --workdir=runs/pretrain

A tokenizer is trained on generated text, then each model on worked solutions
played in the real tools, lesson by lesson, with loss on all but the detours:
questions and observations are full of repetitions, from which copying is learnt.
Worlds differ from any that a run uses. The models lie in DIR/teacher and
DIR/student in the end. Exit status: 0 done, 1 failed (one line says why), 2
wrong usage, 143 or 130 when SIGTERM or Ctrl-C has ended it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import random
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerFast

from score_jax.agent import protocol as tokenizers
from score_jax.agent.protocol import AgentProtocol
from score_jax.agent.scripted import Script, run_scripts, tokenize_trajectory
from score_jax.command import run_command
from score_jax.model import pretrained
from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import init_decoder
from score_jax.model.lora import NO_PARAMS
from score_jax.model.sharding import make_mesh
from score_jax.runtime import interrupt, lock
from score_jax.runtime.metrics import MetricsWriter
from score_jax.runtime.workdir import Workdir
from score_jax.sandbox.sandbox import Sandbox
from score_jax.search.passages import BM25Search
from score_jax.tasks import word_problems
from score_jax.tasks.questions import build_difficulty
from score_jax.teaching.demonstrations import build_script_with_detours, build_script_with_slips
from score_jax.train.batch import Example, make_example
from score_jax.train.sft import SftConfig, fine_tune
from score_jax.train.step import ForwardConfig
from score_jax.trajectory import Question, Trajectory

ROLES = ("student", "teacher")
MAX_PASSAGE_CHARS = 1000  # of a search result, at most; more than any passage of a world has


def make_demonstrations(lesson: ConfigDict, *, seed: str, results: int) -> list[Trajectory]:
  """The worked solutions of one lesson, played; text without tokens."""
  played: list[Trajectory] = []
  for number in range(lesson.worlds):
    draw = random.Random(f"{seed}/{number}")
    world = word_problems.World.generate(draw.getrandbits(48))
    questions = word_problems.generate_questions(
      world, build_difficulty(lesson), seed=draw.getrandbits(48), count=lesson.questions
    )
    scripts = [(q, _script(q, lesson, draw)) for q in questions]
    with Sandbox(
      isolation="process",
      workers=2,
      sessions=64,
      timeout_s=10.0,
      memory_mb=512,
      files_mb=64,
      output_chars=4096,
      search=BM25Search.from_documents(world.documents(), top_k=results, passage_chars=MAX_PASSAGE_CHARS),
    ) as tool:
      played += run_scripts(scripts, tool)
  return played


def _script(question: Question, lesson: ConfigDict, draw: random.Random) -> Script:
  if lesson.slips:
    return build_script_with_slips(question, share=lesson.slips, draw=draw)
  return build_script_with_detours(question, share=lesson.detours, draw=draw)


def iter_tokenizer_texts(trajectories: Sequence[Trajectory]) -> Iterator[str]:
  """What a tokenizer for these trajectories should know."""
  for trajectory in trajectories:
    yield trajectory.question
    for step in trajectory.steps:
      yield from (step.thought, step.code, f"Observation: {step.observation}", "user\nassistant\nObservation: None")


def pretrain(config: ConfigDict, root: str) -> None:
  """Trains the tokenizer and the models of `roles`, and writes them as Hugging Face folders."""
  workdir = Workdir(root)
  with interrupt.handle_signals(config.survival.grace_s), lock.hold_lock(workdir.root):
    _pretrain(config, workdir)


def _pretrain(config: ConfigDict, workdir: Workdir) -> None:
  played = {
    f"{role}/{name}": make_demonstrations(lesson, seed=f"{config.seed}/{role}/{name}", results=config.search_results)
    for role in ROLES
    for name, lesson in sorted(config[role].lessons.items())
    if role in config.roles or f"{role}/{name}" in config.texts
  }
  print(f"{sum(map(len, played.values()))} worked solutions played", flush=True)
  tokenizer = tokenizers.train_tokenizer(
    iter_tokenizer_texts([t for name in config.texts for t in played[name]]), vocab=config.vocab
  )
  for role in config.roles:
    lessons = [[t for name in together for t in played[f"{role}/{name}"]] for together in config[role].order]
    _train(config, role, lessons, tokenizer, workdir)


def mask_detours(trajectory: Trajectory) -> Example:
  """Every token carries loss but the first one, which nothing predicts, and those of detours."""
  detours = make_example(trajectory, carries_loss=lambda _, step: step.author == "student")
  learnt = 1.0 - detours.loss_mask
  learnt[0] = 0.0
  return dataclasses.replace(detours, loss_mask=learnt)


def _train(
  config: ConfigDict,
  role: str,
  lessons: Sequence[Sequence[Trajectory]],
  tokenizer: PreTrainedTokenizerFast,
  workdir: Workdir,
) -> None:
  """One model through its lessons."""
  c, protocol = config[role], AgentProtocol(tokenizer)
  shape = DecoderConfig(
    vocab=len(tokenizer),
    **{name: c[name] for name in ("width", "layers", "heads", "kv_heads", "head_width", "mlp", "context")},
  )
  seed = int.from_bytes(hashlib.sha256(f"{config.seed}/{role}".encode()).digest()[:4])
  graph, weights = init_decoder(shape, seed)
  shared = config.train
  passes = ForwardConfig(1.0, shared.logit_chunk, shared.attention, shared.remat, "float32", "float32")
  settings = SftConfig(**{f.name: config.train[f.name] for f in dataclasses.fields(SftConfig)})
  trained = fine_tune(
    role,
    [[mask_detours(tokenize_trajectory(protocol, t)) for t in lesson] for lesson in lessons],
    config=shape,
    graph=graph,
    begin=lambda: weights,
    frozen=NO_PARAMS,
    mesh=make_mesh(config.mesh.train),
    settings=settings,
    passes=passes,
    seed=config.seed,
    workdir=workdir,
    metrics=MetricsWriter(workdir, role),
    log=print,
    validate=None,
  )
  folder = workdir.root / role
  pretrained.save_pretrained(str(folder), shape, trained.weights, dtype="float16")
  pretrained.save_tokenizer(pathlib.Path(folder), shape, tokenizer)
  print(f"{role}: {trained.updates} updates, written to {folder}", flush=True)


if __name__ == "__main__":
  run_command(pretrain)
