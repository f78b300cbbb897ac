"""The teacher that a run's config names, and who judges its steps."""

from __future__ import annotations

from typing import get_args

from score_jax.agent.rollout import Agent
from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
from score_jax.model import pretrained
from score_jax.model.decoder import Weights
from score_jax.teaching.asking import PromptTemplates
from score_jax.teaching.counterfactual import CounterfactualTeacher, PrefixSearch, require_same_tokens
from score_jax.teaching.falls import FallTest
from score_jax.teaching.judges import ChatStepJudge, StepJudge
from score_jax.teaching.prompted import LocateMethod, PromptedTeacher, PromptedTeacherConfig
from score_jax.teaching.recorded import RecordedTeacher
from score_jax.teaching.teacher import Teacher
from score_jax.teaching.worked_solution import ReferenceTeacher


def open_teacher(run: Experiment, student: Weights) -> Teacher:
  """The teacher that the config names; `student` are the weights that it corrects.

  Raises:
    UserError: its kind is unknown or it does not fit the student.
  """
  c = run.config.teacher
  if c.kind == "reference":
    return ReferenceTeacher(run.protocol, run.tool, run.tasks.grader)
  if c.kind == "recorded":
    return RecordedTeacher(c.path, run.protocol, run.tool, run.tasks.grader)
  if c.kind == "prompted":
    return _prompted(run, student)
  if c.kind != "model":
    raise UserError(f"teacher.kind = {c.kind!r}; choose model, reference, prompted or recorded")
  return _counterfactual(run, student)


def open_distillation_teacher(run: Experiment) -> pretrained.Model:
  """The teacher on the mesh, which can say how likely the student's very tokens are.

  Raises:
    UserError: there is none, or its tokens are others.
  """
  c = run.config
  if c.teacher.kind != "model":
    raise UserError(
      f"rl.distill = {c.rl.distill} needs a teacher's weights and teacher.kind = {c.teacher.kind!r} has none; "
      "choose model, or rl.distill = 0"
    )
  _require_same_tokens(run)
  return run.teacher_model


def open_step_judge(run: Experiment) -> StepJudge:
  """The chat model as the judge of steps.

  Raises:
    UserError: the config names none, or the prompts cannot be read.
  """
  c = run.config.teacher
  return ChatStepJudge(run.chat, _wording(run), temperature=c.judge_temperature, tokens=c.reply_tokens)


def _counterfactual(run: Experiment, student: Weights) -> CounterfactualTeacher:
  _require_same_tokens(run)
  teacher = run.teacher_agent, run.teacher_model.weights
  judges = {"teacher": teacher, "student": (run.student_agent, student)}
  by = run.config.mps.continue_by
  if by not in judges:
    raise UserError(f"mps.continue_by = {by!r}; choose teacher or student")
  return _judging(run, teacher, judges[by], tested=run.config.agent.acts + 1)


def _judging(
  run: Experiment, agent: tuple[Agent, Weights], judge: tuple[Agent, Weights], *, tested: int
) -> CounterfactualTeacher:
  """`tested`: the steps of a first attempt over which V may have to be tested.

  Raises:
    UserError: the settings are none, or with so few continuations no step could ever be named.
  """
  c = run.config
  if c.mps.search not in get_args(PrefixSearch):
    raise UserError(f"mps.search = {c.mps.search!r}; choose from {', '.join(get_args(PrefixSearch))}")
  if not (0 < c.mps.delta <= 1 and 0 < c.mps.alpha < 1):
    raise UserError(
      f"mps.delta = {c.mps.delta}, mps.alpha = {c.mps.alpha}; both are shares: give more than 0, less than 1"
    )
  rule = FallTest(c.mps.delta, c.mps.alpha)
  fewest = rule.min_continuations(tested=tested)
  if c.mps.continuations < fewest:
    raise UserError(
      f"mps.continuations = {c.mps.continuations}: among {tested} steps a fall from all right to none may be "
      f"chance (mps.alpha = {c.mps.alpha}); give {fewest} or more, 16 where the judge succeeds half of the time"
    )
  return CounterfactualTeacher(
    *agent,
    judge=judge,
    continuations=c.mps.continuations,
    rule=rule,
    acts=c.agent.acts,
    search=c.mps.search,
  )


def _prompted(run: Experiment, student: Weights) -> PromptedTeacher:
  c, judge = run.config, None
  if c.teacher.locate not in get_args(LocateMethod):
    raise UserError(f"teacher.locate = {c.teacher.locate!r}; choose from {', '.join(get_args(LocateMethod))}")
  if c.teacher.locate != "prompted":
    if c.mps.continue_by != "student":
      raise UserError(
        f"teacher.locate = {c.teacher.locate!r} with mps.continue_by = {c.mps.continue_by!r}; a prompted teacher "
        "cannot go on from the student's tokens: set mps.continue_by = 'student'"
      )
    explorer = run.student_agent, student
    tested = 1 if c.teacher.locate == "both" else c.agent.acts + 1
    judge = _judging(run, explorer, explorer, tested=tested)
  return PromptedTeacher(
    run.chat,
    _wording(run),
    run.protocol,
    run.tool,
    run.tasks.grader,
    PromptedTeacherConfig(
      acts=c.agent.acts,
      turn_tokens=c.agent.turn_tokens,
      reply_tokens=c.teacher.reply_tokens,
      first_thought_temperature=c.teacher.first_thought_temperature,
      step_temperature=c.teacher.step_temperature,
      locate_temperature=c.teacher.locate_temperature,
      correct_temperature=c.teacher.correct_temperature,
    ),
    locate_by=c.teacher.locate,
    judge=judge,
  )


def _wording(run: Experiment) -> PromptTemplates:
  """The prompts of those who are told what code can call."""
  return PromptTemplates(run.config.teacher.prompts, search=run.tool.can_search, functions=run.tool.functions)


def _require_same_tokens(run: Experiment) -> None:
  vocabularies = (
    m.tokenizer.convert_ids_to_tokens(list(range(len(m.tokenizer)))) for m in (run.student, run.teacher_model)
  )
  require_same_tokens(*vocabularies)
