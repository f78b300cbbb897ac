"""The format of a turn: tags, tokens, and the tokenizers that have them (paper, agent format).

`AgentProtocol` encodes questions, turns and observations as token ids and parses turns back, for one tokenizer. It uses
the model's own chat template. The layout in ChatML:

    <|im_start|>user            the question                      <|im_end|>
    <|im_start|>assistant       <first_thought>…</first_thought>  <|im_end|>
    <|im_start|>user            Observation: None                 <|im_end|>
    <|im_start|>assistant       <thought>…</thought><code>…</code><|im_end|>
    <|im_start|>user            Observation: 42                   <|im_end|>  …

The six tags are special tokens. Text of users, models and tools is encoded with special tokens switched off, and turns
are parsed from ids. So no text can become a tag, an end of turn or an observation.

`add_tags` adds the tags to a tokenizer; `train_tokenizer` trains a small one for models that are trained from scratch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence

from jinja2 import TemplateError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from score_jax.errors import UserError
from score_jax.trajectory import Kind

TAGS = ("<first_thought>", "</first_thought>", "<thought>", "</thought>", "<code>", "</code>")


@dataclasses.dataclass(frozen=True)
class Turn:
  """What the agent wrote in one turn; `code` is empty in a first thought."""

  kind: Kind
  thought: str
  code: str = ""


class AgentProtocol:
  """Turns and observations to tokens and back, for one tokenizer.

  Attributes:
    stop_token: id of the end-of-turn token, which the agent writes and which carries loss.
    tag_by_id: the tags by their ids.
  """

  def __init__(self, tokenizer: PreTrainedTokenizerFast):
    """
    Raises:
      UserError: the tokenizer lacks one of the tags, or a chat template that ends turns with a special token.
    """
    self._text = tokenizer.backend_tokenizer
    special = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    missing = [t for t in TAGS if t not in special]
    if missing:
      raise UserError(f"tokenizer: special tokens {missing} are missing; add them (score_jax.agent.protocol.add_tags)")
    self._tags = {t: special[t] for t in TAGS}
    self.tag_by_id = {i: t for t, i in self._tags.items()}
    self._special = frozenset(special.values())
    self._read_template(tokenizer)

  def _read_template(self, tokenizer: PreTrainedTokenizerFast) -> None:
    """Finds the text between turns by rendering a conversation of known contents."""
    marks = ["[[first]]", "[[second]]", "[[third]]"]
    roles = ["user", "assistant", "user"]
    messages = [{"role": r, "content": m} for r, m in zip(roles, marks, strict=True)]
    try:
      text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
      _, rest = text.split(marks[0])
      to_assistant, rest = rest.split(marks[1])
      to_user, _ = rest.split(marks[2])
    except (ValueError, TemplateError) as error:
      reason = str(error).partition("\n")[0]
      raise UserError(f"tokenizer: no usable chat template ({reason}); set tokenizer.chat_template") from error
    after_turn = self.encode_with_special(to_user)
    if not after_turn or after_turn[0] not in self._special:
      raise UserError(
        f"tokenizer: its chat template ends a turn with {to_user!r}, which does not begin with a special token; "
        "set another tokenizer.chat_template"
      )
    self.stop_token = after_turn[0]
    self._to_user = tuple(after_turn[1:])
    self._to_assistant = tuple(self.encode_with_special(to_assistant))
    begins = tokenizer.bos_token is not None and text.startswith(str(tokenizer.bos_token))
    self._begin = self._opening(tuple(self.encode_with_special(str(tokenizer.bos_token))) if begins else ())

  def _opening(self, begin: tuple[int, ...]) -> tuple[int, ...]:
    """What stands before the first user turn: no system prompt (paper), the template's own beginning if it has one."""
    first_special = next((i for i, t in enumerate(self._to_user) if t in self._special), 0)
    header = self._to_user[first_special:]
    return header if header[: len(begin)] == begin else begin + header

  def encode_with_special(self, text: str) -> list[int]:
    """Ids of a rendered conversation, as others read it: what is spelled like a special token is one."""
    self._text.encode_special_tokens = False
    return self._text.encode(text, add_special_tokens=False).ids

  def chat_template(self) -> str:
    """A chat template (Jinja) that renders a trajectory as the agent sees it, whatever the model's own would add.

    The question and observations are of role user, or observations without "Observation: " of role tool. What carries
    loss is marked as generation, which TRL's `assistant_only_loss` asks for.
    """
    begin, to_assistant, to_user, stop = (
      json.dumps(self.decode(ids), ensure_ascii=False)
      for ids in (self._begin, self._to_assistant, self._to_user, (self.stop_token,))
    )
    return (
      "{% for message in messages %}"
      "{% if message['role'] == 'assistant' %}"
      f"{{{{ {to_assistant} }}}}{{% generation %}}{{{{ message['content'] + {stop} }}}}{{% endgeneration %}}"
      "{% elif message['role'] in ('user', 'tool') %}"
      f"{{{{ {begin} if loop.first else {to_user} }}}}"
      "{{ ('Observation: ' if message['role'] == 'tool' else '') + message['content'] }}"
      "{% else %}"
      "{{ raise_exception('the agent knows the roles user, assistant and tool, not ' + message['role']) }}"
      "{% endif %}"
      "{% endfor %}"
      f"{{% if add_generation_prompt %}}{{{{ {to_assistant} }}}}{{% endif %}}"
    )

  def encode(self, text: str) -> tuple[int, ...]:
    """Ids of plain text; what looks like a special token in it becomes ordinary characters."""
    self._text.encode_special_tokens = True
    return tuple(self._text.encode(text, add_special_tokens=False).ids)

  def special_tokens_in(self, tokens: Sequence[int]) -> list[int]:
    """Those of some tokens that are special."""
    return [t for t in tokens if t in self._special]

  def decode(self, tokens: Sequence[int]) -> str:
    """The text of ordinary tokens."""
    return self._text.decode(list(tokens), skip_special_tokens=False)

  def encode_prompt(self, question: str) -> tuple[int, ...]:
    """All that stands before the first turn of the agent."""
    return self._begin + self.encode(question) + self._to_assistant

  def encode_observation(self, text: str | None) -> tuple[int, ...]:
    """All that stands between a turn (its end-of-turn token included) and the next; None after a first thought."""
    return self._to_user + self.encode(f"Observation: {text}") + self._to_assistant

  def encode_turn(self, turn: Turn) -> tuple[int, ...]:
    """Ids of a turn that was written elsewhere, end of turn included."""
    tag, thought = self._tags, self.encode(turn.thought)
    if turn.kind == "first_thought":
      return (tag["<first_thought>"], *thought, tag["</first_thought>"], self.stop_token)
    code = self.encode(turn.code)
    return (tag["<thought>"], *thought, tag["</thought>"], tag["<code>"], *code, tag["</code>"], self.stop_token)

  def parse_turn(self, tokens: Sequence[int], kind: Kind) -> Turn | None:
    """The turn that the ids spell, or None when they are not of the form that `kind` has."""
    tag = self._tags
    names = ("first_thought",) if kind == "first_thought" else ("thought", "code")
    texts: list[str] = []
    rest = tuple(tokens)
    for name in names:
      end = tag[f"</{name}>"]
      if not rest or rest[0] != tag[f"<{name}>"] or end not in rest:
        return None
      at = rest.index(end)
      if any(t in self._special for t in rest[1:at]):
        return None
      texts.append(self.decode(rest[1:at]).strip())
      rest = rest[at + 1 :]
    return Turn(kind, *texts) if rest == (self.stop_token,) else None


END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# A word, a digit or signs, each with the space before it: names of functions and numbers cost the fewest tokens.
WORD_PATTERN = r" ?[A-Za-z_]+| ?[0-9]| ?[^\sA-Za-z0-9_]+|\s"
CHATML_TEMPLATE = (
  "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str], *, vocab: int) -> PreTrainedTokenizerFast:
  """A byte-level BPE tokenizer of `vocab` tokens: digits single, ChatML's turn tokens, the method's tags."""
  bpe = Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  bpe.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab,
    special_tokens=[END_OF_TEXT, TURN_START, TURN_END, *TAGS],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  bpe.train_from_iterator(texts, trainer)
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=bpe, eos_token=TURN_END, pad_token=END_OF_TEXT, additional_special_tokens=[TURN_START, *TAGS]
  )
  tokenizer.chat_template = CHATML_TEMPLATE
  return tokenizer


def add_tags(tokenizer: PreTrainedTokenizerFast) -> dict[int, list[int]]:
  """Adds the tags that the tokenizer lacks, as special tokens; returns their ids, each with those that spelled it."""
  known = tokenizer.get_vocab()
  spelled = {t: tokenizer.backend_tokenizer.encode(t, add_special_tokens=False).ids for t in TAGS if t not in known}
  tokens: list[str | AddedToken] = [AddedToken(t, special=True, normalized=False) for t in TAGS]
  tokenizer.add_tokens(tokens, special_tokens=True)
  ids = tokenizer.get_vocab()
  return {ids[t]: pieces for t, pieces in spelled.items()}
