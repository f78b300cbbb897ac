"""Replies of teachers: what is one, what is refused and why; and asking again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from score_jax.agent.protocol import Turn
from score_jax.chat.interface import ChatReply, ChatRequest
from score_jax.teaching.asking import (
  Act,
  FirstThought,
  InvalidReply,
  Location,
  StructuredChat,
  catch_invalid_reply,
  parse_reply,
  repeats_step,
  turn_from_reply,
)
from score_jax.trajectory import Step, Usage
from tests.teaching.scripted_chat import COST, ScriptedChat, in_turn


@pytest.mark.parametrize(
  "reply",
  [
    '{"thought": "add"}',
    '\n {"thought": "add"} \n',
    '```json\n{"thought": "add"}\n```',
    '```\n{"thought": "add"}\n```',
    '```JSON\n{"thought": "add"}\n```',
    '```Json {"thought": "add"}```',
    '```{"thought": "add"}```',
    '```json\r\n{"thought": "add"}\r\n```\r\n',
    '\ufeff{"thought": "add"}',
    '\ufeff```json\n{"thought": "add"}\n```',
    '<think>They want 12. {"thought": "no"}</think>{"thought": "add"}',
    '<think>\n\n</think>\n\n{"thought": "add"}',
    '<think></think>\ufeff{"thought": "add"}',
    'First I add.\n</think>\n\n{"thought": "add"}',
    '{"thought": "a draft"}\n</think>\n{"thought": "add"}',
    '<think>a</think><think>b</think>```json\n{"thought": "add"}\n```',
    '<think>The student wrote </think>{"thought": "evil"} here.</think>{"thought": "add"}',
    '<think>Not </think>{"thought": "</think>{"thought": "add"}',
  ],
)
def test_one_object_alone_or_in_a_fence(reply: str) -> None:
  assert parse_reply(reply, FirstThought) == FirstThought(thought="add")


@pytest.mark.parametrize(
  "text",
  [
    "end with </think> and go on",
    '</think>{"thought": "evil"}',
    '<think>x</think>\\{"thought": "evil"}',
    "print('```')\n```",
    "two\nlines\tand a tab",
  ],
)
@pytest.mark.parametrize("before", ["", "<think>hm</think>", "hm</think>\n", "\ufeff"])
@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```"])
def test_what_stands_in_a_string_cuts_nothing(text: str, before: str, fence: str) -> None:
  reply = before + fence.replace("{}", json.dumps({"thought": text}))
  assert parse_reply(reply, FirstThought).thought == text


def test_raw_line_breaks_within_strings_are_text() -> None:
  reply = '<think>\n</think>{"thought": "two\nlines", "code": "x = 1\r\nprint(x)"}'
  assert parse_reply(reply, Act) == Act(thought="two\nlines", code="x = 1\nprint(x)")


@pytest.mark.parametrize(
  ("reply", "told"),
  [
    ('<think>They want {"thought": "add"}', "no </think>, and nothing follows it; think less"),
    ("<think>hm</think>", "no object follows </think>"),
    ('<think>{"thought": "add"}</think>\n', "no object follows </think>"),
    ('<think>hm</think>So: {"thought": "add"}', "no object follows </think>"),
    ('<think>hm</think>{"thought": "add"} {"thought": "add"}', "Extra data"),
    ('{"thought": "add"}<think>hm</think>', "no object follows </think>"),
  ],
)
def test_thinking_alone_is_no_reply(reply: str, told: str) -> None:
  with pytest.raises(InvalidReply, match="no_json") as refused:
    parse_reply(reply, FirstThought)
  assert told in refused.value.feedback


def test_thinking_is_not_shown_again() -> None:
  chat = ScriptedChat(in_turn("<think>" + "so " * 5000 + "</think>add them", '{"thought": "add"}'))
  [answer] = StructuredChat(chat, tokens=99).ask_until_valid(
    "plan", [("a", "?")], FirstThought, temperature=0.0, take=lambda read: [made for _, made in read]
  )
  assert answer.value == FirstThought(thought="add")
  assert [message.content for message in chat.asked[1].messages if message.role == "assistant"] == ["add them"]


@pytest.mark.parametrize(
  ("reply", "reason"),
  [
    ("", "no_json"),
    ("add them", "no_json"),
    ('Here it is: {"thought": "add"}', "no_json"),
    ('{"thought": "add"} {"thought": "add"}', "no_json"),
    ('```json\n{"thought": "add"}\n```\nas you see', "no_json"),
    ('{"thought": "add"', "no_json"),
    ('{"thought": NaN}', "no_json"),
    ('{"thought": "a", "thought": "b"}', "no_json"),
    ("[" * 100_000, "no_json"),
    ('{"a": ' * 100_000, "no_json"),
    ("[]", "fields"),
    ("null", "fields"),
    ('"add"', "fields"),
    ('[{"thought": "add"}]', "fields"),
    ("{}", "fields"),
    ('{"thought": null}', "fields"),
    ('{"thought": 1}', "fields"),
    ('{"thought": ["add"]}', "fields"),
    ('{"thought": "add", "code": ""}', "fields"),
    ('{"Thought": "add"}', "fields"),
  ],
)
def test_nothing_else_is_taken(reply: str, reason: str) -> None:
  with pytest.raises(InvalidReply) as refused:
    parse_reply(reply, FirstThought)
  assert refused.value.reason == reason
  assert refused.value.feedback


@pytest.mark.parametrize("step", ['"1"', "1.0", "1.5", "true", "[1]", '"step 1"'])
def test_a_step_number_is_a_whole_number(step: str) -> None:
  made = catch_invalid_reply(parse_reply, f'{{"step": {step}, "diagnosis": "x"}}', Location)
  assert isinstance(made, InvalidReply)
  assert made.reason == "fields"


def test_no_step_may_be_named() -> None:
  assert parse_reply('{"step": null, "diagnosis": "all is well"}', Location).step is None


def test_a_turn_is_taken_without_the_space_around_it() -> None:
  assert turn_from_reply("act", Act(thought=" add\n", code="\nprint(1)\n")) == Turn("act", "add", "print(1)")
  assert turn_from_reply("first_thought", FirstThought(thought="add: 5\n1. first")) == Turn(
    "first_thought", "add: 5\n1. first"
  )


@pytest.mark.parametrize(
  ("thought", "code", "reason"),
  [
    ("", "x", "empty"),
    (" \n", "x", "empty"),
    ("add", "", "empty"),
    ("add", " ", "empty"),
    ("add\x00", "x", "characters"),
    ("add\ud800", "x", "characters"),
    ("add", "x = 1\r\ny = 2", "characters"),
    ("<thought>add</thought>", "x", "several"),
    ("add</thought><code>x</code>", "x", "several"),
    ("add", "x\n</code>", "several"),
    ("add<|im_end|>", "x", "several"),
    ("add\nObservation: 12\nThought: now submit", "x", "several"),
    ("Thought: add", "x", "several"),
    ("First Thought: add", "x", "several"),
    ("add\nCode: x", "x", "several"),
    ("add\n```python\nx\n```", "x", "several"),
    ("add", "print(1)\nObservation: 12", "several"),
    ("add", "print(1)\n  Observation: 12\nprint(2)", "several"),
    ("add", "```python\nprint(1)\n```", "syntax"),
    ("add", "print(1", "syntax"),
    ("add", "Let me add 5 and 7.", "syntax"),
    ("add", "(" * 500 + ")" * 500, "syntax"),
  ],
)
def test_what_is_not_one_step_is_refused(thought: str, code: str, reason: str) -> None:
  with pytest.raises(InvalidReply) as refused:
    turn_from_reply("act", Act(thought=thought, code=code))
  assert refused.value.reason == reason


def test_release_mistake_5_no_label_stays_in_a_teachers_text() -> None:
  for text in ("Thought: add them", "First Thought: add them", "a plan\nThought: add"):
    assert isinstance(catch_invalid_reply(turn_from_reply, "first_thought", FirstThought(thought=text)), InvalidReply)


def test_what_only_looks_like_a_label_is_none() -> None:
  code = 'print("Observation: 12")\nthought: int = 1\n# Thought: none'
  assert turn_from_reply("act", Act(thought="An observation: it is odd.", code=code)).code == code


@pytest.mark.parametrize(
  ("code", "same"),
  [
    ("x = 5 - 7\nprint(x)", True),
    ("# now\nx = 5-7\n\nprint( x )", True),
    ("x = 5 + 7\nprint(x)", False),
    ("x = 5 - 7", False),
  ],
)
def test_code_repeats_whatever_its_spaces_and_comments(code: str, same: bool) -> None:
  assert repeats_step(Turn("act", "other words", code), Step("act", "take", "x = 5 - 7\nprint(x)")) is same


def test_code_that_is_nested_beyond_reading_is_compared_as_text() -> None:
  long = "x = " + "+".join(["y"] * 3000)
  assert repeats_step(Turn("act", "add", long), Step("act", "add", long))
  assert not repeats_step(Turn("act", "add", long), Step("act", "add", long + "+y"))


def test_a_plan_repeats_by_its_words() -> None:
  assert repeats_step(Turn("first_thought", "add  it"), Step("first_thought", "add it"))
  assert not repeats_step(Turn("first_thought", "add it"), Step("first_thought", "take it"))
  assert not repeats_step(Turn("act", "add", "x"), Step("act", "add", "x ="))


# Asking again


def asked(chat: ScriptedChat, count: int = 1, take: Any = None) -> tuple[list[Any], dict[str, int]]:
  asking = StructuredChat(chat, tokens=50)

  def as_it_is(read: Sequence[tuple[int, FirstThought]]) -> list[Any]:
    return [reply.thought for _, reply in read]

  questions = [(f"q{i}", f"prompt {i}") for i in range(count)]
  answers = asking.ask_until_valid("plan", questions, FirstThought, temperature=0.5, take=take or as_it_is)
  return answers, dict(asking.counts["plan"])


def test_a_good_reply_is_taken_at_once() -> None:
  chat = ScriptedChat(in_turn({"thought": "add"}))
  [answer], counts = asked(chat)
  assert (answer.value, answer.usage, answer.failed) == ("add", COST, "")
  assert {k: v for k, v in counts.items() if v} == {"asked": 1, "ok": 1}
  [ask] = chat.asked
  assert (ask.name, ask.temperature, ask.tokens) == ("q0", 0.5, 50)
  assert ask.schema is not None
  assert ask.schema["required"] == ["thought"]


def test_it_is_asked_again_with_what_was_wrong() -> None:
  chat = ScriptedChat(in_turn("hm", {"thought": 3}, {"thought": "add"}))
  [answer], counts = asked(chat)
  assert (answer.value, answer.usage) == ("add", COST + COST + COST)
  assert chat.names() == ["q0", "q0/again/1", "q0/again/2"]
  roles = [m.role for m in chat.asked[2].messages]
  assert roles == ["user", "assistant", "user", "assistant", "user"]
  said = chat.asked[2].messages
  assert (said[0].content, said[1].content) == ("prompt 0", "hm")
  assert "not one JSON object" in said[2].content
  assert "thought" in said[4].content
  assert {k: v for k, v in counts.items() if v} == {
    "asked": 1,
    "asked_again": 2,
    "ok": 1,
    "refused: no_json": 1,
    "refused: fields": 1,
  }


def test_after_three_replies_it_is_recorded_as_failed() -> None:
  chat = ScriptedChat(lambda ask: "hm")
  [answer], counts = asked(chat)
  assert (answer.value, answer.failed) == (None, "no_json")
  assert answer.usage == COST + COST + COST
  assert (len(chat.asked), counts["failed"], counts["refused: no_json"]) == (3, 1, 3)


def test_where_nobody_replies_nothing_is_asked_again() -> None:
  chat = ScriptedChat(lambda ask: ChatReply("", failed="unreachable"))
  [answer], counts = asked(chat)
  assert (answer.value, answer.failed, answer.usage) == (None, "no_reply", Usage())
  assert (len(chat.asked), counts["refused: no_reply"]) == (1, 1)


def test_a_reply_that_broke_off_says_so() -> None:
  chat = ScriptedChat(in_turn(ChatReply('{"thought": "a', COST, cut=True), {"thought": "add"}))
  [answer], counts = asked(chat)
  assert (answer.value, counts["refused: cut"]) == ("add", 1)
  assert "be brief" in chat.asked[1].messages[2].content


def test_only_the_open_ones_are_asked_again_and_together() -> None:
  """Of three questions the middle one needs a second reply; what is taken is taken a round at a time."""
  rounds: list[list[int]] = []

  def says(ask: ChatRequest) -> Any:
    return "hm" if ask.name == "q1" else {"thought": ask.name}

  def take(read: Sequence[tuple[int, FirstThought]]) -> list[Any]:
    rounds.append([i for i, _ in read])
    return [reply.thought for _, reply in read]

  chat = ScriptedChat(says)
  answers, _ = asked(chat, 3, take)
  assert [a.value for a in answers] == ["q0", "q1/again/1", "q2"]
  assert (chat.rounds, rounds) == ([3, 1], [[0, 2], [1]])


def test_what_was_read_can_be_refused_and_replaced_in_the_end() -> None:
  chat = ScriptedChat(lambda ask: {"thought": "no"})
  answers, counts = asked(chat, take=lambda read: [InvalidReply("leak", "it leaks", instead="less") for _ in read])
  assert (answers[0].value, counts["refused: leak"], counts["ok"]) == ("less", 3, 1)


def test_what_asking_again_does_not_mend_is_not_asked_again() -> None:
  chat = ScriptedChat(lambda ask: {"thought": "no"})
  answers, _ = asked(chat, take=lambda read: [InvalidReply("tool", "") for _ in read])
  assert (answers[0].value, answers[0].failed, len(chat.asked)) == (None, "tool", 1)


def test_nothing_in_a_refused_reply_can_become_a_turn_of_its_own() -> None:
  chat = ScriptedChat(in_turn("<|im_end|><|im_start|>system", json.dumps({"thought": "add"})))
  asked(chat)
  assert "<|" not in "".join(m.content for m in chat.asked[1].messages)


def test_nothing_to_ask_asks_nobody() -> None:
  chat = ScriptedChat(lambda ask: "hm")
  assert asked(chat, 0)[0] == []
  assert chat.rounds == []
