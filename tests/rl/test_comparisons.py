"""The judge of steps: what it is asked, how strictly its reply is read, and what of a rollout's tier hangs on it."""

from __future__ import annotations

import dataclasses

import pytest

from score_jax.agent.rollout import RolloutRequest
from score_jax.chat.interface import ChatReply
from score_jax.grading.numbers import grade_number
from score_jax.rl.reward import StepComparisons, assign_tier
from score_jax.rl.step_equivalence import compare_steps
from score_jax.teaching.asking import PromptTemplates
from score_jax.teaching.judges import ChatStepJudge, StepOpinion, StepPair
from score_jax.teaching.mentoring import RolloutStart
from score_jax.trajectory import Correction, Ledger, Question, Status, Step, Trajectory
from tests.agent.scripted import Stage
from tests.agent.scripted import act as scripted_act
from tests.teaching.scripted_chat import COST, ScriptedChat, data_of, in_turn

PLAN = Step("first_thought", "plan: add", tokens=(1,))
QUESTION = Question("q", "How many?", "12")


def act(observation: str, thought: str = "add") -> Step:
  return Step("act", thought, "…", observation, "ok")


TEACHERS, MISTAKE = act("Total: 12"), act("five and eight")
START = RolloutStart(QUESTION, Trajectory("q", "How many?", (1,), (PLAN,)), Correction(1, (MISTAKE,), TEACHERS), 8)


def rollout(*new: Step, grade: float = 0.0) -> Trajectory:
  steps = (PLAN, *new)
  status: Status = "answered" if grade else "step_limit"
  return Trajectory("q", "How many?", (1,), steps, status, grade=grade, prefix_steps=1, ledger=Ledger(tool_calls=1))


def said(word: str) -> dict[str, str]:
  return {"verdict": word, "reason": "so it is"}


def judge(chat: ScriptedChat) -> ChatStepJudge:
  return ChatStepJudge(chat, PromptTemplates(search=True), temperature=0.3, tokens=64)


def pair(first: str = "Total: 12", second: str = "Sum = 12") -> StepPair:
  return StepPair("How many?", (PLAN,), act(first), act(second))


@pytest.mark.parametrize(("word", "same"), [("same", True), ("different", False), ("unsure", None)])
def test_the_judges_word_is_the_opinion(word: str, same: bool | None) -> None:
  chat = ScriptedChat(in_turn(said(word)))
  assert judge(chat)([pair()]) == [StepOpinion(same, Ledger({"scripted": COST}))]
  (ask,) = chat.asked
  assert (ask.temperature, ask.tokens) == (0.3, 64)
  assert data_of(ask) == {
    "question": "How many?",
    "steps": [{"step": 0, "plan": "plan: add"}],
    "first": {"step": 1, "thought": "add", "code": "…", "printed": "Total: 12"},
    "second": {"step": 1, "thought": "add", "code": "…", "printed": "Sum = 12"},
  }


@pytest.mark.parametrize(
  "reply",
  [
    "true",
    "same",
    "It is true that they are the same.",
    'The verdict: {"verdict": "same", "reason": ""}',
    '{"verdict": "same", "reason": ""} and nothing else',
    '{"verdict": "Same", "reason": ""}',
    '{"verdict": "not the same", "reason": ""}',
    '{"verdict": true, "reason": ""}',
    '{"verdict": "same"}',
    '{"verdict": "different", "verdict": "same", "reason": ""}',
    '[{"verdict": "same", "reason": ""}]',
    "",
  ],
)
def test_release_mistake_8_a_verdict_is_never_a_substring_of_the_reply(reply: str) -> None:
  """Thrice something else than the object asked for is no opinion, and is paid for."""
  chat = ScriptedChat(lambda ask: ChatReply(reply, COST))
  assert judge(chat)([pair()]) == [StepOpinion(None, Ledger({"scripted": COST + COST + COST}))]


def test_a_judge_that_cannot_be_reached_has_no_opinion() -> None:
  chat = ScriptedChat(lambda ask: ChatReply("", failed="over budget"))
  assert [o.same for o in judge(chat)([pair()])] == [None]
  assert chat.rounds == [1]


def test_an_ask_is_named_by_what_is_shown_alone() -> None:
  chat = ScriptedChat(lambda ask: said("same"))
  with_tokens = dataclasses.replace(pair(), first=dataclasses.replace(pair().first, tokens=(1, 2)))
  others = (pair("Total: 13"), dataclasses.replace(pair(), question="How much?"))
  assert len(judge(chat)([pair(), with_tokens, *others])) == 4
  assert chat.rounds == [3], "two of which the same is shown are one ask"
  alone = ScriptedChat(lambda ask: said("same"))
  judge(alone)([others[1]])
  assert alone.names() == chat.names()[-1:]


def test_a_step_of_rl_asks_once_for_each_undecided_pair_and_books_it_once() -> None:
  chat = ScriptedChat(lambda ask: said("same" if data_of(ask)["second"]["printed"] == "Total: 12" else "unsure"))
  comparisons = StepComparisons(grade_number, judge(chat))
  group = [
    rollout(act("Sum = 12")),  # undecided against both
    rollout(act("Sum = 12")),  # the same again
    rollout(act("12")),  # the teacher's by execution; undecided against the mistake, which is text
    rollout(act(""), grade=1.0),  # right: nothing hangs on its first step
  ]
  (judged,) = comparisons.judge_undecided([START], [group], "paper")
  assert chat.rounds == [3]
  assert [t.ledger.of("scripted").generated for t in judged] == [20, 0, 10, 0]
  assert [t.ledger.tool_calls for t in judged] == [1] * 4
  assert [dataclasses.replace(t, ledger=Ledger()) for t in judged] == [
    dataclasses.replace(t, ledger=Ledger()) for t in group
  ]
  same = comparisons.comparator_for(START)
  assert [assign_tier(t, START.correction, "paper", same) for t in judged] == ["key", "key", "key", "final"]


def test_the_judge_of_a_step_of_rl_sees_all_that_came_before() -> None:
  chat = ScriptedChat(lambda ask: said("unsure"))
  start = dataclasses.replace(START, prefix=dataclasses.replace(START.prefix, steps=(PLAN, act("5"))))
  new = dataclasses.replace(rollout(act("5"), act("Sum = 12")), prefix_steps=2)
  StepComparisons(grade_number, judge(chat)).judge_undecided([start], [[new]], "paper")
  assert [step.get("printed", step.get("plan")) for step in data_of(chat.asked[0])["steps"]] == ["plan: add", "5"]


@pytest.mark.parametrize(
  ("teachers", "mistakes", "expected"),
  [
    ("same", "same", "key"),
    ("different", "different", "avoid"),
    ("unsure", "different", "avoid"),
    ("different", "unsure", "none"),
    ("unsure", "same", "none"),
  ],
)
def test_the_tier_that_the_judges_words_lead_to(teachers: str, mistakes: str, expected: str) -> None:
  about = {"Total: 12": teachers, "five and eight": mistakes}
  chat = ScriptedChat(lambda ask: said(about[data_of(ask)["second"]["printed"]]))
  comparisons = StepComparisons(grade_number, judge(chat))
  (group,) = comparisons.judge_undecided([START], [[rollout(act("Sum = 12"))]], "paper")
  assert assign_tier(group[0], START.correction, "paper", comparisons.comparator_for(START)) == expected


def test_without_a_judge_the_undecided_stays_so() -> None:
  comparisons = StepComparisons(grade_number, None)
  assert comparisons.metrics() == {}, "nothing was compared yet"
  group = [rollout(act("Sum = 12")), rollout(act("12"))]
  assert comparisons.judge_undecided([START], [group], "paper") == [group]
  assert [assign_tier(t, START.correction, "paper", comparisons.comparator_for(START)) for t in group] == [
    "none",
    "key",
  ]
  expected = {"steps_equal": 1 / 3, "steps_different": 0.0, "steps_undecided": 2 / 3}
  assert comparisons.metrics() == pytest.approx(expected)


def test_release_mistake_7_what_a_tool_says_in_rl_is_not_cut_to_256_characters(stage: Stage) -> None:
  """Of two that differ in their last character of 302, cut there, one would have passed for the other."""
  codes = {"0": "print('fig ' * 75, 1)", "1": "print('fig ' * 75, 2)", "2": "print('fig ' * 750)"}
  weights = stage.weights(lambda name, text: scripted_act(codes[name[-1]]))
  start = dataclasses.replace(START.prefix, prefix_steps=1)
  [group] = stage.agent(length=2048).rollout(weights, [RolloutRequest("rl", QUESTION, start, 1, copies=3)])
  first, second, endless = (t.steps[t.prefix_steps] for t in group)
  assert [len(step.observation) for step in (first, second)] == [302, 302]
  assert first.observation in stage.protocol.decode(group[0].context())
  assert compare_steps(first, second, str.__eq__) == "different"
  assert "characters cut] ..." in endless.observation, "what does not fit says so"
