"""A chat model on the mesh: what it draws is keyed by seed and name, and is the model's own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from score_jax.chat.interface import ChatMessage, ChatRequest
from score_jax.chat.local import LocalChat
from score_jax.model import pretrained
from tests.chat.conftest import LENGTH

TALK = (ChatMessage("system", "You like figs."), ChatMessage("user", "How many?"))


def ask(name: str, *, text: str = "How many?", temperature: float = 1.0, tokens: int = 12) -> ChatRequest:
  return ChatRequest(name, (TALK[0], ChatMessage("user", text)), temperature, tokens)


def logits(model: pretrained.Model, tokens: list[int]) -> np.ndarray:
  """Of the whole sequence, without a cache; what pads it to one length comes after it and is not seen."""
  row = jnp.array([tokens + [0] * (LENGTH - len(tokens))])
  return np.asarray(_forward(model.graph, model.weights, row))[0, : len(tokens)]


@functools.partial(jax.jit, static_argnums=0)
def _forward(graph: Any, weights: Any, row: jax.Array) -> jax.Array:
  decoder = nnx.merge(graph, weights)
  return decoder.unembed(decoder(row, jnp.arange(LENGTH)[None], jnp.ones_like(row)))


def test_replies_depend_on_the_name_and_on_nothing_beside(on_mesh: LocalChat) -> None:
  asks = [ask(f"q{i}", tokens=5 + i) for i in range(7)]
  together = on_mesh.ask(asks)
  assert len({reply.text[:5] for reply in together}) == 7, "different names draw differently"
  assert on_mesh.ask(asks[::-1])[::-1] == together
  assert [on_mesh.ask([one])[0] for one in asks[:3]] == together[:3]
  on_mesh._seed, seed = 4, on_mesh._seed
  try:
    assert on_mesh.ask(asks[:1])[0].text != together[0].text
  finally:
    on_mesh._seed = seed


def test_the_likeliest_reply_is_that_of_the_full_forward_pass(on_mesh: LocalChat, model: pretrained.Model) -> None:
  talk = [{"role": m.role, "content": m.content} for m in TALK]
  tokens = list(model.tokenizer.apply_chat_template(talk, add_generation_prompt=True)["input_ids"])
  read = len(tokens)
  for _ in range(8):
    tokens.append(int(logits(model, tokens)[-1].argmax()))
    if tokens[-1] in on_mesh.template.stops:
      break
  [reply] = on_mesh.ask([ask("greedy", temperature=0.0, tokens=8)])
  assert reply.text == on_mesh.template.decode_reply(tokens[read:])
  assert (reply.usage.read, reply.usage.generated) == (read, len(tokens) - read)
  assert reply.cut == (tokens[-1] not in on_mesh.template.stops)


def test_the_ledger_has_the_flops_of_each_token(on_mesh: LocalChat, model: pretrained.Model) -> None:
  [reply] = on_mesh.ask([ask("flops")])
  c, read, written = model.config, reply.usage.read, reply.usage.generated
  weights = 2.0 * (c.parameters - (0 if c.tied else c.vocab * c.width))
  attention = 4.0 * c.layers * c.heads * c.head_width
  expected = sum(weights + attention * length for length in (*[read // 2] * read, *range(read + 1, read + written + 1)))
  assert reply.usage.flops == pytest.approx(expected, rel=1e-12)


def test_what_does_not_fit_fails_and_the_others_are_answered(on_mesh: LocalChat) -> None:
  asks = [ask("a"), ask("long", text="figs " * LENGTH), ask("b", tokens=10 * LENGTH)]
  first, long, second = on_mesh.ask(asks)
  assert long.failed.startswith("a prompt of ") and f"chat.length is {LENGTH}" in long.failed and not long.hopeless
  assert first == on_mesh.ask(asks[:1])[0]
  assert second.cut is (second.usage.read + second.usage.generated == LENGTH)


def test_two_asks_of_one_name_are_an_error(on_mesh: LocalChat) -> None:
  with pytest.raises(ValueError, match="two asks are named 'a'"):
    on_mesh.ask([ask("a"), ask("a")])
