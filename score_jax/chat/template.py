"""Conversations in a model's own chat template, as tokens.

The template is rendered with the contents in which what looks like a special token is hidden behind a mark; all else is
tokenised in one piece, as transformers does it, and what was hidden is put back as ordinary characters. So a
conversation without such text has exactly the tokens that transformers gives it, and no text becomes a special token.
"""

from __future__ import annotations

import datetime
import inspect
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from score_jax.errors import UserError
from score_jax.text import replace_surrogates

#: what templates that speak of today say: nothing depends on the clock
TEMPLATE_DATE = datetime.date(2024, 7, 26)
_CLOCK = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_BARE = {"add_special_tokens": False}
#: names in a template that are given otherwise
_NO_SWITCHES = frozenset((*inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters, "messages"))
_PRIVATE = range(0xE000, 0xF900)  # characters that no text means anything by


class ConversationRefused(ValueError):
  """The template does not take the conversation, such as one with a system prompt."""


class ChatTemplate:
  """One model's chat template.

  Attributes:
    stops: ids that end a reply: the tokenizer's end of text, the template's end of turn, the model's own list.
  """

  def __init__(
    self,
    tokenizer: PreTrainedTokenizerFast,
    *,
    generation: Mapping[str, Any] | None = None,
    switches: Mapping[str, Any] | None = None,
    tags: Collection[str] = (),
  ):
    """
    Args:
      generation: what generation_config.json says.
      switches: variables of the template, such as Qwen3's {"enable_thinking": False}.
      tags: special tokens that an assistant's messages may hold as text and that are meant then: those in which the
        model writes its turns, which a client can only hand back as text.

    Raises:
      UserError: the tokenizer has no chat template, a broken one, or one without such a switch.
    """
    if not tokenizer.chat_template:
      raise UserError("the model has no chat template; give a chat model, or add chat_template.jinja to its folder")
    self._tokenizer = tokenizer
    self._template = _CLOCK.sub(lambda call: json.dumps(TEMPLATE_DATE.strftime(call[2])), tokenizer.get_chat_template())
    self._switches = dict(switches or {})
    try:
      self.check_switches(self._switches)
    except ConversationRefused as refused:
      raise UserError(f"chat.template_kwargs: {refused}") from refused
    self._added = {i: str(token.content) for i, token in tokenizer.added_tokens_decoder.items()}
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    before, after = self._around_a_reply()
    # Of the others some are special all but in name, since the template parts turns with them.
    # So are those in which it opens a reply (`<think>`); in an assistant's message they are meant, and templates look
    # for them there to leave thinking out.
    parts, opened = before + after, self._before_a_reply()
    opening = [t for i, t in self._added.items() if i not in special and t in opened and t not in parts]
    self._names = [t for i, t in self._added.items() if i in special or t in parts or t in opening]
    self._hidden, self._hidden_beside_tags = _any_of(self._names), _any_of(set(self._names) - {*tags, *opening})
    # Copies: an encoder is told by a state of its own whether to see special tokens, and threads share this one.
    self._special, self._plain = (Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()) for _ in range(2))
    self._special.encode_special_tokens, self._plain.encode_special_tokens = False, True
    decoder = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])
    self._bytes = {c: b for b, c in bytes_to_unicode().items()} if '"ByteLevel"' in decoder else None
    self.stops = self._stops(after, generation or {})

  def encode_prompt(
    self, messages: Sequence[Mapping[str, str]], switches: Mapping[str, Any] | None = None
  ) -> tuple[int, ...]:
    """All that stands before the reply to messages, each {"role": …, "content": …}.

    Args:
      switches: of this conversation, over those of all.

    Raises:
      Refused: the template does not take them.
    """
    self.check_switches(switches or {})
    contents = [replace_surrogates(message["content"]) for message in messages]
    mark = next(c for c in map(chr, _PRIVATE) if not any(c in content for content in contents))

    def hidden(role: str, content: str) -> str:
      pattern = self._hidden_beside_tags if role == "assistant" else self._hidden
      return pattern.sub(lambda found: f"{mark}{self._names.index(found[0])}{mark}", content)

    shown = [{**m, "content": hidden(m["role"], text)} for m, text in zip(messages, contents, strict=True)]
    ids: list[int] = []
    for number, part in enumerate(self._rendered(shown, prompt=True, **(switches or {})).split(mark)):
      ids += self._spelled(self._names[int(part)]) if number % 2 else self._special.encode(part, **_BARE).ids
    return tuple(ids)

  def _spelled(self, name: str) -> list[int]:
    """A token's name in ordinary characters."""
    ids = self._plain.encode(name, **_BARE).ids
    if any(i in self._added for i in ids):  # one that is added and not special is seen whatever the encoder is told
      ids = [i for character in name for i in self._plain.encode(character, **_BARE).ids]
    return ids

  def decode_reply(self, tokens: Sequence[int]) -> str:
    """The text of drawn tokens, special ones shown, without the stop at their end."""
    kept = tokens[:-1] if tokens and tokens[-1] in self.stops else tokens
    return self._tokenizer.backend_tokenizer.decode(list(kept), skip_special_tokens=False)

  def bytes_of(self, token: int) -> bytes:
    """What a token stands for; a character may be split over several."""
    if token in self._added:
      return self._added[token].encode()
    name = self._tokenizer.backend_tokenizer.id_to_token(token) or ""
    if self._bytes is not None:
      return bytes(self._bytes[c] for c in name)
    single = re.fullmatch("<0x([0-9A-F]{2})>", name)
    return bytes.fromhex(single[1]) if single else name.replace("▁", " ").encode()

  def check_switches(self, switches: Mapping[str, Any]) -> None:
    """
    Raises:
      Refused: a switch is none of the template's, which would pass it over.
    """
    for name in switches:
      if name in _NO_SWITCHES or not re.search(rf"\b{re.escape(name)}\b", self._template):
        raise ConversationRefused(f"the model's chat template has no switch {name!r}; leave it out")

  def _before_a_reply(self) -> str:
    """What the template may put after the last message, thinking switched on, off or neither."""
    talk, found = [{"role": "user", "content": "?"}], ""
    for thinking in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
      try:
        begun, whole = (self._rendered(talk, prompt=prompt, **thinking) for prompt in (False, True))
      except ConversationRefused as refused:
        raise UserError(f"the model's chat template is broken: {refused}; set another chat_template") from refused
      found += whole.removeprefix(begun)
    return found

  def _around_a_reply(self) -> tuple[str, str]:
    """What the template puts before and after an assistant's message in the middle of a conversation."""
    mark = chr(_PRIVATE[0])
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}, {"role": "user", "content": "?"}]
    try:
      before, _, after = self._rendered(talk, prompt=False).partition(mark)
    except ConversationRefused as refused:
      raise UserError(f"the model's chat template is broken: {refused}; set another chat_template") from refused
    return before, after

  def _stops(self, after: str, generation: Mapping[str, Any]) -> tuple[int, ...]:
    ends = generation.get("eos_token_id")
    listed = ends if isinstance(ends, list) else [ends]
    after_turn = self._special.encode(after, **_BARE).ids[:1]
    turn_ends = [i for i in after_turn if i in self._added and self._added[i] in self._names]
    stops = dict.fromkeys(i for i in (*turn_ends, self._tokenizer.eos_token_id, *listed) if isinstance(i, int))
    if not stops:
      raise UserError("the model has no token that ends a reply; give its tokenizer an eos_token")
    return tuple(stops)

  def _rendered(self, messages: Sequence[Mapping[str, str]], *, prompt: bool, **switches: Any) -> str:
    try:
      text = self._tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        chat_template=self._template,
        tokenize=False,
        add_generation_prompt=prompt,
        **{"date_string": TEMPLATE_DATE.strftime("%d %b %Y"), **self._switches, **switches},
      )
    except (TemplateError, ValueError, TypeError) as error:
      raise ConversationRefused(
        f"the model's chat template refuses the conversation: {str(error).partition(chr(10))[0]}"
      ) from error
    return str(text)


def _any_of(texts: Collection[str]) -> re.Pattern[str]:
  """A pattern of any of these texts, the longest first; of nothing where there are none."""
  return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")
