"""The tokenizer that the metadata of a GGUF file describes."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from score_jax.errors import UserError
from score_jax.model.gguf import File

#: kinds of tokens, as tokenizer.ggml.token_type numbers them
CONTROL, USER_DEFINED = 3, 4

#: a word with the space before it, signs, white space; and what stands for a run of digits
WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
  r"|\s+(?!\S)|\s+"
)


def _words(digits: str) -> list[pre_tokenizers.PreTokenizer]:
  return [
    pre_tokenizers.Split(Regex(WORDS.format(digits=digits)), "isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
  ]


#: tokenizer.ggml.pre -> how text is split: digits one by one, or three at a time for Llama 3
SPLITS = {
  "smollm": [
    pre_tokenizers.Digits(individual_digits=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
  ],
  "qwen2": _words(r"\p{N}"),
  "llama-bpe": _words(r"\p{N}{1,3}"),
}


def read(file: File) -> PreTrainedTokenizerFast:
  """The byte-level BPE tokenizer that a GGUF file describes, its control tokens special, with its chat template.

  Raises:
    UserError: its tokenizer is of another kind.
  """
  kind, split = file["tokenizer.ggml.model"], file["tokenizer.ggml.pre"]
  if kind != "gpt2" or split not in SPLITS:
    raise UserError(
      f"{file.path}: tokenizer {kind}/{split} is not supported; use a file with gpt2 and one of {', '.join(SPLITS)}"
    )
  tokens = file["tokenizer.ggml.tokens"]
  kinds = file["tokenizer.ggml.token_type"]
  merges = [tuple(m.split(" ")) for m in file["tokenizer.ggml.merges"]]
  bpe = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, ignore_merges=split == "llama-bpe"))
  bpe.pre_tokenizer = pre_tokenizers.Sequence(SPLITS[split])
  if split == "qwen2":
    bpe.normalizer = normalizers.NFC()
  bpe.decoder = decoders.ByteLevel()
  control = [t for t, k in zip(tokens, kinds, strict=True) if k == CONTROL]
  bpe.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
  bpe.add_tokens([AddedToken(t, normalized=False) for t, k in zip(tokens, kinds, strict=True) if k == USER_DEFINED])
  ids = {name: file.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")}
  named = {name: None if i is None else tokens[i] for name, i in ids.items()}
  result = PreTrainedTokenizerFast(
    tokenizer_object=bpe,
    bos_token=named["bos"],
    eos_token=named["eos"],
    pad_token=named["padding"],
    additional_special_tokens=[t for t in control if t not in named.values()],
    clean_up_tokenization_spaces=False,
  )
  result.chat_template = file.get("tokenizer.chat_template")
  return result
