"""A teacher that is asked in words: what it is shown, what is taken of its replies, and whole rounds of mentoring."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from score_jax.agent.protocol import Turn
from score_jax.agent.rollout import RolloutRequest, empty_trajectory
from score_jax.chat.interface import ChatReply, ChatRequest
from score_jax.grading.numbers import grade_number
from score_jax.teaching.asking import PromptTemplates
from score_jax.teaching.counterfactual import CounterfactualTeacher
from score_jax.teaching.falls import FallTest
from score_jax.teaching.mentoring import MentoredQuestion, mentor_questions
from score_jax.teaching.prompted import LocateMethod, PromptedTeacher, PromptedTeacherConfig
from score_jax.teaching.teacher import Finding
from score_jax.trajectory import Correction, Question, Step, Trajectory, Usage
from tests.agent.scripted import Stage, act, plan, question, said, submit
from tests.teaching.scripted_chat import COST, ScriptedChat, data_of, in_turn

SETTINGS = PromptedTeacherConfig(
  acts=4,
  turn_tokens=64,
  reply_tokens=500,
  first_thought_temperature=0.1,
  step_temperature=0.2,
  locate_temperature=0.3,
  correct_temperature=0.4,
)
ADD = act("x = 5 + 7\nprint(x)", "add 7")
TAKE = act("x = 5 - 7\nprint(x)", "take 7")
LOOK = act("print('hm')", "look")
NAMED = {"step": 1, "diagnosis": "it takes away where it should add"}

Says = Callable[[ChatRequest], Any]


def reply(turn: Turn) -> dict[str, str]:
  """A turn as a teacher's reply."""
  return {"thought": turn.thought} if turn.kind == "first_thought" else {"thought": turn.thought, "code": turn.code}


def teacher(
  stage: Stage, says: Says, *, by: LocateMethod = "prompted", judge: CounterfactualTeacher | None = None, **changed: Any
) -> tuple[PromptedTeacher, ScriptedChat]:
  chat = ScriptedChat(says)
  settings = dataclasses.replace(SETTINGS, **changed)
  made = PromptedTeacher(
    chat, PromptTemplates(search=True), stage.protocol, stage.tool, grade_number, settings, locate_by=by, judge=judge
  )
  return made, chat


def failed(stage: Stage, *turns: Turn | list[int], acts: int = 8, answer: str = "12") -> tuple[Question, Trajectory]:
  asked = question(answer)
  [[trajectory]] = stage.agent().rollout(
    stage.in_turn(*turns), [RolloutRequest("failed", asked, empty_trajectory(asked), acts)]
  )
  assert not trajectory.right
  return asked, trajectory


# Demonstrating


def test_it_demonstrates_one_step_at_a_time(stage: Stage) -> None:
  """Each step sees what the ones before it printed; the state stays."""
  made, chat = teacher(stage, in_turn(reply(plan()), reply(ADD), reply(act("x = x + 0\nprint(x)")), reply(submit())))
  [shown] = made.demonstrate([question()], name="warm")
  assert (shown.status, shown.answer, shown.right, shown.name) == ("answered", "12", True, "warm/q")
  assert [(s.kind, s.author, s.observation) for s in shown.steps] == [
    ("first_thought", "teacher", ""),
    ("act", "teacher", "12"),
    ("act", "teacher", "12"),
    ("act", "teacher", ""),
  ]
  assert shown.ledger.of("teacher") == COST + COST + COST + COST
  assert (shown.ledger.tool_calls, shown.ledger.grader_calls) == (3, 1)
  assert chat.names() == ["warm/q/first_thought", "warm/q/step/1", "warm/q/step/2", "warm/q/step/3"]
  assert [a.temperature for a in chat.asked] == [0.1, 0.2, 0.2, 0.2]
  assert data_of(chat.asked[0]) == {"question": question().text}
  assert data_of(chat.asked[2])["steps"] == [
    {"step": 0, "plan": "plan: add"},
    {"step": 1, "thought": "add 7", "code": "x = 5 + 7\nprint(x)", "printed": "12"},
  ]
  assert "Steps left, this one included: 2" in chat.asked[3].messages[0].content


def test_a_demonstration_becomes_the_students_tokens_once(stage: Stage) -> None:
  made, _ = teacher(stage, in_turn(reply(plan()), reply(ADD), reply(submit())))
  [shown] = made.demonstrate([question()], name="warm")
  p = stage.protocol
  assert shown.context() == (
    *p.encode_prompt(question().text),
    *p.encode_turn(plan()),
    *p.encode_observation(None),
    *p.encode_turn(ADD),
    *p.encode_observation("12"),
    *p.encode_turn(submit()),
    *p.encode_observation(""),
  )
  assert all(step.logprobs == () for step in shown.steps)


def test_release_mistake_1_the_step_limit_holds_in_a_demonstration(stage: Stage) -> None:
  made, chat = teacher(stage, lambda ask: reply(plan() if "first_thought" in ask.name else LOOK), acts=3)
  [shown] = made.demonstrate([question()], name="warm")
  assert (shown.status, shown.acts, shown.grade, len(chat.asked)) == ("step_limit", 3, 0.0, 4)


def test_all_questions_are_asked_at_once(stage: Stage) -> None:
  """Three questions: the second one's plan fails for good, the third submits early."""

  def says(ask: ChatRequest) -> Any:
    if "first_thought" in ask.name:
      return "hm" if "/b/" in ask.name else reply(plan())
    steps = data_of(ask)["steps"]
    return reply(submit("12") if "/c/" in ask.name or len(steps) == 2 else ADD)

  made, chat = teacher(stage, says)
  shown = made.demonstrate([question(name=n) for n in "abc"], name="warm")
  assert [t.status for t in shown] == ["answered", "bad_format", "answered"]
  assert [len(t.steps) for t in shown] == [3, 0, 2]
  assert chat.rounds == [3, 1, 1, 2, 1]
  assert shown[1].grade == 0.0
  assert shown[1].grade_reason == "the teacher's reply failed (no_json)"
  assert shown[1].ledger.of("teacher") == COST + COST + COST
  counts = made.counts()["teacher_replies"]
  assert counts["solve_first_thought"]["failed"] == 1
  assert counts["solve_step"]["ok"] == 3


def test_an_error_in_a_demonstration_is_seen_and_gone_on_from(stage: Stage) -> None:
  made, chat = teacher(stage, in_turn(reply(plan()), reply(act("print(y)")), reply(ADD), reply(submit())))
  [shown] = made.demonstrate([question()], name="warm")
  assert shown.right
  assert data_of(chat.asked[2])["steps"][1]["printed"] == "NameError: name 'y' is not defined"


def test_where_nobody_replies_it_is_nobodys_fault(stage: Stage) -> None:
  made, _ = teacher(stage, in_turn(reply(plan()), ChatReply("", failed="unreachable")))
  [shown] = made.demonstrate([question()], name="warm")
  assert (shown.status, shown.grade, len(shown.steps)) == ("tool_failure", None, 1)


def test_a_failing_host_is_nobodys_fault(stage: Stage) -> None:
  made, _ = teacher(stage, in_turn(reply(plan()), reply(act("web_search('broken')"))))
  [shown] = made.demonstrate([question()], name="warm")
  assert (shown.status, shown.grade, len(shown.steps)) == ("tool_failure", None, 1)


def test_it_finishes_what_was_begun(stage: Stage) -> None:
  """In the state that the student's steps left, and from its plan."""
  asked, trajectory = failed(stage, plan(), ADD, submit("13"))
  made, chat = teacher(stage, in_turn(reply(submit())))
  [ended] = made.finish([(asked, trajectory.prefix(2))], name="finish")
  assert (ended.right, ended.answer, ended.prefix_steps) == (True, "12", 2)
  assert [s.author for s in ended.steps] == ["student", "student", "teacher"]
  assert ended.steps[:2] == trajectory.steps[:2]
  assert chat.names() == ["finish/q/step/1"]


def test_a_step_that_the_student_could_not_write_is_asked_for_again(stage: Stage) -> None:
  long = act("x = 5 + 7\nprint(x)", "add " * 80)
  made, chat = teacher(stage, in_turn(reply(plan()), reply(long), reply(ADD), reply(submit())))
  [shown] = made.demonstrate([question()], name="warm")
  assert shown.right
  assert made.counts()["teacher_replies"]["solve_step"]["refused: long"] == 1
  assert "a step may have 64" in chat.asked[2].messages[2].content


# Locating


def test_locating_is_one_call_that_sees_everything(stage: Stage) -> None:
  asked, trajectory = failed(stage, plan(), TAKE, submit())
  made, chat = teacher(stage, in_turn(NAMED))
  [finding] = made.locate([(asked, trajectory)], name="mps/1")
  assert (finding.verdict, finding.step, finding.diagnosis) == ("located", 1, NAMED["diagnosis"])
  assert finding.located == "prompted"
  assert finding.ledger.of("teacher") == COST
  [ask] = chat.asked
  assert (ask.name, ask.temperature) == ("mps/1/locate/q", 0.3)
  assert data_of(ask) == {
    "question": asked.text,
    "reference": "12",
    "steps": [
      {"step": 0, "plan": "plan: add"},
      {"step": 1, "thought": "take 7", "code": TAKE.code, "printed": "-2"},
      {"step": 2, "thought": "answer", "code": submit().code, "printed": "", "submitted": "-2"},
    ],
    "ended": "it submitted an answer, which is wrong",
  }


@pytest.mark.parametrize(
  ("turns", "acts", "status", "says"),
  [
    ((plan(), LOOK, LOOK), 2, "step_limit", "without submitting"),
    ((plan(), [3, 4, 5]), 4, "bad_format", "not of the form"),
    ((plan(), act("x = 1" + "\n" * 63)), 4, "bad_format", "broke off"),
  ],
)
def test_release_mistake_2_runs_that_never_submit_are_corrected(
  stage: Stage, turns: tuple[Any, ...], acts: int, status: str, says: str
) -> None:
  asked, trajectory = failed(stage, *turns, acts=acts)
  assert trajectory.status == status
  made, chat = teacher(stage, in_turn(NAMED, reply(ADD)))
  [finding] = made.locate([(asked, trajectory)], name="mps/1")
  assert says in data_of(chat.asked[0])["ended"]
  [proposal] = made.correct([(asked, trajectory, finding)])
  assert proposal.step is not None
  assert proposal.step.observation == "12"


def test_a_malformed_turn_is_shown_as_it_was_written(stage: Stage) -> None:
  asked, trajectory = failed(stage, plan(), [*stage.protocol.encode("add 7"), stage.protocol.stop_token])
  made, chat = teacher(stage, in_turn(NAMED))
  made.locate([(asked, trajectory)], name="mps/1")
  shown = data_of(chat.asked[0])["steps"][1]
  assert shown.keys() == {"step", "malformed"}
  assert shown["malformed"].startswith("add 7")


@pytest.mark.parametrize("step", [3, -1, 10**9])
def test_a_step_out_of_range_is_asked_for_again_and_counted(stage: Stage, step: int) -> None:
  failure = failed(stage, plan(), TAKE, submit())
  made, chat = teacher(stage, in_turn({"step": step, "diagnosis": "x"}, NAMED))
  [finding] = made.locate([failure], name="mps/1")
  assert finding.step == 1
  assert made.counts()["teacher_replies"]["locate"]["refused: range"] == 1
  assert "numbered 0 to 2" in chat.asked[1].messages[2].content


@pytest.mark.parametrize(
  "says",
  [
    {"step": None, "diagnosis": "all is well"},
    {"step": 7, "diagnosis": "x"},
    {"step": 1, "diagnosis": " "},
    "The error is in step 1.",
    ChatReply("", failed="unreachable"),
  ],
)
def test_what_names_no_step_is_unlocated(stage: Stage, says: Any) -> None:
  made, _ = teacher(stage, lambda ask: says)
  [finding] = made.locate([failed(stage, plan(), TAKE, submit())], name="mps/1")
  assert (finding.verdict, finding.step) == ("unlocated", -1)
  assert made.counts()["located"] == {"unlocated": 1}


def test_nothing_is_asked_of_a_trajectory_without_steps(stage: Stage) -> None:
  asked, trajectory = failed(stage, plan(), TAKE, submit())
  made, chat = teacher(stage, in_turn(NAMED))
  empty = dataclasses.replace(trajectory, steps=(), status="context_full")
  findings = made.locate([(asked, empty), (asked, trajectory)], name="mps/1")
  assert [f.verdict for f in findings] == ["unlocated", "located"]
  assert len(chat.asked) == 1


def test_release_mistake_9_a_diagnosis_that_states_the_answer_does_not_reach_who_corrects(stage: Stage) -> None:
  """Asked again without it; where it states it three times the step is corrected without a diagnosis."""
  asked, trajectory = failed(stage, plan(), act("x = 1200\nprint(x)", "guess"), submit(), answer="1234")
  leaking = {"step": 1, "diagnosis": "the correct value is 1,234"}
  made, _ = teacher(stage, in_turn(leaking, {"step": 1, "diagnosis": "it guesses; let it count"}))
  [finding] = made.locate([(asked, trajectory)], name="mps/1")
  assert finding.diagnosis == "it guesses; let it count"
  made, _ = teacher(stage, lambda ask: leaking)
  [finding] = made.locate([(asked, trajectory)], name="mps/1")
  assert (finding.verdict, finding.step, finding.diagnosis) == ("located", 1, "")
  assert made.counts()["teacher_replies"]["locate"]["refused: leak"] == 3


def test_a_diagnosis_may_repeat_what_the_wrong_step_says(stage: Stage) -> None:
  """The step computed the answer, and went on from it: that it stands in the diagnosis tells nothing new."""
  asked, trajectory = failed(stage, plan(), act("x = 1234\nprint(x + 1)", "go on"), submit("1235"), answer="1234")
  made, _ = teacher(stage, in_turn({"step": 1, "diagnosis": "x was 1234 already; it adds one more"}))
  [finding] = made.locate([(asked, trajectory)], name="mps/1")
  assert finding.diagnosis == "x was 1234 already; it adds one more"


# Correcting


def test_who_corrects_sees_neither_the_answer_nor_what_came_after(stage: Stage) -> None:
  asked, trajectory = failed(stage, plan(), act("a = 4242", "keep"), TAKE, act("print(1313)", "later"), submit())
  made, chat = teacher(stage, in_turn(reply(ADD)))
  finding = Finding("located", 2, "it takes away")
  [proposal] = made.correct([(dataclasses.replace(asked, answer="987654"), trajectory, finding)])
  [ask] = chat.asked
  assert (ask.name, ask.temperature) == ("correct/q/failed/0/2", 0.4)
  assert data_of(ask) == {
    "question": asked.text,
    "steps": [
      {"step": 0, "plan": "plan: add"},
      {"step": 1, "thought": "keep", "code": "a = 4242", "printed": ""},
    ],
    "wrong": {"step": 2, "thought": "take 7", "code": TAKE.code, "printed": "-2"},
    "diagnosis": "it takes away",
  }
  text = ask.messages[0].content
  assert "987654" not in text
  assert "1313" not in text
  assert proposal.step is not None
  assert (proposal.step.author, proposal.step.observation, proposal.step.kind) == ("teacher", "12", "act")
  assert proposal.step.tokens == stage.protocol.encode_turn(ADD)
  assert (proposal.ledger.of("teacher"), proposal.ledger.tool_calls) == (COST, 1)


def test_release_mistake_3_a_correction_runs_in_the_state_before_the_wrong_step(stage: Stage) -> None:
  """What the wrong step and those after it left is gone."""
  asked, trajectory = failed(stage, plan(), act("x = 5", "keep"), act("x = 100", "lose"), submit())
  made, _ = teacher(stage, in_turn(reply(act("x = x + 7\nprint(x)", "add"))))
  [proposal] = made.correct([(asked, trajectory, Finding("located", 2, "it loses x"))])
  assert proposal.step is not None
  assert proposal.step.observation == "12"


def test_release_mistake_5_a_corrected_first_thought_stays_one(stage: Stage) -> None:
  asked, trajectory = failed(stage, plan("plan: take"), TAKE, submit())
  made, chat = teacher(stage, in_turn({"thought": "plan: take", "code": "x"}, reply(plan("plan: add"))))
  [proposal] = made.correct([(asked, trajectory, Finding("located", 0, "it is to be added"))])
  assert proposal.step is not None
  assert (proposal.step.kind, proposal.step.thought, proposal.step.code) == ("first_thought", "plan: add", "")
  assert proposal.step.tokens == stage.protocol.encode_turn(plan("plan: add"))
  assert proposal.step.observation_tokens == stage.protocol.encode_observation(None)
  assert proposal.ledger.tool_calls == 0
  assert data_of(chat.asked[0]) == {
    "question": asked.text,
    "wrong": {"step": 0, "plan": "plan: take"},
    "diagnosis": "it is to be added",
  }
  assert made.counts()["teacher_replies"]["correct_first_thought"]["refused: fields"] == 1


def test_release_mistake_4_what_a_correction_is_followed_by_is_what_the_student_explores_with(stage: Stage) -> None:
  asked, trajectory = failed(stage, plan(), TAKE, submit())
  made, _ = teacher(stage, in_turn(reply(ADD)))
  [proposal] = made.correct([(asked, trajectory, Finding("located", 1, "x"))])
  assert proposal.step is not None
  assert stage.protocol.decode(proposal.step.observation_tokens).count("Observation: 12") == 1
  assert "Observation" not in stage.protocol.decode(proposal.step.tokens)


@pytest.mark.parametrize(
  ("bad", "reason"),
  [
    ({"thought": "take", "code": "# again\nx = 5-7\nprint(x)"}, "same"),
    ({"thought": "add", "code": "print(undefined)"}, "raised"),
    ({"thought": "add", "code": ""}, "empty"),
    ({"thought": "", "code": "print(1)"}, "empty"),
    ({"thought": "add", "code": "print(1"}, "syntax"),
    ({"thought": "add", "code": "x = 5 + 7\nprint(x)\nObservation: 12"}, "several"),
    ([{"thought": "add", "code": "x = 5 + 7"}, {"thought": "answer", "code": "final_answer_print(x)"}], "fields"),
    ({"thought": "answer", "code": "final_answer_print(12)"}, "leak"),
    ("x = 5 + 7", "no_json"),
  ],
)
def test_a_correction_that_cannot_stand_is_asked_for_again_and_counted(stage: Stage, bad: Any, reason: str) -> None:
  asked, trajectory = failed(stage, plan(), TAKE, submit())
  finding = Finding("located", 1, "x")
  made, chat = teacher(stage, in_turn(bad, reply(ADD)))
  [proposal] = made.correct([(asked, trajectory, finding)])
  assert proposal.step is not None
  assert proposal.step.code == ADD.code
  assert proposal.ledger.of("teacher") == COST + COST
  assert proposal.ledger.tool_calls == (2 if reason == "raised" else 1)
  assert made.counts()["teacher_replies"]["correct"][f"refused: {reason}"] == 1
  made, chat = teacher(stage, lambda ask: bad)
  [proposal] = made.correct([(asked, trajectory, finding)])
  assert (proposal.step, len(chat.asked)) == (None, 3)
  assert proposal.ledger.of("teacher") == COST + COST + COST
  assert made.counts()["teacher_replies"]["correct"]["failed"] == 1


def test_an_earlier_mistake_of_that_place_is_no_correction(stage: Stage) -> None:
  asked, trajectory = failed(stage, plan(), LOOK, submit("13"))
  mistake = Step("act", "take 7", TAKE.code, "-2", "ok")
  corrected = dataclasses.replace(trajectory, corrections=(Correction(1, (mistake,), trajectory.steps[1]),))
  made, _ = teacher(stage, in_turn(reply(TAKE), reply(ADD)))
  [proposal] = made.correct([(asked, corrected, Finding("located", 1, "x"))])
  assert proposal.step is not None
  assert proposal.step.code == ADD.code


def test_a_mistake_of_another_place_may_be_right_here(stage: Stage) -> None:
  asked, trajectory = failed(stage, plan(), LOOK, LOOK, submit("13"))
  mistake = Step("act", "add 7", ADD.code, "12", "ok")
  elsewhere = dataclasses.replace(trajectory, corrections=(Correction(2, (mistake,), trajectory.steps[2]),))
  made, chat = teacher(stage, in_turn(reply(ADD)))
  [proposal] = made.correct([(asked, elsewhere, Finding("located", 1))])
  assert proposal.step is not None and proposal.step.code == ADD.code
  assert len(chat.asked) == 1


def test_a_host_that_fails_is_not_asked_again(stage: Stage) -> None:
  asked, trajectory = failed(stage, plan(), TAKE, submit())
  made, chat = teacher(stage, lambda ask: reply(act("web_search('broken')")))
  [proposal] = made.correct([(asked, trajectory, Finding("located", 1, "x"))])
  assert (proposal.step, len(chat.asked)) == (None, 1)
  assert made.counts()["teacher_replies"]["correct"]["refused: tool"] == 1


def test_plans_and_acts_are_corrected_in_their_order(stage: Stage) -> None:
  cases = [failed(stage, plan("plan: take"), TAKE, submit()) for _ in range(3)]
  located = [
    (dataclasses.replace(q, id=str(i)), t, Finding("located", step, "x"))
    for i, ((q, t), step) in enumerate(zip(cases, (1, 0, 1), strict=True))
  ]
  made, chat = teacher(stage, lambda ask: reply(ADD if "steps" in data_of(ask) else plan()))
  kinds = [p.step.kind for p in made.correct(located) if p.step is not None]
  assert kinds == ["act", "first_thought", "act"]
  assert chat.rounds == [1, 2]


# Locating with the student's continuations


def knows(name: str, text: str) -> Turn:
  """A student that gets there unless something was taken away."""
  if "Observation: -2" in text:
    return LOOK
  if "Observation: 12" in text:
    return submit()
  return ADD if said(text) else plan()


def never(name: str, text: str) -> Turn:
  return LOOK if said(text) else plan()


def always(name: str, text: str) -> Turn:
  return submit("12") if said(text) else plan()


def judged(
  stage: Stage, says: Callable[[str, str], Turn], by: LocateMethod, named: int, *, continuations: int = 4
) -> tuple[Finding, PromptedTeacher]:
  student = stage.agent("student"), stage.weights(says)
  judge = CounterfactualTeacher(*student, judge=student, continuations=continuations, rule=FallTest(0.5, 0.05), acts=3)
  made, chat = teacher(stage, lambda ask: {"step": named, "diagnosis": "look here"}, by=by, judge=judge)
  failure = failed(stage, plan(), TAKE, submit())
  [finding] = made.locate([failure], name="mps/1")
  assert len(chat.asked) == (0 if by == "counterfactual" else 1)
  return finding, made


def test_a_named_step_is_confirmed_by_going_on_from_before_and_after_it(stage: Stage) -> None:
  finding, made = judged(stage, knows, "both", 1)
  assert (finding.verdict, finding.step, finding.located) == ("located", 1, "both")
  assert finding.diagnosis == "look here"
  assert finding.values == {"before": 1.0, "after": 0.0}
  assert finding.ledger.of("student").generated > 0
  assert finding.ledger.of("teacher") == COST
  assert made.counts()["located"] == {"both": 1}


def test_a_fall_of_just_delta_confirms(stage: Stage) -> None:
  """Of eight continuations from after the step four get there: p is 0.014."""

  def half(name: str, text: str) -> Turn:
    if "Observation: -2" in text:
      return submit("12") if int(name[-1]) < 4 else LOOK
    return knows(name, text)

  finding, _ = judged(stage, half, "both", 1, continuations=8)
  assert (finding.verdict, finding.located, finding.values) == ("located", "both", {"before": 1.0, "after": 0.5})
  assert finding.prefix_counts == ((1, 8, 8), (2, 4, 8))


def test_a_fall_that_may_be_chance_confirms_nothing_and_contradicts_nothing(stage: Stage) -> None:
  """Of four continuations two get there: p is 0.09."""

  def half(name: str, text: str) -> Turn:
    if "Observation: -2" in text:
      return submit("12") if int(name[-1]) < 2 else LOOK
    return knows(name, text)

  finding, _ = judged(stage, half, "both", 1)
  assert (finding.verdict, finding.step, finding.located) == ("located", 1, "prompted")
  assert finding.values == {"before": 1.0, "after": 0.5}


def test_where_hosts_failed_the_name_stands_and_no_share_is_recorded(stage: Stage) -> None:
  def broken(name: str, text: str) -> Turn:
    return act("web_search('broken')") if "Observation: -2" in text else knows(name, text)

  finding, _ = judged(stage, broken, "both", 1)
  assert (finding.verdict, finding.step, finding.located) == ("located", 1, "prompted")
  assert (finding.values, finding.prefix_counts) == ({"before": 1.0}, ((1, 4, 4), (2, 0, 0)))


def test_a_named_step_over_which_nothing_falls_is_contradicted(stage: Stage) -> None:
  finding, made = judged(stage, knows, "both", 0)
  assert (finding.verdict, finding.step, finding.located) == ("unlocated", -1, "contradicted")
  assert finding.values == {"before": 1.0, "after": 1.0}
  assert made.counts()["located"] == {"contradicted": 1}


def test_where_nothing_could_fall_the_name_stands_unconfirmed(stage: Stage) -> None:
  finding, _ = judged(stage, never, "both", 1)
  assert (finding.verdict, finding.step, finding.located) == ("located", 1, "prompted")
  assert finding.values == {"before": 0.0, "after": 0.0}


def test_after_an_answer_nothing_can_follow(stage: Stage) -> None:
  """The last step submits: V after it is 0, and nobody goes on from there."""
  finding, _ = judged(stage, always, "both", 2)
  assert (finding.located, finding.values) == ("both", {"before": 1.0, "after": 0.0})


def test_located_by_continuations_alone(stage: Stage) -> None:
  finding, made = judged(stage, knows, "counterfactual", 0)
  assert (finding.verdict, finding.step, finding.located) == ("located", 1, "counterfactual")
  assert made.counts() == {"teacher_replies": {}, "located": {"counterfactual": 1}}


# Whole rounds


def run(
  stage: Stage, student: Callable[[str, str], Any], says: Says, **changed: Any
) -> tuple[MentoredQuestion, ScriptedChat]:
  made, chat = teacher(stage, says)
  [case] = mentor_questions(
    [question()],
    student=stage.agent(),
    weights=stage.weights(student),
    teacher=made,
    report=lambda line: None,
    **{"acts": 4, "corrections": 3, "tries": 1, **changed},
  )
  return case, chat


def takes(name: str, text: str) -> Turn:
  return [plan(), TAKE, submit()][said(text)]


def test_a_whole_round(stage: Stage) -> None:
  """The student errs, the teacher names it and writes one step, the student goes on and is right."""
  case, chat = run(stage, takes, in_turn(NAMED, reply(ADD)))
  solved = case.trajectory
  assert (case.outcome, case.first_error, solved.answer) == ("solved", 1, "12")
  assert [s.author for s in solved.steps] == ["student", "teacher", "student"]
  [correction] = solved.corrections
  assert (correction.located, correction.verified) == ("prompted", "student_success")
  assert (correction.diagnosis, correction.step) == (NAMED["diagnosis"], 1)
  assert [m.code for m in correction.mistakes] == [TAKE.code]
  assert chat.names() == ["mps/1/locate/q", "correct/q/mps/q/0/1"]
  assert case.ledger.of("teacher") == COST + COST
  assert case.ledger.of("scripted") == Usage()


def test_release_mistake_1_the_step_limit_holds_in_mentoring(stage: Stage) -> None:
  """Two acts, before a correction and after each."""
  numbers = iter(range(100))

  def says(ask: ChatRequest) -> Any:
    shown = data_of(ask)["steps"]
    if "locate" in ask.name:
      return {"step": len(shown) - 1, "diagnosis": "x"}
    return {"thought": "look", "code": f"y = {next(numbers)}"}

  case, chat = run(stage, lambda n, t: LOOK if said(t) else plan(), says, acts=2)
  assert (case.outcome, case.trajectory.status, case.trajectory.acts) == ("not_kept", "step_limit", 2)
  lengths = [len(data_of(ask)["steps"]) for ask in chat.asked if "locate" in ask.name]
  assert lengths == [3, 5, 7]  # the plan and two acts; then two more after each corrected one


def test_release_mistake_11_what_stays_wrong_is_not_kept(stage: Stage) -> None:
  """However often it is corrected; no ask of a later round has the name of an earlier one."""
  counts = iter(range(100))

  def says(ask: ChatRequest) -> Any:
    return NAMED if "locate" in ask.name else {"thought": "look", "code": f"x = {next(counts)}\nprint(x)"}

  case, chat = run(stage, takes, says)
  assert case.outcome == "not_kept"
  assert len(chat.asked) == 6


def test_a_teacher_that_never_replies_well_leaves_it_unlocated(stage: Stage) -> None:
  case, chat = run(stage, takes, lambda ask: "Let me think.")
  assert (case.outcome, case.first_error, len(chat.asked)) == ("unlocated", None, 3)
  assert case.ledger.of("teacher") == COST + COST + COST


def test_no_replacement_leaves_it_unlocated(stage: Stage) -> None:
  case, chat = run(stage, takes, lambda ask: NAMED if "locate" in ask.name else "hm")
  assert (case.outcome, case.first_error, len(chat.asked)) == ("unlocated", 1, 4)
  assert case.ledger.of("teacher") == COST + COST + COST + COST
