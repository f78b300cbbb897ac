from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Iterator, Sequence

import pytest

from score_jax.agent.protocol import AgentProtocol, Turn, train_tokenizer
from score_jax.agent.scripted import run_scripts, tokenize_trajectory
from score_jax.grading.numbers import grade_number
from score_jax.sandbox.sandbox import Sandbox
from score_jax.search.passages import BM25Search
from score_jax.tasks import word_problems
from score_jax.tasks.gsm8k import parse_worked_answer
from score_jax.teaching.demonstrations import build_script_with_detours, build_worked_script
from score_jax.teaching.mentoring import apply_correction
from score_jax.teaching.teacher import Finding, Proposal
from score_jax.teaching.worked_solution import DIAGNOSES, ReferenceTeacher
from score_jax.trajectory import Question, Status, Step, Trajectory

WORLD = word_problems.World.generate(3)

TEXT = "Natalia sold clips to 48 friends in April, and half as many in May. 5 were lost. How many clips are left?"
WORKED = (
  "In May she sold 48/2 = <<48/2=24>>24.\nShe sold 48+24 = <<48+24=72>>72.\n72-5 = <<72-5=67>>67 are left.\n#### 67"
)
CLIPS = Question("clips", TEXT, "67", 4, parse_worked_answer(TEXT, WORKED, "67"))


@pytest.fixture(scope="module")
def tool() -> Iterator[Sandbox]:
  search = BM25Search.from_documents(WORLD.documents(), top_k=3, passage_chars=1000)
  settings = {"isolation": "process", "workers": 1, "sessions": 64, "timeout_s": 30.0, "memory_mb": 256}
  settings |= {"files_mb": 16, "output_chars": 400}
  with Sandbox(**settings, search=search) as tool:
    yield tool


PROTOCOL = AgentProtocol(train_tokenizer([TEXT, WORKED], vocab=400))


@pytest.fixture(scope="module")
def teacher(tool: Sandbox) -> ReferenceTeacher:
  return ReferenceTeacher(PROTOCOL, tool, grade_number)


@dataclasses.dataclass
class Student:
  """Plays written acts on a question, and hands them to the teacher as a failed trajectory."""

  teacher: ReferenceTeacher
  tool: Sandbox

  def __call__(self, *codes: str, status: Status = "step_limit", question: Question = CLIPS) -> Trajectory:
    turns = [Turn("first_thought", "some plan"), *(Turn("act", "next", code) for code in codes)]
    return self.play(question, turns, status)

  def play(self, question: Question, turns: Sequence[Turn], status: Status) -> Trajectory:
    [played] = run_scripts([(question, [(turn, "student") for turn in turns])], self.tool)
    played = tokenize_trajectory(PROTOCOL, played)
    played = dataclasses.replace(played, status="answered" if played.answer else status, grade=0.0)
    return broken_off(played) if status == "bad_format" else played

  def taught(self, trajectory: Trajectory, question: Question = CLIPS) -> tuple[Finding, Proposal]:
    [finding] = self.teacher.locate([(question, trajectory)], name="test")
    assert finding.verdict == "located"
    [proposal] = self.teacher.correct([(question, trajectory, finding)])
    return finding, proposal


@pytest.fixture(scope="module")
def student(teacher: ReferenceTeacher, tool: Sandbox) -> Student:
  return Student(teacher, tool)


def broken_off(trajectory: Trajectory) -> Trajectory:
  """The same with a turn at its end that is none."""
  return dataclasses.replace(
    trajectory, steps=(*trajectory.steps, Step("malformed", "What next?")), status="bad_format", grade=0.0
  )


def code(proposal: Proposal) -> str:
  assert proposal.step is not None
  assert proposal.step.author == "teacher" and proposal.step.tokens and proposal.step.reason == "ok"
  return proposal.step.code


def test_demonstrates_and_books_what_it_cost(teacher: ReferenceTeacher) -> None:
  without = Question("other", "What is it?", "1")
  shown, nothing = teacher.demonstrate([CLIPS, without], name="warm")
  assert shown.right and shown.answer == "67.0" and shown.name == "warm/clips"
  assert [s.observation for s in shown.steps] == ["", "24.0", "72.0", "67.0", ""]
  assert all(s.author == "teacher" and s.tokens and s.observation_tokens for s in shown.steps)
  assert (shown.ledger.tool_calls, shown.ledger.grader_calls, shown.ledger.models) == (4, 1, {})
  assert nothing.steps == () and nothing.grade == 0.0 and not nothing.right


def test_a_wrong_value_is_located_and_the_right_one_computed_from_what_the_student_has(student: Student) -> None:
  trajectory = student("may = 48 // 2\nprint(may)", "total = 48 - may\nprint('sold', total - 1)", "print(total - 5)")
  finding, proposal = student.taught(trajectory)
  assert (finding.step, finding.diagnosis) == (2, DIAGNOSES["off"])
  assert code(proposal) == "a2 = 48 + may\nprint(a2)"
  assert proposal.step and proposal.step.observation == "72" and proposal.step.thought == "She sold 48+24"
  assert (finding.ledger.tool_calls, finding.ledger.grader_calls, proposal.ledger.tool_calls) == (4, 1, 5)


def test_a_value_that_no_name_is_known_to_hold_is_written_as_a_number(student: Student) -> None:
  _, proposal = student.taught(student("print('in May', 48 / 2)", "print(1000 + 1)"))
  assert code(proposal) == "a2 = 48 + 24\nprint(a2)"


def test_a_value_that_the_student_never_printed_is_computed_again(student: Student) -> None:
  finding, proposal = student.taught(student("print(48 + 48 / 2)", "print(72 - 6)"))
  assert finding.step == 2
  assert code(proposal) == "a3 = 72 - 5\nprint(a3)"
  step_over = Question("twice", "48 in April.", "0", 0, (("plan", ""), *SKIPPED))
  finding, proposal = student.taught(student("print(48 * 3)", "print(99 * 99)", question=step_over), step_over)
  assert finding.step == 2
  assert code(proposal) == "c = 144 + 48 * 2\nprint(c)"


SKIPPED = (
  ("first", "a = 48 * 2\nprint(a)"),
  ("second", "b = 48 * 3\nprint(b)"),
  ("third", "c = b + a\nprint(c)"),
  ("answer", "final_answer_print(c - c)"),
)


def test_a_name_that_was_bound_again_is_not_trusted(student: Student) -> None:
  trajectory = student("a1 = 48 / 2\nprint(a1)", "a1 = 7", "print(55555 + 1)")
  finding, proposal = student.taught(trajectory)
  assert finding.step == 3
  assert code(proposal) == "a2 = 48 + 24\nprint(a2)"


def test_of_several_names_the_worked_one_is_kept(student: Student) -> None:
  _, proposal = student.taught(student("a1 = 48 / 2\nprint(a1)", "copy = a1\nprint(copy)", "print(55555 + 1)"))
  assert code(proposal) == "a2 = 48 + a1\nprint(a2)"


def test_code_that_raised_is_the_error(student: Student) -> None:
  finding, proposal = student.taught(student("a1 = 48 / 2\nprint(a1)", "print(a1 + april)", "print(1)"))
  assert (finding.step, finding.diagnosis) == (2, DIAGNOSES["raised"])
  assert code(proposal) == CLIPS.solution[2][1]


def test_a_wrong_final_answer_is_the_error_where_all_before_it_is_right(student: Student) -> None:
  right = ("a = 48 / 2\nprint(a)", "b = a + 48\nprint(b)", "left = b - 5\nprint(left)")
  finding, proposal = student.taught(student(*right, "final_answer_print(b)"))
  assert (finding.step, finding.diagnosis) == (4, DIAGNOSES["wrong"])
  assert code(proposal) == "final_answer_print(left)"
  finding, proposal = student.taught(student(right[0], "final_answer_print(a)"))
  assert (finding.step, finding.diagnosis) == (2, DIAGNOSES["early"])
  assert code(proposal) == "a2 = 48 + a\nprint(a2)"


def test_a_student_who_never_submits_is_corrected_at_the_first_repetition(student: Student) -> None:
  acts = ("a = 48 / 2\nprint(a)", "b = a + 48\nprint(b)", "print(b - 5)", "print('done')", "print(b - 5)")
  finding, proposal = student.taught(student(*acts))
  assert (finding.step, finding.diagnosis) == (4, DIAGNOSES["idle"])
  assert code(proposal) == "final_answer_print(67)"


def test_a_malformed_turn_is_replaced_by_what_belongs_there(student: Student) -> None:
  finding, proposal = student.taught(student("a = 48 / 2\nprint(a)", status="bad_format"))
  assert (finding.step, finding.diagnosis) == (2, DIAGNOSES["format"])
  assert code(proposal) == "a2 = 48 + a\nprint(a2)"


def test_a_malformed_first_thought_is_replaced_by_the_plan(student: Student) -> None:
  finding, proposal = student.taught(broken_off(Trajectory(CLIPS.id, CLIPS.text, PROTOCOL.encode_prompt(CLIPS.text))))
  assert finding.step == 0 and proposal.step is not None
  assert (proposal.step.kind, proposal.step.thought) == ("first_thought", CLIPS.solution[0][0])


def test_harmless_steps_are_not_errors(student: Student) -> None:
  acts = ("april = 48\nprint(april)", "pass", "print('half of 48')", "print(333, 48 / 2)", "print(24)", "print(333)")
  finding, _ = student.taught(student(*acts, "print(48 + 1)"))
  assert finding.step == 7


def test_arithmetic_is_off_even_where_it_comes_to_a_number_of_the_question(student: Student) -> None:
  finding, _ = student.taught(student("print(48 / 2)", "print(24 * 2)", "print(1)"))
  assert finding.step == 2


def test_what_cannot_be_located(student: Student) -> None:
  wrong = student("print(12345 + 1)")
  without = dataclasses.replace(CLIPS, solution=())
  mistaken = dataclasses.replace(CLIPS, answer="68")
  failed = dataclasses.replace(wrong, status="tool_failure", grade=None)
  in_line = student("print(48 / 2)", status="context_full")
  cases = [(without, wrong), (mistaken, wrong), (CLIPS, failed), (CLIPS, in_line)]
  verdicts = [f.verdict for f in student.teacher.locate(cases, name="test")]
  assert verdicts == ["hard", "hard", "unlocated", "unlocated"]


QUESTIONS = word_problems.generate_questions(WORLD, word_problems.Difficulty(), seed=1, count=40)


def planted(question: Question, draw: random.Random) -> tuple[list[Turn], int]:
  """The worked solution with one of its computations off by a thousand, and the step where that is."""
  turns = [turn for turn, _ in build_worked_script(question)]
  index = draw.choice([i for i, turn in enumerate(turns) if turn.code.startswith("x =")])
  first, rest = turns[index].code.split("\n")
  turns[index] = dataclasses.replace(turns[index], code=f"{first} + 1000\n{rest}")
  return turns, index


def test_an_error_planted_in_a_word_problem_is_located_exactly_there(student: Student) -> None:
  draw = random.Random(0)
  wanted, failed = [], []
  for question in QUESTIONS:
    turns, index = planted(question, draw)
    wanted.append(index)
    failed.append((question, student.play(question, turns, "step_limit")))
  findings = student.teacher.locate(failed, name="test")
  assert [f.step for f in findings] == wanted
  assert not any(re.search(r"\d", f.diagnosis) for f in findings)
  located = [(q, t, f) for (q, t), f in zip(failed, findings, strict=True)]
  for (question, _, finding), proposal in zip(located, student.teacher.correct(located), strict=True):
    assert code(proposal) == question.solution[finding.step][1]  # the student's x holds what the worked x held


def test_corrections_lead_on_to_the_answer(student: Student) -> None:
  """A student that writes nothing of use after each correction is led to the end, an act at a time."""
  draw = random.Random(1)
  for question in QUESTIONS[:10]:
    turns, _ = planted(question, draw)
    trajectory = student.play(question, turns, "step_limit")
    for _ in range(len(turns)):
      finding, proposal = student.taught(trajectory, question)
      assert proposal.step is not None
      trajectory = broken_off(apply_correction(trajectory, finding, proposal.step))
    [again] = run_scripts(
      [(question, [(Turn(s.kind, s.thought, s.code), s.author) for s in trajectory.steps])], student.tool
    )
    assert grade_number(question, again.answer or "")[0] == 1.0


def test_a_look_up_counts_once(student: Student) -> None:
  question = next(q for q in QUESTIONS if "web_search" in q.solution[1][1])
  found, computed = question.solution[1][1], question.solution[2][1]
  finding, proposal = student.taught(student(found, "print(web_search('nobody'))", found, question=question), question)
  assert finding.step == 2
  assert code(proposal) == computed
  finding, proposal = student.taught(student(found, found, question=question), question)
  assert finding.step == 2
  assert code(proposal) == computed


def test_detours_that_do_not_raise_are_not_located(student: Student) -> None:
  """Searching twice or for something else and looking at the count stay, the planted error is found behind them."""
  draw = random.Random(2)
  cases, wanted = [], []
  for question in QUESTIONS:
    turns = [turn for turn, _ in build_script_with_detours(question, share=0.5, draw=draw)]
    turns = [t for t in turns if t.code != "x = x + y\nprint(x)"]
    computed = [i for i, t in enumerate(turns) if t.code.startswith("x =")]
    turns = [t for i, t in enumerate(turns) if t.code != "print(x)" or i > computed[0]]  # x is not defined before
    wanted.append(len(turns) - 1)
    turns[-1] = Turn("act", "answer", "print(x + 1000)")
    cases.append((question, student.play(question, turns, "step_limit")))
  assert [f.step for f in student.teacher.locate(cases, name="test")] == wanted


def test_it_finishes_what_the_student_began(student: Student, teacher: ReferenceTeacher) -> None:
  """In the student's own state: its name for 24 is used, the first worked act is not taken again."""
  begun = student("may = 48 / 2\nprint(may)").prefix(2)
  [ended] = teacher.finish([(CLIPS, begun)], name="ends")
  assert (ended.right, ended.answer, ended.status, ended.prefix_steps) == (True, "67.0", "answered", 2)
  assert (ended.name, ended.prompt_tokens) == ("ends/clips", begun.prompt_tokens)
  assert ended.steps[:2] == begun.steps
  assert [s.author for s in ended.steps] == ["student"] * 2 + ["teacher"] * 3
  assert "may" in ended.steps[2].code and ended.steps[2].observation.strip() == "72.0"
  assert all(s.tokens for s in ended.steps)
  assert ended.ledger.tool_calls == 4 + 3, "the worked solution's, and those of going on"
  assert ended.ledger.grader_calls == 1


def test_from_the_question_it_finishes_as_it_demonstrates(teacher: ReferenceTeacher) -> None:
  [shown] = teacher.demonstrate([CLIPS], name="bc/0")
  [ended] = teacher.finish([(CLIPS, Trajectory(CLIPS.id, CLIPS.text, ()))], name="bc/0")
  assert [(s.thought, s.code, s.observation) for s in ended.steps] == [
    (s.thought, s.code, s.observation) for s in shown.steps
  ]
  assert (ended.right, ended.context()) == (True, shown.context())


def test_what_cannot_be_followed_is_not_finished(student: Student, teacher: ReferenceTeacher) -> None:
  """No worked solution; and one whose acts are shadowed by what the student has defined."""
  unknown = dataclasses.replace(CLIPS, id="unknown", solution=())
  broken = student("print = len").prefix(2)
  [without, ended] = teacher.finish([(unknown, student("x = 1").prefix(2)), (CLIPS, broken)], name="ends")
  assert (without.status, without.grade, len(without.steps)) == ("step_limit", 0.0, 2)
  assert (ended.status, ended.grade, len(ended.steps)) == ("step_limit", 0.0, 3)


def test_a_replacement_that_comes_to_something_else_is_none(student: Student, teacher: ReferenceTeacher) -> None:
  """The worked act runs, but the student's `print` adds one to what it is given."""
  shadowed = "import builtins\ndef print(x): builtins.print(x + 1)"
  [proposal] = teacher.correct([(CLIPS, student(shadowed, "y = 1"), Finding("located", 2))])
  assert proposal.step is None
  assert proposal.ledger.tool_calls == 4 + 1, "the worked solution's, and the one that was tried"


def test_without_a_worked_solution_there_is_no_correction(student: Student, teacher: ReferenceTeacher) -> None:
  unknown = dataclasses.replace(CLIPS, id="unknown", solution=())
  named = Finding("located", 1)
  trajectory = student("x = 1")
  first, second = teacher.correct([(unknown, trajectory, named), (CLIPS, trajectory, named)])
  assert first == Proposal(None)
  assert second.step is not None and second.step.observation.strip() == "24.0"
