"""A chat model on the mesh: its own chat template over the sampler, many conversations in the slots of one cache.

What is drawn for an ask depends on the run's seed and the ask's name, not on what else is asked at the time.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

from score_jax.chat.exchange import Ask, Backend, Reply
from score_jax.chat.template import Refused, Template
from score_jax.model.decoder import Weights
from score_jax.sampler.meter import Meter
from score_jax.sampler.programs import Programs
from score_jax.sampler.sampler import Sampler
from score_jax.sampler.slots import Decoding, Shapes, Slots, request_key
from score_jax.trajectory import Usage


class OnMesh(Backend):
  """Asks a decoder. Its cache is there only while it is asked."""

  def __init__(
    self,
    model: str,
    template: Template,
    programs: Programs,
    weights: Weights,
    shapes: Shapes,
    *,
    top_p: float,
    seed: int,
    meter: Meter | None = None,
  ):
    """`programs` have the template's stops. `meter` books what sampling takes."""
    self.model, self.template, self.programs = model, template, programs
    self._weights, self._shapes, self._top_p, self._seed = weights, shapes, top_p, seed
    self.meter = meter or Meter()

  def replies(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
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
      except Refused as refused:
        yield place, Reply("", failed=str(refused))
    while prompts:
      sampler.launch()
      turns = sampler.collect()
      for place in turns:
        sampler.release(place)
      sampler.launch()  # before what has ended is looked at
      for place, turn in turns.items():
        assert isinstance(place, int)
        yield place, self._reply(prompts.pop(place), turn.tokens)

  def _submit(self, sampler: Sampler, place: int, ask: Ask) -> tuple[int, ...]:
    prompt = self.template.prompt([dataclasses.asdict(message) for message in ask.messages])
    room = sampler.slots.capacity - len(prompt)
    if room < 1:
      raise Refused(f"a prompt of {len(prompt)} tokens; chat.length is {sampler.slots.capacity}, the reply included")
    decoding = Decoding(ask.temperature, 0, self._top_p, 1.0)
    sampler.submit({place: request_key(self._seed, ask.name)}, prompt, decoding, min(ask.tokens, room))
    return prompt

  def _reply(self, prompt: Sequence[int], tokens: Sequence[int]) -> Reply:
    read, written, flops = len(prompt), len(tokens), self.programs.config.flops_per_token
    spent = read * flops(read // 2) + written * (flops(read + 1) + flops(read + written)) / 2
    usage = Usage(generated=written, read=read, flops=spent)
    return Reply(self.template.text(tokens), usage, cut=tokens[-1] not in self.template.stops)
