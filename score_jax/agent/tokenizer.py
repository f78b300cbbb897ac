"""Tokenizers: a small one trained on given text, and the method's tags added to anyone's."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from score_jax.agent.protocol import TAGS

END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# A word, a digit or signs, each with the space before it: names of functions and numbers cost the fewest tokens.
WORD = r" ?[A-Za-z_]+| ?[0-9]| ?[^\sA-Za-z0-9_]+|\s"
CHATML = (
  "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train(texts: Iterable[str], *, vocab: int) -> PreTrainedTokenizerFast:
  """A byte-level BPE tokenizer of `vocab` tokens: digits single, ChatML's turn tokens, the method's tags."""
  bpe = Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(Regex(WORD), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  bpe.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab,
    special_tokens=[END, TURN_START, TURN_END, *TAGS],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  bpe.train_from_iterator(texts, trainer)
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=bpe, eos_token=TURN_END, pad_token=END, additional_special_tokens=[TURN_START, *TAGS]
  )
  tokenizer.chat_template = CHATML
  return tokenizer


def add_tags(tokenizer: PreTrainedTokenizerFast) -> dict[int, list[int]]:
  """Adds the tags that the tokenizer lacks, as special tokens; returns their ids, each with those that spelled it."""
  known = tokenizer.get_vocab()
  spelled = {t: tokenizer.backend_tokenizer.encode(t, add_special_tokens=False).ids for t in TAGS if t not in known}
  tokens: list[str | AddedToken] = [AddedToken(t, special=True, normalized=False) for t in TAGS]
  tokenizer.add_tokens(tokens, special_tokens=True)
  ids = tokenizer.get_vocab()
  return {ids[t]: pieces for t, pieces in spelled.items()}
