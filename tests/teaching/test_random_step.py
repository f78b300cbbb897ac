"""A step named by lot: any of them, the same one again for the same seed, question and round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from score_jax.teaching.recorded import RandomStepTeacher
from score_jax.teaching.teacher import Finding, Proposal
from score_jax.trajectory import Question, Step, Trajectory

STEPS = (Step("first_thought", "plan"), *(Step("act", str(i)) for i in range(3)))


class Corrects:
  """A teacher that is asked for nothing but corrections."""

  def demonstrate(self, questions: Sequence[Question], *, name: str) -> list[Trajectory]:
    raise NotImplementedError

  def finish(self, begun: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Trajectory]:
    raise NotImplementedError

  def locate(self, failed: Sequence[tuple[Question, Trajectory]], *, name: str) -> list[Finding]:
    raise AssertionError("the error is not looked for")

  def correct(self, located: Sequence[tuple[Question, Trajectory, Finding]]) -> list[Proposal]:
    return [Proposal(Step("act", f"instead of {f.step}", author="teacher")) for _, _, f in located]


def failed(count: int) -> list[tuple[Question, Trajectory]]:
  questions = [Question(str(i), f"question {i}", "1") for i in range(count)]
  return [(q, Trajectory(q.id, q.text, (1,), STEPS, "answered", "2", 0.0)) for q in questions]


def test_every_step_is_as_likely() -> None:
  findings = RandomStepTeacher(Corrects(), "7/lot").locate(failed(4000), name="mps/1")
  counts = Counter(f.step for f in findings)
  assert counts.keys() == {0, 1, 2, 3}
  # 1000 expected of each with a standard deviation of 27
  assert all(abs(count - 1000) < 4 * 27 for count in counts.values())
  assert {f.verdict for f in findings} == {"located"}


def test_seed_question_and_round_decide() -> None:
  def steps(salt: str, name: str, count: int = 50) -> list[int]:
    return [f.step for f in RandomStepTeacher(Corrects(), salt).locate(failed(count), name=name)]

  assert steps("7/lot", "mps/1") == steps("7/lot", "mps/1")
  assert steps("7/lot", "mps/1", 9) == steps("7/lot", "mps/1")[:9]
  assert steps("7/lot", "mps/1") != steps("7/lot", "mps/2")
  assert steps("7/lot", "mps/1") != steps("8/lot", "mps/1")


def test_where_there_is_no_step_none_is_named() -> None:
  asked = Question("a", "?", "1")
  [finding] = RandomStepTeacher(Corrects(), "").locate(
    [(asked, Trajectory("a", "?", (1,), status="context_full"))], name="mps/1"
  )
  assert finding.verdict == "unlocated"


def test_the_other_teacher_corrects() -> None:
  teacher, cases = RandomStepTeacher(Corrects(), ""), failed(3)
  findings = teacher.locate(cases, name="mps/1")
  proposals = teacher.correct([(*case, f) for case, f in zip(cases, findings, strict=True)])
  assert [p.step.thought for p in proposals if p.step] == [f"instead of {f.step}" for f in findings]
