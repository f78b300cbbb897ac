"""Chat models of this run: one on the device mesh, and one that several processes share.

`LocalChat` draws replies with the sampler and the model's own chat template. A reply depends on the run's seed and the
request's name, not on other requests. In `BroadcastChat` only the primary process asks; all processes get the replies.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

from score_jax.chat.interface import ChatBackend, ChatModel, ChatReply, ChatRequest
from score_jax.chat.template import ChatTemplate, ConversationRefused
from score_jax.model.decoder import Weights
from score_jax.runtime import processes
from score_jax.sampler.programs import SamplerPrograms
from score_jax.sampler.scheduler import Sampler
from score_jax.sampler.slots import ProgramShapes, SamplerMeter, SamplingParams, Slots, request_key
from score_jax.trajectory import Usage


class LocalChat(ChatBackend):
  """Asks a decoder. Its cache is there only while it is asked."""

  def __init__(
    self,
    model: str,
    template: ChatTemplate,
    programs: SamplerPrograms,
    weights: Weights,
    shapes: ProgramShapes,
    *,
    top_p: float,
    seed: int,
    meter: SamplerMeter | None = None,
  ):
    """`programs` have the template's stops. `meter` books what sampling takes."""
    self.model, self.template, self.programs = model, template, programs
    self._weights, self._shapes, self._top_p, self._seed = weights, shapes, top_p, seed
    self.meter = meter or SamplerMeter()

  def iter_replies(self, asks: Sequence[ChatRequest]) -> Iterator[tuple[int, ChatReply]]:
    """As `Backend.replies`; a conversation that the template refuses, or that leaves no room for a reply, fails.

    Raises:
      ValueError: two asks have one name.
    """
    if twice := [name for name, count in Counter(ask.name for ask in asks).items() if count > 1]:
      raise ValueError(f"two asks are named {twice[0]!r}: their draws would be the same")
    sampler = Sampler(Slots(self.programs, self._weights, self._shapes, self.meter))
    prompts: dict[int, tuple[int, ...]] = {}
    for place, ask in enumerate(asks):
      try:
        prompts[place] = self._submit(sampler, place, ask)
      except ConversationRefused as refused:
        yield place, ChatReply("", failed=str(refused))
    while prompts:
      sampler.launch()
      turns = sampler.collect()
      for place in turns:
        sampler.release(place)
      sampler.launch()  # before what has ended is looked at
      for place, turn in turns.items():
        assert isinstance(place, int)
        yield place, self._reply(prompts.pop(place), turn.tokens)

  def _submit(self, sampler: Sampler, place: int, ask: ChatRequest) -> tuple[int, ...]:
    prompt = self.template.encode_prompt([dataclasses.asdict(message) for message in ask.messages])
    room = sampler.slots.capacity - len(prompt)
    if room < 1:
      raise ConversationRefused(
        f"a prompt of {len(prompt)} tokens; chat.length is {sampler.slots.capacity}, the reply included"
      )
    decoding = SamplingParams(ask.temperature, 0, self._top_p, 1.0)
    sampler.submit({place: request_key(self._seed, ask.name)}, prompt, decoding, min(ask.tokens, room))
    return prompt

  def _reply(self, prompt: Sequence[int], tokens: Sequence[int]) -> ChatReply:
    read, written, flops = len(prompt), len(tokens), self.programs.config.flops_per_token
    spent = read * flops(read // 2) + written * (flops(read + 1) + flops(read + written)) / 2
    usage = Usage(generated=written, read=read, flops=spent)
    return ChatReply(self.template.decode_reply(tokens), usage, cut=tokens[-1] not in self.template.stops)


class BroadcastChat:
  """A chat model whose every process asks the same in the same order; the first has it, the others None."""

  def __init__(self, model: str, chat: ChatModel | None):
    self.model = model
    self._chat = chat

  def ask(self, asks: Sequence[ChatRequest]) -> list[ChatReply]:
    def asked() -> list[dict[str, object]]:
      assert self._chat is not None
      return [dataclasses.asdict(reply) for reply in self._chat.ask(asks)]

    told = processes.run_on_primary("chat", asked)
    return [ChatReply(**{**reply, "usage": Usage(**reply["usage"])}) for reply in told]

  def free(self) -> None:
    """Nothing of it lies on the devices."""
