"""Locating by continuations, on values made by hand and with continuations that are scripted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest

from score_jax.agent.protocol import Turn
from score_jax.agent.rollout import RolloutRequest, empty_trajectory
from score_jax.errors import UserError
from score_jax.teaching.counterfactual import CounterfactualTeacher, PrefixSearch, require_same_tokens
from score_jax.teaching.falls import TERMINAL_VALUE, FallTest, ValueEstimate
from score_jax.teaching.teacher import Finding
from score_jax.trajectory import Ledger, Question, Step, Trajectory, sum_ledgers
from tests.agent.scripted import Stage, act, plan, question, said, submit

ADD = act("x = 5 + 7\nprint(x)", "add 7")
ADD_TOO = act("x = 7 + 5\nprint(x)", "add 5")
TAKE = act("x = 5 - 7\nprint(x)", "take 7")
LOOK = act("print('hm')", "look")

Says = Callable[[str, str], Turn | Sequence[int]]


def teacher(
  stage: Stage, says: Says, *, student: Says | None = None, delta: float = 0.5, search: PrefixSearch = "every"
) -> CounterfactualTeacher:
  """Four continuations of four acts; judged by the student's where it is given."""
  agent, weights = stage.agent("teacher"), stage.weights(says)
  judge = (agent, weights) if student is None else (stage.agent("student"), stage.weights(student))
  rule = FallTest(delta, 0.05)
  return CounterfactualTeacher(agent, weights, judge=judge, continuations=4, rule=rule, acts=4, search=search)


def failed(stage: Stage, *turns: Turn | Sequence[int], acts: int = 8) -> tuple[Question, Trajectory]:
  asked = question()
  request = RolloutRequest("failed", asked, empty_trajectory(asked), acts)
  [[trajectory]] = stage.agent().rollout(stage.in_turn(*turns), [request])
  assert not trajectory.right
  return asked, trajectory


def knows(name: str, text: str) -> Turn:
  """Gets there from wherever x is what it should be, or is not yet anything; never once something was taken."""
  if "Observation: -2" in text:
    return LOOK
  if "Observation: 12" in text:
    return submit()
  return ADD if said(text) else plan()


FINDINGS: dict[str, tuple[list[float], float, tuple[str, int]]] = {
  "one fall": ([1.0, 1.0, 0.25, 0.0], 0.5, ("located", 1)),
  "exactly delta": ([1.0, 0.5, 0.5], 0.5, ("located", 0)),
  "less than delta": ([1.0, 0.75, 0.75], 0.5, ("unlocated", -1)),
  "the earliest of two falls": ([1.0, 0.5, 0.5, 0.0], 0.5, ("located", 0)),
  "small falls that add up": ([1.0, 0.75, 0.5, 0.25, 0.0], 0.5, ("undecided", -1)),
  "a rise is no fall": ([0.5, 1.0, 1.0], 0.5, ("unlocated", -1)),
  "a dip, a recovery, a fall": ([0.75, 0.5, 1.0, 0.25], 0.5, ("located", 2)),
  "the last step": ([1.0, 1.0, 1.0, 0.0], 0.5, ("located", 2)),
  "hard from the start": ([0.25, 1.0, 0.0], 0.5, ("hard", -1)),
  "just not hard": ([0.5, 0.0], 0.5, ("located", 0)),
  "never right": ([0.0, 0.0], 0.5, ("hard", -1)),
  "a small delta": ([0.375, 0.375, 0.0], 0.25, ("located", 1)),
  "a fall that may be chance": ([0.25, 0.25, 0.0], 0.25, ("undecided", -1)),
  "the start alone": ([1.0], 0.5, ("unlocated", -1)),
}


@pytest.mark.parametrize(("shares", "delta", "expected"), FINDINGS.values(), ids=FINDINGS.keys())
def test_the_earliest_fall_of_delta(stage: Stage, shares: list[float], delta: float, expected: tuple[str, int]) -> None:
  steps = [Step("act", str(k), "x", "1", "ok", author="teacher") for k in range(len(shares))]
  values = {
    k: ValueEstimate(int(16 * share), 16, (step,)) for k, (share, step) in enumerate(zip(shares, steps, strict=True))
  }
  finding = teacher(stage, knows, delta=delta)._find(values, len(values))
  assert (finding.verdict, finding.step) == expected
  assert finding.prefix_counts == tuple((k, int(16 * share), 16) for k, share in enumerate(shares))
  if finding.verdict == "located":
    k = finding.step
    assert finding.values == {"before": shares[k], "after": shares[k + 1]}
    assert finding.candidates == (steps[k],)
    assert f"{int(16 * shares[k])} of 16 continuations from before it" in finding.diagnosis
  else:
    assert (finding.values, finding.candidates) == ({"start": shares[0]}, ())


def test_a_wrong_act_is_located(stage: Stage) -> None:
  case = failed(stage, plan(), LOOK, TAKE, submit())
  [finding] = teacher(stage, knows).locate([case], name="mps/1")
  assert (finding.verdict, finding.step) == ("located", 2)
  assert finding.values == {"before": 1.0, "after": 0.0}


def test_a_wrong_submission_is_located_where_it_was_made(stage: Stage) -> None:
  case = failed(stage, plan(), ADD, submit("13"))
  [finding] = teacher(stage, knows).locate([case], name="mps/1")
  assert (finding.verdict, finding.step) == ("located", 2)
  [step] = finding.candidates
  assert (step.code, step.answer) == (submit().code, "12")


def test_a_malformed_turn_is_located(stage: Stage) -> None:
  case = failed(stage, plan(), ADD, (stage.protocol.stop_token,))
  assert case[1].steps[-1].kind == "malformed"
  [finding] = teacher(stage, knows).locate([case], name="mps/1")
  assert (finding.verdict, finding.step) == ("located", len(case[1].steps) - 1)
  assert finding.values == {"before": 1.0, "after": 0.0}


def test_nothing_is_wrong_with_one_who_only_ran_out_of_acts(stage: Stage) -> None:
  case = failed(stage, plan(), LOOK, LOOK, acts=2)
  assert case[1].status == "step_limit"
  [finding] = teacher(stage, knows).locate([case], name="mps/1")
  assert finding.verdict == "unlocated"
  assert finding.values == {"start": 1.0}


def test_the_last_act_of_one_who_ran_out_of_acts_may_be_the_error(stage: Stage) -> None:
  case = failed(stage, plan(), LOOK, TAKE, acts=2)
  assert case[1].status == "step_limit"
  [finding] = teacher(stage, knows).locate([case], name="mps/1")
  assert (finding.verdict, finding.step) == ("located", 2)


def test_hard_is_what_the_teacher_does_not_get_right_itself(stage: Stage) -> None:
  """One of four continuations from the question is right."""

  def seldom(name: str, text: str) -> Turn:
    return knows(name, text) if name.endswith("/0") or not said(text) else submit("13")

  case = failed(stage, plan(), TAKE, submit())
  [finding] = teacher(stage, seldom).locate([case], name="mps/1")
  assert (finding.verdict, finding.values) == ("hard", {"start": 0.25})


def test_several_trajectories_are_told_apart(stage: Stage) -> None:
  cases = [failed(stage, plan(), TAKE, submit()), failed(stage, plan(), ADD, submit("13"))]
  findings = teacher(stage, knows).locate(cases, name="mps/1")
  assert [f.step for f in findings] == [1, 2]


def test_what_is_known_costs_nothing_again(stage: Stage) -> None:
  case = failed(stage, plan(), LOOK, TAKE, submit())
  judge = teacher(stage, knows)
  [first] = judge.locate([case], name="mps/1")
  [again] = judge.locate([case], name="mps/2")
  assert first.ledger.of("teacher").generated > 0
  assert again.ledger == Ledger()
  assert (again.verdict, again.step, again.values, again.candidates) == (
    first.verdict,
    first.step,
    first.values,
    first.candidates,
  )
  [other] = judge.locate([failed(stage, plan(), LOOK, ADD, submit("13"))], name="mps/2")
  new = judge.estimate_values([(case[0], case[1].prefix(2))], name="mps/3")
  assert new[0][1] == Ledger()
  turns = stage.protocol.encode_turn
  assert other.ledger.of("teacher").generated == 4 * len(turns(submit()))


def test_a_prefix_asked_for_twice_is_paid_once(stage: Stage) -> None:
  asked, trajectory = failed(stage, plan(), TAKE, submit())
  starts = [(asked, trajectory.prefix(1)), (asked, trajectory.prefix(1))]
  (one, paid), (two, free) = teacher(stage, knows).estimate_values(starts, name="depth")
  assert one == two
  assert (paid.of("teacher").generated > 0, free) == (True, Ledger())


def test_a_failing_host_is_left_out_of_the_share(stage: Stage) -> None:
  """Of four continuations one is right, one is wrong, two are lost."""

  def says(name: str, text: str) -> Turn:
    if name[-1] in "01" and said(text):
      return act("web_search('broken')")
    return knows(name, text) if name[-1] == "2" else [plan(), submit("13")][said(text)]

  asked = question()
  [(value, _)] = teacher(stage, says).estimate_values([(asked, empty_trajectory(asked))], name="depth")
  assert (value.successes, value.tries, value.success_rate) == (1, 2, 0.5)


def test_where_every_host_fails_nothing_is_right(stage: Stage) -> None:
  asked = question()
  [(value, _)] = teacher(stage, lambda n, t: act("web_search('broken')") if said(t) else plan()).estimate_values(
    [(asked, empty_trajectory(asked))], name="depth"
  )
  assert (value.successes, value.tries, value.success_rate) == (0, 0, None)


def test_the_correction_is_the_commonest_first_step_of_right_continuations(stage: Stage) -> None:
  """ADD comes most often, but only two of its three are right; ADD_TOO is right once; TAKE is never right."""

  def says(name: str, text: str) -> Turn:
    first = {"0": TAKE, "1": ADD_TOO, "2": ADD, "3": ADD}[name[-1]]
    return [plan(), first, submit()][said(text)]

  case = failed(stage, plan(), TAKE, submit())
  judge = teacher(stage, says)
  [unsure] = judge.locate([case], name="mps/1")
  assert (unsure.verdict, unsure.prefix_counts[1]) == ("undecided", (1, 3, 4)), "of three of four to none, p is 0.035"
  [(value, _)] = judge.estimate_values([(case[0], case[1].prefix(1))], name="mps/1")
  finding = Finding("located", 1, candidates=value.first_steps)
  assert [s.code for s in finding.candidates] == [ADD.code, ADD_TOO.code]
  [proposal] = judge.correct([(*case, finding)])
  step = proposal.step
  assert step is not None
  assert (step.code, step.author, step.observation, step.reason) == (ADD.code, "teacher", "12", "ok")
  assert (proposal.ledger, proposal.has_more) == (Ledger(), True)
  [another] = judge.correct([(*case, dataclasses.replace(finding, tried_replacements=(step,)))])
  assert another.step is not None and another.step.code == ADD_TOO.code, "the next of them, which costs nothing either"


def test_a_replacement_that_does_what_the_mistake_does_is_none(stage: Stage) -> None:
  """It is drawn and paid for; comments and spaces make no other step of it."""
  case = failed(stage, plan(), TAKE, submit())
  again = act("x = 5 - 7  # again\nprint(x)", "take away")
  judge = teacher(stage, lambda n, t: [plan(), again, submit()][said(t)])
  judge.estimate_values([(case[0], case[1].prefix(1))], name="mps/1")
  [proposal] = judge.correct([(*case, Finding("located", 1))])
  assert (proposal.step, proposal.has_more) == (None, True)
  assert proposal.ledger.of("teacher").generated == len(stage.protocol.encode_turn(again))
  assert judge.correct([]) == []


def test_a_replacement_that_raises_is_none(stage: Stage) -> None:
  case = failed(stage, plan(), TAKE, submit())
  [proposal] = teacher(stage, lambda n, t: act("print(y)")).correct([(*case, Finding("located", 1))])
  assert (proposal.step, proposal.ledger.tool_calls) == (None, 1)


def test_a_right_continuation_that_begins_with_the_mistake_corrects_nothing(stage: Stage) -> None:
  """Three of four begin with TAKE and mend it later: their first step stands for nothing, the fourth's does."""

  def says(name: str, text: str) -> Turn:
    return [plan(), ADD if name.endswith("/3") else TAKE, submit("12")][said(text)]

  asked, trajectory = case = failed(stage, plan(), TAKE, submit())
  judge = teacher(stage, says)
  [(value, _)] = judge.estimate_values([(asked, trajectory.prefix(1))], name="mps/1")
  assert [s.code for s in value.first_steps] == [TAKE.code, ADD.code]
  [proposal] = judge.correct([(*case, Finding("located", 1, candidates=value.first_steps))])
  assert proposal.step is not None and proposal.step.code == ADD.code


def test_a_step_that_another_named_is_corrected_by_one_step_from_there(stage: Stage) -> None:
  case = failed(stage, plan(), TAKE, submit())
  [proposal] = teacher(stage, knows).correct([(*case, Finding("located", 1))])
  assert proposal.step is not None
  assert (proposal.step.code, proposal.step.author) == (ADD.code, "teacher")
  turn = stage.protocol.encode_turn
  assert proposal.ledger.of("teacher").generated == len(turn(ADD)), "not by whole continuations"


def test_it_finishes_what_was_begun(stage: Stage) -> None:
  asked, trajectory = failed(stage, plan(), LOOK, TAKE, submit())
  [ended] = teacher(stage, knows).finish([(asked, trajectory.prefix(2))], name="ends")
  assert (ended.right, ended.prefix_steps, ended.name) == (True, 2, "ends/q/0")
  assert ended.steps[:2] == trajectory.steps[:2]
  assert [s.author for s in ended.steps] == ["student", "student", "teacher", "teacher"]
  turn = stage.protocol.encode_turn
  assert ended.ledger.of("teacher").generated == len(turn(ADD)) + len(turn(submit()))


def test_judged_by_the_students_continuations_the_teacher_still_writes(stage: Stage) -> None:
  def student(name: str, text: str) -> Turn:
    return knows(name, text) if "Observation: None" not in text or "Observation: 12" in text else ADD_TOO

  def unable(name: str, text: str) -> Turn:
    return student(name, text) if "Observation: -2" not in text else LOOK

  case = failed(stage, plan(), TAKE, submit())
  judge = teacher(stage, knows, student=unable)
  [finding] = judge.locate([case], name="mps/1")
  assert (finding.verdict, finding.step) == ("located", 1)
  assert set(finding.ledger.models) == {"student"}
  [proposal] = judge.correct([(*case, finding)])
  assert proposal.step is not None
  assert (proposal.step.author, proposal.step.code) == ("teacher", ADD.code)
  assert set(proposal.ledger.models) == {"teacher"}
  assert proposal.ledger.tool_calls == 1


def test_what_only_shows_that_the_student_fails_is_not_hard(stage: Stage) -> None:
  """The same values: of a teacher they say that it does not get there, of a student nothing is decided."""

  def never(name: str, text: str) -> Turn:
    return submit("13") if said(text) else plan()

  case = failed(stage, plan(), TAKE, submit())
  [hard] = teacher(stage, never).locate([case], name="mps/1")
  [undecided] = teacher(stage, knows, student=never).locate([case], name="mps/1")
  assert (hard.verdict, undecided.verdict) == ("hard", "undecided")
  assert undecided.prefix_counts == ((0, 0, 4), (1, 0, 4), (2, 0, 4))


def test_a_student_that_fails_from_the_question_may_still_have_erred_later(stage: Stage) -> None:
  """Hardly ever a plan of its own leads it to the answer, the one it was given always does."""

  def student(name: str, text: str) -> Turn:
    return submit("13") if said(text) == 1 and "own" in text else knows(name, text) if said(text) else plan("plan: own")

  case = failed(stage, plan(), TAKE, submit())
  [finding] = teacher(stage, knows, student=student).locate([case], name="mps/1")
  assert (finding.verdict, finding.step) == ("located", 1)
  assert finding.prefix_counts[0] == (0, 0, 4)


def test_a_prefix_whose_continuations_all_failed_is_no_fall(stage: Stage) -> None:
  """From after the plan the host fails whatever is drawn, once more too: the fall is where the others show it."""
  asked: list[str] = []

  def says(name: str, text: str) -> Turn:
    if said(text) == 1 and "hm" not in text and "plan: add" in text and "-2" not in text and "/0/" not in name:
      asked.append(name)
      return act("web_search('broken')")
    return knows(name, text)

  case = failed(stage, plan(), LOOK, TAKE, submit())
  judge = teacher(stage, lambda n, t: plan("plan: 2") if not said(t) else says(n, t))
  [finding] = judge.locate([case], name="mps/1")
  assert (finding.verdict, finding.step) == ("located", 2)
  assert finding.prefix_counts == ((0, 4, 4), (1, 0, 0), (2, 4, 4), (3, 0, 4))
  assert len(asked) == 8 and len({name.rpartition("/")[0] for name in asked}) == 2, "drawn again under another name"


def test_where_everything_failed_the_case_is_quarantined(stage: Stage) -> None:
  case = failed(stage, plan(), TAKE, submit())
  broken = act("web_search('broken')")
  [finding] = teacher(stage, lambda n, t: broken if said(t) else plan()).locate([case], name="mps/1")
  assert finding.verdict == "quarantined"
  assert finding.ledger.tool_calls == 2 * 3 * 4


def test_what_the_grader_failed_is_no_wrong_continuation(stage: Stage) -> None:
  ungraded = question("twelve")
  [(value, _)] = teacher(stage, knows).estimate_values([(ungraded, empty_trajectory(ungraded))], name="depth")
  assert (value.successes, value.tries, value.success_rate) == (0, 0, None)


def test_halving_draws_fewer_prefixes_and_finds_the_same(stage: Stage) -> None:
  case = failed(stage, plan(), LOOK, LOOK, LOOK, LOOK, TAKE, LOOK, LOOK, submit())
  [every] = teacher(stage, knows).locate([case], name="mps/1")
  [halved] = teacher(stage, knows, search="halving").locate([case], name="mps/1")
  assert (every.verdict, every.step, halved.step, halved.values) == ("located", 5, 5, every.values)
  assert [k for k, _, _ in every.prefix_counts] == [*range(9)]
  assert [k for k, _, _ in halved.prefix_counts] == [0, 5, 6, 7]
  assert halved.ledger.of("teacher").generated < every.ledger.of("teacher").generated


def test_nothing_is_drawn_of_the_end(stage: Stage) -> None:
  finding = teacher(stage, knows)._find({0: ValueEstimate(4, 4), 1: TERMINAL_VALUE}, 1)
  assert (finding.verdict, finding.step, finding.prefix_counts) == ("located", 0, ((0, 4, 4),))


def test_the_students_tokens_stand_before_the_continuations(stage: Stage) -> None:
  """A continuation goes on from the very tokens, and its cost is booked to the finding."""
  case = failed(stage, plan(), LOOK, TAKE, submit())
  seen: list[tuple[str, str]] = []

  def says(name: str, text: str) -> Turn:
    seen.append((name, text))
    return knows(name, text)

  [finding] = teacher(stage, says).locate([case], name="mps/1")
  _, trajectory = case
  begun = {name: text for name, text in reversed(seen)}  # what each continuation first had before it
  assert set(begun.values()) == {stage.protocol.decode(trajectory.context(k)) for k in range(4)}
  prefixes = sum(len(trajectory.context(k)) for k in range(3))
  assert finding.ledger.of("teacher").read > prefixes
  assert finding.ledger.grader_calls == 12  # all are right before TAKE, none submits after it


def test_demonstrations_are_the_teachers_own_rollouts(stage: Stage) -> None:
  questions = [question(name="a"), question("13", name="b")]
  shown = teacher(stage, knows).demonstrate(questions, name="warm_start")
  assert [(t.question_id, t.right, t.name) for t in shown] == [
    ("a", True, "warm_start/a/0"),
    ("b", False, "warm_start/b/0"),
  ]
  assert {s.author for t in shown for s in t.steps} == {"teacher"}
  assert set(sum_ledgers(t.ledger for t in shown).models) == {"teacher"}


def test_one_vocabulary_for_both() -> None:
  require_same_tokens(["a", "b"], ["a", "b"])
  for other in (["b", "a"], ["a"], ["a", "b", "c"]):
    with pytest.raises(UserError, match="different tokenizers"):
      require_same_tokens(["a", "b"], other)
