"""An agent on a real sampler: a small decoder that writes numbers as code (bigram.py)."""

from __future__ import annotations

import jax
import pytest
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerFast

from score_jax.agent.protocol import AgentProtocol
from score_jax.agent.rollout import Agent
from score_jax.grading.numbers import grade_number
from score_jax.model.decoder import Weights
from score_jax.model.sharding import weight_shardings
from score_jax.sampler.programs import SamplerPrograms
from score_jax.sampler.slots import ProgramShapes, SamplingParams
from score_jax.sampler.stops import Stops
from score_jax.sandbox.sandbox import Sandbox
from tests.agent.bigram import bigram


@pytest.fixture(scope="module")
def real(
  tokenizer: PreTrainedTokenizerFast, protocol: AgentProtocol, tool: Sandbox, one_device: Mesh
) -> tuple[Agent, Weights]:
  """The agent and its weights."""
  config, graph, weights = bigram(tokenizer)
  programs = SamplerPrograms(
    graph, config, one_device, slots=8, length=72, block=72, stops=Stops((protocol.stop_token,))
  )
  shapes = ProgramShapes(piece=48, rows=(4,), decode=8)
  decoding = SamplingParams(1.0, 0, 1.0, 1.0)
  agent = Agent("student", "student", programs, shapes, protocol, tool, grade_number, decoding, turn_tokens=12, seed=6)
  return agent, jax.device_put(weights, weight_shardings(one_device, weights))
