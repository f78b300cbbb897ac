"""The rounds of mentoring with a student and a teacher that do as they are told; the environment is real."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest

from score_jax.agent.protocol import AgentProtocol, Turn
from score_jax.agent.scripted import run_turns as take
from score_jax.sandbox.sandbox import Sandbox
from score_jax.teaching.mentoring import MentoredQuestion, apply_correction, mentor_questions
from score_jax.teaching.teacher import Finding, FindingVerdict, Proposal
from score_jax.trajectory import Correction, Ledger, Question, Step, Trajectory, Usage
from tests.agent.scripted import Stage, act, plan, question, said, submit

ADD = act("x = 5 + 7\nprint(x)", "add 7")
TAKE = act("x = 5 - 7\nprint(x)", "take 7")
TWICE = act("x = 5 * 7\nprint(x)", "times 7")
MORE = act("x = x + 1\nprint(x)", "one more")
LOCATED = Ledger({"teacher": Usage(generated=100)})
PROPOSED = Ledger({"teacher": Usage(generated=1000)}, tool_calls=10_000)

Says = Callable[[str, str], Turn | Sequence[int]]


@dataclasses.dataclass
class ScriptedTeacher:
  """Names the errors that it is told to, and runs the replacements that it is given in the state before them."""

  protocol: AgentProtocol
  tool: Sandbox
  finds: Callable[[Trajectory], Finding]
  writes: Callable[[Trajectory, Finding], Turn | None]
  more: bool = False
  seen: list[Trajectory] = dataclasses.field(default_factory=list)
  names: list[str] = dataclasses.field(default_factory=list)

  def demonstrate(self, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    raise NotImplementedError("mentoring asks for no demonstrations")

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    raise NotImplementedError("in mentoring the student goes on")

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    self.names.append(name)
    self.seen += [trajectory for _, trajectory in failed]
    return [dataclasses.replace(self.finds(t), ledger=LOCATED) for _, t in failed]

  def correct(self, located: Sequence[tuple[Question, Trajectory, Finding]]) -> list[Proposal]:
    proposals = []
    for _, trajectory, finding in located:
      turn = self.writes(trajectory, finding)
      if turn is None:
        proposals.append(Proposal(None, PROPOSED, self.more))
        continue
      [(step, _)] = take(self.protocol, self.tool, [(trajectory.steps[: finding.step], turn, "teacher")])
      proposals.append(Proposal(step, PROPOSED, self.more))
    return proposals


def first_of(*codes: Turn, verdict: FindingVerdict = "unlocated") -> Callable[[Trajectory], Finding]:
  """Names the first step that is one of these."""

  def find(trajectory: Trajectory) -> Finding:
    for index, step in enumerate(trajectory.steps):
      if any(step.code == turn.code and step.thought == turn.thought for turn in codes):
        return Finding("located", index, f"{step.thought} is wrong", {"before": 1.0, "after": 0.0})
    return Finding(verdict)

  return find


def run(
  stage: Stage,
  student: Says,
  finds: Callable[[Trajectory], Finding],
  writes: Callable[[Trajectory, Finding], Turn | None],
  *,
  questions: Sequence[Question] | None = None,
  corrections: int = 3,
  tries: int = 1,
  draws: int = 1,
  more: bool = False,
  acts: int = 4,
) -> tuple[list[MentoredQuestion], ScriptedTeacher, list[str]]:
  teacher = ScriptedTeacher(stage.protocol, stage.tool, finds, writes, more)
  said_: list[str] = []
  mentored = mentor_questions(
    [question()] if questions is None else questions,
    student=stage.agent(),
    weights=stage.weights(student),
    teacher=teacher,
    acts=acts,
    corrections=corrections,
    tries=tries,
    draws=draws,
    report=said_.append,
  )
  return mentored, teacher, said_


def takes(name: str, text: str) -> Turn:
  """Takes away where it should add, then submits what it has."""
  return [plan(), TAKE, submit()][said(text)]


def authors(trajectory: Trajectory) -> list[str]:
  return [s.author for s in trajectory.steps]


def test_unaided(stage: Stage) -> None:
  [case], teacher, _ = run(stage, lambda n, t: [plan(), ADD, submit()][said(t)], first_of(TAKE), lambda t, f: ADD)
  assert (case.outcome, case.first_error) == ("unaided", None)
  assert case.trajectory.right
  assert case.trajectory.corrections == ()
  assert case.trajectory.name == "mps/q/0"
  assert teacher.seen == []
  assert case.ledger == case.trajectory.ledger


def test_one_correction(stage: Stage) -> None:
  [case], teacher, lines = run(stage, takes, first_of(TAKE), lambda t, f: ADD)
  failed, solved = teacher.seen[0], case.trajectory
  assert (failed.status, failed.answer) == ("answered", "-2")
  assert (case.outcome, case.first_error, solved.answer) == ("solved", 1, "12")
  assert authors(solved) == ["student", "teacher", "student"]
  assert [s.code for s in solved.steps] == ["", ADD.code, submit().code]
  assert solved.steps[0] == failed.steps[0]
  assert solved.steps[1].observation == "12"
  [correction] = solved.corrections
  assert correction == Correction(
    1, (failed.steps[1],), solved.steps[1], "take 7 is wrong", "student_success", {"before": 1.0, "after": 0.0}
  )
  assert solved.prefix_steps == 2
  assert solved.name == "mps/1/after/q/0"
  assert lines == ["round 1: 1 of 1 questions need correction", "round 2: 0 of 1 questions need correction"]


def test_the_ledger_is_of_student_and_teacher_together(stage: Stage) -> None:
  [case], teacher, _ = run(stage, takes, first_of(TAKE), lambda t, f: ADD)
  assert case.ledger == teacher.seen[0].ledger + LOCATED + PROPOSED + case.trajectory.ledger
  assert case.ledger.of("teacher").generated == 1100
  turns = [plan(), TAKE, submit(), submit()]
  assert case.ledger.of("student").generated == sum(len(stage.protocol.encode_turn(t)) for t in turns)


def test_the_context_has_the_corrections_tokens_and_those_after_it(stage: Stage) -> None:
  [case], _, _ = run(stage, takes, first_of(TAKE), lambda t, f: ADD)
  p = stage.protocol
  assert case.trajectory.context() == (
    *p.encode_prompt(question().text),
    *p.encode_turn(plan()),
    *p.encode_observation(None),
    *p.encode_turn(ADD),
    *p.encode_observation("12"),
    *p.encode_turn(submit()),
    *p.encode_observation(""),
  )


def two_errors(name: str, text: str) -> Turn:
  """Wrong at the first act and, once that is corrected, at the second."""
  return [plan(), TAKE, MORE, submit()][said(text)]


def rights(trajectory: Trajectory, finding: Finding) -> Turn:
  return ADD if finding.step == 1 else act("print(x)", "look")


def test_two_corrections_of_different_steps(stage: Stage) -> None:
  [case], teacher, lines = run(stage, two_errors, first_of(TAKE, MORE), rights)
  solved = case.trajectory
  assert (case.outcome, case.first_error) == ("solved", 1)
  assert authors(solved) == ["student", "teacher", "teacher", "student"]
  assert [s.observation for s in solved.steps] == ["", "12", "12", ""]
  first, second = solved.corrections
  assert (first.step, second.step) == (1, 2)
  assert [m.code for m in first.mistakes] == [TAKE.code]
  assert [m.observation for m in second.mistakes] == ["13"]
  assert (first.verified, second.verified) == ("student_success", "student_success")
  assert (first.replacement, second.replacement) == (solved.steps[1], solved.steps[2])
  assert [t.answer for t in teacher.seen] == ["-1", "13"]
  assert teacher.names == ["mps/1", "mps/2"]
  assert lines[:2] == ["round 1: 1 of 1 questions need correction", "round 2: 1 of 1 questions need correction"]


def test_a_correction_that_did_not_help_is_replaced_at_its_place(stage: Stage) -> None:
  """The teacher's first replacement is wrong itself; the student's mistake stays on record, the teacher's does not."""
  [case], teacher, _ = run(
    stage, takes, first_of(TAKE, TWICE), lambda t, f: TWICE if t.steps[f.step].code == TAKE.code else ADD
  )
  assert [t.answer for t in teacher.seen] == ["-2", "35"]
  [correction] = case.trajectory.corrections
  assert (case.outcome, correction.step, correction.replacement.code) == ("solved", 1, ADD.code)
  assert correction.mistakes == (teacher.seen[0].steps[1],)


def test_mistakes_at_one_place_are_merged() -> None:
  step = Step("act", "take 7", "x", "1", "ok", tokens=(1,), observation_tokens=(2,))
  again = dataclasses.replace(step, observation="2")
  replacement = dataclasses.replace(step, author="teacher")
  base = Trajectory("q", "?", (0,), (step, step, again, step), "answered", "1", 0.0)
  earlier = (Correction(0, (), replacement), Correction(2, (step,), replacement), Correction(3, (step,), replacement))
  new = apply_correction(
    dataclasses.replace(base, corrections=earlier), Finding("located", 2, "no", {"before": 0.9}), replacement
  )
  assert new.steps == (step, step, replacement)
  assert new.corrections == (earlier[0], Correction(2, (step, again), replacement, "no", "", {"before": 0.9}))
  assert (new.status, new.prefix_steps, new.answer, new.grade) == ("running", 3, None, None)


def test_a_correction_at_an_earlier_step_replaces_the_later_one(stage: Stage) -> None:
  """First the second act is corrected, which is not enough; then the first, and the student goes on by itself."""

  def student(name: str, text: str) -> Turn:
    if "Observation: 12" in text:
      return submit()
    return [plan(), TAKE, MORE, submit()][said(text)]

  def find(trajectory: Trajectory) -> Finding:
    return Finding("located", 1 if trajectory.corrections else 2)

  [case], teacher, _ = run(stage, student, find, rights)
  assert [c.step for c in teacher.seen[1].corrections] == [2]
  assert [c.step for c in case.trajectory.corrections] == [1]
  assert authors(case.trajectory) == ["student", "teacher", "student"]
  assert (case.outcome, case.first_error) == ("solved", 2)


def test_a_first_thought_can_be_corrected(stage: Stage) -> None:
  def student(name: str, text: str) -> Turn:
    return [plan("plan: take"), ADD if "plan: add" in text else TAKE, submit()][said(text)]

  find = first_of(plan("plan: take"))
  [case], _, _ = run(stage, student, find, lambda t, f: plan("plan: add"))
  assert (case.outcome, case.trajectory.corrections[0].step) == ("solved", 0)
  assert case.trajectory.steps[0].kind == "first_thought"
  assert authors(case.trajectory) == ["teacher", "student", "student"]


def test_a_malformed_turn_is_made_good(stage: Stage) -> None:
  """The replacement stands in its place, and it is on record as the mistake."""

  def student(name: str, text: str) -> Turn | Sequence[int]:
    return submit() if "Observation: 12" in text else [plan(), (stage.protocol.stop_token,)][said(text)]

  def find(trajectory: Trajectory) -> Finding:
    assert (trajectory.status, len(trajectory.steps)) == ("bad_format", 2)
    return Finding("located", 1)

  [case], _, _ = run(stage, student, find, lambda t, f: ADD)
  assert case.outcome == "solved"
  assert [m.kind for m in case.trajectory.corrections[0].mistakes] == ["malformed"]
  assert all(s.kind != "malformed" for s in case.trajectory.steps)


@pytest.mark.parametrize("verdict", ["hard", "unlocated", "undecided", "quarantined"])
def test_what_is_not_located_is_settled_at_once(stage: Stage, verdict: FindingVerdict) -> None:
  [case], teacher, _ = run(stage, takes, first_of(verdict=verdict), lambda t, f: ADD)
  assert (case.outcome, case.first_error) == (verdict, None)
  assert case.trajectory == teacher.seen[0]
  assert case.ledger == case.trajectory.ledger + LOCATED
  assert len(teacher.seen) == 1


def test_no_replacement_found(stage: Stage) -> None:
  [case], teacher, _ = run(stage, takes, first_of(TAKE), lambda t, f: None)
  assert (case.outcome, case.first_error) == ("unlocated", 1)
  assert case.trajectory == teacher.seen[0]


@pytest.mark.parametrize("corrections", [1, 2])
def test_still_wrong_after_the_last_correction(stage: Stage, corrections: int) -> None:
  wrongs = [TAKE, TWICE, act("x = 1\nprint(x)", "one")]

  def writes(trajectory: Trajectory, finding: Finding) -> Turn:
    return wrongs[1 + len([w for w in wrongs[1:] if w.code == trajectory.steps[1].code])]

  [case], teacher, _ = run(stage, takes, first_of(*wrongs), writes, corrections=corrections)
  assert case.outcome == "not_kept"
  assert len(teacher.seen) == corrections
  assert case.trajectory.grade == 0.0
  assert [c.verified for c in case.trajectory.corrections] == [""]
  assert len(case.trajectory.corrections) == 1


def test_no_corrections_allowed(stage: Stage) -> None:
  [case], teacher, lines = run(stage, takes, first_of(TAKE), lambda t, f: ADD, corrections=0)
  assert (case.outcome, teacher.seen, lines) == ("not_kept", [], [])


def test_a_failing_host_quarantines(stage: Stage) -> None:
  broken = act("web_search('broken')")
  [case], teacher, _ = run(stage, lambda n, t: [plan(), broken][said(t)], first_of(TAKE), lambda t, f: ADD)
  assert (case.outcome, case.trajectory.status, teacher.seen) == ("quarantined", "tool_failure", [])
  [later], _, _ = run(
    stage, lambda n, t: broken if "Observation: 12" in t else takes(n, t), first_of(TAKE), lambda t, f: ADD
  )
  assert (later.outcome, later.trajectory.status) == ("quarantined", "tool_failure")


def test_a_failing_grader_quarantines(stage: Stage) -> None:
  [case], _, _ = run(stage, takes, first_of(TAKE), lambda t, f: ADD, questions=[question("twelve")])
  assert case.outcome == "quarantined"


def test_each_go_has_a_fresh_budget(stage: Stage) -> None:
  """Three acts each time: the first go spends them before the error, the second has three left after it."""
  idle = act("print('still here')", "look")

  def student(name: str, text: str) -> Turn:
    if "Observation: 12" not in text:
      return [plan(), idle, idle, TAKE][said(text)]
    return idle if said(text) < 6 else submit()

  [case], teacher, _ = run(stage, student, first_of(TAKE), lambda t, f: ADD, acts=3)
  assert (teacher.seen[0].status, teacher.seen[0].acts) == ("step_limit", 3)
  assert (case.outcome, len(case.trajectory.steps)) == ("solved", 7)
  assert authors(case.trajectory) == ["student", "student", "student", "teacher", "student", "student", "student"]


def test_lift_is_success_after_the_correction_less_success_when_redrawn(stage: Stage) -> None:
  """After the correction the first decides and of three others two are right; of four from before it one is."""

  def student(name: str, text: str) -> Turn:
    if name == "mps/1/before/q/2" and said(text) == 1:
      return ADD
    if name == "mps/1/after/q/3" and "Observation: 12" in text:
      return submit("13")
    return takes(name, text)

  [case], teacher, _ = run(stage, student, first_of(TAKE), lambda t, f: ADD, tries=4)
  values = case.trajectory.corrections[0].values
  assert values == {"before": 1.0, "after": 0.0, "corrected": 2 / 3, "redrawn": 0.25, "lift": 2 / 3 - 0.25}
  assert [one.lifts for one in case.rounds] == [(2 / 3 - 0.25,)]
  assert (case.outcome, case.trajectory.name) == ("solved", "mps/1/after/q/0")
  turn = stage.protocol.encode_turn
  went_on = 2 * len(turn(submit())) + len(turn(submit("13")))  # without the first, which decides
  redrawn = 3 * len(turn(TAKE)) + len(turn(ADD)) + 4 * len(turn(submit()))
  assert case.ledger == teacher.seen[0].ledger + LOCATED + PROPOSED + case.trajectory.ledger
  assert case.measurement_ledger.of("student").generated == went_on + redrawn
  assert (case.measurement_ledger.grader_calls, set(case.measurement_ledger.models)) == (7, {"student"})


def test_lift_belongs_to_the_correction_at_hand(stage: Stage) -> None:
  """Only the first of the tries goes on; what the others come to is measured and dropped, in every round."""
  [case], _, _ = run(stage, two_errors, first_of(TAKE, MORE), rights, tries=2)
  first, second = case.trajectory.corrections
  assert (first.values["corrected"], first.values["redrawn"], first.values["lift"]) == (0.0, 0.0, 0.0)
  assert (second.values["corrected"], second.values["redrawn"], second.values["lift"]) == (1.0, 0.0, 1.0)
  assert [one.lifts for one in case.rounds] == [(0.0,), (1.0,)]


def test_lift_is_measured_where_corrections_do_not_help_too(stage: Stage) -> None:
  """Each of two useless ones counts, though none of them stands in a solved trajectory."""
  wrongs = [TAKE, TWICE, act("x = 1\nprint(x)", "one")]

  def writes(trajectory: Trajectory, finding: Finding) -> Turn:
    return wrongs[1 + len([w for w in wrongs[1:] if w.code == trajectory.steps[1].code])]

  [case], _, _ = run(stage, takes, first_of(*wrongs), writes, corrections=2, tries=2)
  assert (case.outcome, [one.lifts for one in case.rounds]) == ("not_kept", [(0.0,), (0.0,)])


def test_a_failing_host_makes_no_lift(stage: Stage) -> None:
  """All tries from before it are lost, and of those after it but the one that decides and one: no lift, and no -1."""
  broken = act("web_search('broken')")

  def student(name: str, text: str) -> Turn:
    if "/before/" in name or name.endswith(("after/q/0", "after/q/2")):
      return broken
    return takes(name, text)

  [case], _, _ = run(stage, student, first_of(TAKE), lambda t, f: ADD, tries=4)
  assert (case.outcome, case.trajectory.name) == ("solved", "mps/1/after/q/1"), "the first that is judged decides"
  assert case.trajectory.corrections[0].values == {"before": 1.0, "after": 0.0, "corrected": 1.0}
  assert case.rounds[0].lifts == ()
  turn = stage.protocol.encode_turn
  taught = sum(len(turn(t)) for t in (plan(), TAKE, submit(), broken, submit()))
  assert case.ledger.of("student").generated == taught
  assert case.measurement_ledger.of("student").generated == len(turn(submit())) + 5 * len(turn(broken))


def test_another_replacement_is_tried_where_the_student_does_not_succeed(stage: Stage) -> None:
  """The first does not help, the second does; both go in the place of the student's step and are paid for."""
  asked: list[int] = []

  def writes(trajectory: Trajectory, finding: Finding) -> Turn:
    assert [s.code for s in trajectory.steps] == ["", TAKE.code, submit().code], "of the failed trajectory"
    asked.append(len(finding.tried_replacements))
    return ADD if finding.tried_replacements else TWICE

  [case], teacher, _ = run(stage, takes, first_of(TAKE), writes, draws=3, more=True, tries=2)
  assert (case.outcome, asked, teacher.names) == ("solved", [0, 1], ["mps/1"])
  [correction] = case.trajectory.corrections
  assert (correction.replacement.code, correction.values["lift"]) == (ADD.code, 1.0)
  [one] = case.rounds
  assert ([s.code for s in one.finding.tried_replacements], one.lifts) == ([TWICE.code, ADD.code], (0.0, 1.0))
  assert case.ledger.of("teacher").generated == 100 + 2 * 1000
  turn = stage.protocol.encode_turn
  from_before = 2 * (len(turn(TAKE)) + len(turn(submit())))
  assert case.measurement_ledger.of("student").generated == from_before + 2 * len(turn(submit())), "from before it once"


def test_a_step_named_by_lot_without_a_replacement_is_followed_by_another(stage: Stage) -> None:
  """The lot named the plan first, of which the teacher has no other."""
  named: list[int] = []

  def find(trajectory: Trajectory) -> Finding:
    named.append(len(named))
    return Finding("located", named[-1], may_relocate=True)

  [case], _, _ = run(stage, takes, find, lambda t, f: ADD if f.step else None)
  assert (case.outcome, named, [c.step for c in case.trajectory.corrections]) == ("solved", [0, 1], [1])


@pytest.mark.parametrize(("draws", "more", "asked"), [(1, True, 1), (3, True, 3), (3, False, 1)])
def test_so_many_replacements_are_tried_at_most(stage: Stage, draws: int, more: bool, asked: int) -> None:
  tried: list[int] = []

  def writes(trajectory: Trajectory, finding: Finding) -> Turn:
    tried.append(len(finding.tried_replacements))
    return TWICE

  [case], _, _ = run(stage, takes, first_of(TAKE), writes, draws=draws, more=more, corrections=1)
  assert (case.outcome, tried) == ("not_kept", [*range(asked)])


def test_a_draw_that_gives_no_step_is_drawn_again(stage: Stage) -> None:
  drawn = iter([None, ADD])
  [case], _, _ = run(stage, takes, first_of(TAKE), lambda t, f: next(drawn), draws=2, more=True)
  assert case.outcome == "solved"
  [lost], _, _ = run(stage, takes, first_of(TAKE), lambda t, f: None, draws=2, more=True)
  assert (lost.outcome, lost.ledger.of("teacher").generated) == ("unlocated", 100 + 2 * 1000)


def test_a_correction_that_submits_ends_the_trajectory(stage: Stage) -> None:
  """There is nothing to go on with after an answer: it is graded, and no student token follows it."""
  wrong = submit("13")

  def student(name: str, text: str) -> Turn:
    assert "final_answer" not in text
    return [plan(), ADD, wrong][said(text)]

  [case], teacher, _ = run(stage, student, first_of(wrong), lambda t, f: submit())
  assert (case.outcome, case.trajectory.status, case.trajectory.answer) == ("solved", "answered", "12")
  assert authors(case.trajectory) == ["student", "student", "teacher"]
  [correction] = case.trajectory.corrections
  assert (correction.step, correction.replacement) == (2, case.trajectory.steps[2])
  spent = teacher.seen[0].ledger + LOCATED + PROPOSED + Ledger({"student": Usage()}, grader_calls=1)
  assert case.ledger == spent


def test_a_correction_that_submits_wrongly_is_corrected_again(stage: Stage) -> None:
  [case], teacher, _ = run(
    stage,
    lambda n, t: [plan(), ADD, submit("13")][said(t)],
    first_of(submit("13"), submit("14")),
    lambda t, f: submit("14") if t.answer == "13" else submit(),
  )
  assert [t.answer for t in teacher.seen] == ["13", "14"]
  assert (case.outcome, case.trajectory.answer, len(case.trajectory.corrections)) == ("solved", "12", 1)
  assert [m.code for m in case.trajectory.corrections[0].mistakes] == [submit("13").code]


def test_questions_go_through_a_round_together_and_come_back_in_order(stage: Stage) -> None:
  """One of each kind."""
  questions = [question(name=n) for n in ("unaided", "one", "hard", "broken", "lost")]

  def student(name: str, text: str) -> Turn:
    wanted = next(n for n in ("unaided", "one", "hard", "broken", "lost") if n in name)
    if wanted == "broken" and said(text):
      return act("web_search('broken')")
    return [plan(), ADD, submit()][said(text)] if wanted == "unaided" else takes(name, text)

  def find(trajectory: Trajectory) -> Finding:
    return Finding("hard") if trajectory.question_id == "hard" else first_of(TAKE)(trajectory)

  cases, teacher, lines = run(
    stage, student, find, lambda t, f: None if t.question_id == "lost" else ADD, questions=questions
  )
  assert [c.question for c in cases] == questions
  assert [c.trajectory.question_id for c in cases] == [q.id for q in questions]
  assert [c.outcome for c in cases] == ["unaided", "solved", "hard", "quarantined", "unlocated"]
  assert lines[0] == "round 1: 3 of 5 questions need correction"
  assert teacher.names == ["mps/1"]


def test_attempts_that_are_there_are_gone_on_from(stage: Stage) -> None:
  """The same as from the start, with the attempt's cost booked, and the attempt at hand afterwards."""
  [whole], teacher, _ = run(stage, takes, first_of(TAKE), lambda t, f: ADD)
  assert whole.failed_attempt is not None and whole.failed_attempt == teacher.seen[0]
  again = ScriptedTeacher(stage.protocol, stage.tool, first_of(TAKE), lambda t, f: ADD)
  [case] = mentor_questions(
    [question()],
    student=stage.agent(),
    weights=stage.weights(takes),
    teacher=again,
    acts=4,
    corrections=3,
    tries=1,
    report=print,
    name="other",
    attempts=[whole.failed_attempt],
  )
  assert (case.outcome, case.ledger, case.failed_attempt) == ("solved", whole.ledger, whole.failed_attempt)
  assert (again.names, case.trajectory.name) == (["other/1"], "other/1/after/q/0")
  assert case.trajectory.steps == whole.trajectory.steps


def test_of_what_was_right_at_once_no_attempt_is_kept(stage: Stage) -> None:
  [case], _, _ = run(stage, lambda n, t: [plan(), ADD, submit()][said(t)], first_of(TAKE), lambda t, f: ADD)
  assert case.failed_attempt is None
