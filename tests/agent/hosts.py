"""One of several processes that roll out together, printing what came of it.

    python -m tests.agent.hosts PORT COUNT INDEX

With COUNT 1 the same on as many devices of one process.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

port, count, index = map(int, sys.argv[1:])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={8 // count}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402

if count > 1:
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(f"127.0.0.1:{port}", count, index)

from score_jax.agent.protocol import Protocol  # noqa: E402
from score_jax.agent.rollout import Agent, Request, at_question  # noqa: E402
from score_jax.agent.tokenizer import train  # noqa: E402
from score_jax.mesh.sharding import make_mesh, weight_shardings  # noqa: E402
from score_jax.sampler.programs import Programs  # noqa: E402
from score_jax.sampler.slots import Decoding, Shapes  # noqa: E402
from score_jax.sampler.stops import Stops  # noqa: E402
from score_jax.tasks.grade import numeric  # noqa: E402
from score_jax.tools.python import PythonTool  # noqa: E402
from score_jax.tools.shared import SharedTool  # noqa: E402
from score_jax.trajectory import Question, to_json  # noqa: E402
from tests.agent.bigram import bigram  # noqa: E402
from tests.agent.scripted import SHAPE, TEXT  # noqa: E402


def main() -> None:
  tokenizer = train(TEXT * 3, vocab=SHAPE.vocab)
  protocol = Protocol(tokenizer)
  config, graph, weights = bigram(tokenizer)
  mesh = make_mesh((2, 2, 2))
  weights = jax.device_put(weights, weight_shardings(mesh, weights))
  programs = Programs(graph, config, mesh, slots=8, length=72, block=72, stops=Stops((protocol.stop,)))
  with contextlib.ExitStack() as stack:
    tool = None
    if index == 0:
      limits = {"sessions": 64, "timeout_s": 20.0, "memory_mb": 512, "files_mb": 64, "output_chars": 400}
      tool = stack.enter_context(PythonTool(isolation="process", workers=2, search=None, **limits))
    agent = Agent(
      model="student",
      author="student",
      programs=programs,
      shapes=Shapes(piece=48, rows=(4,), decode=8),
      protocol=protocol,
      tool=SharedTool(tool),
      grader=numeric,
      decoding=Decoding(1.0, 0, 1.0, 1.0),
      turn_tokens=12,
      seed=6,
    )
    questions = [Question(f"q{i}", f"add {i}", "12") for i in range(24)]
    groups = agent.rollout(weights, [Request(q.id, q, at_question(q), 3, 1 + i % 2) for i, q in enumerate(questions)])
  print(json.dumps([json.loads(to_json(t)) for group in groups for t in group]))


main()
