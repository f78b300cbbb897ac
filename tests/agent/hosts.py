"""One of several processes that roll out together, printing what came of it.

    python -m tests.agent.hosts

The environment says which of how many it is.
"""

from __future__ import annotations

import contextlib
import json
import sys

import jax

from score_jax.agent.protocol import AgentProtocol, train_tokenizer
from score_jax.agent.rollout import Agent, RolloutRequest, empty_trajectory
from score_jax.agent.shared_tool import ReplicatedTool
from score_jax.grading.numbers import grade_number
from score_jax.model.sharding import make_mesh, weight_shardings
from score_jax.runtime import processes
from score_jax.sampler.programs import SamplerPrograms
from score_jax.sampler.slots import ProgramShapes, SamplingParams
from score_jax.sampler.stops import Stops
from score_jax.sandbox.sandbox import Sandbox
from score_jax.trajectory import Question, trajectory_to_json
from tests.agent.bigram import bigram
from tests.agent.scripted import SHAPE, TEXT


def main() -> None:
  tokenizer = train_tokenizer(TEXT * 3, vocab=SHAPE.vocab)
  protocol = AgentProtocol(tokenizer)
  config, graph, weights = bigram(tokenizer)
  mesh = make_mesh((2, 2, 2))
  weights = jax.device_put(weights, weight_shardings(mesh, weights))
  programs = SamplerPrograms(graph, config, mesh, slots=8, length=72, block=72, stops=Stops((protocol.stop_token,)))
  with contextlib.ExitStack() as stack:
    limits = {"sessions": 64, "timeout_s": 20.0, "memory_mb": 512, "files_mb": 64, "output_chars": 400}
    tool = stack.enter_context(Sandbox(isolation="process", workers=2, search=None, **limits))
    agent = Agent(
      model="student",
      author="student",
      programs=programs,
      shapes=ProgramShapes(piece=48, rows=(4,), decode=8),
      protocol=protocol,
      tool=ReplicatedTool(tool),
      grader=grade_number,
      decoding=SamplingParams(1.0, 0, 1.0, 1.0),
      turn_tokens=12,
      seed=6,
    )
    questions = [Question(f"q{i}", f"add {i}", "12") for i in range(24)]
    groups = agent.rollout(
      weights, [RolloutRequest(q.id, q, empty_trajectory(q), 3, 1 + i % 2) for i, q in enumerate(questions)]
    )
  trajectories = [json.loads(trajectory_to_json(t)) for group in groups for t in group]
  print(json.dumps({"ran": tool.calls, "trajectories": trajectories}), file=sys.__stdout__)


with processes.distributed(timeout_s=300.0):
  main()
