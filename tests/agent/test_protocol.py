from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from score_jax.agent.protocol import (
  CHATML_TEMPLATE,
  END_OF_TEXT,
  TAGS,
  TURN_END,
  TURN_START,
  AgentProtocol,
  Turn,
  add_tags,
  train_tokenizer,
)
from score_jax.errors import UserError

LLAMA = (
  "{{ '<|begin|>' }}{% for m in messages %}<|header|>{{ m['role'] }}<|header_end|>\n\n{{ m['content'] | trim }}<|eot|>"
  "{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|header_end|>\n\n{% endif %}"
)
LLAMA_TOKENS = ("<|begin|>", "<|header|>", "<|header_end|>", "<|eot|>")
DEFAULT_SYSTEM = (
  "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are good at everything.<|im_end|>\n{% endif %}"
  + CHATML_TEMPLATE
)

#: strings that try to be structure: the tags and turn tokens, whole or in pieces, among ordinary characters
hostile = st.lists(
  st.one_of(
    st.sampled_from(
      [*TAGS, END_OF_TEXT, TURN_START, TURN_END, "<|im_", "end|>", "<code", "</", ">", "\nObservation: 42", "\n"]
    ),
    st.text(max_size=5),
  ),
  max_size=8,
).map("".join)
trimmed = hostile.map(str.strip)
turns = st.one_of(st.builds(Turn, st.just("first_thought"), trimmed), st.builds(Turn, st.just("act"), trimmed, trimmed))


def spelled(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
  """Ids of a text whose special tokens count."""
  tokenizer.backend_tokenizer.encode_special_tokens = False
  return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def special(tokenizer: PreTrainedTokenizerFast) -> set[int]:
  return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def foreign(template: str | None, *tokens: str, **named: str) -> PreTrainedTokenizerFast:
  """A tokenizer of bytes and the given special tokens, as it might come from elsewhere: not all are named in it."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  backend = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in tokens])
  tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
  tokenizer.chat_template = template
  return tokenizer


def test_prompt_turn_and_observation_are_the_templates_own_tokens(
  protocol: AgentProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
  before = "<|im_start|>user\nadd 7<|im_end|>\n<|im_start|>assistant\n"
  plan = "<first_thought>plan: add</first_thought><|im_end|>"
  nothing = "\n<|im_start|>user\nObservation: None<|im_end|>\n<|im_start|>assistant\n"
  act = "<thought>add 7</thought><code>print(x)</code><|im_end|>"
  twelve = "\n<|im_start|>user\nObservation: 12<|im_end|>\n<|im_start|>assistant\n"
  assert [*protocol.encode_prompt("add 7")] == spelled(tokenizer, before)
  assert [*protocol.encode_turn(Turn("first_thought", "plan: add"))] == spelled(tokenizer, plan)
  assert [*protocol.encode_observation(None)] == spelled(tokenizer, nothing)
  assert [*protocol.encode_turn(Turn("act", "add 7", "print(x)"))] == spelled(tokenizer, act)
  assert [*protocol.encode_observation("12")] == spelled(tokenizer, twelve)
  assert [protocol.stop_token] == spelled(tokenizer, "<|im_end|>")


def test_a_conversation_is_what_the_template_renders(
  protocol: AgentProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
  messages = [
    {"role": "user", "content": "add 7"},
    {"role": "assistant", "content": "<first_thought>plan: add</first_thought>"},
    {"role": "user", "content": "Observation: None"},
  ]
  text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
  ours = (
    protocol.encode_prompt("add 7")
    + protocol.encode_turn(Turn("first_thought", "plan: add"))
    + protocol.encode_observation(None)
  )
  assert [*ours] == spelled(tokenizer, str(text))


@settings(deadline=None)
@given(turn=turns)
def test_a_turn_is_read_as_it_was_written(protocol: AgentProtocol, turn: Turn) -> None:
  assert protocol.parse_turn(protocol.encode_turn(turn), turn.kind) == turn


@settings(deadline=None)
@given(turn=turns)
def test_a_turn_is_of_its_kind_alone(protocol: AgentProtocol, turn: Turn) -> None:
  other = "act" if turn.kind == "first_thought" else "first_thought"
  assert protocol.parse_turn(protocol.encode_turn(turn), other) is None


@settings(deadline=None)
@given(turn=turns, data=st.data())
def test_a_special_token_too_many_or_too_few_makes_a_turn_malformed(
  protocol: AgentProtocol, tokenizer: PreTrainedTokenizerFast, turn: Turn, data: st.DataObject
) -> None:
  tokens = protocol.encode_turn(turn)
  at = data.draw(st.integers(0, len(tokens)))
  added = data.draw(st.sampled_from(sorted(special(tokenizer))))
  lost = data.draw(st.sampled_from([i for i, t in enumerate(tokens) if t in special(tokenizer)]))
  assert protocol.parse_turn((*tokens[:at], added, *tokens[at:]), turn.kind) is None
  assert protocol.parse_turn(tokens[:lost] + tokens[lost + 1 :], turn.kind) is None


@pytest.mark.parametrize(
  "text",
  [
    "",
    "<|im_end|>",
    "add 7<|im_end|>",
    "<thought>add<|im_end|>",
    "<thought>add</thought><|im_end|>",
    "<thought>add</thought><code>print(x)</code>",
    "<thought>add</thought><code>print(x)<|im_end|>",
    "<thought>add</thought><code>print(x)</code><|im_end|>\n",
    "<thought>add</thought>\n<code>print(x)</code><|im_end|>",
    "\n<thought>add</thought><code>print(x)</code><|im_end|>",
    "<thought>add</thought><code>print(x)</code>\n<|im_end|>",
    "<thought>add<thought>7</thought></thought><code>print(x)</code><|im_end|>",
    "<code>print(x)</code><thought>add</thought><|im_end|>",
    "<thought>add</thought><code>print(x)</code><code>print(x)</code><|im_end|>",
    "<thought>add</thought><code>print(<|im_start|>)</code><|im_end|>",
    "<thought>add</thought><code>print(x)</code><|im_end|><|im_end|>",
    "<first_thought>plan: add</first_thought><|im_end|>",
    "<thought>add</first_thought><code>print(x)</code><|im_end|>",
  ],
)
def test_malformed_acts_are_none(protocol: AgentProtocol, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
  assert protocol.parse_turn(spelled(tokenizer, text), "act") is None


def test_spaces_around_a_thought_and_a_code_are_not_part_of_it(
  protocol: AgentProtocol, tokenizer: PreTrainedTokenizerFast
) -> None:
  tokens = spelled(tokenizer, "<thought> add \n</thought><code>\nif x:\n  print(x)\n</code><|im_end|>")
  assert protocol.parse_turn(tokens, "act") == Turn("act", "add", "if x:\n  print(x)")


@settings(deadline=None)
@given(text=hostile)
def test_text_never_becomes_a_special_token(
  protocol: AgentProtocol, tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
  structure = special(tokenizer)
  assert not structure.intersection(protocol.encode(text))
  assert protocol.decode(protocol.encode(text)) == text
  for ours, empty in (
    (protocol.encode_prompt(text), protocol.encode_prompt("")),
    (protocol.encode_observation(text), protocol.encode_observation("")),
    (protocol.encode_turn(Turn("first_thought", text)), protocol.encode_turn(Turn("first_thought", ""))),
    (protocol.encode_turn(Turn("act", text, text)), protocol.encode_turn(Turn("act", "", ""))),
  ):
    assert [t for t in ours if t in structure] == [t for t in empty if t in structure]


def test_digits_stand_singly(tokenizer: PreTrainedTokenizerFast) -> None:
  """Also in a tokenizer that has seen one number often; a digit may have the space before it."""
  for one in (tokenizer, train_tokenizer(["x1 = 2048 + 17.5\n"] * 9, vocab=500)):
    pieces = one.convert_ids_to_tokens([*AgentProtocol(one).encode("x1 = 2048 + 17.5")])
    digits = [p for p in pieces if any(c.isdigit() for c in p)]
    assert [p.removeprefix("Ġ") for p in digits] == [*"12048175"]


def test_llama_style() -> None:
  tokenizer = foreign(LLAMA, *LLAMA_TOKENS, bos_token="<|begin|>", eos_token="<|eot|>")
  assert len(add_tags(tokenizer)) == len(TAGS)
  protocol = AgentProtocol(tokenizer)
  prompt = "<|begin|><|header|>user<|header_end|>\n\nadd 7<|eot|><|header|>assistant<|header_end|>\n\n"
  observation = "<|header|>user<|header_end|>\n\nObservation: 12<|eot|><|header|>assistant<|header_end|>\n\n"
  assert [protocol.stop_token] == spelled(tokenizer, "<|eot|>")
  assert [*protocol.encode_prompt("add 7")] == spelled(tokenizer, prompt)
  assert [*protocol.encode_observation("12")] == spelled(tokenizer, observation)
  header = spelled(tokenizer, "<thought>add</thought><code><|header|>user</code><|eot|>")
  assert protocol.parse_turn(header, "act") is None
  assert not special(tokenizer).intersection(protocol.encode("<|header|>user<|header_end|><|eot|>"))


@pytest.mark.parametrize("bos", [None, TURN_START, END_OF_TEXT])
def test_a_templates_own_system_prompt_is_left_out(bos: str | None) -> None:
  named = {} if bos is None else {"bos_token": bos}
  tokenizer = foreign(DEFAULT_SYSTEM, END_OF_TEXT, TURN_START, TURN_END, *TAGS, eos_token=TURN_END, **named)
  protocol = AgentProtocol(tokenizer)
  prompt = "<|im_start|>user\nadd 7<|im_end|>\n<|im_start|>assistant\n"
  assert [*protocol.encode_prompt("add 7")] == spelled(tokenizer, prompt)
  assert [protocol.stop_token] == spelled(tokenizer, TURN_END)


@pytest.mark.parametrize(
  "template",
  [
    None,
    "{% for m in messages %}",
    "{{ raise_exception('roles must alternate\n and more') }}",
    "nothing of what was said",
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}",
    "{% for m in messages %}{{ m['content'] }}{% endfor %}",
  ],
)
def test_a_template_that_cannot_serve_is_refused_in_a_line(template: str | None) -> None:
  with pytest.raises(UserError, match=r"chat.template") as refused:
    AgentProtocol(foreign(template, TURN_START, TURN_END, *TAGS, eos_token=TURN_END))
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("tokens", [(), TAGS[:-1]])
def test_missing_tags_are_named(tokens: tuple[str, ...]) -> None:
  with pytest.raises(UserError, match=r"'</code>'.* are missing"):
    AgentProtocol(foreign(CHATML_TEMPLATE, TURN_START, TURN_END, *tokens, eos_token=TURN_END))


def test_added_tags_are_told_by_what_spelled_them() -> None:
  tokenizer = foreign(CHATML_TEMPLATE, TURN_START, TURN_END, eos_token=TURN_END)
  added = add_tags(tokenizer)
  assert [tokenizer.convert_ids_to_tokens(i) for i in added] == [*TAGS]
  assert [tokenizer.decode(pieces) for pieces in added.values()] == [*TAGS]
  assert all(len(pieces) > 1 for pieces in added.values())
  assert add_tags(tokenizer) == {}


def test_tags_that_are_ordinary_tokens_are_made_special() -> None:
  tokenizer = foreign(CHATML_TEMPLATE, TURN_START, TURN_END, eos_token=TURN_END)
  tokenizer.add_tokens([*TAGS])
  with pytest.raises(UserError, match=r"'<thought>'.* are missing"):
    AgentProtocol(tokenizer)
  size = len(tokenizer)
  assert add_tags(tokenizer) == {}
  assert len(tokenizer) == size
  assert not special(tokenizer).intersection(AgentProtocol(tokenizer).encode("".join(TAGS)))
